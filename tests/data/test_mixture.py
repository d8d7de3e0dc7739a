"""Mixtures: what a YAML file chooses from its annotation files, and how it is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from vxlpro_jax.data.mixture import MixtureError, load_mixture, survey
from vxlpro_jax.data.records import Record, RecordFault
from vxlpro_jax.data.video_facts import FactStore

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "data"
TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A card."}]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def annotations(folder, name: str, size: int, video: str = "v.mp4"):
    rows = [{"id": f"{name}{i}", "video": video, "conversations": TURNS} for i in range(size)]
    return write(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def chosen(folder, entries: str, seed: int = 0) -> list[str]:
    mixture = load_mixture(write(folder / "mix.yaml", f"datasets:\n{entries}"), seed)
    return [mixture.record(i).id for i in range(len(mixture))]


@pytest.mark.parametrize(
    ("strategy", "ids"),
    [
        ("all", range(10)),
        ("first:3", range(3)),
        ("end:3", range(7, 10)),
        ("first:25%", range(3)),  # rounded up
        ("end:10%", [9]),
        ("first: 30 %", range(3)),
        ("first:100", range(10)),
    ],
)
def test_strategies(tmp_path, strategy, ids):
    annotations(tmp_path, "a", 10)
    assert chosen(tmp_path, f"- json_path: a.jsonl\n  sampling_strategy: '{strategy}'\n") == [f"a{i}" for i in ids]


def test_random_follows_from_the_seed_alone(tmp_path):
    annotations(tmp_path, "a", 100)
    entry = "- {json_path: a.jsonl, sampling_strategy: 'random:%s'}\n"
    first, again, other = (chosen(tmp_path, entry % 20, seed) for seed in (1, 1, 2))
    assert first == again != other and len(set(first)) == 20
    assert first == sorted(first, key=lambda name: int(name[1:])), "in the order of the file"
    assert len(chosen(tmp_path, entry % "20%")) == 20
    assert chosen(tmp_path, (entry % 20) * 2)[:20] != chosen(tmp_path, (entry % 20) * 2)[20:], "each entry draws anew"


def test_patterns_roots_names_and_weights(tmp_path):
    for name in ("a", "b", "c"):
        annotations(tmp_path / "notes", name, 2)
    text = """
root: notes
datasets:
  - {json_path: "{b,a}.jsonl", media_root: videos, weight: 0.5}
  - {json_path: c*.jsonl, name: third, weight: 2}
