"""What a run writes down: a line of JSON per entry, and the same numbers for TensorBoard.

Source: ours.
"""

import json
import math
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

METRICS_FILE, BOARD_FOLDER = "metrics.jsonl", "tensorboard"


class RunLog:
    """The log of one run, gone on with after `step`: what was written beyond it belongs to steps that are lost; where
    there is none to go on after (0), all of it does."""

    def __init__(self, workdir: Path, step: int):
        self.path = workdir / METRICS_FILE
        kept = [line for line in read_log(workdir) if line["step"] <= step] if step else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)
        self._board = SummaryWriter(str(workdir / BOARD_FOLDER), purge_step=step + bool(step))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Numbers (and texts, which TensorBoard shows as such) of a step. What is not finite is written as null."""
        line = {name: _plain(value) for name, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}, ensure_ascii=False) + "\n")
        for name, value in line.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)
            elif isinstance(value, str):
                self._board.add_text(name, value, step)

    def close(self) -> None:
        self._board.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics; a kill may have left a part of one at the end."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line.endswith("}")]


def last_logged_step(workdir: Path) -> int:
    """The step of the last line in a run's metrics; -1 where there is none."""
    lines = read_log(workdir)
    return int(lines[-1]["step"]) if lines else -1
