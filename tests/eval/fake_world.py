"""A model without weights, and a benchmark without pixels, for tests of the harness."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from vxlpro_jax.data.video_records import VideoError
from vxlpro_jax.eval.benchmark import ACCURACY, Benchmark, Sample, VideoSource
from vxlpro_jax.eval.harness import RunOptions

OPTIONS = RunOptions(
    fps=1.0, max_frames=0, keep_rate=0.0, max_new_tokens=8, questions_per_ask=2, writers=2, keep_videos=False
)
GROUP_S = 4.0


class Sums(Benchmark):
    """Videos "v0", "v1", ... with questions "how much is N + Q?"; video v<broken> cannot be opened."""

    def __init__(self, num_videos: int = 4, per_video: int = 3, broken: tuple[int, ...] = ()):
        self.name = "sums"
        self.settings: dict[str, object] = {"level": 1, "sizes": (1, 2)}
        self.broken = broken
        self._samples = [
            Sample(
                f"{n}/{q}", f"v{n}", "even" if q % 2 == 0 else "odd", f"how much is {n} + {q}?", str(n + q), (f"q{q}",)
            )
            for n in range(num_videos)
            for q in range(per_video)
        ]

    def samples(self) -> list[Sample]:
        return self._samples

    def open_video(self, video: str, folder: Path) -> VideoSource:
        if int(video[1:]) in self.broken:
            raise VideoError(folder / video, "is broken")
        path = folder / f"{video}.mp4"
        path.write_text(video)
        return VideoSource(path, is_temporary=True)

    def score(self, sample, answer, evidence, index) -> dict[str, float]:
        return {ACCURACY: float(answer == sample.truth)}


@dataclass
class FakeModel:
    """Answers by a rule (question, what was indexed) -> text, and remembers what it was asked.

    dies_at: number of the `ask` that is killed. evidence, kept_groups: those that every answer comes
    with.
    """

    rule: Callable[[str, object], str]
    dies_at: int = -1
    num_frames: int = 64
    evidence: tuple = ((4.0, 8.0, 1.0),)
    kept_groups: tuple[int, ...] = (1, 2)
    indexed: list = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    options: list[dict] = field(default_factory=list)

    def index(self, source, **options):
        if isinstance(source, Path):
            assert source.is_file(), f"{source} is not there when it is indexed"
        self.indexed.append(source)
        self.options.append(options)
        times = np.arange(0, self.num_frames, GROUP_S)
        return SimpleNamespace(source=source, group_times_s=times, end_s=float(self.num_frames))

    def ask(self, index, questions, **options):
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(list(questions))
        texts = [self.rule(question, index.source) for question in questions]
        same = {"evidence": list(self.evidence), "num_tokens": 7, "timings": {}, "kept_groups": self.kept_groups}
        return [SimpleNamespace(text=text, **same) for text in texts]


def add(question: str, source: object) -> str:
    """The rule that answers every question of Sums."""
    first, second = question.removeprefix("how much is ").removesuffix("?").split(" + ")
    return str(int(first) + int(second))
