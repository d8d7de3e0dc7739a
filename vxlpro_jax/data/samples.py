"""One training sample: a record's video or pictures to pixels and stamps, its conversation to a prompt that fits.

Source: SPEC 5, 9.1, 12 (quirks 9, 10) and 13; paper 3.4.
Differs: a picture is its tiles alone (the released code encodes the whole picture too and throws it away).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.data.conversation import Prompt, fitted_conversation, question_prompt, stamp_ids
from vxlpro_jax.data.frame_sampling import SamplingConfig, ShortGroup, choose_training_frames, expand_short_group
from vxlpro_jax.data.image_transforms import anyres_views, stretch
from vxlpro_jax.data.records import Record
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.types import VIDEO_MARK, StampConfig, num_kept_in_training
from vxlpro_jax.vocabulary import Tokenize

PromptKind = Literal["conversation", "question", "none"]


@dataclass(frozen=True)
class ModelShape:
    """What a data feed has to know of the model: the fields of VideoXLProConfig of the same names (or its parts')."""

    image_size: int
    frames_per_group: int
    tokens_per_group: int
    stamps: StampConfig
    max_context_len: int
    short_group: ShortGroup
    label_mask: Literal["released", "answers"]
    picture_views: Literal["anyres", "single"]
    selector_query: Literal["padded_row", "row", "question"]
    selection: Literal["keep_rate", "budget"]
    keep_multiple: int


class TrainingSample(NamedTuple):
    """num_groups: how many groups of the pixels are real. prompt: None where nothing is asked. stamps: token ids by
    medium and group. relevant bool [num_groups]: True where a frame of the group lies in the record's relevant_s.
    rounds_dropped: questions with their answers that did not fit."""

    num_groups: int
    prompt: Prompt | None
    stamps: list[list[list[int]]]
    relevant: np.ndarray
    rounds_dropped: int


def longest_stamp(stamps: StampConfig, tokenize: Tokenize, end_s: float) -> int:
    """Tokens of the longest stamp of videos that end at end_s at the latest: the usual number, and more where times
    need more digits."""
    times = [*np.linspace(0, end_s, 32).tolist(), *(10.0**digits for digits in range(6) if 10.0**digits < end_s)]
    return max(stamps.num_tokens, *map(len, stamp_ids(times, stamps, tokenize)))


class SampleMaker:
    """Makes samples of one kind of run."""

    def __init__(
        self,
        shape: ModelShape,
        sampling: SamplingConfig,
        prompt: PromptKind,
        highest_keep_rate: float,
        tokenize: Tokenize | None,
        stamp_len: int,
    ):
        """highest_keep_rate: of the selector, by which the room for text is reckoned. stamp_len: tokens that a stamp
        may have, see longest_stamp."""
        if prompt != "none" and tokenize is None:
            raise ValueError(f"prompt={prompt!r} needs a tokenizer")
        self.shape, self.sampling, self.prompt = shape, sampling, prompt
        self.highest_keep_rate, self.tokenize, self.stamp_len = highest_keep_rate, tokenize, stamp_len

    def make(self, record: Record, draw: int, text_len: int, out: np.ndarray) -> TrainingSample:
        """Reads the record's media into `out` (uint8 [T, S, S, 3], T whole groups).

        Raises VideoError for media that cannot be read, ValueError for what does not fit.
        """
        if record.media_kind == "video":
            num_groups, times_s, relevant = self._read_video(record, draw, out)
            media_times = [times_s]
        else:
            num_groups, media_times = self._read_pictures(record, out)
            relevant = np.zeros(num_groups, bool)
        if self.prompt == "none":
            return TrainingSample(num_groups, None, [], relevant, 0)
        assert self.tokenize is not None
        stamps = [stamp_ids(times, self.shape.stamps, self.tokenize) for times in media_times]
        longest = max((len(stamp) for medium in stamps for stamp in medium), default=0)
        if longest > self.stamp_len:
            raise ValueError(f"a time stamp of {longest} tokens; this run's stamps have {self.stamp_len}")
        prompt, dropped = self.ask(record, draw, stamps, text_len)
        num_media = int((prompt.ids == VIDEO_MARK).sum())  # a round left out takes its pictures along
        kept_groups = sum(map(len, stamps[:num_media]))
        out[kept_groups * self.shape.frames_per_group :] = 0
        return TrainingSample(kept_groups, prompt, stamps[:num_media], relevant[:kept_groups], dropped)

    def _read_video(self, record: Record, draw: int, out: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """(groups, time of each group's first frame as its stamp says it, relevant [groups])."""
        size = self.shape.frames_per_group
        with open_video(record.media[0]) as video:
            choice = choose_training_frames(
                self.sampling, video.times_s, video.duration_s, draw, 1.0 if record.scale is None else record.scale
            )
            indices, times_s = choice.indices, choice.times_s
            if len(indices) > len(out):  # the bucket holds fewer: evenly over the whole
                places = np.linspace(0, len(indices) - 1, len(out)).astype(np.int64)
                indices, times_s = indices[places], times_s[places]
            slots = expand_short_group(len(indices), size, self.shape.short_group, rng=np.random.default_rng(draw))
            shown_s = video.times_s[indices[slots]]
            for chunk in video.read_chunks(indices[slots]):
                out[chunk.positions] = stretch(chunk.frames, self.shape.image_size)
        is_shown = np.zeros(len(slots), np.bool_)
        for start, end in record.relevant_s or ():
            is_shown |= (shown_s >= start) & (shown_s < end)
        num_groups = len(slots) // size
        if self.sampling.clip_frames and len(slots) < len(out):
            out[len(slots) :] = out[len(slots) - 1]
        if self.shape.short_group == "released":
            stamped = times_s[::size]  # of the frames before doubling (quirk 9)
        else:
            stamped = times_s[slots][::size]
        return num_groups, stamped, np.any(is_shown.reshape(num_groups, size), axis=1)

    def _read_pictures(self, record: Record, out: np.ndarray) -> tuple[int, list[np.ndarray]]:
        """(groups, the time 0 of each group of each picture)."""
        size, tile = self.shape.frames_per_group, self.shape.image_size
        group, times = 0, []
        for path in record.media:
            with open_video(path) as picture:
                pixels = picture.read([0])
            assert isinstance(pixels, np.ndarray)
            views = anyres_views(pixels[0], tile)[1:] if self._is_tiled() else stretch(pixels, tile)
            if (group + len(views)) * size > len(out):
                raise ValueError(f"its pictures have more than {len(out) // size} tiles, which the bucket holds")
            out[group * size : (group + len(views)) * size] = np.repeat(views, size, axis=0)
            group += len(views)
            times.append(np.zeros(len(views)))
        if self.sampling.clip_frames and group:
            out[group * size :] = out[group * size - 1]
        return group, times

    def _is_tiled(self) -> bool:
        return self.shape.picture_views == "anyres" and self.prompt != "none"

    def ask(self, record: Record, draw: int, stamps: list[list[list[int]]], text_len: int) -> tuple[Prompt, int]:
        """(the prompt, rounds left out) of a record whose media have these stamps. Raises ValueError where even one
        round finds no room."""
        assert self.tokenize is not None
        room = min(text_len, self.shape.max_context_len - self._video_rows(stamps))
        if self.prompt == "conversation":
            return fitted_conversation(record.conversation, self.tokenize, self.shape.label_mask, room)
        question, answer = record.turns[int(np.random.default_rng([draw, 1]).integers(len(record.turns)))]
        prompt = question_prompt(question, self.tokenize, len(record.media), answer=answer)
        needed = len(prompt.ids) - len(record.media)
        if needed > room:
            raise ValueError(f"too long: question and answer have {needed} tokens of text, room is for {room}")
        return prompt, 0

    def _video_rows(self, stamps: list[list[list[int]]]) -> int:
        """Rows that the media may take: what the highest keep rate leaves; by budget one group at least."""
        groups = [stamp for medium in stamps for stamp in medium]
        if not groups:
            return 0
        per_group = self.shape.tokens_per_group
        if self.shape.selection == "budget":
            return max(map(len, groups)) + per_group
        rate, multiple = self.highest_keep_rate, self.shape.keep_multiple
        kept = sum(num_kept_in_training(len(medium) * per_group, rate, multiple) for medium in stamps)
        return sum(map(len, groups)) + kept
