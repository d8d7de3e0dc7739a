"""Needles: a spliced index is that of the whole file, questions have one answer, and what went wrong is told apart."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.eval.fake_world import OPTIONS
from vxlpro_jax.data.synthetic_haystack import HaystackSettings
from vxlpro_jax.data.video_decode import open_frames, open_video
from vxlpro_jax.eval import needle
from vxlpro_jax.eval.benchmark import ACCURACY, STEP, Prediction, Sample
from vxlpro_jax.eval.harness import run_benchmark
from vxlpro_jax.eval.needle import (
    CHAIN,
    DIFFERENCE,
    KEPT,
    OTHERS_KEPT,
    SAME,
    SANITY,
    WELL_FORMED,
    NeedleHaystack,
    NeedleVariant,
    SanityQuestion,
    compare_indexes,
)
from vxlpro_jax.infer.video_index import VideoIndex

HAYSTACK = HaystackSettings(
    file="", num_haystacks=2, num_frames=64, mover_share=0.0, size=(32, 32), fps=1.0, frames_per_group=4
)
VARIANT = NeedleVariant(
    needle="card",
    decoys=False,
    frames=(32, 64),
    depths=(0.0, 1.0),
    num_needles=2,
    needle_frames=(1, 6),
    as_files=False,
    haystack=HAYSTACK,
    sanity=SanityQuestion("In which direction does the shape move?", "direction"),
)


def group_means(source: Path | np.ndarray, times_s: np.ndarray | None = None) -> VideoIndex:
    """Stands for a model's encoder: a group's token is the mean of its pixels in four quarters."""
    video = open_video(source) if times_s is None else open_frames(source, times_s)
    with video:
        frames, times = np.asarray(video.read(range(video.num_frames))), video.times_s
        end_s = video.duration_s
    groups = frames.reshape(-1, 4, 2, 16, 2, 16, 3).astype(np.float32)
    tokens = groups.mean((1, 3, 5)).reshape(len(groups), 4, 3)
    facts = {"spacing_s": 1.0}, {"path": "pretend"}
    return VideoIndex(tokens, times[::4], times, np.arange(len(times)), end_s, "video", "pretend", *facts)


class Knowing:
    """A model that has read the truths, and is asked these samples in order."""

    def __init__(self, samples: Sequence[Sample]):
        self.truths = iter([sample.truth or "left" for sample in samples])
        self.indexed: list[object] = []

    def index(self, source, fps, max_frames, **times) -> VideoIndex:
        self.indexed.append(source)
        return group_means(source, **times)

    def ask(self, index: VideoIndex, questions: list[str], **options):
        texts = [next(self.truths) for _ in questions]
        return [SimpleNamespace(text=text, evidence=[], num_tokens=9, kept_groups=range(16)) for text in texts]


def opened(benchmark: NeedleHaystack, video: str, folder: Path) -> VideoIndex:
    source = benchmark.open_video(video, folder)
    assert source.make_index is not None
    return source.make_index(group_means)


def predictions(benchmark: NeedleHaystack, answer, kept=()) -> list[Prediction]:
    found = []
    for sample in benchmark.samples():
        metrics = benchmark.score(sample, answer(sample), (), SimpleNamespace(group_times_s=np.arange(4), end_s=9))
        found.append(Prediction(sample, answer(sample), (), 9, metrics | benchmark.score_kept(sample, kept)))
    return found


@pytest.mark.parametrize("needle_kind", ["card", "chain"])
def test_a_spliced_index_is_that_of_the_whole_file(tmp_path: Path, needle_kind: str) -> None:
    variant = replace(VARIANT, needle=needle_kind, decoys=True, haystack=replace(HAYSTACK, mover_share=0.3))
    benchmark, files = (NeedleHaystack("cards", 3, replace(variant, as_files=as_files)) for as_files in (False, True))
    for video in dict.fromkeys(sample.video for sample in benchmark.samples()):
        spliced, of_file = (opened(one, video, tmp_path) for one in (benchmark, files))
        assert len(spliced.tokens) * 4 == int(video.split()[0])
        assert compare_indexes(spliced, of_file) < 1e-6
        assert files._differences[video] < 1e-6
        hidden = benchmark._hidden[video]
        empty = benchmark._indexes[hidden.haystack.number].tokens[: len(spliced.tokens)]
        changed = np.flatnonzero(np.abs(spliced.tokens - empty).max((1, 2)) > 1)
        assert changed.tolist() == hidden.haystack.groups_of(hidden.events)


def test_a_difference_is_seen(tmp_path: Path) -> None:
    benchmark = NeedleHaystack("cards", 3, VARIANT)
    index = opened(benchmark, benchmark.samples()[0].video, tmp_path)
    tokens = index.tokens.copy()
    tokens[3, 0, 0] += 0.01 * np.sqrt((tokens**2).mean())
    assert compare_indexes(index, index) == 0 and 0.005 < compare_indexes(replace(index, tokens=tokens), index) < 0.02
    assert compare_indexes(replace(index, end_s=1.0), index) == float("inf")
    assert compare_indexes(replace(index, tokens=index.tokens[:-1]), index) == float("inf")
    benchmark._differences[benchmark.samples()[0].video] = 0.01
    metrics = benchmark.score(benchmark.samples()[0], "", (), index)
    assert metrics[SAME] == 0 and metrics[DIFFERENCE] == 0.01


def test_a_run_indexes_each_haystack_once_and_goes_on(tmp_path: Path) -> None:
    benchmark = NeedleHaystack("cards", 3, VARIANT)
    model = Knowing(benchmark.samples())
    result = run_benchmark(benchmark, model, tmp_path, OPTIONS, {}, lambda index, question: question)
    assert [isinstance(source, Path) for source in model.indexed].count(True) == 2
    assert len(model.indexed) == 2 + 2 * 2 * 2  # haystacks, and the touched groups of every needle
    assert not list((tmp_path / "videos").glob("*.mp4"))
    assert {p.metrics.get(ACCURACY, 1.0) for p in result.predictions} == {1.0} and result.grid is not None
    assert result.grid.cells == (((4, 4), (4, 4)), ((4, 4), (4, 4)))  # two needles, the glyph and the colour of each
    assert result.grid.rows == ("0%", "100%") and result.grid.columns == ("32", "64")
    more = NeedleHaystack("cards", 3, replace(VARIANT, num_needles=3))
    again = Knowing(more.samples()[len(result.predictions) :])
    later = run_benchmark(more, again, tmp_path, OPTIONS, {}, lambda index, question: question)
    assert later.num_resumed == len(result.predictions)
    assert not any(isinstance(source, Path) for source in again.indexed) and len(again.indexed) == 4


def test_needles_take_turns_and_lie_where_their_name_says() -> None:
    benchmark = NeedleHaystack("cards", 3, replace(VARIANT, num_needles=8, frames=(64,), depths=(0.5,)))
    seen = {}
    for hidden in benchmark._hidden.values():
        start = round(hidden.needle.start_s)
        assert start % 4 == hidden.phase and round(hidden.needle.end_s) == start + hidden.needle_len
        assert 24 <= start <= 36
        seen[hidden.needle_len, hidden.phase] = hidden.needle.kind
    assert len(seen) == 8 and set(seen.values()) == {"shape_card", "digit_card"}
    shown = [sample for sample in benchmark.samples() if sample.kind != SANITY]
    assert all(sample.interval_s and sample.slices[1].startswith("lasts") for sample in shown)
    kinds = {sample.kind for sample in benchmark.samples()}
    assert kinds == {"shape", "digit", "colour", "when", SANITY}
    again = NeedleHaystack("cards", 3, replace(VARIANT, num_needles=1, frames=(64,), depths=(0.5,)))
    assert again.samples() == benchmark.samples()[:4]


def test_a_mover_is_named_where_others_move() -> None:
    variant = replace(VARIANT, needle="mover", num_needles=12, haystack=replace(HAYSTACK, mover_share=0.5))
    benchmark = NeedleHaystack("movers", 3, variant)
    asked = [sample for sample in benchmark.samples() if sample.kind == "direction"]
    assert len(asked) == 12 * 4
    for sample in asked:
        hidden = benchmark._hidden[sample.video]
        assert hidden.needle.glyph in sample.question or hidden.needle.colour in sample.question
        others = {word for event in hidden.haystack.movers.values() for word in (event.glyph, event.colour)}
        assert not others & {hidden.needle.glyph, hidden.needle.colour} and sample.truth == hidden.needle.direction
    found = benchmark.score_kept(asked[0], [0, *hidden.haystack.movers])
    assert found[OTHERS_KEPT] >= 1


def test_a_chain_is_followed_link_by_link() -> None:
    benchmark = NeedleHaystack("chain", 3, replace(VARIANT, needle="chain", decoys=True, needle_frames=(4,)))
    for sample in benchmark.samples():
        if sample.kind != CHAIN:
            continue
        mover, digit, shape, *decoys = benchmark._hidden[sample.video].events
        assert sample.truth.split(STEP) == [digit.colour, shape.glyph, mover.direction]
        assert digit.glyph in sample.question and shape.colour == digit.colour and mover.glyph == shape.glyph
        assert sorted(event.kind for event in decoys) == ["digit_card", "mover", "shape_card"]
        looks = {(event.kind, look) for event in decoys for look in (event.glyph, event.colour)}
        assert not looks & {
            (event.kind, look) for event in (mover, digit, shape) for look in (event.glyph, event.colour)
        }
        assert decoys[-1].direction != mover.direction
        spans = [(event.start_s, event.end_s) for event in (mover, digit, shape, *decoys)]
        assert all(a[1] <= b[0] for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False))
        metrics = benchmark.score(sample, STEP.join([digit.colour, "no idea", mover.direction]), (), None)
        assert [metrics[f"link {n}"] for n in (1, 2, 3)] == [1, 0, 1] and metrics[ACCURACY] == 1
        assert metrics[WELL_FORMED] == 0


def test_what_went_wrong_is_told_apart() -> None:
    benchmark = NeedleHaystack("cards", 3, VARIANT)
    right = predictions(benchmark, lambda sample: sample.truth or "left", kept=range(16))
    assert {row.value for row in benchmark.rows(right) if row.metric in (ACCURACY, KEPT, WELL_FORMED)} == {1.0}
    assert benchmark.remarks(right)[0] == "Faulty answers: none."
    wrong = predictions(benchmark, lambda sample: "" if sample.kind == "colour" else "left", kept=())
    assert "8 empty" in benchmark.remarks(wrong)[0] and "16 not of the kind asked for" in benchmark.remarks(wrong)[0]
    assert re.match("Wrong answers: 24; in 24 the selector had dropped the needle, in 0", benchmark.remarks(wrong)[1])
    rows = {(row.metric, row.name): row for row in benchmark.rows(wrong)}
    assert rows[KEPT, "cards,    32 frames"].value == 0 and rows[ACCURACY, "cards,    64 frames"].n == 8
    assert rows[WELL_FORMED, "sanity,    64 frames"].value == 1  # a direction, whichever
    assert (ACCURACY, "sanity,    64 frames") not in rows and rows[ACCURACY, "lasts 6"].n == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": (30,)}, "frames=30: whole groups of 4, at most haystack.num_frames=64"),
        ({"frames": (128,)}, "frames=128"),
        ({"depths": (0.5, 1.5)}, r"depths=\[1.5\]: 0 \(the beginning\) to 1"),
        ({"num_needles": 0}, "1 at least"),
        ({"haystack": replace(HAYSTACK, frames_per_group=8, num_frames=60)}, "whole groups of 8"),
    ],
)
def test_slips_are_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NeedleHaystack("cards", 3, replace(VARIANT, **change))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    settings = replace(HAYSTACK, num_frames=16)
    needle.Haystack(settings, 1, 0).write(tmp_path / "film.mp4", 16)
    variant = replace(VARIANT, haystack=replace(HAYSTACK, file=str(tmp_path / "film.mp4")))
    with pytest.raises(ValueError, match="has 16 frames at 1 a second, variant 'cards' hides needles in 64"):
        NeedleHaystack("cards", 3, variant)
    NeedleHaystack("cards", 3, replace(variant, frames=(16,), haystack=replace(variant.haystack, num_frames=16)))


def test_groups_of_another_model_are_refused(tmp_path: Path) -> None:
    benchmark = NeedleHaystack("cards", 3, VARIANT)
    source = benchmark.open_video(benchmark.samples()[0].video, tmp_path)

    def eight(video, times_s=None):
        index = group_means(video, times_s)
        return replace(index, tokens=index.tokens[::2], group_times_s=index.group_times_s[::2])

    with pytest.raises(ValueError, match="64 frames make 8 groups of this model.*which is 4"):
        source.make_index(eight)
