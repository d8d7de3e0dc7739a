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
    if fps <= 0:
        raise ValueError(f"fps={fps}: frames per second must be positive.")
    times_s = np.arange(round(video.length_s * fps)) / fps
    stretches = (times_s[start : start + CHUNK_FRAMES] for start in range(0, len(times_s), CHUNK_FRAMES))
    write_frames((frame for part in stretches for frame in render_frames(video, part, size)), path, size, fps, crf)


def write_frames(
    frames: Iterator[np.ndarray], path: str | Path, size: tuple[int, int], fps: float, crf: int, group_len: int = 0
) -> None:
    """Write uint8 [H, W, 3] frames as H.264 in the container that the suffix names, whole or not at all.

    group_len: see encode_frames. Raises ValueError for odd sizes.
    """
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"size={size}: H.264 with 4:2:0 colour needs even height and width.")
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    with av.open(str(part), "w") as container:
        encode_frames(container, frames, size, fps, crf, group_len)
    part.replace(path)


def encode_frames(
    container, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float, crf: int, group_len: int = 0
) -> None:
    """Encode uint8 [H, W, 3] frames into an open PyAV container as its H.264 stream.

    group_len: above 0, so many frames at a time are encoded by themselves, with `crf` as the constant quantizer: what
    they look like when decoded does not depend on the rest of the video.
    """
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    # Otherwise x264 writes something else on each run and machine; a seed should mean the same file everywhere.
    parameters = "threads=1:cpu-independent=1"
    if group_len:
        # Nothing that looks beyond the group: no open groups, no scene cuts, no choice of B-frames, no rate control.
        parameters += f":keyint={group_len}:min-keyint={group_len}:scenecut=0:open-gop=0:bframes=3:b-adapt=0"
    quality = {"qp" if group_len else "crf": str(crf)}
    stream.options = {**quality, "preset": "veryfast", "x264-params": parameters}
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
