"""Controls do what they say to the pixels, marking is right, a perfect model and a guesser get what they deserve."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.eval.fake_world import OPTIONS, FakeModel
from vxlpro_jax.data.synthetic import DIRECTIONS, sample_video
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, sample_questions
from vxlpro_jax.data.synthetic_render import render_frames
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.eval.benchmark import ACCURACY
from vxlpro_jax.eval.harness import Result, run_benchmark
from vxlpro_jax.eval.synthetic_world import (
    EVIDENCE_IOU,
    OLD_ANSWER,
    SyntheticWorld,
    WorldVariant,
    pairing_chance,
    top_span_iou,
    widen,
    with_other_cards,
)

PLAIN = WorldVariant(
    world="standard",
    lengths_s=(64,),
    size=(48, 48),
    num_videos=3,
    kinds=QUESTION_KINDS,
    questions_per_kind=1,
    twist="none",
)
CARDS = ("shape", "colour", "digit")
INDEX = SimpleNamespace(group_times_s=np.arange(0.0, 64, 4), end_s=64.0)
SEED = 77


def world(**changes) -> SyntheticWorld:
    return SyntheticWorld("w", SEED, replace(PLAIN, **changes))


def run(benchmark: SyntheticWorld, rule, folder: Path) -> Result:
    return run_benchmark(benchmark, FakeModel(rule), folder, OPTIONS, {}, lambda index, question: "")


def values(result: Result) -> dict[tuple[str, str], float]:
    return {(row.metric, row.name): row.value for row in result.rows}


def oracle(benchmark: SyntheticWorld):
    """The rule that knows every truth; a question can be asked of several videos, whose file tells them apart."""
    truths = {(sample.video, sample.question): sample.truth for sample in benchmark.samples()}
    return lambda question, source: truths[source.stem.removeprefix(f"w-{SEED}-"), question]


def test_a_perfect_model_gets_everything_right_from_real_files(tmp_path: Path) -> None:
    benchmark = world()
    result = run(benchmark, oracle(benchmark), tmp_path)
    found = values(result)
    assert all(found[ACCURACY, name] == 1.0 for name in (*QUESTION_KINDS, "all"))
    assert {row.n for row in result.rows if row.name in QUESTION_KINDS} == {3}


def test_samples_do_not_depend_on_their_number() -> None:
    assert world(num_videos=5).samples()[: 3 * 6] == world().samples()
    assert len({sample.key for sample in world(num_videos=5, questions_per_kind=3).samples()}) == 5 * 6 * 3


def test_cards_of_one_frame_are_a_slice() -> None:
    samples = world(num_videos=60).samples()
    for sample in samples:
        start, end = sample.interval_s
        assert (f"{sample.kind}, one frame" in sample.slices) == (end - start == 1.0)
    shapes = [sample for sample in samples if sample.kind == "shape"]
    assert 5 <= sum(bool(sample.slices) for sample in shapes) <= 30
    assert not [sample for sample in samples if sample.kind == "direction" and sample.slices]


def test_lengths_alternate_and_are_slices() -> None:
    samples = world(lengths_s=(64, 128), num_videos=4, kinds=("shape",)).samples()
    assert [sample.slices[-1] for sample in samples] == ["   64 s", "  128 s"] * 2


def test_when_is_right_within_a_group_and_a_half_second() -> None:
    benchmark = world()
    sample = next(s for s in benchmark.samples() if s.kind == "when")
    start = sample.interval_s[0]
    for off, right in ((0, 1.0), (4, 1.0), (5, 0.0)):
        assert benchmark.score(sample, f"at {start + off:04.0f} s", (), INDEX)[ACCURACY] == right
    coarse = SimpleNamespace(group_times_s=np.arange(0.0, 64, 8), end_s=64.0)
    assert benchmark.score(sample, f"at {start + 5:04.0f} s", (), coarse)[ACCURACY] == 1.0


def test_evidence_is_held_against_whole_groups() -> None:
    benchmark = world()
    sample = replace(benchmark.samples()[0], interval_s=(9.0, 13.0))
    for spans, iou in (
        ([(8.0, 16.0, 0.9), (0.0, 4.0, 0.8)], 1.0),
        ([(8.0, 12.0, 0.9)], 0.5),
        ([(0.0, 4.0, 0.9), (8.0, 16.0, 0.8)], 0.0),
        ([(12.0, 20.0, 0.9)], 1 / 3),
        ([], 0.0),
    ):
        assert benchmark.score(sample, "", spans, INDEX)[EVIDENCE_IOU] == pytest.approx(iou)


def test_widen() -> None:
    bounds = [0.0, 4.0, 8.0, 12.0, 14.0]
    assert widen((5.0, 6.0), bounds) == (4.0, 8.0)
    assert widen((4.0, 8.0), bounds) == (4.0, 8.0)
    assert widen((7.0, 9.0), bounds) == (4.0, 12.0)
    assert widen((12.0, 15.0), bounds) == (12.0, 14.0)
    assert top_span_iou([(4.0, 4.0, 1.0)], (4.0, 4.0)) == 0.0


def test_no_video_is_grey_and_indexed_once(tmp_path: Path) -> None:
    benchmark = world(twist="no_video", num_videos=5)
    model = FakeModel(lambda question, source: "")
    run_benchmark(benchmark, model, tmp_path, OPTIONS, {}, lambda index, question: "")
    assert len(model.indexed) == 1
    assert model.indexed[0].shape == (64, 48, 48, 3) and len(np.unique(model.indexed[0])) == 1
    plain = {(sample.key, sample.question, sample.truth) for sample in world(num_videos=5).samples()}
    assert {(sample.key, sample.question, sample.truth) for sample in benchmark.samples()} == plain
    assert all(sample.interval_s is None for sample in benchmark.samples())


def test_a_guesser_is_at_the_chance_that_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def guess(question: str, source: object) -> str:
        is_when = question.lower().startswith(("when", "at what"))
        return f"at {rng.integers(0, 64):04d} s" if is_when else str(rng.choice(DIRECTIONS))

    benchmark = world(twist="no_video", num_videos=400, kinds=("when", "direction"))
    rows = {row.name: row for row in run(benchmark, guess, tmp_path).rows}
    assert rows["direction"].chance == 1 / 4
    assert 0.08 < rows["when"].chance < 0.16
    for row in (rows["when"], rows["direction"]):
        assert row.low <= row.chance <= row.high


def test_pairing_chance_meets_all_truths_but_its_own() -> None:
    pairs = [("at 0000 s", "at 0000 s"), ("at 0020 s", "at 0020 s"), ("at 0022 s", "at 0040 s")]
    assert pairing_chance("when", pairs) == pytest.approx(1 / 6)  # of 6 pairs only (0022, 0020) is right
    assert pairing_chance("when", pairs[:1]) is None


def test_shuffled_holds_the_same_frames_in_another_order(tmp_path: Path) -> None:
    benchmark = world(twist="shuffled", kinds=("direction", "first"))
    source = benchmark.open_video("00001", tmp_path)
    with open_video(source.path) as file:
        frames = file.read(range(64))
        assert np.array_equal(source.times_s, file.times_s)
    assert not np.array_equal(source.frames, frames)
    order = [int(np.abs(frames.astype(int) - frame).sum((1, 2, 3)).argmin()) for frame in source.frames.astype(int)]
    assert sorted(order) == list(range(64))
    assert abs(np.corrcoef(order, np.arange(64))[0, 1]) < 0.5
    again = benchmark.open_video("00001", tmp_path)
    assert np.array_equal(again.frames, source.frames)


def test_other_cards_change_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    benchmark = world(twist="other_card", kinds=CARDS, num_videos=20)
    for sample in benchmark.samples():
        plain = sample_video(SEED, int(sample.video[:5]))
        question = next(q for q in sample_questions(plain) if q.kind == sample.kind)
        assert sample.question == question.question
        assert sample.truth != question.answer
        other = with_other_cards(plain, sample.kind == "colour")
        event = next(e for e in other.events if e.start_s == question.start_s)
        assert sample.truth == (event.colour if sample.kind == "colour" else event.glyph)
        for before, after in zip(plain.events, other.events, strict=True):
            assert replace(after, glyph=before.glyph, colour=before.colour) == before
            assert before == after if before.kind == "mover" else before != after
        for look in ("glyph", "colour"):
            assert len({getattr(e, look) for e in other.events}) == len(other.events)
    times_s = np.arange(64.0)
    differ = (render_frames(plain, times_s, (48, 48)) != render_frames(other, times_s, (48, 48))).any((1, 2, 3))
    shown = [any(e.start_s <= t < e.end_s for e in plain.events if "card" in e.kind) for t in times_s]
    assert differ.tolist() == shown


def test_a_model_that_reads_no_cards_is_caught_with_the_old_answer(tmp_path: Path) -> None:
    benchmark = world(twist="other_card", kinds=CARDS)
    old = {sample.question: sample.truth for sample in world(kinds=CARDS).samples()}
    found = values(run(benchmark, lambda question, source: old[question], tmp_path))
    assert found[ACCURACY, "all"] == 0.0 and found[OLD_ANSWER, "all"] == 1.0
    found = values(run(benchmark, oracle(benchmark), tmp_path / "right"))
    assert found[ACCURACY, "all"] == 1.0 and found[OLD_ANSWER, "all"] == 0.0


def test_other_card_refuses_kinds_that_no_card_answers() -> None:
    with pytest.raises(ValueError, match="'when': 'other_card' changes"):
        world(twist="other_card", kinds=("when",))


@pytest.mark.parametrize("name", ["lookalike", "busy"])
def test_harder_worlds_can_be_asked(name: str) -> None:
    assert len(world(world=name, num_videos=40).samples()) == 240


def test_wide_files_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    source = world(size=(72, 128)).open_video("00000", tmp_path)
    with open_video(source.path) as file:
        assert (file.height, file.width, file.num_frames) == (72, 128, 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kinds": ("shap",)}, "kinds .'shap'.: known are shape"),
        ({"num_videos": 0}, "asks nothing"),
        ({"kinds": ()}, "asks nothing"),
        ({"world": "flat"}, "world 'flat' is unknown"),
        ({"lengths_s": (8,)}, "length_s=8 is too short"),
    ],
)
def test_bad_variants_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        world(**changes)
