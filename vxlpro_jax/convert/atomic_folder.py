"""A folder that is either there and complete, or not there.

Source: ours: no space, a destination that exists, and nothing half-written there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vxlpro_jax.convert.errors import ConversionError


@contextmanager
def new_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """Lend a folder beside `target`, which takes the name `target` when the block ends well and vanishes otherwise.

    Args:
        target: the folder to make; its parents are made too.
        num_bytes: what will be written, at least.

    Raises:
        ConversionError: the target exists, there is too little space, or writing failed.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(target.parent).free
        if free_bytes < num_bytes:
            raise ConversionError(
                f"{target}: no space: {num_bytes / 1e9:.2f} GB are needed, {free_bytes / 1e9:.2f} GB are free there."
            )
        partial.mkdir()
        yield partial
        refuse_existing(target)
        partial.rename(target)
    except OSError as error:
        raise ConversionError(f"{target}: cannot be written ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Raise ConversionError where something, be it a dangling link, has the target's name."""
    if os.path.lexists(target):
        raise ConversionError(f"{target}: exists; name a folder that does not, or remove it.")