"""
    mixture = load_mixture(write(tmp_path / "mix.yaml", text), 0)
    assert [mixture.record(i).id for i in range(6)] == ["b0", "b1", "a0", "a1", "c0", "c1"]
    assert [dataset.name for dataset in mixture.datasets] == ["b", "a", "third"]
    assert mixture.weights().tolist() == [0.5] * 4 + [2.0] * 2
    assert mixture.record(0).media == (str(tmp_path / "notes" / "videos" / "v.mp4"),)
    assert mixture.record(5).media == (str(tmp_path / "notes" / "v.mp4"),)
    assert mixture.place(3) == (str(tmp_path / "notes" / "a.jsonl"), 2)
    moved = load_mixture(tmp_path / "mix.yaml", 0, root=str(tmp_path / "notes"))
    assert moved.record(5).media == mixture.record(5).media
    alone = load_mixture(tmp_path / "notes" / "a.jsonl", 0)
    assert len(alone) == 2 and alone.record(1).media == (str(tmp_path / "notes" / "v.mp4"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets: []", "a list `datasets:`"),
        ("[1]", "a list `datasets:`"),
        ("datasets: [{json_path: a.jsonl}", "not YAML"),
        ("datasets: [{json: a.jsonl}]", "with `json_path:`"),
        ("datasets: [{json_path: b.jsonl}]", "no file"),
        ("datasets: [{json_path: a.jsonl, sampling_stategy: all}]", "did you mean 'sampling_strategy'"),
        ("dataset: []\ndatasets: [{json_path: a.jsonl}]", "did you mean 'datasets'"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: last:3}]", "first:N, end:N or random:N"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'first:101%'}]", "first:N, end:N or random:N"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'first:1.5'}]", "first:N, end:N or random:N"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'first:0'}]", "hold no record"),
        ("datasets: [{json_path: a.jsonl, weight: 0}]", "weight is 0"),
        ("datasets: [{json_path: a.jsonl, filters: {max_duration: 3}}]", "did you mean 'max_duration_s'"),
        ("datasets: [{json_path: a.jsonl, filters: {max_duration_s: long}}]", "max_duration_s is 'long'"),
        ("datasets: [{json_path: a.jsonl, filters: [1]}]", "filters is [1]"),
    ],
)
def test_mistakes_are_told(tmp_path, text, said):
    annotations(tmp_path, "a", 2)
    with pytest.raises(MixtureError) as told:
        load_mixture(write(tmp_path / "mix.yaml", text), 0)
    assert said in str(told.value) and "mix.yaml" in str(told.value)
    with pytest.raises(MixtureError, match="no such mixture"):
        load_mixture(tmp_path / "none.yaml", 0)


def test_malformed_records_keep_their_number_and_tell_their_line(tmp_path):
    path = annotations(tmp_path, "a", 3)
    path.write_text(path.read_text().replace('"a1", "video": "v.mp4"', '"a1", "video": 3') + "{broken\n")
    mixture = load_mixture(path, 0)
    found = list(mixture.records())
    assert [number for number, _ in found] == [0, 1, 2]
    assert isinstance(found[1][1], RecordFault) and found[1][1].line == 2 and "'video' is 3" in found[1][1].reason
    assert isinstance(found[2][1], Record) and found[2][1].id == "a2"
    (fault,) = mixture.datasets[0].faults
    assert fault.line == 4 and "not JSON" in fault.reason


def test_cuts_are_counted_only_where_a_filter_asks(tmp_path, small_set):
    annotations(tmp_path, "plain", 1, "0.mp4")
    annotations(tmp_path, "calm", 1, "1.mp4")
    entries = "- {json_path: plain.jsonl, media_root: %s}\n- {json_path: calm.jsonl, media_root: %s, filters: %s}\n"
    entries %= (small_set.parent, small_set.parent, "{max_scene_changes: 2}")
    mixture = load_mixture(write(tmp_path / "mix.yaml", f"datasets:\n{entries}"), 0)
    facts = survey(mixture, FactStore(None))
    cuts = {path.split("/")[-1]: fact.scene_changes for path, fact in facts.items()}
    assert cuts["0.mp4"] == -1 and cuts["1.mp4"] >= 0
    durations = np.array([fact.duration_s for fact in facts.values()])
    np.testing.assert_allclose(durations, [32, 32], atol=0.51)


@pytest.mark.parametrize(
    "path", sorted(path for path in SHIPPED.glob("*.yaml") if path.stem != "generated"), ids=lambda path: path.stem
)
def test_shipped_mixtures_are_read(tmp_path, path, monkeypatch):
    """With an annotation file where each entry expects one; without, all that are missing are named at once."""
    monkeypatch.delenv("VXL_DATA", raising=False)
    with pytest.raises(MixtureError, match="names a variable that is not set"):
        load_mixture(path, 0)
    monkeypatch.setenv("VXL_DATA", str(tmp_path))
    entries = yaml.safe_load(path.read_text())["datasets"]
    with pytest.raises(MixtureError) as told:
        load_mixture(path, 0)
    for entry in entries:
        assert f"no file {tmp_path}/{entry['json_path']}" in str(told.value)
    for entry in entries:
        target = tmp_path / entry["json_path"].replace("*", "a")
        annotations(target.parent, target.stem, 3).rename(target)
    mixture = load_mixture(path, 0)
    assert len(mixture) == 3 * len(entries)
    assert all(dataset.media_root.startswith(f"{tmp_path}/media/") for dataset in mixture.datasets)


def test_the_generated_mixture_is_read_where_its_comment_writes(tmp_path):
    text = (SHIPPED / "generated.yaml").read_text()
    for name in ("short", "medium", "long"):
        assert f'"{name} ' in text or f" {name} " in text, "the comment makes this set"
        annotations(tmp_path / "runs" / "generated" / name, "train", 4)
    mixture = load_mixture(write(tmp_path / "configs" / "data" / "generated.yaml", text), 0)
    assert [len(dataset.places) for dataset in mixture.datasets] == [4, 4, 2]
    assert mixture.record(0).media == (f"{tmp_path}/runs/generated/short/v.mp4",)
