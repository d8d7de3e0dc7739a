"""Needle in a haystack: something short is hidden at a depth of a long video, and asked about in free text.

Source: paper 4.7, Figure 4 (needle, chain of indicating images); docs/needle.md.
Differs: the paper's haystacks and needles are not published; here they are generated, or hidden in any video file. A
haystack is indexed once; of each needle only the groups of frames that show it are encoded and put into its index,
which is what indexing the whole file would give (the variant "files" holds it to that).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, SHAPES, Event, EventKind, draw_event
from vxlpro_jax.data.synthetic_haystack import Haystack, HaystackSettings, count_file_frames, first_frame
from vxlpro_jax.data.synthetic_questions import Question, draw_question, score_answer
from vxlpro_jax.eval.answer_faults import answer_fault
from vxlpro_jax.eval.benchmark import ACCURACY, STEP, Benchmark, Grid, GroupTimes, Prediction, Row, Sample, VideoSource
from vxlpro_jax.eval.prediction_log import delete_file
from vxlpro_jax.eval.synthetic_world import CHANCE
from vxlpro_jax.infer.video_index import VideoIndex, is_index

KEPT, WELL_FORMED, SAME, DIFFERENCE = "needle kept", "well formed", "same as file", "largest difference"
OTHERS_KEPT = "other movers kept"
SANITY, CARDS = "sanity", ("shape", "colour", "digit")
CHAIN, CHAIN_AT_ONCE = "chain", "chain, at once"
LINKS = ("colour", "shape", "direction")  # kinds of a chain's answers, in order
LINK_2, LINK_3 = "What is the {answer} shape on the card?", "Which way does the {answer} move?"
AT_ONCE = "In which direction does the shape move that is on the card of the colour of the {digit}?"
NEEDLE_SALT = 34
TOLERANCE = 1e-3  # of the tokens' root mean square: batches of other sizes add in another order

Index = Callable[..., VideoIndex]


@dataclass(frozen=True)
class SanityQuestion:
    """A question that is not about the needle, which has no right answer. kind: what an answer to it is (see
    answer_fault); empty: any text."""

    question: str
    kind: str


@dataclass(frozen=True)
class NeedleVariant:
    """needle: "card" (a shape or a digit), "mover" (asked for its direction), or "chain": a digit card whose colour
    points to a shape card, whose shape points to a mover, whose direction is asked for, once link by link and once at
    once. decoys: of a chain, another card or mover of each kind that one has to tell from it.

    frames, depths: of the cells. num_needles: in each cell; needle i lasts needle_frames[i % n] frames, and the places
    of a group where it begins take turns. as_files: every cell is also written as a file with its needle and indexed
    whole; the metrics SAME and DIFFERENCE compare.
    """

    needle: Literal["card", "mover", "chain"]
    decoys: bool
    frames: tuple[int, ...]
    depths: tuple[float, ...]
    num_needles: int
    needle_frames: tuple[int, ...]
    as_files: bool
    haystack: HaystackSettings
    sanity: SanityQuestion


@dataclass(frozen=True)
class _Hidden:
    """One needle in one haystack. events: all that is hidden; needle: the one that answers; phase: place of its first
    frame in its group."""

    haystack: Haystack
    num_frames: int
    depth: float
    needle_len: int
    phase: int
    needle: Event
    events: tuple[Event, ...]


class NeedleHaystack(Benchmark):
    """One variant. A needle depends on the seed, its cell and its number, not on which others there are."""

    def __init__(self, name: str, seed: int, variant: NeedleVariant):
        """Draws all needles (not their pixels). Raises ValueError for cells that cannot be, VideoError for a bad
        file."""
        self.name, self.variant = name, variant
        # Of one run, more needles, depths and lengths may join.
        described = {k: v for k, v in asdict(variant).items() if k not in ("frames", "depths", "num_needles")}
        described["haystack"].pop("num_frames")
        self.settings = {"seed": seed, **described}
        _check(name, variant)
        self._haystacks = [Haystack(variant.haystack, seed, n) for n in range(variant.haystack.num_haystacks)]
        self._indexes: dict[int, VideoIndex] = {}
        self._writing = [Lock() for _ in self._haystacks]
        self._differences: dict[str, float] = {}
        self._hidden: dict[str, _Hidden] = {}
        self._samples: list[Sample] = []
        for number in range(variant.num_needles):  # in turn, so that all cells grow together
            for num_frames in variant.frames:
                for depth in variant.depths:
                    self._add(seed, number, num_frames, depth)

    def samples(self) -> Sequence[Sample]:
        return self._samples

    def open_video(self, video: str, folder: Path) -> VideoSource:
        """Paints the groups that show the needle; writes the haystack's file where nobody has indexed it yet."""
        hidden = self._hidden[video]
        haystack, settings = hidden.haystack, self.variant.haystack
        stored = folder / f"haystack-{_label(haystack)}.vxl"
        with self._writing[haystack.number]:
            empty = stored.with_suffix(".mp4")
            if haystack.number not in self._indexes and not is_index(stored) and not empty.is_file():
                haystack.write(empty, settings.num_frames)
        pixels = haystack.touched(hidden.events)
        whole = None
        if self.variant.as_files:
            whole = folder / f"{self.name}-{video}.mp4"
            haystack.write(whole, hidden.num_frames, hidden.events)
        make_index = partial(self._make_index, video, pixels, stored, whole)
        return VideoSource(whole, is_temporary=True, make_index=make_index)

    def _make_index(self, video: str, pixels: np.ndarray, stored: Path, whole: Path | None, index: Index) -> VideoIndex:
        """The index of the cell; of its file, where it was written. Raises ValueError where the model's groups are
        others."""
        hidden = self._hidden[video]
        spliced = self._spliced(hidden, pixels, self._haystack_index(hidden.haystack, stored, index), index)
        if whole is None:
            return spliced
        of_file = index(whole)
        self._differences[video] = compare_indexes(spliced, of_file)
        return of_file

    def _haystack_index(self, haystack: Haystack, stored: Path, index: Index) -> VideoIndex:
        if haystack.number not in self._indexes:
            empty = stored.with_suffix(".mp4")
            if not is_index(stored):
                index(empty).save(stored)
            self._indexes[haystack.number] = VideoIndex.load(stored)
            delete_file(empty)
        found = self._indexes[haystack.number]
        per_group, num_frames = self.variant.haystack.frames_per_group, len(found.frame_times_s)
        if len(found.tokens) * per_group != num_frames:
            raise ValueError(
                f"{num_frames} frames make {len(found.tokens)} groups of this model: set config's frames_per_group, "
                f"which is {per_group}."
            )
        return found

    def _spliced(self, hidden: _Hidden, pixels: np.ndarray, haystack: VideoIndex, index: Index) -> VideoIndex:
        """The haystack's beginning with the groups that show the needle in their places."""
        settings = self.variant.haystack
        groups = hidden.haystack.groups_of(hidden.events)
        num_groups = hidden.num_frames // settings.frames_per_group
        places = [group * settings.frames_per_group + n for group in groups for n in range(settings.frames_per_group)]
        touched = index(pixels, times_s=np.array(places) / settings.fps)
        if touched.fingerprint != haystack.fingerprint:
            raise ValueError("the haystack was indexed by another encoder: delete the run's folder `videos`.")
        tokens = haystack.tokens[:num_groups].copy()
        tokens[groups] = touched.tokens
        return replace(
            haystack,
            tokens=tokens,
            group_times_s=haystack.group_times_s[:num_groups],
            frame_times_s=haystack.frame_times_s[: hidden.num_frames],
            frame_indices=haystack.frame_indices[: hidden.num_frames],
            end_s=hidden.num_frames / settings.fps,
        )

    def score(
        self, sample: Sample, answer: str, evidence: Sequence[Sequence[float]], index: GroupTimes
    ) -> dict[str, float]:
        """WELL_FORMED; but for the sanity question ACCURACY; of a chain also each link; SAME and DIFFERENCE, where a
        file was written."""
        settings = self.variant.haystack
        texts, kinds = answer.split(STEP), self._kinds_of_answers(sample.kind)
        metrics = {WELL_FORMED: float(not any(map(answer_fault, kinds, texts)))}
        if sample.video in self._differences:
            difference = self._differences[sample.video]
            metrics |= {SAME: float(difference <= TOLERANCE), DIFFERENCE: difference}
        if sample.kind == SANITY:
            return metrics
        truths = sample.truth.split(STEP)
        group_s = settings.frames_per_group / settings.fps
        right = [
            float(score_answer(kind, text, truth, group_s))
            for kind, text, truth in zip(kinds, texts, truths, strict=True)
        ]
        if sample.kind == CHAIN:
            metrics |= {f"link {number}": value for number, value in enumerate(right, 1)}
        return {ACCURACY: right[-1]} | metrics

    def score_kept(self, sample: Sample, kept_groups: Sequence[int]) -> dict[str, float]:
        """KEPT: whether the LLM read anything of a group that shows the needle; how many groups it read that hold other
        movers, where there are some."""
        if sample.kind == SANITY:
            return {}
        hidden = self._hidden[sample.video]
        metrics = {KEPT: float(bool({*hidden.haystack.groups_of([hidden.needle])} & {*kept_groups}))}
        if self.variant.haystack.mover_share:
            metrics[OTHERS_KEPT] = float(len(hidden.haystack.movers.keys() & {*kept_groups}))
        return metrics

    def chance(self, kind: str, predictions: Sequence[Prediction]) -> float | None:
        return CHANCE.get(kind, CHANCE["direction"] if kind in (CHAIN, CHAIN_AT_ONCE) else None)

    def rows(self, predictions: Sequence[Prediction]) -> list[Row]:
        """All rows of ACCURACY; of other metrics those by length."""
        return [row for row in super().rows(predictions) if row.metric == ACCURACY or row.name.endswith("frames")]

    def grid(self, predictions: Sequence[Prediction]) -> Grid | None:
        """Right answers about the needle's looks or direction (not "when") over depth and length."""
        variant = self.variant
        counts: Counter[tuple[float, int]] = Counter()
        right: Counter[tuple[float, int]] = Counter()
        for prediction in predictions:
            if ACCURACY in prediction.metrics and prediction.sample.kind not in ("when", CHAIN_AT_ONCE):
                hidden = self._hidden[prediction.sample.video]
                counts[hidden.depth, hidden.num_frames] += 1
                right[hidden.depth, hidden.num_frames] += int(prediction.metrics[ACCURACY])
        return Grid(
            "depth",
            tuple(f"{depth:.0%}" for depth in variant.depths),
            "frames",
            tuple(f"{num_frames:,}" for num_frames in variant.frames),
            tuple(tuple((right[d, n], counts[d, n]) for n in variant.frames) for d in variant.depths),
        )

    def remarks(self, predictions: Sequence[Prediction]) -> Sequence[str]:
        """Faulty answers, and whether wrong ones were lost by the selector or read wrongly."""
        faults: Counter[str] = Counter()
        for prediction in predictions:
            texts = prediction.answer.split(STEP)
            for kind, text in zip(self._kinds_of_answers(prediction.sample.kind), texts, strict=True):
                faults[answer_fault(kind, text)] += 1
        del faults[""]
        said = ", ".join(f"{count} {fault}" for fault, count in faults.most_common()) or "none"
        wrong = [p for p in predictions if p.metrics.get(ACCURACY) == 0]
        dropped = sum(p.metrics[KEPT] == 0 for p in wrong)
        return (
            f"Faulty answers: {said}.",
            f"Wrong answers: {len(wrong)}; in {dropped} the selector had dropped the needle, in {len(wrong) - dropped} "
            "it was read.",
        )

    def _kinds_of_answers(self, kind: str) -> tuple[str, ...]:
        """What each of a sample's answers is."""
        named = {SANITY: (self.variant.sanity.kind,), CHAIN: LINKS, CHAIN_AT_ONCE: LINKS[-1:]}
        return named.get(kind, (kind,))

    def _add(self, seed: int, number: int, num_frames: int, depth: float) -> None:
        """A needle with its questions."""
        variant = self.variant
        rng = np.random.default_rng([seed, NEEDLE_SALT, num_frames, round(depth * 1000), number])
        haystack = self._haystacks[rng.integers(len(self._haystacks))]
        per_group, fps = variant.haystack.frames_per_group, variant.haystack.fps
        turn, place = divmod(number, len(variant.needle_frames))
        needle_len, phase = variant.needle_frames[place], turn % per_group
        start = first_frame(num_frames, depth, needle_len, phase, per_group)
        window = start / fps, (start + needle_len) / fps
        if variant.needle == "chain":
            events, asked = draw_chain(rng, haystack, num_frames, window, variant.decoys)
        else:
            card: EventKind = "shape_card" if (turn + place) % 2 else "digit_card"
            events, asked = draw_needle(rng, haystack, "mover" if variant.needle == "mover" else card, window)
        video = f"{num_frames:05d} frames, depth {depth:.0%}, needle {number:02d}"
        self._hidden[video] = _Hidden(haystack, num_frames, depth, needle_len, phase, events[0], events)
        slices = (f"lasts {needle_len}", f"from place {phase}")
        for kind, question, truth, then in (*asked, (SANITY, variant.sanity.question, "", ())):
            family = "cards" if kind in CARDS else kind
            by_length = f"{family}, {num_frames:5d} frames"
            key = f"{video} ({needle_len} from place {phase}), {kind}"
            own = (by_length,) if kind == SANITY else (by_length, *slices)
            interval_s = None if kind == SANITY else window
            self._samples.append(Sample(key, video, kind, question, truth, own, interval_s, then))


