"""The check of an accelerator: what it judges, how it goes on, what the shell gives it, and (slow) all of it at tiny
size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import accelerator, agreement
from bench.accelerator import SECTIONS, find_device, judged, main, run
from vxlpro_jax.models.kernel_check import KernelCheck
from vxlpro_jax.models.presets import TINY

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "launch" / "gpu_check.sh"
# What a GPU machine may lack.
WITHOUT = ("av", "decord", "grain", "ml_collections", "srt", "transformers", "tensorboardX")
BLOCKED = f"import sys\nfor name in {WITHOUT}:\n    sys.modules[name] = None\n"
SETTING = {"device": "h200", "device_kind": "NVIDIA H200", "size": "3b", "seed": 0, "code": "1"}


def section(total_s: float | None = None, peak_gib: float | None = 50.0, limit_bytes: float | None = 79.9e9) -> dict:
    figures = {} if total_s is None else {"total_s": total_s}
    return {**figures, "memory": {"peak_gib": peak_gib, "limit_bytes": limit_bytes}}


def good() -> dict:
    return {"correctness": {"holds": True, **section()}, "selected": section(12.2), "whole": section(50.0)}


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"selected": section(12.3)}, ["selected"]),
        ({"whole": section(50.1)}, ["whole"]),
        ({"encode": section(peak_gib=60.1)}, ["held at once"]),
        ({"encode": section(limit_bytes=80.1e9)}, ["could have"]),
    ],
)
def test_goals_are_judged_where_they_are_stated(changed, missed):
    rows = judged(good() | changed, "h200", "3b")
    assert [row["met"] for row in rows].count(None) == 0
    found = [row["goal"] for row in rows if not row["met"]]
    assert len(found) == len(missed) and all(part in goal for part, goal in zip(missed, found, strict=True))
    for device, size in (("a100-80gb", "3b"), ("h200", "tiny")):
        told = judged(good() | changed, device, size)
        assert [row["measured"] for row in told] == [row["measured"] for row in rows]
        assert all(row["met"] is None for row in told)


def test_what_was_not_measured_is_not_judged():
    rows = judged({"correctness": section(peak_gib=None, limit_bytes=None)}, "h200", "3b")
    assert [(row["measured"], row["met"]) for row in rows] == [(None, None)] * 4


class Fakes:
    """Sections that count how often they ran; one may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.ran: list[str] = []
        self.failing: str | None = None
        self.right = True
        monkeypatch.setattr(accelerator, "SECTIONS", {name: self._section(name) for name in SECTIONS})

    def _section(self, name: str):
        def measure(subject):
            self.ran.append(name)
            if name == self.failing:
                raise RuntimeError("RESOURCE_EXHAUSTED: 90 GB")
            return {"holds": self.right} if name == "correctness" else {"total_s": 1.0}

        return measure


SUBJECT = SimpleNamespace(memory=lambda: {"peak_gib": 1.0, "limit_bytes": 79e9})


def test_a_run_goes_on_after_the_last_section(tmp_path, monkeypatch):
    fakes, file = Fakes(monkeypatch), tmp_path / "found.json"
    fakes.failing = "second"
    first = run(SUBJECT, SETTING, ["correctness", "second"], file)
    assert not first["holds"] and "90 GB" in first["sections"]["second"]["failed"]
    assert first["missing"] == ["kernels", "encode", "selected", "decode", "whole"]
    assert json.loads(file.read_text()) == first
    fakes.failing = None
    second = run(SUBJECT, SETTING, list(SECTIONS), file)
    assert fakes.ran == ["correctness", "second", "kernels", "encode", "selected", "second", "decode", "whole"]
    assert second["holds"] and not second["missing"] and list(second["sections"]) == list(SECTIONS)
    assert run(SUBJECT, SETTING, list(SECTIONS), file) == second and len(fakes.ran) == 8
    run(SUBJECT, SETTING, ["whole"], file, again=True)
    assert fakes.ran[8:] == ["whole"]


def test_figures_of_other_code_are_not_continued(tmp_path, monkeypatch):
    fakes, file = Fakes(monkeypatch), tmp_path / "found.json"
    run(SUBJECT, SETTING, ["encode"], file)
    found = run(SUBJECT, SETTING | {"code": "2"}, ["whole"], file)
    assert list(found["sections"]) == ["whole"] and fakes.ran == ["encode", "whole"]
    file.write_text('{"machine": "another result"}')
    with pytest.raises(ValueError, match="is no result of this program"):
        run(SUBJECT, SETTING, ["encode"], file)


def test_a_section_is_kept_when_the_next_one_is_killed(tmp_path, monkeypatch):
    fakes, file = Fakes(monkeypatch), tmp_path / "found.json"

    def killed(subject):
        raise KeyboardInterrupt

    monkeypatch.setitem(accelerator.SECTIONS, "whole", killed)
    with pytest.raises(KeyboardInterrupt):
        run(SUBJECT, SETTING, list(SECTIONS), file)
    assert list(json.loads(file.read_text())["sections"]) == fakes.ran == list(SECTIONS)[:-1]


