"""The command: strict configuration, results on disk, and an exit code that tells whether the bars were met."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs.eval.needle import get_config as needle_config
from configs.tiny.eval import get_config
from launch.evaluate import evaluate, main, read_config
from tests.eval.fake_world import FakeModel


def small_config(**bars) -> ConfigDict:
    config = get_config()
    with config.unlocked():
        config.order = ("main",)
        config.variants.main.settings.num_videos = 2
        config.variants.main.settings.size = (48, 48)
        config.variants.main.bars.at_least = ConfigDict({"accuracy": bars})
    return config


def test_the_shipped_config_is_what_the_bars_demand() -> None:
    config, variants = read_config(get_config())
    counts = {}
    for name, (benchmark, bars) in variants.items():
        kinds = [sample.kind for sample in benchmark.samples()]
        counts[name] = {kind: kinds.count(kind) for kind in kinds}
        assert set(bars.at_chance) <= set(kinds)
        assert all(row in {*kinds, "all"} for rows in bars.at_least.values() for row in rows)
    assert list(variants) == list(config.order) and set(variants) == set(get_config().variants)
    assert set(counts["main"].values()) == {500} and len({s.video for s in variants["main"][0].samples()}) >= 200
    assert variants["main"][1].at_least == {
        "accuracy": {"shape": 0.97, "colour": 0.97, "digit": 0.97, "direction": 0.93, "when": 0.92, "first": 0.88},
        "evidence_iou": {"all": 0.5},
    }
    assert [name for name, (_, bars) in variants.items() if bars.reported_only] == ["lookalike", "busy", "wide"]


def test_the_needle_config_has_its_bars() -> None:
    config, variants = read_config(needle_config())
    bars = {name: bars for name, (_, bars) in variants.items()}
    lengths = {length: f"cards, {length:5d} frames" for length in (64, 256, 1024, 4096, 8192, 16384)}
    assert bars["texture"].at_least["accuracy"] == {row: 0.95 if n == 16384 else 0.97 for n, row in lengths.items()}
    assert bars["texture"].at_least["needle kept"] == dict.fromkeys(lengths.values(), 0.99)
    assert bars["movers"].at_least["accuracy"] == {lengths[8192]: 0.90}
    assert bars["movers"].at_least["needle kept"] == {lengths[8192]: 0.99}
    reported = {"direction", "direction_movers", "chain", "chain_decoys"}
    assert {name for name in bars if bars[name].reported_only} == reported
    for name, (benchmark, found) in variants.items():
        rows = [row for sample in benchmark.samples() for row in sample.slices]
        assert len({sample.key for sample in benchmark.samples()}) == len(benchmark.samples())
        assert all(rows.count(row) >= 60 for row in found.at_least.get("accuracy", {}))
        if name != "files":
            assert len(benchmark.variant.depths) == 5
    cells = {sample.video for sample in variants["files"][0].samples()}
    assert len(cells) >= 5 and any(cell.startswith("08192") for cell in cells)
    assert set(variants["files"][1].at_least["same as file"].values()) == {1.0}


def test_a_shorter_needle_run_keeps_the_bars_of_its_lengths() -> None:
    config = needle_config("1024")
    config.haystack = "film.mp4"
    assert config.variants.chain.settings.haystack.file == "film.mp4"
    config.haystack = ""
    _, variants = read_config(config)
    assert max(variants["texture"][0].variant.frames) == 1024
    assert list(variants["texture"][1].at_least["accuracy"]) == [f"cards, {n:5d} frames" for n in (64, 256, 1024)]
    assert needle_config("48").variants.texture.settings.frames == (48,)


@pytest.mark.parametrize(
    ("where", "key", "said"),
    [
        ("", "sed", "did you mean 'seed'"),
        ("run", "max_frame", "did you mean 'max_frames'"),
        ("variants.main", "setings", "did you mean 'settings'"),
        ("variants.main.settings", "length_s", "did you mean 'lengths_s'"),
        ("variants.main.bars", "at_lest", "did you mean 'at_least'"),
    ],
)
def test_an_unknown_key_is_refused_and_its_neighbour_named(where: str, key: str, said: str) -> None:
    config = get_config()
    block = config
    for part in where.split(".") if where else ():
        block = block[part]
    with config.unlocked():
        block[key] = 1
    with pytest.raises(ValueError, match=said):
        read_config(config)


def test_unknown_names_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="'man' is no variant of this configuration: did you mean 'main'"):
        read_config(get_config(), ["man"])
    config = get_config()
    config.variants.main.settings.twist = "upside_down"
    with pytest.raises(ValueError, match="twist='upside_down': one of"):
        read_config(config)
    config = get_config()
    config.benchmark = "synthetic"
    with pytest.raises(ValueError, match="one of synthetic_world.*, keep_rates is accepted"):
        read_config(config)


@pytest.mark.parametrize(("bar", "num_missed"), [(0.0, 0), (0.5, 1)])
def test_what_is_missed_is_told_and_written(tmp_path: Path, bar: float, num_missed: int) -> None:
    config, variants = read_config(small_config(shape=bar))
    model = FakeModel(lambda question, source: "no idea")
    summary, misses = evaluate(variants, model, config.run, tmp_path, {"model": "fake"}, lambda index, question: "")
    assert len(misses) == num_missed
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["variants"][0]["num_answers"] == 12
    assert ("**missed**" in (tmp_path / "results.md").read_text()) == bool(num_missed)
    assert len((tmp_path / "main.jsonl").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/tiny/eval.py", "--config.run.max_frame=2"], 'no key max_frame; did you mean "max_frames"'),
        (["--config=configs/tiny/eval.py", "--config.seed=abc"], "seed"),
        (["--config=configs/tiny/no_such_file.py"], "no_such_file.py"),
        (["--config=configs/tiny/eval.py", "--config.model=/no/such/folder"], "/no/such/folder"),
        (["--config=configs/eval/needle.py:64", "--config.haystack=/no/such.mp4"], "/no/such.mp4"),
        (["--config=configs/eval/needle.py:sixty"], "sixty"),
    ],
)
def test_bad_arguments_end_with_a_message_and_code_2(arguments: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err
