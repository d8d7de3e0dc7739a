"""The command as a user types it: exit codes and messages; tests/launch/test_prune_run.py tests what it runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", "launch.prune", "--config=configs/prune.py", *arguments]
    return subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.max_broken=0.1"], 'Did you mean "max_broken_share"'),
        (["--config.mixture=/no/such/file.json"], "/no/such/file.json: no such mixture"),
    ],
)
def test_bad_arguments_end_with_a_message_and_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = command(f"--workdir={tmp_path}", *arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr and "Traceback" not in result.stderr
