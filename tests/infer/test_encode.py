"""Encoding: which frames stand in which group, whatever the batches; times, losses, pictures, and the fingerprint."""

import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.infer.askable import CONFIG, askable, frames
from tests.small_model import small_params
from vxlpro_jax.data.image_folder import ArrayFrames
from vxlpro_jax.data.image_transforms import anyres_views
from vxlpro_jax.data.video_decode import Video, VideoError
from vxlpro_jax.infer import answer, encode
from vxlpro_jax.infer.encode import encoder_fingerprint

GROUP = CONFIG.dts.frames_per_group
RELEASED = replace(CONFIG, short_group="released")


def index(source, model=None, **options):
    """In batches of one group, so that all tests share one compiled program."""
    return (model or askable()).index(source, **({"frames_per_batch": GROUP} | options))


def close(ours, expected) -> None:
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-3)  # tokens are of size 100


def test_batches_do_not_show():
    pixels = frames(10)
    whole = index(pixels)
    assert whole.tokens.shape == (3, CONFIG.tokens_per_group, CONFIG.projector.dim)
    close(index(pixels, frames_per_batch=2 * GROUP).tokens, whole.tokens)
    close(index(pixels, frames_per_batch=1).tokens, whole.tokens)
    for group in range(3):
        close(index(pixels[group * GROUP :][:GROUP]).tokens[0], whole.tokens[group])
    assert np.abs(whole.tokens[0] - whole.tokens[1]).max() > 0.1  # else nothing was compared


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
def test_the_last_frame_fills_the_last_group(num_frames):
    pixels = frames(num_frames)
    short = index(pixels)
    filled = np.concatenate([pixels, np.repeat(pixels[-1:], -num_frames % GROUP, axis=0)])
    close(short.tokens, index(filled).tokens)
    assert short.frame_indices.tolist() == list(range(num_frames))
    assert short.group_times_s.tolist() == list(range(0, num_frames, GROUP))
    assert short.end_s == num_frames
    assert (short.kind, short.lost) == ("video", ())
    assert set(short.timings) == {"read_s", "encode_s"}


def test_times_of_frames_and_spans():
    times = np.arange(60) / 25 + 3.0
    looked_at = index(frames(60), times_s=times, fps=5)
    assert looked_at.frame_indices.tolist() == list(range(0, 60, 5))
    close(looked_at.frame_times_s, times[::5])
    close(looked_at.group_times_s, times[::20])
    assert looked_at.sampling == {"rule": "fps", "fps": 5, "max_frames": None, "spacing_s": pytest.approx(0.2)}
    few = index(frames(60), times_s=times - 3.0, fps=5, max_frames=3)
    assert few.frame_indices[[0, -1]].tolist() == [0, 59]
    assert few.sampling["spacing_s"] == pytest.approx(59 / 25 / 2)
    assert few.end_s == pytest.approx(60 / 25)  # the video's end, not one spacing after the last frame


def test_released_rules():
    """Doubled frames shift what stands in the groups; the stamps do not follow (quirk 9)."""
    model = askable(RELEASED)
    pixels, times = frames(9), np.arange(9) / 3
    seen = set()
    for seed in range(5):
        doubled = index(pixels, model, times_s=times, fps=3, seed=seed)
        chosen = doubled.frame_indices
        assert len(chosen) == 12 and sorted(set(chosen)) == list(range(9)) and np.bincount(chosen).max() == 2
        close(doubled.group_times_s, times[::GROUP])
        close(doubled.tokens, index(pixels[chosen]).tokens)
        seen.add(tuple(chosen))
    assert len(seen) > 1
    assert index(pixels, model, fps=3, times_s=times, seed=4).frame_indices.tolist() == chosen.tolist()

    repeated = index(pixels, model, times_s=times, fps=3, sampling="released", max_frames=16)
    assert repeated.frame_indices.tolist() == np.linspace(0, 8, 16, dtype=int).tolist()
    close(repeated.group_times_s, np.round(repeated.frame_indices / 3, 1)[::GROUP])
    assert len(index(pixels, model, times_s=times, sampling="released").frame_indices) == 128


