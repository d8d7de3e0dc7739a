"""Several annotation files as one body of training data: a YAML mixture, its weights, choices and filters.

Source: SPEC 13 (YAML lists with a sampling strategy); paper 4.1 (filters).
Differs: which records "random:N" takes follows from the seed; weights and filters are ours.
"""

import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vxlpro_jax.data.records import MalformedRecord, Record, RecordFault, RecordPlace, find_records, read_record
from vxlpro_jax.data.video_facts import FactStore, MediaFacts

_KEYS = ("json_path", "media_root", "sampling_strategy", "weight", "filters", "name")
_STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")
_ACCEPTED = "all, first:N, end:N or random:N, where N may be a percentage such as 10%"


class MixtureError(ValueError):
    """A mixture file that cannot be used as it stands, and why."""


@dataclass(frozen=True)
class Filters:
    """Which videos of a dataset are used; pictures and text pass. Bounds are inclusive; the paper keeps, for
    alignment, "shorter videos with minimal scene changes" (4.1)."""

    min_duration_s: float = 0.0
    max_duration_s: float = math.inf
    min_scene_changes: int = 0
    max_scene_changes: float = math.inf

    @property
    def needs_cuts(self) -> bool:
        return self.min_scene_changes > 0 or self.max_scene_changes < math.inf

    def refuses(self, facts: MediaFacts) -> bool:
        is_long_enough = self.min_duration_s <= facts.duration_s <= self.max_duration_s
        is_calm_enough = not self.needs_cuts or self.min_scene_changes <= facts.scene_changes <= self.max_scene_changes
        return not (is_long_enough and is_calm_enough)


@dataclass(frozen=True)
class Dataset:
    """One annotation file of a mixture. places int64 [n, 3]: line, offset and length of the records that its strategy
    chose. weight: how often each record appears per epoch; a fraction takes turns over the epochs. faults: of syntax.
    """

    name: str
    path: str
    media_root: str
    weight: float
    filters: Filters
    places: np.ndarray
    faults: tuple[RecordFault, ...]