@pytest.mark.parametrize(("right", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_it_is_right(right, code, tmp_path, monkeypatch, capsys):
    fakes = Fakes(monkeypatch)
    fakes.right = right
    monkeypatch.setattr(accelerator, "keep_programs", lambda: None)
    options = ["--device", "cpu", "--size", "tiny", "--json", str(tmp_path / "found.json")]
    assert main(options) == code
    assert "told, not judged" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["holds"] == right


def test_without_an_accelerator_it_says_so(capsys):
    assert main([]) == 2
    assert "no accelerator" in capsys.readouterr().err
    assert main(["--device", "gpu"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cpu"])
    assert ended.value.code == 2
    assert "--size tiny is accepted" in capsys.readouterr().err
    assert find_device("cpu").platform == "cpu"


def shell(folder: Path, mib: str | None, lacking: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The script with a Python that only tells what it was given, and an nvidia-smi that only tells its memory."""
    programs = {"python": f'[ "$1" = -c ] && {{ echo "{lacking}"; exit 0; }}\n'}
    programs["python"] += 'echo "ran: $* held to $XLA_PYTHON_CLIENT_MEM_FRACTION of $CUDA_VISIBLE_DEVICES"\n'
    if mib is not None:
        programs["nvidia-smi"] = f'echo "{mib}"\n'
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "CUDA_"))}
    told = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(folder / "python"), **environment}
    return subprocess.run([SCRIPT, "--only", "encode"], env=kept | told, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("mib", "environment", "held"),
    [
        ("143771", {}, "0.5306 of 0"),  # an H200
        ("81920", {"CUDA_VISIBLE_DEVICES": "3,4"}, "0.9313 of 3"),
        ("40960", {}, "0.9500 of 0"),
        ("143771", {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}, "0.4 of 0"),
    ],
)
def test_the_shell_holds_a_card_to_80_gb(tmp_path, mib, environment, held):
    done = shell(tmp_path, mib, **environment)
    assert done.returncode == 0, done.stderr
    assert f"ran: -m bench.accelerator --only encode held to {held}" in done.stdout
    if held.startswith("0.5"):
        assert 0.9999 * 80e9 - 0.0001 * 143771 * 2**20 < 0.5306 * 143771 * 2**20 <= 80e9


def test_the_shell_says_what_is_missing(tmp_path):
    done = shell(tmp_path, None, lacking="flax PIL")
    assert done.returncode == 2 and "lacks flax PIL" in done.stderr
    done = shell(tmp_path, None, PYTHON=str(tmp_path / "none"))
    assert done.returncode == 2 and "does not run" in done.stderr
    done = shell(tmp_path, "no devices were found")
    assert done.returncode == 0 and "is not held to 80 GB" in done.stderr


def test_it_starts_without_decoders_and_feeds():
    done = subprocess.run(
        [sys.executable, "-c", f"{BLOCKED}import bench.accelerator"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_kernel_is_told(monkeypatch):
    wrong = KernelCheck("decode", True, float("inf"), 0.02, "refused")
    monkeypatch.setattr(agreement, "check_kernels", lambda config: [KernelCheck("encode", True, 0.01, 0.02), wrong])
    found = agreement.compare_kernels(TINY)
    assert [check["holds"] for check in found["checks"]] == [True, False] and not found["holds"]
    assert json.loads(json.dumps(found, allow_nan=False))["checks"][1]["failure"] == "refused"


def test_a_processor_has_no_kernels_to_be_wrong():
    found = agreement.compare_kernels(TINY)
    assert found["holds"] and len(found["checks"]) == 5 and not any(check["by_kernel"] for check in found["checks"])


@pytest.mark.slow
def test_all_sections_at_tiny_size(tmp_path):
    """Through the shell, with a Python that lacks what a GPU machine may lack."""
    python = tmp_path / "python"
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKED)
    python.write_text(f'#!/bin/bash\nPYTHONPATH="{tmp_path}/block:{REPOSITORY}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    file = tmp_path / "found.json"
    done = subprocess.run(
        [SCRIPT, "--device", "cpu", "--size", "tiny", "--json", file],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["holds"] and not found["missing"]
    sections = found["sections"]
    assert sections["correctness"]["float32"]["holds"] and sections["correctness"]["bfloat16"]["holds"]
    assert sections["encode"]["frames_per_s"]["program"] > 0
    whole, selected = sections["whole"], sections["selected"]
    assert selected["num_kept"] < whole["num_kept"] == whole["num_visual"] == 1280
    assert whole["rows"] > 2240 and whole["total_s"] == whole["index_s"] + whole["answer_s"]
    second = sections["second"]
    assert second["index_reused"]["num_kept"] == selected["num_kept"]
    assert second["prefix_shared"]["rows_of_video"] == 2240
    assert len(second["chat"]["turns_s"]) == 3 and second["chat"]["rows"] == sorted(second["chat"]["rows"])
    assert sections["decode"]["short"]["rows"] < sections["decode"]["context"]["rows"]