def _damaged_folder(folder, num_images: int, broken: tuple[int, ...]):
    folder.mkdir()
    for number, pixels in enumerate(frames(num_images)):
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:60])  # the header is whole, the pixels are not
    return folder


def test_damage_raises_or_is_reported(tmp_path):
    folder = _damaged_folder(tmp_path / "frames", 10, broken=(0, 6, 9))
    with pytest.raises(VideoError) as error:
        index(folder, on_damage="raise")
    assert error.value.lost == (0, 6, 9)
    with pytest.warns(UserWarning, match="3 frames cannot be decoded"):
        spared = index(folder)
    good = [1, 2, 3, 4, 5, 7, 8]
    assert spared.lost == (0, 6, 9)
    assert spared.frame_indices.tolist() == good
    assert spared.group_times_s.tolist() == [1, 5]
    assert spared.end_s == 9
    close(spared.tokens, index(frames(10)[good]).tokens)
    with pytest.raises(VideoError, match="none of the chosen frames"):
        index(_damaged_folder(tmp_path / "gone", 10, broken=(0, 9)), max_frames=2, on_damage="skip")


def test_a_real_damaged_file(shared_videos):
    path = shared_videos / "corrupted.mp4"
    with pytest.raises(VideoError) as error:
        index(path, fps=2, on_damage="raise")
    with pytest.warns(UserWarning, match="cannot be decoded"):
        spared = index(path, fps=2)
    assert error.value.lost and set(error.value.lost) <= set(spared.lost)
    assert len(spared.frame_indices) > 2 and not set(spared.frame_indices) & set(spared.lost)
    assert spared.source["bytes"] == path.stat().st_size


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("views", ["single", "anyres"])
def test_picture(tmp_path, suffix, views):
    model = askable(replace(CONFIG, picture_views=views))
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(frames(1)[0]).save(path)
    picture = np.asarray(Image.open(path).convert("RGB"))
    shown = picture[None] if views == "single" else anyres_views(picture, CONFIG.vision.image_size)[1:]
    assert (len(shown) > 1) == (views == "anyres")
    photo = index(path, model)
    assert (photo.kind, photo.end_s, len(photo.tokens)) == ("picture", 0.0, len(shown))
    assert not photo.group_times_s.any()
    for number, view in enumerate(shown):
        close(photo.tokens[number], index(np.repeat(view[None], GROUP, axis=0)).tokens[0])


def test_folders_and_lists_of_images(tmp_path):
    folder = _damaged_folder(tmp_path / "frames", 11, broken=())
    whole = index(frames(11))
    in_folder = index(folder, fps=2)  # the images were taken twice a second
    close(in_folder.tokens, whole.tokens)
    assert in_folder.frame_times_s[-1] == 5.0
    listed = index([folder / f"{number}.png" for number in (2, 0, 1)])
    close(listed.tokens, index(frames(11)[[2, 0, 1]]).tokens)
    assert "3 images" in listed.source["path"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"fps": -1},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"max_frames": 0},
        {"max_frames": -3},
        {"max_frames": 0, "sampling": "released"},
        {"frames_per_batch": 0},
        {"sampling": "all"},
        {"on_damage": "ignore"},
        {"times_s": [0.0, 1.0]},
    ],
)
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match=next(iter(reversed(wrong))) + "|max_frames"):
        index(frames(3), **wrong)


class _WatchedFrames(ArrayFrames):
    """Frames that notice being read after they were closed, and how far reading has come."""

    closed = read_late = False
    num_read = 0
    delay_s = 0.0

    def frames(self, indices):
        for item in super().frames(indices):
            time.sleep(self.delay_s)
            self.read_late |= self.closed
            self.num_read += 1
            yield item

    def close(self):
        self.closed = True


