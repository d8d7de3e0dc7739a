"""The validate command: every kind of fault with its line, counts, exit codes, and nothing examined twice."""

import json
import shutil
from pathlib import Path

import pytest

from launch import validate

TINY = ["--config.preset=tiny", "--config.data.max_media=1"]


@pytest.fixture
def faulty_set(small_set, tmp_path) -> Path:
    folder = tmp_path / "set"
    shutil.copytree(small_set.parent, folder)
    lines = (folder / "train.jsonl").read_text().splitlines()
    turns = json.loads(lines[0])["conversations"]
    lines += [
        json.dumps({"video": "missing.mp4", "conversations": turns}),
        json.dumps({"video": "text.mp4", "conversations": turns}),
        json.dumps({"video": "0.mp4", "conversations": turns[:1]}),
        "{not JSON",
        json.dumps({"video": "cut.mp4", "conversations": turns}),
    ]
    (folder / "text.mp4").write_text("no video")
    content = (folder / "4.mp4").read_bytes()
    half = len(content) // 2
    (folder / "cut.mp4").write_bytes(content[:half] + bytes(len(content) // 4) + content[half + len(content) // 4 :])
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def run(annotations: Path, tmp_path: Path, *more: str) -> tuple[int, dict]:
    code = validate.main([f"--config={annotations}", *TINY, f"--json={tmp_path / 'out.json'}", *more])
    return code, json.loads((tmp_path / "out.json").read_text())


def test_a_sound_set_ends_with_code_0(small_set, tmp_path, capsys):
    code, result = run(small_set, tmp_path, "--decode=yes")
    assert code == 0 and result["num_faults"] == 0 and result["usable"] == result["records"] == 40
    assert result["kinds"] == {"video": 30, "image": 10} and result["video_hours"] == pytest.approx(204 / 3600)
    assert result["videos"] == 5
    assert "40 usable" in capsys.readouterr().out


def test_a_result_that_cannot_be_written_is_a_line_after_the_result(small_set, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        validate.main([f"--config={small_set}", *TINY, f"--json={tmp_path}/none/out.json"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "40 usable" in said.out
    assert said.err.strip().splitlines()[-1].startswith("launch.validate: ") and "none/" in said.err


def test_every_fault_is_told_with_its_line(faulty_set, tmp_path, capsys):
    code, result = run(faulty_set, tmp_path)
    first = 41
    assert code == 1 and result["num_faults"] == 4 and result["usable"] == 41
    reasons = {fault["line"]: fault["reason"] for fault in result["faults"]}
    assert "missing.mp4: no such file" in reasons[first]
    assert "text.mp4: not a video" in reasons[first + 1]
    assert "the last question has no answer" in reasons[first + 2]
    assert "not JSON" in reasons[first + 3]
    out = capsys.readouterr().out
    assert f"{faulty_set}:{first}: " in out and "4 faults" in out
    code, result = run(faulty_set, tmp_path, "--decode=yes", "--show=2")
    assert code == 1 and result["num_faults"] == 5 and result["usable"] == 40
    assert "cut.mp4: damaged" in {fault["line"]: fault["reason"] for fault in result["faults"]}[first + 4]
    assert "... and 3 more" in capsys.readouterr().out


def test_facts_are_kept_and_what_was_mended_is_seen(faulty_set, tmp_path, monkeypatch):
    facts = f"--facts={tmp_path / 'facts.jsonl'}"
    assert run(faulty_set, tmp_path, facts)[1]["num_faults"] == 4
    shutil.copy(faulty_set.parent / "0.mp4", faulty_set.parent / "missing.mp4")
    from vxlpro_jax.data import video_facts

    examined, examine = [], video_facts.examine_media
    monkeypatch.setattr(
        video_facts, "examine_media", lambda path, cuts: (examined.append(path), examine(path, cuts))[1]
    )
    assert run(faulty_set, tmp_path, facts)[1]["num_faults"] == 3
    assert sorted(Path(path).name for path in examined) == ["missing.mp4", "text.mp4"]


def test_filters_are_no_faults(small_set, tmp_path):
    (tmp_path / "mix.yaml").write_text(f"datasets: [{{json_path: {small_set}, filters: {{max_duration_s: 40}}}}]")
    code = validate.main([f"--config={tmp_path / 'mix.yaml'}", *TINY, f"--json={tmp_path / 'o.json'}"])
    result = json.loads((tmp_path / "o.json").read_text())
    assert code == 1 and result["filtered_out"] == 0, "media_root is the annotation's folder only when it says so"
    text = f"datasets: [{{json_path: {small_set}, media_root: {small_set.parent}, filters: {{max_duration_s: 40}}}}]"
    (tmp_path / "mix.yaml").write_text(text)
    code = validate.main([f"--config={tmp_path / 'mix.yaml'}", *TINY, f"--json={tmp_path / 'o.json'}"])
    result = json.loads((tmp_path / "o.json").read_text())
    assert code == 0 and result["filtered_out"] == 12 and result["usable"] == 28


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [("a.jsonl", ["--decode=maybe"], "yes or no"), ("a.jsonl", ["--show=x"], "a number"), ("no.yaml", [], "no such")],
)
def test_bad_arguments_end_with_code_2(name, more, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        validate.main([f"--config={name}", *more])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
