"""Annotations go in and come out pruned: the same bytes for any number of workers and after any interruption."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from ml_collections import ConfigDict

from configs.prune import get_config
from launch import prune_run
from launch.prune_run import TooManyBroken, prune, read_config
from vxlpro_jax.data.mixture import load_mixture
from vxlpro_jax.data.records import Record, read_records, write_records
from vxlpro_jax.data.synthetic_redundancy import MOTIONS, write_redundancy_set

PER_MOTION, LENGTH_S = 2, 8
QUESTIONS = {
    "captioning": "Describe the video.",
    "multiple_choice": "What is shown?\nA. a card\nB. nothing",
    "open_ended": "Which shape is on the card?",
}


class PixelEncoder:
    """Pixels are the features; stops after `patience` videos, as a killed run does."""

    image_size, dtype, fingerprint = 16, "float32", "pixels"

    def __init__(self, patience: int = 1000):
        self.num_calls, self.patience = 0, patience

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        if self.num_calls == self.patience:
            raise KeyboardInterrupt
        self.num_calls += 1
        return frames.reshape(len(frames), -1).astype(np.float32) - 128


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    list(write_redundancy_set(folder, 9, PER_MOTION, LENGTH_S))
    return folder


def conversation(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": "A circle, I think."}]


def records(folder: Path) -> list[dict[str, Any]]:
    """One of each task for every video, and a second open-ended one."""
    questions = [*QUESTIONS.values(), "And why?"]
    return [
        {"id": f"{path.stem}/{n}", "video": path.name, "conversations": conversation(question)}
        for path in sorted(folder.glob("*.mp4"))
        for n, question in enumerate(questions)
    ]


def settings(mixture: Path, root: Path | str, **changes: Any) -> prune_run.PruneConfig:
    config = get_config()
    config.mixture, config.root, config.workers = str(mixture), str(root), 0
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = config
        for name in blocks:
            block = block[name]
        block[key] = value
    return read_config(config)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> PixelEncoder:
    found = PixelEncoder()
    monkeypatch.setattr(prune_run, "load_encoder", lambda *arguments: found)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ids(path: Path) -> list[str]:
    return [record.id for record in read_records(path) if isinstance(record, Record)]


def test_what_is_kept_is_least_redundant_and_every_video_is_scored_once(
    videos: Path, tmp_path: Path, encoder: PixelEncoder
) -> None:
    source = tmp_path / "train.json"
    source.write_text(json.dumps(records(videos)))
    thirds = {f"subsets__{task}__value": share for task, share in zip(QUESTIONS, (1 / 3, 2 / 3, 1.0), strict=True)}
    out = tmp_path / "out"
    summary = prune(settings(source, videos, **thirds), out, tmp_path / "summary.json")
    assert encoder.num_calls == summary["num_videos"] == 3 * PER_MOTION
    kept = ids(out / "kept" / "train.json")
    motions = {
        task: {name.split("_")[0] for name in kept if name.endswith(f"/{n}")} for n, task in enumerate(QUESTIONS)
    }
    assert motions == {"captioning": {"busy"}, "multiple_choice": {"busy", "slow"}, "open_ended": set(MOTIONS)}
    assert kept == [name for name in ids(source) if name in kept]  # the order of the input
    assert sum(name.endswith("/3") for name in kept) == 3 * PER_MOTION
    table = parquet.read_table(out / "scores.parquet").to_pylist()
    assert len(table) == 9 * PER_MOTION and sum(line["num_records"] for line in table) == len(ids(source))
    assert sum(line["num_records"] for line in table if line["kept"]) == len(kept)
    assert (
        json.loads((out / "prune.json").read_text()) == json.loads((tmp_path / "summary.json").read_text()) == summary
    )
    assert "| captioning | share 0.333333 | 6 | 0 | 2 | 6 | 2 |" in (out / "report.md").read_text()
    assert set(contents(out)) == {
        *("broken.jsonl", "kept/mixture.yaml", "kept/train.json", "prune.json", "report.md"),
        *("scores.jsonl", "scores.parquet", "similarity.png"),
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_byte(workers: int, videos: Path, tmp_path: Path, encoder: PixelEncoder) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records(videos)))
    prune(settings(source, videos), tmp_path / "alone")
    prune(settings(source, videos, workers=workers), tmp_path / "many")
    assert contents(tmp_path / "alone") == contents(tmp_path / "many")


def test_an_interrupted_run_scores_nothing_twice_and_ends_with_the_same_bytes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "train.json", tmp_path / "out"
    source.write_text(json.dumps(records(videos)))
    num_calls = 0
    for _ in range(20):
        encoder = PixelEncoder(patience=2)
        monkeypatch.setattr(prune_run, "load_encoder", lambda *arguments, encoder=encoder: encoder)
        try:
            prune(settings(source, videos), out)
            break
        except KeyboardInterrupt:
            with open(out / "scores.jsonl", "a") as file:  # and the kill tears a line
                file.write('{"video": "torn')
        finally:
            num_calls += encoder.num_calls
    assert num_calls == 3 * PER_MOTION
    monkeypatch.setattr(prune_run, "load_encoder", lambda *arguments: PixelEncoder())
    prune(settings(source, videos), tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_other_rules_cost_no_scoring_and_another_scoring_is_refused(
    videos: Path, tmp_path: Path, encoder: PixelEncoder
) -> None:
    source, out = tmp_path / "train.json", tmp_path / "out"
    source.write_text(json.dumps(records(videos)))
    prune(settings(source, videos), out)
    everything = {f"subsets__{task}__keep": "all" for task in QUESTIONS}
    prune(settings(source, videos, **everything), out)
    assert encoder.num_calls == 3 * PER_MOTION and ids(out / "kept" / "train.json") == ids(source)
    with pytest.raises(ValueError, match=r"scores of another run \(num_frames: 20 there, 8 now\)"):
        prune(settings(source, videos, scoring__num_frames=8), out)


def test_broken_videos_and_records_are_left_out_counted_and_listed(
    videos: Path, tmp_path: Path, encoder: PixelEncoder
) -> None:
    folder, source, out = tmp_path / "videos", tmp_path / "a" / "train.jsonl", tmp_path / "out"
    shutil.copytree(videos, folder)
    first, second, *_ = sorted(folder.glob("*.mp4"))
    first.unlink()
    second.write_bytes(b"no video")
    picture = {"id": "picture", "image": "x.png", "conversations": conversation("What?".replace("<video>", "<image>"))}
    text = {"id": "text", "conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}
    lines = [*map(json.dumps, [*records(videos), picture, text]), "{broken", json.dumps({"id": "none", "video": "a"})]
    source.parent.mkdir()
    source.write_text("\n".join(lines) + "\n")
    (tmp_path / "b").mkdir()
    shutil.copy(source, tmp_path / "b")
    with pytest.raises(TooManyBroken, match="1 of 6 videos cannot be read, more than max_broken_share=0.05"):
        prune(settings(source, folder), out)
    assert not (out / "kept").exists()
    (tmp_path / "both.yaml").write_text("datasets: [{json_path: '*/train.jsonl', media_root: videos}]")
    summary = prune(settings(tmp_path / "both.yaml", "", max_broken_share=0.4), out)
    assert summary["num_broken_videos"] == 2 and summary["num_videos"] == 6
    assert summary["num_faulty_records"] == summary["num_records_without_video"] == 4
    told = [json.loads(line) for line in (out / "broken.jsonl").read_text().splitlines()]
    assert [Path(line["video"]).name for line in told[:2]] == [first.name, second.name]
    assert told[0]["reason"] == "no such file" and told[2]["line"] == len(lines) - 1
    for name in ("train.jsonl", "train-2.jsonl"):
        kept = ids(out / "kept" / name)
        assert {"picture", "text"} <= set(kept) and not any(first.stem in name or second.stem in name for name in kept)
    shutil.copy(videos / first.name, first)  # mended: scored now, and nothing else
    num_calls = encoder.num_calls
    assert prune(settings(source, folder, max_broken_share=0.4), out)["num_broken_videos"] == 1
    assert encoder.num_calls == num_calls + 1


def test_a_mixture_comes_out_as_a_mixture(videos: Path, tmp_path: Path, encoder: PixelEncoder) -> None:
    """Its strategies are followed, weights and filters stay, and the training feed reads it as it stands."""
    everything = records(videos)
    write_records(tmp_path / "a.json", [record for record in everything if record["id"].endswith("/0")])
    write_records(tmp_path / "b.jsonl", [record for record in everything if not record["id"].endswith("/0")])
    write_records(tmp_path / "c.json", [record for record in everything if record["id"].startswith("still")])
    mixture = {
        "datasets": [
            {"json_path": "a.json", "media_root": str(videos), "sampling_strategy": "first:3", "weight": 2},
            {"json_path": "b.jsonl", "media_root": str(videos), "filters": {"min_duration_s": 4.0}, "name": "rest"},
            {"json_path": "c.json", "media_root": str(videos)},
        ]
    }
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    thirds = {f"subsets__{task}__value": 1 / 3 for task in QUESTIONS}
    prune(settings(tmp_path / "mixture.yaml", "", **thirds), tmp_path / "out")
    found = load_mixture(tmp_path / "out" / "kept" / "mixture.yaml", seed=0)
    assert [(d.name, d.weight, d.filters.min_duration_s) for d in found.datasets] == [("a", 2, 0), ("rest", 1, 4)]
    kept = [record for _, record in found.records()]
    assert all(isinstance(record, Record) and Path(record.media[0]).is_file() for record in kept)
    assert {record.id.split("_")[0] for record in kept} == {"busy"}  # type: ignore[union-attr]
    assert [len(d.places) for d in found.datasets] == [PER_MOTION, 3 * PER_MOTION]
    assert ids(tmp_path / "out" / "kept" / "c.json") == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mixture", "", "config.mixture is empty"),
        ("workers", -1, "config.workers=-1"),
        ("max_broken_share", 2.0, "config.max_broken_share=2.0"),
        ("scoring.num_frames", 1, "a pair takes 2 frames"),
        ("scoring.pooling", "max", "config.scoring.pooling='max': one of"),
        ("subsets.captioning.keep", "half", "config.subsets.captioning.keep='half'"),
        ("subsets.captioning.value", 0.0, "a share above 0"),
        ("tasks.names.cap", "caption", "tasks.names.cap='caption'"),
    ],
)
def test_senseless_settings_are_named(key: str, value: Any, said: str) -> None:
    config = get_config()
    config.mixture = "a.json"
    *blocks, name = key.split(".")
    block: ConfigDict = config
    for part in blocks:
        block = block[part]
    block[name] = value
    with pytest.raises(ValueError, match=said):
        read_config(config)


def test_unknown_and_missing_blocks_and_files_are_named(tmp_path: Path, encoder: PixelEncoder) -> None:
    config = get_config()
    config.mixture = "a.json"
    with config.unlocked():
        del config.subsets["captioning"]
    with pytest.raises(ValueError, match="one block for each of captioning"):
        read_config(config)
    with pytest.raises(ValueError, match="no such mixture"):
        prune(settings(tmp_path / "none.json", tmp_path), tmp_path / "out")
    (tmp_path / "text.json").write_text('[{"conversations": 3}]')
    with pytest.raises(ValueError, match="no record with a video; the first fault: .*text.json:1: "):
        prune(settings(tmp_path / "text.json", tmp_path), tmp_path / "out")
