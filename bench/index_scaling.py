"""What an index costs in memory as videos grow, and how well decoding and encoding overlap.

    python -m bench.index_scaling [--only memory|overlap] [--frames 256,1024,4096,16384] [--rounds 5] [--json FILE]

Memory: videos of so many frames are indexed, each by a process of its own whose peak (VmHWM) is read; a line is fitted.
"full": a stand-in for the encoder makes tokens of the released model's size, 147,456 bytes a frame in bfloat16; "tiny":
the embedded model. "kept": the index is gathered in memory; "written": it goes to disk while it is made, and is read at
the end. Claims: per frame, host memory grows by the index and at most 5 % of it (tiny: and 4,096 bytes, for the tables
of the file's frames); the arrays on the device are the same at every length.

Overlap, each round one after the other in one process: decoding alone (with making pixels), encoding alone, both as
model.index does it. Claims, medians: with an encoder that sleeps as long as decoding takes, at most 1.1 x the slower;
with the embedded model on this CPU, where both want the same cores, at most 1.05 x their sum.

Exit code: 0 when every claim holds, 1 when one does not, 2 for bad arguments.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.report import tell
from vxlpro_jax.data.video_decode import open_video
from vxlpro_jax.infer import encode
from vxlpro_jax.infer.frame_batches import frame_batches
from vxlpro_jax.loading import load

BATCH_LEN = 64
MOST_MEMORY, TABLE_BYTES = 1.05, 4096
MOST_SLEEPING, MOST_SUM = 1.10, 1.05
# How many times longer the sleeping encoder takes than decoding.
PACES = (0.5, 1.0, 2.0)
CASES = (("full", "kept"), ("full", "written"), ("tiny", "kept"), ("tiny", "written"))

# Runs in a process of its own. VmHWM, not ru_maxrss: the latter starts at the size of the process that forked it.
_CHILD = """
import json, sys
from functools import partial
import jax, jax.numpy as jnp
from vxlpro_jax.infer import encode
from vxlpro_jax.loading import load
from vxlpro_jax.models.presets import PRESETS
path, which, output = sys.argv[1:]
model, full = load(), PRESETS["video_xl_pro_3b"]

@partial(jax.jit, static_argnames="model")
def stand_in(model, params, pixels):
    groups = pixels.reshape(len(pixels) // full.dts.frames_per_group, -1).mean(-1)
    shape = (len(groups), full.tokens_per_group, full.projector.dim)
    return jnp.broadcast_to(groups[:, None, None], shape).astype(jnp.bfloat16)

if which == "full":
    encode.encode_frames = stand_in
on_device = []
def progress(done, total):
    on_device.append(sum(array.nbytes for array in jax.live_arrays()))
index = model.index(path, output=output or None, progress=progress)
with open("/proc/self/status") as status:
    peak = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"frames": len(index.frame_indices), "peak_bytes": peak, "index_bytes": index.tokens.nbytes,
                  "device_bytes": max(on_device)}))
"""


def write_clip(path: Path, num_frames: int, size: int = 64) -> Path:
    """A video of a frame a second in which a bright bar walks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "64"})
        stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((size, size, 3), number % 200, np.uint8)
            pixels[:, number % size] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def measure_memory(folder: Path, lengths: Sequence[int]) -> dict[str, Any]:
    """Peaks of every case and length, with the fitted line."""
    found: dict[str, Any] = {}
    clips = [write_clip(folder / f"{length}.mp4", length) for length in lengths]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for which, where in CASES:
        runs = []
        for clip in clips:
            output = str(folder / f"{which}-{clip.stem}.vxl") if where == "written" else ""
            command = [sys.executable, "-c", _CHILD, str(clip), which, output]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise RuntimeError(f"indexing {clip.name} failed:\n{done.stderr[-2000:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{which}, {where}: {runs[-1]}", file=sys.stderr, flush=True)
        found[f"{which}, {where}"] = {"runs": runs, **fitted(runs, TABLE_BYTES if which == "tiny" else 0)}
    return found


def fitted(runs: Sequence[dict[str, int]], allowed_bytes: int) -> dict[str, Any]:
    """The line through peaks over frames; its slope beside the index's own bytes per frame, and whether the claims
    hold."""
    frames = np.array([run["frames"] for run in runs], np.float64)
    slope, base = np.polyfit(frames, [run["peak_bytes"] for run in runs], 1)
    index_bytes = runs[-1]["index_bytes"] / runs[-1]["frames"]
    line = {
        "bytes_per_frame": round(float(slope)),
        "base_bytes": round(float(base)),
        "index_bytes_per_frame": round(index_bytes),
        "ratio": round(float(slope) / index_bytes, 3),
    }
    same_device = len({run["device_bytes"] for run in runs}) == 1
    return line | {"holds": bool(slope <= MOST_MEMORY * index_bytes + allowed_bytes) and same_device}


