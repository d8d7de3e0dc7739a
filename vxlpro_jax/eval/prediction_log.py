"""Predictions on disk, a line each, so that a run that was killed goes on where it stopped.

Source: ours. The first line is a header; what was answered under another one (another model, seed or frame rate) is
never mixed in.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vxlpro_jax.eval.benchmark import Prediction, Sample

HEADER_KEY = "header"


class PredictionLog:
    """An append-only JSONL file of one benchmark's predictions.

    Every line goes out in one write; a last line that a kill or a full disk tore is cut off when the file is opened
    again.
    """

    def __init__(self, path: Path, header: Mapping[str, object]):
        """Open or begin the file. Raises ValueError where it holds another run's predictions or is no such file."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps(header))  # as it will be read: tuples become lists
        lines = _whole_lines(path)
        self._rows: dict[str, dict] = {}
        if not lines:
            self._write({HEADER_KEY: header})
            return
        rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
        _check_header(path, rows[0].get(HEADER_KEY), header)
        self._rows = {row["key"]: row for row in rows[1:]}

    def find(self, samples: Sequence[Sample]) -> dict[str, Prediction]:
        """Stored predictions by sample key; one whose video, question or truth has changed does not count."""
        found = {}
        for sample in samples:
            row = self._rows.get(sample.key)
            if row and all(row[name] == getattr(sample, name) for name in ("video", "question", "truth")):
                evidence = tuple((span[0], span[1], span[2]) for span in row["evidence"])
                rest = (row["num_tokens"], row["metrics"], row.get("prompt", ""))
                found[sample.key] = Prediction(sample, row["answer"], evidence, *rest)
        return found

    def append(self, prediction: Prediction) -> None:
        """Write one prediction. Raises OSError when the disk does not take it whole."""
        sample = prediction.sample
        row = {
            "key": sample.key,
            "video": sample.video,
            "kind": sample.kind,
            "question": sample.question,
            "truth": sample.truth,
            "answer": prediction.answer,
            "metrics": dict(prediction.metrics),
            "evidence": [[float(value) for value in span] for span in prediction.evidence],
            "interval_s": sample.interval_s,
            "num_tokens": prediction.num_tokens,
        }
        if prediction.prompt:
            row["prompt"] = prediction.prompt
        self._write(row)
        self._rows[sample.key] = json.loads(json.dumps(row))

    def make_folder(self, name: str) -> Path:
        """A folder beside the log, made where it is not there yet."""
        folder = self.path.parent / name
        folder.mkdir(exist_ok=True)
        return folder

    def _write(self, row: Mapping[str, object]) -> None:
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if written != len(line):
            raise OSError(
                f"{self.path}: only {written} of {len(line)} bytes of a prediction were written: is the disk full?"
            )


def delete_file(path: Path) -> None:
    """Delete a file that a run made for itself; one that is gone already is no matter."""
    path.unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[bytes]:
    """The file's finished lines; what follows the last line end is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


def _parse(path: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line)
        if number > 1:
            (
                row["key"],
                row["video"],
                row["question"],
                row["truth"],
                row["answer"],
                row["metrics"],
                row["evidence"],
                row["num_tokens"],
            )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}:{number} is no line of predictions ({error!r}): delete the file, or name another folder."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number} is no line of predictions: delete the file, or name another folder.")
    return row


def _check_header(path: Path, stored: object, header: Mapping[str, object]) -> None:
    if not isinstance(stored, dict):
        raise ValueError(f"{path} does not begin with the header of a prediction log: name another folder.")
    different = sorted(key for key in {*stored, *header} if stored.get(key) != header.get(key))
    if different:
        said = "; ".join(f"{key}: {stored.get(key)!r} there, {header.get(key)!r} now" for key in different)
        raise ValueError(f"{path} holds predictions of another run ({said}): delete it, or name another folder.")
