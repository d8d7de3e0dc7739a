"""Predictions on disk, a line each, so that a run that was killed goes on where it stopped.

Source: ours. The file and its header are data/row_log.py's; what a line says of a prediction is here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vxlpro_jax.data.row_log import RowLog
from vxlpro_jax.eval.benchmark import Prediction, Sample

FIELDS = ("key", "video", "question", "truth", "answer", "metrics", "evidence", "num_tokens")


class PredictionLog:
    """An append-only JSONL file of one benchmark's predictions."""

    def __init__(self, path: Path, header: Mapping[str, object]):
        """Open or begin the file. Raises ValueError where it holds another run's predictions or is no such file."""
        self.path = path
        self._log = RowLog(path, header, "predictions")
        self._rows: dict[str, dict] = {}
        for number, row in self._log.numbered():
            missing = [name for name in FIELDS if name not in row]
            if missing:
                raise self._log.damaged(number, f"without {', '.join(missing)}")
            self._rows[row["key"]] = row

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
        self._log.append(row)
        self._rows[sample.key] = json.loads(json.dumps(row))

    def make_folder(self, name: str) -> Path:
        """A folder beside the log, made where it is not there yet."""
        folder = self.path.parent / name
        folder.mkdir(exist_ok=True)
        return folder


def delete_file(path: Path) -> None:
    """Delete a file that a run made for itself; one that is gone already is no matter."""
    path.unlink(missing_ok=True)