def _watched(monkeypatch, num_frames: int) -> _WatchedFrames:
    source = _WatchedFrames(frames(num_frames), np.arange(num_frames) * 1.0, float(num_frames))
    monkeypatch.setattr(answer, "open_frames", lambda *_: Video(source))
    return source


def test_reading_has_ended_before_the_file_is_closed(monkeypatch):
    source = _watched(monkeypatch, 300)
    source.delay_s = 0.002

    class Stopped(Exception):
        pass

    def stop(done, total):
        assert (done, total) == (GROUP, 300)
        raise Stopped

    with pytest.raises(Stopped) as error:
        index(frames(1), progress=stop)
    read, threads = source.num_read, threading.active_count()
    time.sleep(0.1)
    assert error and source.closed and not source.read_late
    assert (source.num_read, threading.active_count()) == (read, threads)


def test_frames_are_read_only_a_little_ahead(monkeypatch):
    """Memory does not grow with the number of frames, but for the tokens."""
    source = _watched(monkeypatch, 3000)
    encoded, ahead = [0], []

    def fake_encode(model, params, pixels):
        encoded[0] += len(pixels)
        ahead.append(source.num_read - encoded[0])
        return np.zeros((len(pixels) // GROUP, CONFIG.tokens_per_group, CONFIG.projector.dim), np.float32)

    monkeypatch.setattr(encode, "encode_frames", fake_encode)
    calls = []
    made = index(frames(1), frames_per_batch=32, progress=lambda *call: calls.append(call))
    assert len(made.tokens) == 750 and calls[-1] == (3000, 3000)
    assert max(ahead) <= 4 * 64  # a chunk being read, one read, one being cut up, and batches


def _changed(params, *path):
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [[key.key for key in keys] for keys, _ in leaves]
    number = next(i for i, name in enumerate(names) if name[: len(path)] == list(path))
    values = [np.array(leaf) for _, leaf in leaves]
    values[number].reshape(-1)[-1] += 1e-3
    return jax.tree.unflatten(tree, values)


def test_fingerprint_is_that_of_the_encoder():
    params = small_params(CONFIG)
    own = encoder_fingerprint(CONFIG, params)
    assert own == encoder_fingerprint(CONFIG, jax.tree.map(np.array, params))
    for part in ("llm", "selector"):
        assert encoder_fingerprint(CONFIG, _changed(params, part)) == own
    others = [encoder_fingerprint(CONFIG, _changed(params, part)) for part in ("vision_tower", "dts", "projector")]
    for changed in (
        replace(CONFIG, dts=replace(CONFIG.dts, frame_packing="paper")),
        replace(CONFIG, dts=replace(CONFIG.dts, relative_term="textbook")),
        replace(CONFIG, projector=replace(CONFIG.projector, pool_mode="max")),
        replace(CONFIG, vision=replace(CONFIG.vision, image_size=12)),
    ):
        others.append(encoder_fingerprint(changed, params))
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
    others.append(encoder_fingerprint(CONFIG, half))
    assert len({own, *others}) == 1 + len(others)
    same_encoder = replace(CONFIG, max_context_len=99, llm=replace(CONFIG.llm, num_layers=7))
    assert encoder_fingerprint(same_encoder, params) == own


def test_fingerprint_covers_preprocessing(monkeypatch):
    own = encoder_fingerprint(CONFIG, small_params(CONFIG))
    monkeypatch.setattr(encode, "PREPROCESSING", "cropped")
    assert encoder_fingerprint(CONFIG, small_params(CONFIG)) != own


def test_the_device_holds_no_more_of_a_longer_video(tmp_path):
    def most_bytes(num_frames: int, output) -> int:
        held = []
        index(
            frames(num_frames),
            output=output,
            progress=lambda *_: held.append(sum(array.nbytes for array in jax.live_arrays())),
        )
        return max(held)

    most_bytes(8, None)
    assert most_bytes(24, None) == most_bytes(120, None)
    assert most_bytes(120, tmp_path / "video.vxl") <= most_bytes(24, None)
