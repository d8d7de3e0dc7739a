"""The command line: answers on stdout, words for people on stderr, and exit code 2 with one line for bad input."""

import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.data.clips import Clip, make_clip
from tests.infer.askable import CONFIG, WORDS, askable, frames
from vxlpro_jax import __version__, cli
from vxlpro_jax.convert import save_params_as
from vxlpro_jax.data.tokenizer import save_tiny_tokenizer
from vxlpro_jax.infer import compiled_memory, encode, index_files
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.parallel.targets import on_device

SHORT = ["--max-new-tokens", "4", "--frames-per-batch", "4"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a model, two videos (folders of images, the second damaged), a picture and things that are none."""
    root = tmp_path_factory.mktemp("world")
    save_tiny_tokenizer(root / "tokenizer")
    params = jax.tree.map(np.asarray, askable().params)
    save_params_as(root / "model", CONFIG, params, tokenizer_folder=root / "tokenizer")
    for folder, seed in (("video", 0), ("damaged", 1)):
        (root / folder).mkdir()
        for number, pixels in enumerate(frames(7, seed)):
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    lost = root / "damaged" / "3.png"
    lost.write_bytes(lost.read_bytes()[:60])
    Image.fromarray(frames(1)[0]).save(root / "photo.jpg")
    (root / "empty").mkdir()
    (root / "text.mp4").write_text("no video")
    (root / "zero.mp4").write_bytes(b"")
    with wave.open(str(root / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(4000))
    (root / "bad.srt").write_text("no subtitles")
    (root / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nred star\n")
    return root


@pytest.fixture
def run(world, capsys, monkeypatch):
    """Calls main() in the world's folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(world)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # argparse
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_an_answer_and_its_grounds(run, world):
    code, out, err = run("ask", "video", WORDS, "--model", "model", *SHORT)
    expected = askable().ask(askable().index(world / "video", frames_per_batch=4), WORDS, max_new_tokens=4)
    assert (code, out) == (0, expected.text + "\n")
    assert "kept 8 of 8 visual tokens" in err and "7 frames, one every 1.00 s" in err
    span = expected.evidence[0]
    assert f"evidence: {span.start_s:.1f} to {span.end_s:.1f} s (score 1.00)" in err


def test_json(run):
    code, out, err = run("ask", "video", WORDS, "--json", "--model", "model", *SHORT)
    assert (code, err, out.count("\n")) == (0, "", 1)
    record = json.loads(out)
    assert record["question"] == WORDS and record["videos"] == ["video"]
    assert record["sampling"][0]["spacing_s"] == 1.0 and record["frames"] == [7] and record["lost_frames"] == [[]]
    assert {"read_s", "encode_s", "prefill_s", "per_token_s"} <= record["timings"].keys()
    assert set(record["evidence"][0]) == {"video", "start_s", "end_s", "score"}
    assert record["num_kept"] == record["num_visual"] == 8


def test_several_videos_damage_and_a_picture(run):
    code, out, err = run("ask", "video", "damaged", "photo.jpg", WORDS, "--model", "model", *SHORT)
    assert code == 0 and out.strip()
    assert "damaged: 1 frames cannot be decoded and were left out" in err
    assert "  video: 7 frames" in err and "  damaged: 6 frames" in err and "photo.jpg: evidence" not in err
    code, out, _ = run("ask", "video", "damaged", "photo.jpg", WORDS, "--model", "model", "--json", *SHORT)
    record = json.loads(out)
    assert record["lost_frames"] == [[], [3], []]
    assert {span["video"] for span in record["evidence"]} == {"video", "damaged", "photo.jpg"}


def test_an_index_answers_as_its_video_does(run, world, tmp_path):
    target = str(tmp_path / "video.vxl")
    code, out, err = run("index", "video", "-o", target, "--model", "model", "--frames-per-batch", "4")
    assert (code, out) == (0, "") and "7 frames in 2 groups" in err
    assert VideoIndex.load(target).fingerprint == askable().fingerprint
    asked = [run("ask", video, WORDS, "--model", "model", *SHORT)[1] for video in (target, "video")]
    assert asked[0] == asked[1]
    code, out, err = run("index", "video", "-o", target, "--model", "model")
    assert (code, out) == (2, "") and "exists" in err
    code, out, err = run("index", target, "-o", str(tmp_path / "again.vxl"), "--model", "model")
    assert code == 2 and "is an index already" in err
    assert [item.name for item in tmp_path.iterdir()] == ["video.vxl"]


def _index(run, *arguments: str) -> tuple[int, str, str]:
    return run("index", *arguments, "--model", "model", "--frames-per-batch", "4")


def test_many_videos(run, tmp_path):
    films, out = tmp_path / "films", tmp_path / "indexes"
    (films / "sub").mkdir(parents=True)
    make_clip(Clip("a.mp4", "libx264", 50), films)
    make_clip(Clip("b.mkv", "libx264", 25), films / "sub")
    (films / "broken.mp4").write_text("no video")
    code, said, err = _index(run, str(films), "-o", str(out), "--workers", "2")
    assert (code, said) == (1, "") and "2 videos indexed, 0 were done, 1 failed" in err
    assert "broken.mp4: not a video" in err and "Traceback" not in err
    assert len(VideoIndex.load(out / "a.mp4.vxl").frame_indices) == 2
    assert len(VideoIndex.load(out / "sub" / "b.mkv.vxl").frame_indices) == 1
    header = out / "a.mp4.vxl" / "header.json"
    header.write_text(header.read_text().replace('"complete"', '"open"'))
    code, _, err = _index(run, str(films), "-o", str(out))
    assert code == 1 and "1 videos indexed, 1 were done, 1 failed" in err
    (films / "broken.mp4").unlink()
    both = (str(films / "a.mp4"), str(films / "sub" / "b.mkv"))
    code, _, err = _index(run, *both, "-o", str(tmp_path / "other"))
    assert code == 0 and "2 videos indexed, 0 were done, 0 failed" in err
    code, _, err = _index(run, *both, "-o", str(tmp_path / "other"), "--fps", "2")
    assert code == 1 and err.count("sampling fps: 1.0 there, 2.0 now") == 2 and "2 failed" in err
    for wrong, said in (
        ([str(out / "a.mp4.vxl")], "no folder of indexes"),
        ([str(out), "--workers", "0"], "--workers"),
    ):
        code, _, err = _index(run, str(films), "-o", *wrong)
        assert code == 2 and said in err


def test_a_stopped_index_goes_on(run, world, tmp_path, monkeypatch):
    target, encoded = str(tmp_path / "video.vxl"), []

    def stop_at_the_third(*arguments):
        encoded.append(arguments)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode_frames(*arguments)

    monkeypatch.setattr(index_files, "GROUPS_PER_SEGMENT", 1)
    shutil.copytree(world / "video", tmp_path / "video")
    for number, pixels in enumerate(frames(7, 3)):
        Image.fromarray(pixels).save(tmp_path / "video" / f"{number + 7}.png")
    encode_frames = encode.encode_frames
    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_frames", stop_at_the_third)
        code, out, err = _index(run, str(tmp_path / "video"), "-o", target)
    assert (code, out) == (130, "") and "video.vxl is unfinished, and the same command goes on" in err
    code, _, err = run("ask", target, WORDS, "--model", "model")
    assert code == 2 and "unfinished" in err
    code, _, err = _index(run, str(tmp_path / "video"), "-o", target)
    assert code == 0 and "14 frames in 4 groups" in err
    Image.fromarray(frames(1)[0]).save(tmp_path / "video" / "14.png")
    code, _, err = _index(run, str(tmp_path / "video"), "-o", target, "--append", "--max-frames", "14")
    assert code == 2 and "the cap spreads them anew" in err
    code, _, err = _index(run, str(tmp_path / "video"), "-o", target, "--append")
    assert code == 0 and "15 frames in 4 groups" in err
    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_frames", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = _index(run, str(tmp_path / "video"), "-o", target + "2")
    assert code == 130 and "stopped; nothing was kept" in err and not Path(target + "2").exists()


def test_convert_and_ask(run, tmp_path):
    target = str(tmp_path / "orbax")
    assert run("convert", "model", target, "--to", "orbax")[:2] == (0, target + "\n")
    answers = [run("ask", "video", WORDS, "--model", model, *SHORT)[1] for model in ("model", target)]
    assert answers[0] == answers[1]
    code, out, err = run("convert", "model", target)
    assert (code, out) == (2, "") and "exists" in err


def test_options_reach_the_model(run):
    def record(*options):
        code, out, err = run("ask", "video", WORDS, "--model", "model", "--json", *SHORT, *options)
        assert code == 0, err
        return json.loads(out)

    plain = record()
    assert record("--max-frames", "4")["frames"] == [4]
    assert record("--fps", "0.5")["frames"] == [7]  # images without times are as far apart as --fps says
    assert record("--budget", "5")["num_tokens"] < plain["num_tokens"]
    assert record("--keep-rate", "0.6")["num_kept"] == 4
    assert record("--subtitles", "talk.srt")["num_tokens"] > plain["num_tokens"]
    assert record("--sampling", "released", "--max-frames", "8")["frames"] == [8]
    warm = ("--temperature", "9", "--top-p", "0.99", "--top-k", "400")
    assert record(*warm, "--seed", "1")["text"] != record(*warm, "--seed", "2")["text"]
    assert record("--max-new-tokens", "1")["timings"]["num_steps"] <= 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["ask", "nothing.mp4", WORDS], "nothing.mp4: no such file"),
        (["ask", "empty", WORDS], "no images in it"),
        (["ask", "text.mp4", WORDS], "text.mp4"),
        (["ask", "zero.mp4", WORDS], "0 bytes"),
        (["ask", "video", "zero.mp4", WORDS], "0 bytes"),
        (["ask", "sound.wav", WORDS], "no video"),
        (["ask", "video", ""], "question is empty"),
        (["ask", "video", WORDS, "--fps", "-1"], "fps=-1.0"),
        (["ask", "video", WORDS, "--fps", "0"], "fps=0.0"),
        (["ask", "video", WORDS, "--fps", "nan"], "fps=nan"),
        (["ask", "photo.jpg", WORDS, "--fps", "inf"], "fps=inf"),
        (["ask", "video", WORDS, "--max-frames", "0"], "max_frames=0"),
        (["ask", "video", WORDS, "--max-frames", "0", "--sampling", "released"], "max_frames=0"),
        (["ask", "video", WORDS, "--frames-per-batch", "0"], "frames_per_batch=0"),
        (["ask", "video", WORDS, "--temperature", "nan"], "temperature=nan"),
        (["ask", "video", WORDS, "--temperature", "-0.1"], "temperature=-0.1"),
        (["ask", "video", WORDS, "--top-p", "0"], "top_p=0.0"),
        (["ask", "video", WORDS, "--top-k", "-1"], "top_k=-1"),
        (["ask", "video", WORDS, "--seed", "-1"], "seed=-1"),
        (["ask", "video", WORDS, "--seed", "99999999999999999999999"], "seed="),
        (["ask", "video", WORDS, "--max-new-tokens", "0"], "max_new_tokens=0"),
        (["ask", "video", WORDS, "--max-new-tokens", "1000000000"], "lower max_new_tokens"),
        (["ask", "video", WORDS, "--budget", "0"], "budget=0"),
        (["ask", "video", WORDS, "--keep-rate", "2"], "keep_rate=2.0"),
        (["ask", "video", WORDS, "--keep-rate", "0.5", "--budget", "9"], "one of the two"),
        (["ask", "video", WORDS, "--subtitles", "nothing.srt"], "nothing.srt: no such file"),
        (["ask", "video", WORDS, "--subtitles", "bad.srt"], "bad.srt"),
        (["ask", "video", "photo.jpg", WORDS, "--subtitles", "talk.srt"], "subtitles of one video"),
        (["ask", "video", WORDS, "--model", "empty"], "config.json"),
        (["ask", "video", WORDS, "--model", "text.mp4"], "text.mp4"),
        (["ask", "video", WORDS, "--model", "no/such/folder"], "no/such/folder"),
        (["index", "nothing.mp4", "-o", "x.vxl"], "nothing.mp4: no such file"),
        (["index", "zero.mp4", "-o", "x.vxl"], "0 bytes"),
        (["index", "video", "-o", "talk.srt"], "exists"),
        (["index", "video", "-o", "talk.srt/x.vxl"], "Not a directory"),
        (["convert", "empty", "x"], "config.json"),
        (["convert", "no/such/folder", "x"], "no/such/folder"),
        (["convert", "model", "video"], "exists"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, world, arguments, said):
    before = sorted(os.listdir(world))
    model = [] if arguments[0] == "convert" or "--model" in arguments else ["--model", "model"]
    code, out, err = run(*arguments, *model)
    assert (code, out) == (2, "")
    assert said in err and err.startswith(f"vxlpro {arguments[0]}: ")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert sorted(os.listdir(world)) == before


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "required"),
        (["ask"], "required"),
        (["ask", "video"], "QUESTION"),
        (["ask", "video", WORDS, "--dtype", "int8"], "--dtype"),
        (["ask", "video", WORDS, "--fps", "fast"], "--fps"),
        (["ask", "video", WORDS, "--sampling", "all"], "--sampling"),
        (["index", "video"], "--output"),
        (["convert", "model", "x", "--to", "tensorflow"], "--to"),
        (["dance"], "dance"),
    ],
)
def test_bad_arguments(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err and "usage: vxlpro" in err


def test_wrong_questions_are_refused_before_a_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr(cli, "_load", lambda _: pytest.fail("the model was loaded"))
    for options in (["--temperature", "nan"], ["--budget", "0"], ["--subtitles", "nothing.srt"]):
        assert run("ask", "video", WORDS, *options)[0] == 2
    assert run("ask", "nothing.mp4", WORDS)[0] == 2
    assert run("index", "video", "-o", "talk.srt")[0] == 2


def test_out_of_memory_is_explained(run, monkeypatch):
    def fail(message):
        def load(_):
            raise jax.errors.JaxRuntimeError(message)

        return load

    monkeypatch.setattr(cli, "_load", fail("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"))
    code, _, err = run("ask", "video", WORDS)
    assert code == 2 and "out of memory; lower --frames-per-batch" in err and err.count("\n") == 1
    monkeypatch.setattr(cli, "_load", fail("INTERNAL: a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("ask", "video", WORDS)


def test_interrupted(run, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupt)
    assert run("ask", "video", WORDS)[0] == 130


def test_help_and_version_need_no_jax(world):
    code = (
        "import sys\nfrom vxlpro_jax import cli\ntry: cli.main(['--version'])\nfinally: assert 'jax' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=world)
    assert (shown.stdout, shown.stderr, shown.returncode) == (f"vxlpro {__version__}\n", "", 0)


def test_as_a_program_nobody_else_speaks(world):
    """A process of its own: one JSON object on stdout and nothing on stderr, be it from jax, absl or orbax."""
    command = [sys.executable, "-m", "vxlpro_jax.cli", "ask", "video", WORDS, "--model", "model", "--json", *SHORT]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=world, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_visual"] == 8
    command[command.index(WORDS)] = ""
    refused = subprocess.run(command, capture_output=True, text=True, cwd=world, env=environment)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        refused.stderr
        == "vxlpro ask: the question is empty: ask something, for example 'What happens in this video?'\n"
    )


def test_plan_needs_no_jax():
    """Neither words nor JSON; so it starts at once."""
    code = (
        "import sys\nfrom vxlpro_jax import cli\n"
        "asked = ['plan', '--device', 'v5p', '--frames', '512']\n"
        "assert cli.main(asked) == 0 == cli.main([*asked, '--json', '--whole'])\n"
        "assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "fits: yes" in shown.stdout
    record = json.loads(shown.stdout.splitlines()[-1])
    assert (record["model"], record["device"], record["frames"]) == ("video_xl_pro_3b", "v5p", 512)
    assert record["whole"] is record["fits"] is True and record["rows_read"] == 64 + 128 * 154


def test_plan_takes_the_compiler_s_figures_where_asked(run, monkeypatch):
    monkeypatch.setattr(compiled_memory, "target_named", lambda name: on_device(jax.devices("cpu")[0], "cpu"))
    code, out, err = run("plan", "--model", "tiny", "--device", "v5e", "--frames", "70", "--compile", "--json")
    assert code == 0 and "compiling" in err
    parts = {part["name"]: part for part in json.loads(out)["memory"]}
    assert {name for name, part in parts.items() if part["how"] == "compiled"} == {
        *("weights", "encoder activations", "key/value cache", "workspace of prefill")
    }
    assert parts["encoder activations"]["bytes"] > 4 * 3 * 56**2 * 64  # pixels of a batch


@pytest.mark.parametrize(
    "options, said",
    [
        (["--device", "h200", "--compile"], "there are compilers for a100-80gb"),
        (["--device", "v9"], "one of a100-80gb, h100-80gb, h200, v4, v5e, v5p, v6e is accepted"),
        (["--model", "nobody"], "one of tiny, video_xl_pro_3b, video_xl_pro_3b_paper is accepted"),
        (["--frames", "0"], "frames=0"),
        (["--keep", "0.9"], "every stamp stays"),
        (["--keep", "0.9", "--whole"], "one of the two"),
        (["--efficiency", "nan"], "efficiency=nan"),
        (["--host-gib", "-1"], "host memory of -1 GiB"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(run, options, said):
    code, out, err = run("plan", "--device", "v5e", "--frames", "8192", *options)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err
