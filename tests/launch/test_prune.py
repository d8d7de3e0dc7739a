"""The command as a user types it: exit codes and messages; tests/launch/test_prune_run.py tests what it runs."""

from pathlib import Path

import pytest

from launch import prune


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.max_broken=0.1"], 'did you mean "max_broken_share"'),
        (["--config.mixture=/no/such/file.json"], "/no/such/file.json: no such mixture"),
    ],
)
def test_bad_arguments_end_with_a_message_and_code_2(tmp_path: Path, arguments: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        prune.main(["--config=configs/prune.py", f"--workdir={tmp_path}", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err
