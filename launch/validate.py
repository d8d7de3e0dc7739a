"""Check training data before a run: `python -m launch.validate --config=configs/data/sft.yaml`.

More: [--facts=FILE] [--json=FILE] [--decode=yes] [--show=N] [--config.data.root=DIR]. --config: a mixture, or a
configuration with a `data` block. Every record that the mixture's strategies choose is read; every video and picture
is opened (--decode=yes: its frames are decoded too). --facts keeps what was found, for runs (`data.facts`) and for the
next validation, which examines only what has changed. Records that a run with this `data` does not take
(more pictures than data.max_media, more tiles than its buckets hold) are told and are no faults. Exit code: 0, 1 when
something is wrong, 2 for bad arguments.

Source: ours (docs/data.md).
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from launch.command_line import fail
from launch.data_settings import DataSettings, parse, shape_of
from launch.whole_file import write_whole
from vxlpro_jax.config import model_config
from vxlpro_jax.data.batch_plan import SampleSizes, Skipped, measure, one_of_each_video
from vxlpro_jax.data.frame_sampling import choose_training_frames
from vxlpro_jax.data.mixture import Mixture, load_mixture, survey
from vxlpro_jax.data.pipeline import limits_of
from vxlpro_jax.data.records import Record, RecordFault
from vxlpro_jax.data.video_decode import VideoError, open_video
from vxlpro_jax.data.video_facts import FactStore

COMMAND = "launch.validate"
OPTIONS = {
    "facts": "file of media facts, read and extended (JSONL)",
    "json": "write the result to this file",
    "decode": "yes: decode the frames that training would take",
    "show": "faults to print (default 20; all are in --json)",
}


def main(argv: list[str] | None = None) -> int:
    settings, options = parse(sys.argv[1:] if argv is None else argv, COMMAND, OPTIONS)
    if options["decode"] not in (None, "yes", "no"):
        fail(COMMAND, f"--decode={options['decode']}: yes or no")
    if not (options["show"] or "20").isdecimal():
        fail(COMMAND, f"--show={options['show']}: a number of faults to print")
    try:
        facts = options["facts"] or settings.data.facts
        result = validate(settings, Path(facts) if facts else None, options["decode"] == "yes")
        print_result(result, int(options["show"] or "20"))
        if options["json"]:
            write_whole(Path(options["json"]), json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:
        fail(COMMAND, str(error))
    return 1 if result["num_faults"] else 0


def validate(settings: DataSettings, facts_file: Path | None, decode: bool) -> dict[str, Any]:
    """What is in the mixture and what is wrong with it. Raises ValueError for a mixture that cannot be used."""
    data = settings.data
    mixture = load_mixture(data.mixture, settings.seed, data.root)
    store = FactStore(facts_file)
    facts = survey(mixture, store, refresh=True, num_threads=max(2, data.workers), progress=_shown)
    shape = shape_of(model_config(settings))
    sizes, skipped = measure(mixture, facts, shape.image_size, limits_of(data, shape))
    faults = [fault for dataset in mixture.datasets for fault in dataset.faults]
    faults += [_fault(mixture, item) for item in skipped if item.kind == "broken"]
    beyond = [_fault(mixture, item) for item in skipped if item.kind == "beyond"]
    undecodable = _undecodable(mixture, settings, sizes) if decode else []
    faults += undecodable
    kinds = Counter(record.media_kind for _, record in mixture.records() if isinstance(record, Record))
    videos = one_of_each_video(mixture, sizes)
    filtered = Counter(mixture.dataset_of(item.record) for item in skipped if item.kind == "filtered")
    bad = Counter(fault.source for fault in faults)
    return {
        "mixture": mixture.source,
        "datasets": [
            {
                "name": dataset.name,
                "path": dataset.path,
                "records": len(dataset.places),
                "weight": dataset.weight,
                "filtered_out": filtered[number],
                "faults": bad[dataset.path],
            }
            for number, dataset in enumerate(mixture.datasets)
        ],
        "records": len(mixture),
        "usable": int(sizes.is_usable.sum()) - len(undecodable),
        "filtered_out": sum(filtered.values()),
        "kinds": dict(kinds),
        "beyond": [asdict(item) for item in beyond],
        "videos": len(videos),
        "video_hours": float(sizes.duration_s[videos].sum() / 3600),
        "decoded": decode,
        "num_faults": len(faults),
        "faults": [asdict(fault) for fault in faults],
    }


def _fault(mixture: Mixture, item: Skipped) -> RecordFault:
    return RecordFault(*mixture.place(item.record), item.reason)


def _undecodable(mixture: Mixture, settings: DataSettings, sizes: SampleSizes) -> list[RecordFault]:
    """Faults of records whose frames cannot be decoded; each file is read once."""
    records = [mixture.record(int(index)) for index in sizes.is_usable.nonzero()[0]]
    paths = list(dict.fromkeys(path for record in records for path in record.media))
    reasons: dict[str, str] = {}
    with ThreadPoolExecutor(max(2, settings.data.workers)) as pool:
        for path, reason in zip(
            _shown(iter(paths), len(paths)), pool.map(lambda path: _read(path, settings), paths), strict=True
        ):
            reasons[path] = reason
    faults = []
    for record in records:
        bad = next((path for path in record.media if reasons[path]), None)
        if bad is not None:
            faults.append(RecordFault(record.source, record.line, f"{bad}: {reasons[bad]}"))
    return faults


def _read(path: str, settings: DataSettings) -> str:
    """Why the frames that training would take cannot be decoded; empty: they can."""
    try:
        with open_video(path) as video:
            indices = choose_training_frames(settings.data.sampling, video.times_s, video.duration_s, 0).indices
            for _ in video.read_chunks(indices):
                pass
    except VideoError as error:
        return error.reason
    return ""


def _shown(items: Iterator[str], total: int) -> Iterator[str]:
    return iter(tqdm(items, total=total, unit="file", desc="media", mininterval=2.0, disable=total < 50))


def print_result(result: dict[str, Any], show: int) -> None:
    for fault in result["faults"][:show]:
        print(f"{fault['source']}:{fault['line']}: {fault['reason']}")
    if result["num_faults"] > show:
        print(f"... and {result['num_faults'] - show} more (--show=N, --json=FILE)")
    for item in result["beyond"][:show]:
        print(f"{item['source']}:{item['line']}: not used: {item['reason']}")
    if len(result["beyond"]) > show:
        print(f"... and {len(result['beyond']) - show} more that a run does not take")
    for dataset in result["datasets"]:
        print(
            f"{dataset['name']}: {dataset['records']} records, weight {dataset['weight']:g}, "
            f"{dataset['filtered_out']} left out by filters, {dataset['faults']} faults"
        )
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result["kinds"].items()))
    print(
        f"{result['mixture']}: {result['records']} records ({kinds}), {result['usable']} usable, "
        f"{len(result['beyond'])} that a run does not take, {result['videos']} videos of {result['video_hours']:.2f} "
        f"hours in all, {result['num_faults']} faults"
    )


if __name__ == "__main__":
    sys.exit(main())
