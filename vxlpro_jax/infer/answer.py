"""What a user holds: a model that indexes videos and answers questions about them. A thin face over pure functions.

Source: SPEC 9 and 12 (quirk 11: the prompt).
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vxlpro_jax.data.batching import RowShapes, bucket, bucketed, build_rows, row_shapes
from vxlpro_jax.data.conversation import Prompt, question_prompt, stamp_ids
from vxlpro_jax.data.image_folder import is_picture
from vxlpro_jax.data.subtitles import read_subtitles
from vxlpro_jax.data.video_decode import open_frames, open_video
from vxlpro_jax.infer.chat import Chat
from vxlpro_jax.infer.encode import IndexOptions, Progress, encoder_fingerprint, index_picture, index_video
from vxlpro_jax.infer.evidence import Span, evidence_spans
from vxlpro_jax.infer.replies import Generation, Replies, Request, reply
from vxlpro_jax.infer.spelling import TextCodec
from vxlpro_jax.infer.token_sampler import Sampling
from vxlpro_jax.infer.video_index import VideoIndex, describe_source, is_index
from vxlpro_jax.models.attention import AttentionKind
from vxlpro_jax.models.presets import VideoXLProConfig, stretched
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.types import Selection, num_kept_by_rate
from vxlpro_jax.vocabulary import TokenIds

MAX_SEED = 2**32  # what every generator of random numbers here takes
VideoSource = str | Path | Sequence[str | Path] | np.ndarray
Videos = VideoIndex | str | Path | Sequence[VideoIndex | str | Path]


@dataclass(frozen=True)
class Answer:
    """An answer with its grounds.

    evidence: the spans that the selector scored best, best first; evidence_by_video: the same, video by video.
    spacings_s: seconds from one frame looked at to the next, of each video. num_tokens: rows that the LLM read;
    num_kept, num_visual: visual tokens kept, and how many there were. kept_groups: the groups of which any was kept,
    counted over all videos. timings, of the whole batch that the answer came from: seconds prefill_s, decode_s and
    per_token_s, and num_steps, the steps of decoding: as many as the longest answer has tokens, and the sum over the
    answers where long prompts are read in turn.
    """

    text: str
    evidence: list[Span]
    evidence_by_video: list[list[Span]]
    spacings_s: list[float]
    num_tokens: int
    num_kept: int
    num_visual: int
    kept_groups: list[int]
    timings: Mapping[str, float]


class VideoXLPro:
    """A model with its weights and tokenizer. See load(), which says what context_len and attention are."""

    def __init__(
        self,
        config: VideoXLProConfig,
        params: Any,
        tokenizer: TextCodec,
        dtype: DTypeLike = jnp.float32,
        context_len: int | None = None,
        attention: AttentionKind = "auto",
    ):
        self.config, stretch = stretched(config, context_len)
        self.params = params
        self.tokenizer = tokenizer
        self.model = VideoXLProModel(self.config, dtype=dtype, stretch=stretch, attention=attention)
        self.token_ids = TokenIds.of(tokenizer.encode)

    @cached_property
    def fingerprint(self) -> str:
        """Of the encoder: an index made by another one is refused."""
        return encoder_fingerprint(self.config, self.params)

    def index(
        self,
        source: VideoSource,
        fps: float = 1.0,
        max_frames: int | None = None,
        times_s: Sequence[float] | None = None,
        sampling: Literal["fps", "released"] = "fps",
        on_damage: Literal["raise", "skip"] = "skip",
        frames_per_batch: int = 64,
        seed: int = 0,
        progress: Progress | None = None,
        output: str | Path | None = None,
        append: bool = False,
    ) -> VideoIndex:
        """Encodes a video once, for any number of questions.

        source: a video file, a picture, a folder or list of images, or uint8 frames [T, H, W, 3] with times_s. fps:
        frames looked at per second, at most max_frames (then evenly over the whole). sampling: see infer/encode.py.
        on_damage: "skip" leaves out frames that cannot be decoded, warns, and lists them in the index; "raise" raises
        VideoError. output: the index is written there while it is made, and the same call goes on with what an earlier
        one left unfinished. append: it also goes on with a complete index whose video has grown. Raises VideoError for
        what cannot be read at all, FileExistsError and ValueError for an output that is something else.
        """
        for name, value in (("fps", fps), ("max_frames", max_frames), ("frames_per_batch", frames_per_batch)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: a finite number above 0 is accepted")
        options = IndexOptions(
            *(sampling, fps, max_frames, on_damage, frames_per_batch, seed),
            *(None if output is None else Path(output), append),
        )
        if append and output is None:
            raise ValueError("append=True without output: name the index that is to be continued")
        if isinstance(source, str | Path) and is_picture(Path(source)):
            return self._index_picture(source, options)
        if isinstance(source, np.ndarray):
            video = open_frames(source, np.arange(len(source)) / fps if times_s is None else times_s)
        else:
            video = open_video(source, times_s=times_s, fps=fps)
        origin = {"path": video.path} if isinstance(source, np.ndarray) else describe_source(source, video.path)
        with video:
            index = index_video(self.model, self.params, self.fingerprint, video, origin, options, progress)
        if index.lost:
            warnings.warn(f"{video.path}: {len(index.lost)} frames cannot be decoded and were left out", stacklevel=2)
        return index

    def _index_picture(self, source: str | Path, options: IndexOptions) -> VideoIndex:
        if options.append:
            raise ValueError(f"{source} is a picture: append continues videos")
        with open_video(source) as picture:
            pixels = picture.read([0])[0]
        index = index_picture(self.model, self.params, self.fingerprint, pixels, describe_source(source))
        if options.output is not None:
            index.save(options.output)
        return index

    def ask(
        self,
        videos: Videos,
        question: str | Sequence[str],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        keep_rate: float | None = None,
        budget: int | None = None,
        subtitles: str | Path | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> Any:
        """Answers one question (an Answer) or several about the same videos (a list, in one batch, equal to one by
        one).

        videos: an index or a path, or a list of them for one prompt with several videos. keep_rate: keep this share of
        each video's tokens by the released rule. budget: keep at most so many rows of video, stamps counted; neither:
        everything while it fits the model's context. subtitles: an .srt file of the (single) video. on_text: called
        with (question number, new text) while generating; the pieces add up to the text. Raises ValueError for an
        index of another encoder, an empty question, or a prompt that cannot fit.
        """
        questions = [question] if isinstance(question, str) else list(question)
        if not questions:
            return []
        listed = [videos] if isinstance(videos, VideoIndex | str | Path) else list(videos)
        sampler = Sampling(temperature, top_p, top_k)
        check_request(questions, len(listed), max_new_tokens, seed, keep_rate, budget, subtitles)
        request = self._request(self._indexes(listed), questions, max_new_tokens, keep_rate, budget, subtitles)
        generation = Generation(self.token_ids, max_new_tokens, sampler, seed, on_text)
        answers = self._answers(request, reply(request, self.params, self.tokenizer, generation))
        return answers[0] if isinstance(question, str) else answers

    def chat(
        self,
        videos: Videos,
        keep_rate: float | None = None,
        budget: int | None = None,
        subtitles: str | Path | None = None,
        reserve: int | None = None,
    ) -> Chat:
        """A conversation about the videos: chat.ask(question), as often as wanted; each question knows the turns
        before, and only what is new is read.

        What is kept of the videos is decided by the first question, as in ask(). reserve: rows of the context that it
        leaves for later turns (None: an eighth of the context).
        """
        listed = [videos] if isinstance(videos, VideoIndex | str | Path) else list(videos)
        context = self.config.max_context_len
        reserved = context // 8 if reserve is None else reserve
        if not 0 <= reserved < context:
            raise ValueError(f"reserve={reserve}: 0 or more rows are accepted, fewer than the context's {context}")
        check_request(["?"], len(listed), 1, 0, keep_rate, budget, subtitles)
        indexes = self._indexes(listed)

        def request(question: str, max_new_tokens: int, seed: int) -> Request:
            check_request([question], len(indexes), max_new_tokens, seed, keep_rate, budget, subtitles)
            return self._request(indexes, [question], max_new_tokens + reserved, keep_rate, budget, subtitles)

        return Chat(self.params, self.tokenizer, self.token_ids, context, request, self._answers)

    def _answers(self, request: Request, replies: Replies) -> list[Answer]:
        sizes = [index.tokens.shape[0] * index.tokens.shape[1] for index in request.indexes]
        return [
            Answer(
                text=text,
                **_evidence(request.indexes, replies.scores[row]),
                spacings_s=[index.sampling["spacing_s"] for index in request.indexes],
                num_tokens=int(replies.num_rows[row]),
                num_kept=len(replies.kept[row]),
                num_visual=sum(sizes),
                kept_groups=np.unique(replies.kept[row] // self.config.tokens_per_group).tolist(),
                timings=replies.timings,
            )
            for row, text in enumerate(replies.texts)
        ]

    def _indexes(self, videos: Sequence[VideoIndex | str | Path]) -> list[VideoIndex]:
        token_shape = (self.config.tokens_per_group, self.config.projector.dim)
        found = []
        for video in videos:
            if not isinstance(video, VideoIndex):
                video = VideoIndex.load(video) if is_index(video) else self.index(video)
            if video.fingerprint != self.fingerprint:
                raise ValueError(
                    f"the index of {video.source.get('path')} was made by another encoder ({video.fingerprint[:8]}; "
                    f"this model has {self.fingerprint[:8]}): index the video again with this model, in this dtype"
                )
            if video.tokens.shape[1:] != token_shape:
                raise ValueError(
                    f"the index of {video.source.get('path')} holds tokens {list(video.tokens.shape)}, this model "
                    f"makes {[len(video.tokens), *token_shape]}: the index is damaged; index the video again"
                )
            found.append(video)
        return found

    def _request(
        self,
        indexes: list[VideoIndex],
        questions: Sequence[str],
        max_new_tokens: int,
        keep_rate: float | None,
        budget: int | None,
        subtitles: str | Path | None,
    ) -> Request:
        """The arrays of one batch, in the static shapes of its bucket."""
        context = ""
        if subtitles is not None:
            context = read_subtitles(subtitles, indexes[0].frame_times_s)
        encode = self.tokenizer.encode
        prompts = [question_prompt(text, encode, len(indexes), context) for text in questions]
        stamps = [stamp_ids(index.group_times_s, self.config.stamps, encode) for index in indexes]
        tokens = self.config.tokens_per_group
        shapes = bucketed(row_shapes(prompts, [stamps] * len(prompts), tokens), self.config.stamps.num_tokens)
        query = self.config.selector.selector_query
        batch = build_rows(prompts, [stamps] * len(prompts), tokens, query, shapes)
        selection, length, model = self._selection(prompts, indexes, stamps, shapes, max_new_tokens, keep_rate, budget)
        return Request(indexes, batch, selection, length, model)

    def _selection(
        self,
        prompts: Sequence[Prompt],
        indexes: Sequence[VideoIndex],
        stamps: Sequence[Sequence[Sequence[int]]],
        shapes: RowShapes,
        max_new_tokens: int,
        keep_rate: float | None,
        budget: int | None,
    ) -> tuple[Selection, int, VideoXLProModel]:
        """What is kept, in how many static rows, and the model whose config selects that way."""
        text_len = np.array([len(prompt.ids) - len(indexes) for prompt in prompts])
        room = self.config.max_context_len - max_new_tokens
        if text_len.max() >= room:
            raise ValueError(
                f"the prompt has {text_len.max()} text tokens and {max_new_tokens} more may be generated: the context "
                f"of {self.config.max_context_len} has no room for video; shorten the text or lower max_new_tokens"
            )
        sizes = [index.tokens.shape[0] * index.tokens.shape[1] for index in indexes]
        counts: list[int] = sizes
        how: Literal["keep_rate", "budget"] = "budget"
        budgets = np.minimum(room - text_len, np.iinfo(np.int32).max if budget is None else budget)
        longest = room
        if keep_rate is not None:
            how = "keep_rate"
            multiple = self.config.selector.keep_multiple
            counts = [num_kept_by_rate(size, keep_rate, multiple) for size in sizes]
            if 0 in counts:
                raise ValueError(
                    f"keep_rate={keep_rate} keeps none of {sizes[counts.index(0)]} tokens, as counts are rounded down "
                    f"to a multiple of {multiple}: raise keep_rate, or give a budget instead"
                )
            longest = int(text_len.max()) + sum(counts) + sum(len(ids) for video in stamps for ids in video)
            if longest > room:
                raise ValueError(
                    f"keep_rate={keep_rate} leaves {longest} tokens, the context holds {room} besides the answer: "
                    "lower keep_rate or give a budget instead"
                )
        elif budget is not None:
            longest = min(room, int(text_len.max()) + budget)
        length = min(shapes.row_len, bucket(longest, 128), room)
        num_keep = np.tile(np.array(counts, np.int32), (len(prompts), 1))
        config = replace(self.config, selector=replace(self.config.selector, selection=how))
        return Selection(num_keep, budgets.astype(np.int32)), length, self.model.clone(config=config)


def check_request(
    questions: Sequence[str],
    num_videos: int,
    max_new_tokens: int,
    seed: int,
    keep_rate: float | None,
    budget: int | None,
    subtitles: str | Path | None,
) -> None:
    """Refuses what can be refused before anything is encoded. Raises ValueError."""
    if not all(text.strip() for text in questions):
        raise ValueError("the question is empty: ask something, for example 'What happens in this video?'")
    if num_videos == 0:
        raise ValueError("no video given: an index, a path, or a list of them is accepted")
    if subtitles is not None and num_videos > 1:
        raise ValueError(f"subtitles of one video are accepted, {num_videos} videos were given")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: 1 or more is accepted")
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed={seed}: a whole number from 0 to {MAX_SEED - 1} is accepted")
    if keep_rate is not None and budget is not None:
        raise ValueError(f"keep_rate={keep_rate} and budget={budget}: one of the two is accepted")
    if keep_rate is not None and not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate={keep_rate}: a share above 0, at most 1, is accepted")
    if budget is not None and budget < 1:
        raise ValueError(f"budget={budget}: 1 or more rows of video are accepted")


def _evidence(indexes: Sequence[VideoIndex], scores: np.ndarray) -> dict[str, Any]:
    """The fields `evidence` and `evidence_by_video` of an answer; scores [G, P] over all videos' groups."""
    by_video, group = [], 0
    for index in indexes:
        own = scores[group : group + len(index.tokens)]
        by_video.append(evidence_spans(own, index.group_times_s, index.end_s))
        group += len(index.tokens)
    ranked = sorted((span for spans in by_video for span in spans), key=lambda span: -span.score)
    return {"evidence": ranked, "evidence_by_video": by_video}
