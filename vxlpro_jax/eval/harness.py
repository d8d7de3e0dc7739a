"""Runs a benchmark: each video indexed once for all of its questions, answers logged as they come, broken videos
counted.

Source: ours.
"""

import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from vxlpro_jax.data.video_records import VideoError
from vxlpro_jax.eval.benchmark import STEP, Benchmark, Grid, Prediction, Row, Sample, VideoSource
from vxlpro_jax.eval.prediction_log import PredictionLog, delete_file


class AskableModel(Protocol):
    """What is measured: infer/answer.py's VideoXLPro, or anything with these two calls."""

    def index(self, *args: Any, **kwargs: Any) -> Any: ...

    def ask(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run.

    fps: frames looked at per second of video; max_frames: the most of one video, 0 for no limit. keep_rate: share of
    the visual tokens that is kept, 0 for all that fit the context. questions_per_ask: questions of one video that go
    into one call. writers: threads that find or make the next videos. keep_videos: don't delete generated files.
    """

    fps: float
    max_frames: int
    keep_rate: float
    max_new_tokens: int
    questions_per_ask: int
    writers: int
    keep_videos: bool


@dataclass(frozen=True)
class BrokenVideo:
    """A video that could not be made, opened or read; none of its open questions was asked."""

    video: str
    reason: str
    num_questions: int


@dataclass(frozen=True)
class Result:
    """What a run found. knobs: everything that a reader needs to run it again, with the first sample's prompt. grid,
    remarks: see Benchmark."""

    name: str
    knobs: dict[str, object]
    rows: list[Row]
    predictions: list[Prediction]
    broken: list[BrokenVideo]
    num_resumed: int
    grid: Grid | None = None
    remarks: Sequence[str] = ()

    @property
    def num_empty(self) -> int:
        """Answers without a single word: a model that fails numerically gives many."""
        return sum(not any(letter.isalnum() for letter in p.answer) for p in self.predictions)


def run_benchmark(
    benchmark: Benchmark,
    model: AskableModel,
    folder: Path,
    options: RunOptions,
    model_knobs: Mapping[str, object],
    show_prompt: Callable[[Any, str], str],
) -> Result:
    """Ask all samples that folder/NAME.jsonl does not hold yet, and sum up.

    model_knobs: what identifies the model and its switches, fit for JSON; stored answers of another model are refused.
    show_prompt(index, question): the prompt as the model reads it. A video that raises VideoError or OSError is
    skipped, counted and tried again by the next run. Raises ValueError where the folder's predictions are another
    run's.
    """
    samples = list(benchmark.samples())
    sampling = {name: getattr(options, name) for name in ("fps", "max_frames", "keep_rate", "max_new_tokens")}
    knobs: dict[str, object] = {"benchmark": benchmark.name, **benchmark.settings, **sampling, **model_knobs}
    log = PredictionLog(folder / f"{benchmark.name}.jsonl", knobs)
    predictions = log.find(samples)
    num_resumed = len(predictions)
    videos = [[s for s in group if s.key not in predictions] for group in _by_video(samples)]
    broken: list[BrokenVideo] = []
    # A log file is no terminal: it gets a line now and then instead of a redrawn bar.
    interval_s = 0.5 if sys.stderr.isatty() else 30
    opened = _opened(benchmark, [asked for asked in videos if asked], log.make_folder("videos"), options)
    bar = tqdm(total=len(samples), initial=num_resumed, desc=benchmark.name, unit="q", mininterval=interval_s)
    with bar, closing(opened):
        for asked, source in opened:
            try:
                index = _make_index(model, source.result(), options)
            except (VideoError, OSError) as error:
                broken.append(BrokenVideo(asked[0].video, str(error), len(asked)))
                bar.set_postfix(broken=len(broken))
                continue
            for prediction in _ask(benchmark, model, index, asked, options):
                if prediction.sample is samples[0]:
                    prediction = replace(prediction, prompt=show_prompt(index, prediction.sample.question))
                log.append(prediction)
                predictions[prediction.sample.key] = prediction
                bar.update()
    ordered = [predictions[sample.key] for sample in samples if sample.key in predictions]
    knobs["prompt of sample 0"] = ordered[0].prompt if ordered else ""
    shown = benchmark.rows(ordered), ordered, broken, num_resumed, benchmark.grid(ordered), benchmark.remarks(ordered)
    return Result(benchmark.name, knobs, *shown)


def _by_video(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of one video together. Raises ValueError where two samples share a key."""
    if len({sample.key for sample in samples}) < len(samples):
        twice = [key for key, count in Counter(sample.key for sample in samples).items() if count > 1]
        raise ValueError(f"sample keys {twice[:5]} are given twice: predictions are stored by key (eval/benchmark.py).")
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.video, []).append(sample)
    return list(groups.values())


def _opened(
    benchmark: Benchmark, videos: list[list[Sample]], folder: Path, options: RunOptions
) -> Generator[tuple[list[Sample], "Future[VideoSource]"]]:
    """Each video's samples with its source, which threads prepare a few videos ahead of the one that is asked about."""
    waiting: deque[tuple[list[Sample], Future[VideoSource]]] = deque()
    with ThreadPoolExecutor(options.writers) as pool:
        try:
            for asked in videos:
                waiting.append((asked, pool.submit(benchmark.open_video, asked[0].video, folder)))
                if len(waiting) > 2 * options.writers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _make_index(model: AskableModel, source: VideoSource, options: RunOptions) -> Any:
    """The index of a source, whose temporary file is deleted afterwards. Raises what the model does."""
    index = partial(model.index, fps=options.fps, max_frames=options.max_frames or None)
    try:
        if source.make_index is not None:
            return source.make_index(index)
        # The times of frames are given: fps decides which of them are looked at.
        return index(source.path) if source.frames is None else index(source.frames, times_s=source.times_s)
    finally:
        if source.path is not None and source.is_temporary and not options.keep_videos:
            delete_file(source.path)


def _ask(
    benchmark: Benchmark, model: AskableModel, index: Any, samples: list[Sample], options: RunOptions
) -> Iterator[Prediction]:
    """Answers to the samples of one video, some questions a call."""
    per_ask = options.questions_per_ask
    for start in range(0, len(samples), per_ask):
        asked = samples[start : start + per_ask]
        told = {"max_new_tokens": options.max_new_tokens, "keep_rate": options.keep_rate or None}
        answers = model.ask(index, [sample.question for sample in asked], **told)
        for sample, answer in zip(asked, answers, strict=True):
            texts = [answer.text]
            for template in sample.then:
                (answer,) = model.ask(index, [template.format(answer=texts[-1])], **told)
                texts.append(answer.text)
            evidence = tuple((float(begin), float(end), float(score)) for begin, end, score in answer.evidence)
            metrics = benchmark.score(sample, STEP.join(texts), evidence, index)
            metrics |= benchmark.score_kept(sample, answer.kept_groups)
            yield Prediction(sample, STEP.join(texts), evidence, answer.num_tokens, metrics)
