"""The evaluate command, from mp4 files to the table; killed with SIGKILL on the way and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from vxlpro_jax.convert import save_params_as
from vxlpro_jax.data.tokenizer import save_tiny_tokenizer
from vxlpro_jax.models.presets import TINY
from vxlpro_jax.models.video_xl_pro import init_params

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_VIDEOS = 12


def command(model: Path, workdir: Path, *more: str) -> list[str]:
    sizes = [f"--config.variants.main.settings.num_videos={NUM_VIDEOS}", "--config.run.max_new_tokens=4"]
    line = [sys.executable, "-m", "launch.evaluate", "--config=configs/tiny/eval.py", "--only=main"]
    return [*line, f"--config.model={model}", f"--workdir={workdir}", *sizes, *more]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_misses_its_bars(tmp_path: Path) -> None:
    """Untrained weights: every bar is missed, which the exit code must say."""
    params = nn.unbox(jax.jit(lambda: init_params(TINY, jax.random.key(1)))())
    save_tiny_tokenizer(tmp_path / "tokenizer")
    save_params_as(tmp_path / "model", TINY, params, tokenizer_folder=tmp_path / "tokenizer")
    workdir, log = tmp_path / "run", tmp_path / "run" / "main.jsonl"
    started = subprocess.Popen(command(tmp_path / "model", workdir), cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 900
    while not (log.exists() and log.read_bytes().count(b"\n") > 7) and time.monotonic() < patience:
        assert started.poll() is None, "the command ended before it could be killed"
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    done = log.read_bytes().count(b"\n") - 1
    assert 6 < done < 6 * NUM_VIDEOS
    with open(log, "ab") as file:
        file.write(b'{"key": "torn')
    line = command(tmp_path / "model", workdir, f"--json={tmp_path / 'summary.json'}")
    result = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "main: accuracy of shape: >= 0.97" in result.stderr and "Traceback" not in result.stderr
    assert f"{6 * NUM_VIDEOS} answers, {done} of them from an earlier run" in result.stdout
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["variants"]
    assert summary["num_answers"] == 6 * NUM_VIDEOS and not summary["broken"]
    assert "<16 groups: t0000 t0004 ... t0060>" in summary["knobs"]["prompt of sample 0"]
    keys = [json.loads(row)["key"] for row in log.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 6 * NUM_VIDEOS
    assert list((workdir / "videos").iterdir()) == []
