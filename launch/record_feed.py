"""Annotated videos over cached features of the vision tower and the DTS, as batches of the "answers" stage.

Source: ours (docs/pruning.md). For runs that go over the same few videos again and again with both frozen.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from launch.whole_file import written_whole
from vxlpro_jax.data.batching import RowShapes, build_rows
from vxlpro_jax.data.conversation import question_prompt, stamp_ids
from vxlpro_jax.data.image_transforms import preprocess
from vxlpro_jax.data.records import Record
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS
from vxlpro_jax.data.tokenizer import TextTokenizer
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.answer_feed import TEXT_LEN
from vxlpro_jax.train.stages import AnswerBatch, dts_features
from vxlpro_jax.train.state import Params
from vxlpro_jax.types import Selection


def cached_group_features(model: VideoXLProModel, params: Params, records: list[Record], path: Path) -> np.ndarray:
    """DTS outputs float16 [V, G, g, g, E] of the records' videos in the order of their names, all frames of each; kept
    at `path`. All videos have the same number of frames, whole groups."""
    if not path.exists():
        encode = jax.jit(lambda params, pixels: dts_features(model, params, pixels)[1].astype(np.float16))
        parts = []
        for name in tqdm(videos_of(records), unit="video", desc=path.stem):
            with open_video(name) as video:
                frames = preprocess(video.read(np.arange(video.num_frames)), model.config.vision.image_size)
            groups = frames.reshape(-1, model.config.dts.frames_per_group, *frames.shape[1:])
            parts.append(np.asarray(encode(params, groups)))
        with written_whole(path) as part:
            np.save(part, np.stack(parts))
    return np.load(path)


def videos_of(records: list[Record]) -> list[str]:
    return sorted({record.media[0] for record in records})


class RecordFeed:
    """Makes batches of records; one frame per second, every group is kept."""

    def __init__(self, records: list[Record], features: np.ndarray, tokenizer: TextTokenizer, config: VideoXLProConfig):
        names = videos_of(records)
        if len(names) != len(features):
            raise ValueError(
                f"features of {len(features)} videos for {len(names)}: delete the features, and run again."
            )
        self.records, self.features, self.config = records, features, config
        self.tokenize = functools.lru_cache(maxsize=None)(tokenizer.encode)
        place = {name: number for number, name in enumerate(names)}
        self._video = np.array([place[record.media[0]] for record in records])

    def epoch(self, videos: list[str], batch_size: int, seed: int) -> list[np.ndarray]:
        """Every record of the videos (file names) once, in a random order, as places int [batch_size]; an incomplete
        last batch is left out."""
        wanted = set(videos)
        chosen = [n for n, record in enumerate(self.records) if Path(record.media[0]).name in wanted]
        order = np.random.default_rng([seed, len(chosen)]).permutation(chosen)
        return list(order[: len(order) // batch_size * batch_size].reshape(-1, batch_size))

    def marking_batches(self, world: str, batch_size: int) -> list[AnswerBatch]:
        """Batches of all records of videos whose name begins with the world's; what does not fill one is left out."""
        videos = {Path(record.media[0]).name for record in self.records}
        return [self.batch(places) for places in self.epoch([v for v in videos if v.startswith(world)], batch_size, 0)]

    def batch(self, places: np.ndarray) -> AnswerBatch:
        """The records at the places, each a question with its answer."""
        chosen = [self.records[place] for place in places]
        features = self.features[self._video[places]]
        num_groups, stamps = features.shape[1], self.config.stamps
        group_s = self.config.dts.frames_per_group  # at one frame per second
        times_s = np.arange(num_groups) * group_s
        prompts = [
            question_prompt(question, self.tokenize, answer=answer)
            for question, answer in (record.turns[0] for record in chosen)
        ]
        group_rows = stamps.num_tokens + self.config.tokens_per_group
        shapes = RowShapes(TEXT_LEN, num_groups, stamps.num_tokens, TEXT_LEN + num_groups * group_rows)
        all_stamps = [[stamp_ids(times_s.tolist(), stamps, self.tokenize)]] * len(chosen)
        per_group = self.config.tokens_per_group
        rows = build_rows(prompts, all_stamps, per_group, self.config.selector.selector_query, shapes)
        spans = [np.array(record.relevant_s or ((0.0, 0.0),)) for record in chosen]
        shown = [((s[:, :1] < times_s + group_s) & (s[:, 1:] > times_s)).any(0) for s in spans]
        return AnswerBatch(
            features=features,
            rows=rows,
            selection=Selection(
                num_keep=np.full((len(chosen), 1), num_groups * per_group, np.int32),
                budget=np.full(len(chosen), num_groups * group_rows, np.int32),
            ),
            relevant=np.stack(shown),
            kind=np.array([QUESTION_KINDS.index(record.extra["kind"]) for record in chosen], np.int32),
            width=np.zeros(shapes.row_len, bool),
        )