def decode_alone(path: Path, image_size: int, group_len: int) -> tuple[float, list[np.ndarray]]:
    """(seconds, the pixels of every batch)."""
    start = time.perf_counter()
    with open_video(path) as video:
        parts = (video, np.arange(video.num_frames), image_size, BATCH_LEN, group_len, "raise")
        with closing(frame_batches(*parts)) as batches:
            pixels = [batch.pixels for batch in batches]
    return time.perf_counter() - start, pixels


def measure_overlap(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds of decoding, encoding and both, round by round, with a sleeping encoder at several paces and the embedded
    model."""
    model = load()
    size, group = model.config.vision.image_size, model.config.dts.frames_per_group
    original = encode.encode_frames
    model.index(path, frames_per_batch=BATCH_LEN)  # compiles
    found: dict[str, list[dict[str, float]]] = {"real": [], **{f"sleeping x{pace:g}": [] for pace in PACES}}
    for _ in range(rounds):
        decode_s, batches = decode_alone(path, size, group)
        start = time.perf_counter()
        for pixels in batches:
            np.asarray(original(model.model, model.params, pixels))
        encode_s = time.perf_counter() - start
        start = time.perf_counter()
        model.index(path, frames_per_batch=BATCH_LEN)
        both_s = time.perf_counter() - start
        found["real"].append(
            {"decode_s": decode_s, "encode_s": encode_s, "both_s": both_s, "ratio": both_s / (decode_s + encode_s)}
        )
        for pace in PACES:
            decode_s, batches = decode_alone(path, size, group)
            pause_s = pace * decode_s / len(batches)

            def sleeping(_, __, pixels, pause_s=pause_s):
                time.sleep(pause_s)
                return np.zeros((len(pixels) // group, model.config.tokens_per_group, 8), np.float32)

            encode.encode_frames = sleeping
            try:
                start = time.perf_counter()
                model.index(path, frames_per_batch=BATCH_LEN)
                both_s = time.perf_counter() - start
            finally:
                encode.encode_frames = original
            slower_s = max(decode_s, pause_s * len(batches))
            found[f"sleeping x{pace:g}"].append(
                {"decode_s": decode_s, "encode_s": pause_s * len(batches), "both_s": both_s, "ratio": both_s / slower_s}
            )
    return {name: judged(runs, MOST_SUM if name == "real" else MOST_SLEEPING) for name, runs in found.items()}


def judged(runs: Sequence[dict[str, float]], most: float) -> dict[str, Any]:
    """The runs, rounded, with the median of their ratios and whether it is within bounds."""
    median = statistics.median(run["ratio"] for run in runs)
    rounded = [{name: round(value, 4) for name, value in run.items()} for run in runs]
    return {"runs": rounded, "median_ratio": round(median, 3), "most": most, "holds": median <= most}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.index_scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("memory", "overlap"), help="default: both")
    parser.add_argument("--frames", default="256,1024,4096,16384", help="lengths, with commas")
    parser.add_argument("--rounds", type=int, default=5, help="of the overlap (default 5)")
    parser.add_argument("--overlap-frames", type=int, default=2048, help="frames of the video for the overlap")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    args = parser.parse_args(argv)
    lengths = [int(part) for part in args.frames.split(",") if part.isdecimal()]
    if len(lengths) < 2 or min(lengths) < BATCH_LEN or args.rounds < 1 or args.overlap_frames < BATCH_LEN:
        parser.error(f"--frames {args.frames}: two lengths or more, each at least {BATCH_LEN}; and one round or more")
    try:
        with tempfile.TemporaryDirectory() as folder:
            load_before, found = os.getloadavg(), {}
            if args.only != "memory":
                clip = write_clip(Path(folder) / "overlap.mp4", args.overlap_frames, size=256)
                found["overlap"] = measure_overlap(clip, args.rounds)
            if args.only != "overlap":
                found["memory"] = measure_memory(Path(folder), lengths)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"bench.index_scaling: {error}", file=sys.stderr)
        return 2
    result = {
        "command": f"python -m bench.index_scaling{f' --only {args.only}' * bool(args.only)} --frames {args.frames} "
        f"--rounds {args.rounds} --overlap-frames {args.overlap_frames}",
        "load_average_at_start": [round(value, 1) for value in load_before],
        **found,
        "holds": all(one["holds"] for part in found.values() for one in part.values()),
    }
    tell(result, args.json)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