Asked = tuple[str, str, str, tuple[str, ...]]
"""Kind, question, truth, and what is asked next (Sample.then)."""


def draw_needle(
    rng: np.random.Generator, haystack: Haystack, kind: EventKind, window: tuple[float, float]
) -> tuple[tuple[Event, ...], list[Asked]]:
    """A card or a mover that is shown in the window of seconds, and the questions about it."""
    if kind == "mover":
        look = rng.choice(haystack.needle_shapes), rng.choice(haystack.needle_colours)
    else:
        look = rng.choice(SHAPES if kind == "shape_card" else DIGITS), rng.choice(list(COLOURS))
    needle = draw_event(rng, kind, str(look[0]), str(look[1]), *window)
    kinds = {"shape_card": ("shape", "colour", "when"), "digit_card": ("digit", "colour", "when")}
    # One other mover stands for all: beside it, a question has to name the needle.
    around = (needle, *list(haystack.movers.values())[:1]) if kind == "mover" else (needle,)
    asked = [_question_about(rng, name, around) for name in kinds.get(kind, ("direction",))]
    return (needle,), [(found.kind, found.question, found.answer, ()) for found in asked]


def _question_about(rng: np.random.Generator, kind: str, events: tuple[Event, ...]) -> Question:
    """A question about the first event."""
    while (question := draw_question(rng, kind, events)).start_s != events[0].start_s:
        pass
    return question


