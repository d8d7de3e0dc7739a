"""What a run was started with, kept in its folder: a resumed run must be the same run.

Source: ours.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from launch.starting_point import MODEL_FOLDER
from launch.whole_file import write_whole
from vxlpro_jax.checkpoint import has_state
from vxlpro_jax.config import TrainConfig
from vxlpro_jax.train.loop import CHECKPOINT_FOLDER
from vxlpro_jax.train.recot_stage import ReCoTRunConfig

CONFIG_FILE = "config.json"

# What may change between two starts of a run: it changes what is written and how fast, not what is computed.
MAY_CHANGE = re.compile(
    r"(loop|mesh|heldout)\.|(vision|data|(data|feed)\.\w+)\.(workers|buffered_batches|max_broken_share):"
)


def check_record(config: TrainConfig | ReCoTRunConfig, workdir: Path, allow_changes: bool) -> None:
    """Compare with what the run in workdir was started with, and write that down where there is nothing yet: no
    configuration, or no step that was saved with it.

    Raises ValueError naming every key that changed and may not.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG_FILE
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    if path.exists() and ((workdir / MODEL_FOLDER).exists() or has_state(workdir / CHECKPOINT_FOLDER)):
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [line for line in differences(before, now) if not MAY_CHANGE.match(line)]
        if changed and not allow_changes:
            raise ValueError(
                f"{workdir} was started with another configuration: {'; '.join(changed)}. Use another --workdir, the "
                "old values, or --allow_changed_config to go on with the new ones."
            )
    write_whole(path, json.dumps(now, indent=2) + "\n")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line "key: old -> new" for every value that differs."""
    flat = [flatten_dict(values, sep=".", keep_empty_nodes=True) for values in (before, now)]
    old, new = ({key: value for key, value in values.items() if value != {} and not _empty(value)} for values in flat)
    keys = sorted({*old, *new})
    return [
        f"{key}: {old.get(key, 'not there')!r} -> {new.get(key, 'not there')!r}"
        for key in keys
        if key not in old or key not in new or old[key] != new[key]
    ]


def _empty(value: Any) -> bool:
    return type(value).__name__ == "_EmptyNode"


def check_room(workdir: Path, num_bytes: int) -> None:
    """Raise OSError where the disk cannot hold all checkpoints. Those that an earlier start has left make way."""
    free = shutil.disk_usage(workdir).free
    there = sum(path.stat().st_size for path in (workdir / CHECKPOINT_FOLDER).rglob("*") if path.is_file())
    if free + there < num_bytes:
        raise OSError(
            f"{workdir}: {num_bytes / 1e9:.1f} GB are needed for checkpoints (loop.keep_last + keep_best, and one that "
            f"is being written), {there / 1e9:.1f} GB are taken by earlier ones and {free / 1e9:.1f} GB are free. Keep "
            "fewer, or make room."
        )
