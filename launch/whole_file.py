"""Files that a reader sees whole or not at all: written beside their place, then renamed.

Source: ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the path to write to, of the same ending; it takes the place of `path` when the block is left well."""
    part = path.with_name(f".part-{path.name}")
    yield part
    part.replace(path)


def write_whole(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
