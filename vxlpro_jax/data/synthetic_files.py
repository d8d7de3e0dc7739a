"""The generated world on disk: H.264 files and the lines that tell what is true about them.

Source: ours (docs/tiny.md).
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vxlpro_jax.data.synthetic import SyntheticVideo, sample_video
from vxlpro_jax.data.synthetic_questions import Question, sample_questions
from vxlpro_jax.data.synthetic_render import render_frames

CHUNK_FRAMES = 128


def write_video(
    video: SyntheticVideo, path: str | Path, size: tuple[int, int] = (112, 112), fps: float = 1.0, crf: int = 23
) -> None:
    """Write the video as H.264 in the container that the suffix names; size is (H, W), both even.

    Frame i shows the world at i / fps seconds. Written beside and renamed, so that no half file is left at `path`.
    Raises ValueError for odd sizes or a rate that is not positive.
    """
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"size={size}: H.264 with 4:2:0 colour needs even height and width.")
    if fps <= 0:
        raise ValueError(f"fps={fps}: frames per second must be positive.")
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    times_s = np.arange(round(video.length_s * fps)) / fps
    with av.open(str(part), "w") as container:
        encode_frames(
            container,
            (
                frame
                for start in range(0, len(times_s), CHUNK_FRAMES)
                for frame in render_frames(video, times_s[start : start + CHUNK_FRAMES], size)
            ),
            size,
            fps,
            crf,
        )
    part.replace(path)


def encode_frames(container, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float, crf: int) -> None:
    """Encode uint8 [H, W, 3] frames into an open PyAV container as its H.264 stream."""
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    # Otherwise x264 writes something else on each run and machine; a seed should mean the same file everywhere.
    stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "threads=1:cpu-independent=1"}
    for pixels in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())


def truth_rows(questions: list[Question], video_name: str) -> list[dict]:
    """Lines of truth.jsonl: video, kind, question, answer, start_s, end_s."""
    return [
        {
            "video": video_name,
            "kind": question.kind,
            "question": question.question,
            "answer": question.answer,
            "start_s": question.start_s,
            "end_s": question.end_s,
        }
        for question in questions
    ]


def write_dataset(
    out: str | Path,
    seed: int,
    num: int,
    length_s: int = 64,
    world: str = "standard",
    size: tuple[int, int] = (112, 112),
    fps: float = 1.0,
    crf: int = 23,
    per_kind: int = 1,
) -> Iterator[Path]:
    """Write videos 0..num-1 of the seed as OUT/NNNNN.mp4 and OUT/truth.jsonl; yields every file's path when it is
    written."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "truth.jsonl", "w", encoding="utf-8") as truth:
        for index in range(num):
            video = sample_video(seed, index, length_s, world)
            path = out / f"{index:05d}.mp4"
            write_video(video, path, size, fps, crf)
            for row in truth_rows(sample_questions(video, per_kind), path.name):
                truth.write(json.dumps(row) + "\n")
            yield path
