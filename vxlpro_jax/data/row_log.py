"""Rows on disk, a JSON line each, so that a run that was killed goes on where it stopped.

Source: ours. The first line is a header; what was written under another one (another model, seed or frame rate) is
never mixed in.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEADER_KEY = "header"


class RowLog:
    """An append-only JSONL file of one run's rows.

    Every line goes out in one write; a last line that a kill or a full disk tore is cut off when the file is opened
    again. what: names the rows in messages. rows: those that the file held when it was opened, in order.
    """

    def __init__(self, path: Path, header: Mapping[str, object], what: str):
        """Open or begin the file. Raises ValueError where it holds another run's rows or is no such file."""
        self.path, self.what = path, what
        self.rows: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps(header))  # as it will be read: tuples become lists
        lines = _whole_lines(path)
        if not lines:
            self.append({HEADER_KEY: header}, sync=True)
            return
        first, *rest = (self._parse(number, line) for number, line in enumerate(lines, 1))
        self._check_header(first.get(HEADER_KEY), header)
        self.rows = rest

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows with their line numbers in the file."""
        yield from enumerate(self.rows, 2)

    def append(self, row: Mapping[str, object], sync: bool = False) -> None:
        """Write one row; sync: return only when the disk has it. Raises OSError when the disk does not take it
        whole."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if written != len(line):
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes of a row were written: is the disk full?")

    def damaged(self, number: int, reason: object = "") -> ValueError:
        """The error that says which line is none of this log's."""
        said = f" ({reason!r})" if reason else ""
        return ValueError(
            f"{self.path}:{number} is no line of {self.what}{said}: delete the file, or name another folder."
        )

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise self.damaged(number, error) from error
        if not isinstance(row, dict):
            raise self.damaged(number)
        return row

    def _check_header(self, stored: object, header: Mapping[str, object]) -> None:
        if not isinstance(stored, dict):
            raise ValueError(f"{self.path} does not begin with the header of {self.what}: name another folder.")
        different = sorted(key for key in {*stored, *header} if stored.get(key) != header.get(key))
        if different:
            said = "; ".join(f"{key}: {stored.get(key)!r} there, {header.get(key)!r} now" for key in different)
            raise ValueError(
                f"{self.path} holds {self.what} of another run ({said}): delete it, or name another folder."
            )


def _whole_lines(path: Path) -> list[bytes]:
    """The file's finished lines; what follows the last line end is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()
