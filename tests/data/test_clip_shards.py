"""Clips that are encoded once: whole after a kill at any point, refused when made by another, read in any order."""

import numpy as np
import pytest

from vxlpro_jax.data.clip_shards import ClipShards, ClipSource, write_shards
from vxlpro_jax.data.video_records import VideoError

RNG = np.random.default_rng(0)
FRAMES = {name: RNG.integers(0, 256, (count, 4, 2, 2, 3), np.uint8) for name, count in (("a", 3), ("b", 5), ("d", 2))}
PICTURES = RNG.integers(0, 256, (2, 1, 2, 2, 3), np.uint8)
MADE_BY = {"tower": "t", "type": "float32"}


def broken():
    raise VideoError("c.mp4", "cannot be read")


def sources(calls):
    def load(name, frames):
        calls.append(name)
        return frames

    listed = [ClipSource(name, False, lambda n=name, f=frames: load(n, f)) for name, frames in FRAMES.items()]
    listed.insert(2, ClipSource("c", False, broken))
    return [*listed, ClipSource("pictures", True, lambda: load("pictures", PICTURES))]


def encode(frames):
    return frames.astype(np.float32) / 2


def write(folder, stop_after=99, made_by=MADE_BY, which=None):
    calls = []
    for number, _ in enumerate(write_shards(folder, which or sources(calls), encode, made_by)):
        if number + 1 == stop_after:
            break
    return calls


def test_clips_come_back_encoded_in_the_order_asked_and_pictures_stand_still(tmp_path):
    write(tmp_path)
    shards = ClipShards(tmp_path, 4)
    assert shards.num_clips == 12 and shards.is_image.tolist() == [False] * 10 + [True] * 2
    assert shards.source.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 3, 3, 4, 4]
    taken = shards.take([9, 0, 11, 4])
    for clip, frames in zip(
        taken, (FRAMES["d"][1], FRAMES["a"][0], PICTURES[1].repeat(4, 0), FRAMES["b"][1]), strict=True
    ):
        np.testing.assert_array_equal(clip, frames / 2)


def test_a_broken_source_is_told_with_its_reason_and_gives_nothing(tmp_path):
    write(tmp_path)
    assert ClipShards(tmp_path, 4).broken == {"c": "c.mp4: cannot be read"}


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_killed_run_goes_on_without_encoding_anything_twice(tmp_path, stop_after):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    everything = write(whole)
    first = write(killed, stop_after)
    (killed / ".part-00004.npy").write_bytes(b"half a file")  # what a kill during a write leaves
    second = write(killed)
    assert sorted(first + second) == sorted(everything) and not set(first) & set(second)
    for path in sorted(whole.iterdir()):
        assert (killed / path.name).read_bytes() == path.read_bytes()


def test_clips_of_another_maker_or_other_sources_are_refused(tmp_path):
    write(tmp_path)
    assert write(tmp_path) == []
    with pytest.raises(ValueError, match=r"made otherwise \(tower\): remove the folder"):
        write(tmp_path, made_by={**MADE_BY, "tower": "other"})
    with pytest.raises(ValueError, match=r"made otherwise \(sources\)"):
        write(tmp_path, which=sources([])[1:])