def draw_chain(
    rng: np.random.Generator, haystack: Haystack, num_frames: int, window: tuple[float, float], decoys: bool
) -> tuple[tuple[Event, ...], list[Asked]]:
    """A mover in the window of seconds, and a digit card and a shape card that lead to it, each in a group of its own
    somewhere; with decoys, another chain. The mover comes first in the list."""
    digits, shapes, colours = (rng.permutation(list(pool)) for pool in (DIGITS, SHAPES, COLOURS))
    settings = haystack.settings
    mover = draw_event(rng, "mover", str(shapes[0]), str(colours[2]), *window)
    taken = set(haystack.groups_of([mover]))
    free = rng.permutation([n for n in range(num_frames // settings.frames_per_group) if n not in taken])

    def spans():
        for group in free:
            yield haystack.time_s(int(group)), haystack.time_s(int(group) + 1)

    span = spans()
    events = [mover]
    for chain in range(1 + decoys):
        colour = str(colours[chain])
        events.append(draw_event(rng, "digit_card", str(digits[chain]), colour, *next(span)))
        events.append(draw_event(rng, "shape_card", str(shapes[chain]), colour, *next(span)))
    if decoys:
        other = mover
        at = next(span)
        while other.direction == mover.direction:
            other = draw_event(rng, "mover", str(shapes[1]), str(colours[3]), *at)
        events.append(other)
    truth = STEP.join([events[1].colour, events[2].glyph, mover.direction])
    first = f"What is the colour of the {events[1].glyph}?"
    at_once = AT_ONCE.format(digit=events[1].glyph)
    return tuple(events), [
        (CHAIN, first, truth, (LINK_2, LINK_3)),
        (CHAIN_AT_ONCE, at_once, mover.direction, ()),
    ]


def compare_indexes(one: VideoIndex, other: VideoIndex) -> float:
    """The largest difference of two indexes' tokens over the root mean square of the second's; infinite where shapes or
    times differ."""
    same_times = all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("group_times_s", "frame_times_s", "frame_indices", "end_s")
    )
    if one.tokens.shape != other.tokens.shape or not same_times:
        return float("inf")
    size = float(np.sqrt(np.mean(np.square(other.tokens, dtype=np.float64))))
    return float(np.abs(one.tokens - other.tokens).max()) / size


def _label(haystack: Haystack) -> str:
    """Names a haystack by all that its pixels depend on."""
    settings = {**asdict(haystack.settings), "seed": haystack.seed, "number": haystack.number}
    del settings["num_haystacks"]
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


def _check(name: str, variant: NeedleVariant) -> None:
    settings = variant.haystack
    counts = (variant.num_needles, settings.num_haystacks, len(variant.frames), len(variant.depths))
    if min(*counts, len(variant.needle_frames), *variant.needle_frames) < 1:
        raise ValueError(f"variant {name!r}: num_needles, num_haystacks, frames, depths and needle_frames: 1 at least.")
    if outside := [depth for depth in variant.depths if not 0 <= depth <= 1]:
        raise ValueError(f"variant {name!r}: depths={outside}: 0 (the beginning) to 1 (the end) are accepted.")
    for num_frames in (*variant.frames, settings.num_frames):
        if num_frames % settings.frames_per_group or not 0 < num_frames <= settings.num_frames:
            raise ValueError(
                f"variant {name!r}: frames={num_frames}: whole groups of {settings.frames_per_group}, at most "
                f"haystack.num_frames={settings.num_frames}, are accepted."
            )
    if settings.file and (found := count_file_frames(settings)) < settings.num_frames:
        raise ValueError(
            f"{settings.file} has {found} frames at {settings.fps:g} a second, variant {name!r} hides needles in "
            f"{settings.num_frames}: name the longest haystack, as in --config=configs/eval/needle.py:1024, or raise "
            "config.run.fps."
        )
