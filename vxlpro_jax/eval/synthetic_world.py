"""The generated world as a benchmark: videos are made as mp4 files while it runs; with its controls.

Source: ours; data/synthetic.py draws the videos.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vxlpro_jax.data.synthetic import COLOURS, DIGITS, DIRECTIONS, SHAPES, Event, SyntheticVideo, sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS, Question, sample_questions, score_answer
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.eval.benchmark import ACCURACY, Benchmark, GroupTimes, Prediction, Sample, VideoSource

EVIDENCE_IOU = "evidence_iou"
OLD_ANSWER = "old_answer"
ONE_FRAME = "one frame"
FRAME_S = 1.0  # the generated files show the world once a second
BLANK_GREY = 128
CHANCE = {"shape": 1 / len(SHAPES), "colour": 1 / len(COLOURS), "digit": 1 / len(DIGITS)}
CHANCE |= {"direction": 1 / len(DIRECTIONS), "first": 1 / 2}
SHUFFLE_SALT = 4421

Twist = Literal["none", "no_video", "shuffled", "other_card"]


@dataclass(frozen=True)
class WorldVariant:
    """Which videos are generated, and what is done to them before the model sees them.

    world: see sample_video. lengths_s: video i has length lengths_s[i % n]. size: (height, width) of the files. kinds:
    of questions that are asked, questions_per_kind of each a video. twist:
      "none": the file as it is.
      "no_video": grey frames at the same times instead, so that an answer can be guessed from its question alone.
      "shuffled": the frames of the whole video in a random order, the times in their own.
      "other_card": the same video, but that its cards show another shape or digit (for `colour`: another colour). The
        same question must get the new answer; the metric `old_answer` is the share that still gets the old one.
    """

    world: str
    lengths_s: tuple[int, ...]
    size: tuple[int, int]
    num_videos: int
    kinds: tuple[str, ...]
    questions_per_kind: int
    twist: Twist


@dataclass(frozen=True)
class _Asked:
    """What open_video and score must know of a sample: its question, and the old answer where a card was changed."""

    question: Question
    old_answer: str | None = None


class SyntheticWorld(Benchmark):
    """One variant of the generated world. Sample i of a seed does not depend on how many are asked for."""

    def __init__(self, name: str, seed: int, variant: WorldVariant):
        """Draws all videos (not their pixels). Raises ValueError for a kind or a world that does not exist."""
        self.name = name
        self.variant = variant
        self.settings = {"seed": seed, **{k: v for k, v in asdict(variant).items() if k != "num_videos"}}
        if min(variant.num_videos, variant.questions_per_kind, len(variant.lengths_s), len(variant.kinds)) < 1:
            raise ValueError(
                f"variant {name!r} asks nothing: videos, lengths_s, kinds and questions_per_kind: at least one each."
            )
        if unknown := [kind for kind in variant.kinds if kind not in QUESTION_KINDS]:
            raise ValueError(f"variant {name!r} asks for kinds {unknown}: known are {', '.join(QUESTION_KINDS)}.")
        self._videos: dict[str, SyntheticVideo] = {}
        self._asked: dict[str, _Asked] = {}
        self._samples: list[Sample] = []
        for index in range(variant.num_videos):
            length_s = variant.lengths_s[index % len(variant.lengths_s)]
            self._add(sample_video(seed, index, length_s, variant.world))
        if variant.twist == "no_video":
            # All look at one and the same grey video of their length, so that they can be asked together.
            self._samples.sort(key=lambda sample: sample.video)

    def samples(self) -> Sequence[Sample]:
        return self._samples

    def open_video(self, video: str, folder: Path) -> VideoSource:
        """Writes the video as mp4 into folder; "shuffled" reads it again, through the same decoder as every user's
        video."""
        world, size = self._videos[video], self.variant.size
        if self.variant.twist == "no_video":
            times_s = np.arange(world.length_s) * FRAME_S
            return VideoSource(frames=np.full((len(times_s), *size, 3), BLANK_GREY, np.uint8), times_s=times_s)
        path = folder / f"{self.name}-{world.seed}-{video}.mp4"
        write_video(world, path, size, 1 / FRAME_S)
        if self.variant.twist != "shuffled":
            return VideoSource(path, is_temporary=True)
        with open_video(path) as file:
            frames, times_s = np.asarray(file.read(range(file.num_frames))), file.times_s
        order = np.random.default_rng([world.seed, world.index, SHUFFLE_SALT]).permutation(len(frames))
        return VideoSource(path, frames[order], times_s, is_temporary=True)

    def score(
        self, sample: Sample, answer: str, evidence: Sequence[Sequence[float]], index: GroupTimes
    ) -> dict[str, float]:
        """ACCURACY; EVIDENCE_IOU of the best span, where the video shows what is asked; OLD_ANSWER, where a card was
        changed."""
        bounds_s = [*(float(time) for time in index.group_times_s), float(index.end_s)]
        group_s = bounds_s[1] - bounds_s[0]
        metrics = {ACCURACY: float(score_answer(sample.kind, answer, sample.truth, group_s))}
        asked = self._asked[sample.key]
        if asked.old_answer is not None:
            metrics[OLD_ANSWER] = float(score_answer(sample.kind, answer, asked.old_answer, group_s))
        if sample.interval_s is not None:
            metrics[EVIDENCE_IOU] = top_span_iou(evidence, widen(sample.interval_s, bounds_s))
        return metrics

    def chance(self, kind: str, predictions: Sequence[Prediction]) -> float | None:
        """What guessing gives: one over the number of possible answers.

        A time is right within a window, which the ends of the video cut off; for `when` it is the share that the given
        answers reach against the truths of all the other questions.
        """
        if kind != "when":
            return CHANCE.get(kind)
        return pairing_chance(kind, [(p.answer, p.sample.truth) for p in predictions])

    def _add(self, video: SyntheticVideo) -> None:
        questions = [
            q for q in sample_questions(video, self.variant.questions_per_kind) if q.kind in self.variant.kinds
        ]
        counts: Counter[str] = Counter()
        for question in questions:
            number = counts[question.kind]
            counts[question.kind] += 1
            name, shown, asked = f"{video.index:05d}", video, _Asked(question)
            if self.variant.twist == "no_video":
                name = f"grey-{video.length_s:05d}"
            elif self.variant.twist == "other_card":
                changes_colour = question.kind == "colour"
                name += "-colour" if changes_colour else "-glyph"
                shown = with_other_cards(video, changes_colour)
                asked = _Asked(replace(question, answer=_answer_in(shown, question)), question.answer)
            key = f"{video.index:05d}/{question.kind}/{number}"
            self._videos.setdefault(name, shown)
            self._asked[key] = asked
            self._samples.append(self._sample(key, name, asked.question, video.length_s))

    def _sample(self, key: str, video: str, question: Question, length_s: int) -> Sample:
        slices = []
        if question.end_s - question.start_s <= FRAME_S:
            slices.append(f"{question.kind}, {ONE_FRAME}")
        if len(self.variant.lengths_s) > 1:
            slices.append(f"{length_s:5d} s")
        is_shown = self.variant.twist in ("none", "other_card")
        interval_s = (question.start_s, question.end_s) if is_shown else None
        return Sample(key, video, question.kind, question.question, question.answer, tuple(slices), interval_s)


def with_other_cards(video: SyntheticVideo, changes_colour: bool) -> SyntheticVideo:
    """The same video with another shape or digit, or else another colour, on each of its cards: looks that it does not
    hold yet."""
    rng = np.random.default_rng([video.seed, video.index, int(changes_colour)])
    used = {event.colour for event in video.events} | {event.glyph for event in video.events}

    def other(event: Event) -> Event:
        if event.kind not in ("shape_card", "digit_card"):
            return event
        pool = tuple(COLOURS) if changes_colour else SHAPES if event.kind == "shape_card" else DIGITS
        look = str(rng.choice([name for name in pool if name not in used]))
        used.add(look)
        return replace(event, colour=look) if changes_colour else replace(event, glyph=look)

    return replace(video, events=tuple(other(event) for event in video.events))


def _answer_in(video: SyntheticVideo, question: Question) -> str:
    """The answer to a question about one card, in a video in which that card was changed."""
    if question.kind not in ("shape", "digit", "colour"):
        raise ValueError(
            f"question kind {question.kind!r}: 'other_card' changes the answer to shape, digit and colour only."
        )
    event = next(e for e in video.events if e.start_s == question.start_s)
    return event.colour if question.kind == "colour" else event.glyph


def widen(interval_s: tuple[float, float], bounds_s: Sequence[float]) -> tuple[float, float]:
    """An interval [start, end) widened to whole groups; bounds_s [G + 1]: where groups begin, and where the last one
    ends."""
    begins = [bound for bound in bounds_s[:-1] if bound <= interval_s[0]]
    ends = [bound for bound in bounds_s[1:] if bound >= interval_s[1]]
    return (begins[-1] if begins else bounds_s[0], ends[0] if ends else bounds_s[-1])


def top_span_iou(evidence: Sequence[Sequence[float]], interval_s: tuple[float, float]) -> float:
    """Intersection over union of the first span, (start_s, end_s, ...), with an interval; 0 without evidence."""
    if not evidence:
        return 0.0
    start, end = evidence[0][:2]
    shared = min(end, interval_s[1]) - max(start, interval_s[0])
    union = max(end, interval_s[1]) - min(start, interval_s[0])
    return max(0.0, shared) / union if union > 0 and math.isfinite(union) else 0.0


def pairing_chance(kind: str, pairs: Sequence[tuple[str, str]]) -> float | None:
    """Share of right answers when each given answer meets the truths of the other questions; None for a single pair."""
    if len(pairs) < 2:
        return None
    right = own = 0
    for (answer, truth), count in _cross(pairs).items():
        right += count * score_answer(kind, answer, truth)
    for answer, truth in pairs:
        own += score_answer(kind, answer, truth)
    return (right - own) / (len(pairs) * (len(pairs) - 1))


def _cross(pairs: Sequence[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """How often each answer meets each truth when all meet all; few are different, so that this stays small."""
    answers, truths = Counter(a for a, _ in pairs), Counter(t for _, t in pairs)
    return Counter({(a, t): n * m for a, n in answers.items() for t, m in truths.items()})
