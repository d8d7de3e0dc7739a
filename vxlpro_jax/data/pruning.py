"""Which videos are worth training on: the task of a record, how alike a video's frames are, and what a subset keeps.

Source: paper 3.3 (Video Dataset Pruning): subsets by task, 20 frames taken uniformly, cosine similarity of SigLIP
features, a threshold for each subset.
Differs: "intra-frame" similarity is read as the one between the frames of a video, and averaged over all pairs. The
paper gives no threshold; besides one, a share of the videos to keep may be stated.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.data.frame_sampling import sample_uniform
from vxlpro_jax.data.image_transforms import stretch
from vxlpro_jax.data.records import Record
from vxlpro_jax.data.video_decode import VideoError, open_video
from vxlpro_jax.data.video_records import describe_lost

Encode = Callable[[np.ndarray], np.ndarray]
"""frames uint8 [n, S, S, 3] -> features float32 [n, E], always called with as many frames as are sampled."""

TASKS = ("captioning", "multiple_choice", "open_ended")
STILL = 1.0  # similarity of a video with a single frame: nothing in it changes
SCORE_DECIMALS = 6  # what float32 features can tell apart
_MOST_LOST = 0.5  # of the sampled frames; a video that lost more is broken: the rest may be any part of it

_OPTION = re.compile(r"^\s*\(?([A-H])\s*[).:]\s*\S", re.MULTILINE)
_LETTER_ASKED = re.compile(r"\b(option'?s?|choice)\b.{0,40}\bletter\b|\bletter\b.{0,40}\b(option|choice)s?\b", re.I)
_DESCRIPTION_ASKED = re.compile(
    r"^\W*(please |kindly |can you |could you |would you )*"
    r"(describe\b|caption\b|summari[sz]e\b|narrate\b"
    r"|(write|give|provide|generate|create|offer|compose|present|share|deliver)\b.{0,60}"
    r"\b(caption|description|summary|overview|narrative|account|depiction)\b"
    r"|what (is happening|is going on|happens|takes place|is shown|do you see) in (the|this) (video|clip|footage)\b)",
    re.I,
)


@dataclass(frozen=True)
class TaskRules:
    """How a record's task is found, first rule first.

    key: field of a record that names its task; empty for none. names: task of each value that may stand there, and of
    each word in the name of an annotation file ("0_30_s_academic_mc_v0_1.json" holds "mc"). What neither tells is told
    by the questions themselves.
    """

    key: str
    names: dict[str, str]

    def __post_init__(self) -> None:
        for name, task in self.names.items():
            if task not in TASKS:
                raise ValueError(f"tasks.names.{name}={task!r}: one of {', '.join(TASKS)} is accepted.")


@dataclass(frozen=True)
class SubsetRule:
    """keep: "threshold" keeps videos whose similarity is at most `value`; "share" keeps that share of them, the least
    redundant; "all" keeps every one."""

    keep: Literal["threshold", "share", "all"]
    value: float

    def __post_init__(self) -> None:
        if self.keep == "threshold" and not -1 <= self.value <= 1:
            raise ValueError(f"value={self.value}: a threshold is a cosine similarity, from -1 to 1.")
        if self.keep == "share" and not 0 < self.value <= 1:
            raise ValueError(f"value={self.value}: a share above 0 and up to 1 is accepted.")


class SampledFrames(NamedTuple):
    """frames uint8 [n, S, S, 3]; num_lost: sampled frames that cannot be decoded; duration_s: of the whole video."""

    frames: np.ndarray
    num_lost: int
    duration_s: float


class KeptVideos(NamedTuple):
    """What a subset keeps. limit: similarity of the most redundant video that was kept, None if none was."""

    videos: frozenset[str]
    limit: float | None


def task_of(record: Record, rules: TaskRules) -> str:
    """One of TASKS; of a record with several questions, the task of most of them (the first on a tie)."""
    stated = str(record.extra.get(rules.key, "")).strip().lower() if rules.key else ""
    if stated in rules.names:
        return rules.names[stated]
    file_name = re.split(r"[\\/]", record.source)[-1].rsplit(".", 1)[0].lower()
    for word in re.findall(r"[a-z]+", file_name):
        if word in rules.names:
            return rules.names[word]
    votes = Counter(_task_of_question(question) for question, _ in record.turns)
    return votes.most_common(1)[0][0]


def _task_of_question(question: str) -> str:
    letters = _OPTION.findall(question)
    if letters[:2] == ["A", "B"] or _LETTER_ASKED.search(question):
        return "multiple_choice"
    return "captioning" if _DESCRIPTION_ASKED.search(question) else "open_ended"


def sample_frames(path: str, num_frames: int, image_size: int) -> SampledFrames:
    """At most num_frames frames, evenly over the video's time, resized for the tower.

    Raises VideoError for a video that cannot be read, or of which more than half of the frames asked for are lost.
    """
    with open_video(path) as video:
        indices = sample_uniform(video.times_s, num_frames)
        parts: list[np.ndarray] = []
        lost: list[int] = []
        for chunk in video.read_chunks(indices, on_damage="skip"):
            parts.append(stretch(chunk.frames, image_size))
            lost += chunk.lost
        if len(lost) > _MOST_LOST * len(indices):
            raise VideoError(path, describe_lost(lost, video.num_frames), lost)
        return SampledFrames(np.concatenate(parts), len(lost), float(video.duration_s))


def score_frames(frames: np.ndarray, encode: Encode, num_frames: int) -> float:
    """Mean cosine similarity of all pairs of frames uint8 [n, S, S, 3], rounded; n is at most num_frames.

    The encoder always sees num_frames frames (the last one repeated), so that it is compiled once and a score never
    depends on what else is encoded.
    """
    if len(frames) == 1:
        return STILL
    padding = np.repeat(frames[-1:], num_frames - len(frames), axis=0)
    return mean_pairwise_similarity(encode(np.concatenate([frames, padding]))[: len(frames)])


def mean_pairwise_similarity(features: np.ndarray) -> float:
    """Mean cosine similarity of all pairs of the features [n, E], n at least 2, rounded to SCORE_DECIMALS.

    Raises ValueError for features that are not finite, or all zero.
    """
    values = features.astype(np.float64)
    norms = np.linalg.norm(values, axis=1)
    if not np.all(np.isfinite(norms)) or not np.all(norms > 0):
        raise ValueError("the encoder's features are not finite, or zero: are these weights of a trained tower?")
    total = (values / norms[:, None]).sum(0)
    count = len(values)
    return round(float((total @ total - count) / (count * (count - 1))), SCORE_DECIMALS)


def select_videos(similarity: Mapping[str, float], rule: SubsetRule) -> KeptVideos:
    """The videos of a subset that are kept, by their similarity; equal ones in the order of their names."""
    ranked = sorted(similarity, key=lambda video: (similarity[video], video))
    if rule.keep == "threshold":
        ranked = [video for video in ranked if similarity[video] <= rule.value]
    elif rule.keep == "share":
        ranked = ranked[: max(1, round(rule.value * len(ranked)))] if ranked else []
    return KeptVideos(frozenset(ranked), similarity[ranked[-1]] if ranked else None)