class Mixture:
    """Records of several files under one numbering; a record is read from its file when it is asked for."""

    def __init__(self, source: str, datasets: tuple[Dataset, ...]):
        self.source, self.datasets = source, datasets
        self._ends = np.cumsum([len(dataset.places) for dataset in datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def dataset_of(self, index: int) -> int:
        """Number of the dataset that the record belongs to."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def place(self, index: int) -> tuple[str, int]:
        """Annotation file and line of a record."""
        dataset, place = self._find(index)
        return dataset.path, place.line

    def record(self, index: int) -> Record:
        """Raises MalformedRecord for what is no usable record."""
        dataset, place = self._find(index)
        return read_record(dataset.path, place, dataset.media_root)

    def records(self) -> Iterator[tuple[int, Record | RecordFault]]:
        """(number, record or fault) of all."""
        for index in range(len(self)):
            try:
                yield index, self.record(index)
            except MalformedRecord as error:
                yield index, RecordFault(*self.place(index), str(error))

    def weights(self) -> np.ndarray:
        """float64 [records]."""
        return np.concatenate([np.full(len(d.places), d.weight) for d in self.datasets])

    def _find(self, index: int) -> tuple[Dataset, RecordPlace]:
        number = self.dataset_of(index)
        dataset = self.datasets[number]
        line, offset, length = dataset.places[index - (self._ends[number] - len(dataset.places))].tolist()
        return dataset, RecordPlace(line, offset, length)


def load_mixture(path: str | os.PathLike, seed: int, root: str = "") -> Mixture:
    """The mixture of a YAML file, or of one annotation file (.json, .jsonl) by itself.

    root: folder that relative paths count from; empty: the one that the file names, else the file's own folder. seed:
    of "random:N". Raises MixtureError for what is wrong with the file, naming what is accepted.
    """
    path = Path(path)
    if not path.is_file():
        raise MixtureError(f"{path}: no such mixture (a YAML file, or one annotation file .json or .jsonl)")
    if path.suffix in (".json", ".jsonl"):
        entries: list[Any] = [{"json_path": str(path.resolve())}]
        base = root or str(path.parent)
    else:
        entries, base = _read_yaml(path, root)
    datasets: list[Dataset] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            datasets += _datasets(path, number, entry, base, seed)
        except MixtureError as error:  # all that is missing is told at once
            problems.append(str(error))
    if problems:
        raise MixtureError("\n".join(problems))
    if not sum(len(dataset.places) for dataset in datasets):
        raise MixtureError(f"{path}: its {len(datasets)} annotation files hold no record")
    return Mixture(str(path), tuple(datasets))


def survey(
    mixture: Mixture,
    store: FactStore,
    refresh: bool = False,
    num_threads: int = 2,
    progress: Callable[[Iterator[str], int], Iterator[str]] = lambda items, total: items,
) -> dict[str, MediaFacts]:
    """Facts of all media of the mixture; cuts are counted where a filter asks for them."""
    plain: list[str] = []
    with_cuts: list[str] = []
    for index, record in mixture.records():
        if isinstance(record, Record):
            needs_cuts = mixture.datasets[mixture.dataset_of(index)].filters.needs_cuts
            (with_cuts if needs_cuts and record.media_kind == "video" else plain).extend(record.media)
    found = store.survey(plain, False, refresh, num_threads, progress)
    return found | store.survey(with_cuts, True, refresh, num_threads, progress)


def _read_yaml(path: Path, root: str) -> tuple[list[Any], str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MixtureError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("datasets"), list) or not content["datasets"]:
        raise MixtureError(f"{path}: a list `datasets:` of entries with `json_path:` is accepted (configs/data/)")
    _known(content, ("root", "datasets"), f"{path}")
    named = str(content.get("root") or "")
    expanded = os.path.expanduser(os.path.expandvars(named))
    if "$" in expanded and not root:
        raise MixtureError(f"{path}: root is {named!r}, which names a variable that is not set: set it, or data.root")
    base = os.path.join(path.parent, expanded)
    return content["datasets"], root or os.path.normpath(base)


def _datasets(path: Path, number: int, entry: Any, base: str, seed: int) -> Iterator[Dataset]:
    """One dataset for each file that the entry's path pattern names."""
    where = f"{path}: datasets[{number}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
        raise MixtureError(f"{where} is {entry!r}: an entry with `json_path:` is accepted")
    _known(entry, _KEYS, where)
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise MixtureError(f"{where}.weight is {weight!r}: a number above 0, the times a record appears per epoch")
    files = [found for pattern in _braces(entry["json_path"]) for found in _files(os.path.join(base, pattern))]
    if not files:
        raise MixtureError(f"{where}.json_path: no file {os.path.join(base, entry['json_path'])}")
    for file in files:
        places: list[RecordPlace] = []
        faults: list[RecordFault] = []
        for found in find_records(file):
            if isinstance(found, RecordFault):
                faults.append(found)
            else:
                places.append(found)
        chosen = _chosen(entry.get("sampling_strategy", "all"), len(places), where, (seed, number))
        yield Dataset(
            name=str(entry.get("name") or Path(file).stem),
            path=file,
            media_root=os.path.join(base, str(entry.get("media_root") or "")),
            weight=float(weight),
            filters=_filters(entry.get("filters") or {}, where),
            places=np.array(places, np.int64).reshape(-1, 3)[chosen],
            faults=tuple(faults),
        )


def _known(block: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for key in block:
        if key not in names:
            near = get_close_matches(str(key), list(names), n=1)
            raise MixtureError(
                f"{where}: unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {list(names)}")
            )


def _braces(pattern: str) -> list[str]:
    """The paths of "/dir/{a,b}.json" (SPEC 13)."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    heads = [pattern[: match.start()] + name.strip() + pattern[match.end() :] for name in match[1].split(",")]
    return [path for head in heads for path in _braces(head)]


def _files(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern) if os.path.isfile(path))


def _chosen(strategy: Any, size: int, where: str, seed: tuple[int, int]) -> np.ndarray:
    """Which records of the file are used, ascending."""
    if strategy == "all":
        return np.arange(size)
    match = _STRATEGY.fullmatch(str(strategy).replace(" ", ""))
    if match is None or (not match[3] and "." in match[2]) or float(match[2]) > (100 if match[3] else math.inf):
        raise MixtureError(f"{where}.sampling_strategy is {strategy!r}: {_ACCEPTED}")
    count = math.ceil(float(match[2]) * size / 100) if match[3] else min(int(match[2]), size)
    if match[1] == "first":
        return np.arange(count)
    if match[1] == "end":
        return np.arange(size - count, size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])


def _filters(block: Any, where: str) -> Filters:
    names = tuple(Filters.__dataclass_fields__)
    if not isinstance(block, dict):
        raise MixtureError(f"{where}.filters is {block!r}: a block with keys of {list(names)}")
    _known(block, names, f"{where}.filters")
    for name, value in block.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise MixtureError(f"{where}.filters.{name} is {value!r}: a number from 0 is accepted")
    return Filters(**block)
