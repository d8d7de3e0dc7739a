"""Frames per second of the two readers on one generated clip, run alternately in one process: their ratio.

    python -m bench.decode_speed

writes bench/results/decode_speed.json.
"""

import json
import platform
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.data.frame_sampling import sample_fps
from vxlpro_jax.data.synthetic import sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.video_decode import Decoder, open_video

RESULTS = Path(__file__).parent / "results" / "decode_speed.json"
ROUNDS = 5
SECONDS, FPS, SIZE = 40, 25.0, (360, 640)  # of the clip
CASES = {"every frame": FPS, "one frame a second": 1.0}


def read_seconds(path: Path, decoder: Decoder, fps: float) -> tuple[float, int]:
    """Seconds to open the clip and read the frames that sampling at fps chooses, and how many there are."""
    start_s = time.perf_counter()
    num_frames = 0
    with open_video(path, decoder=decoder) as video:
        for chunk in video.read_chunks(sample_fps(video.times_s, fps).indices):
            num_frames += len(chunk.frames)
    return time.perf_counter() - start_s, num_frames


def main() -> None:
    """Measures both cases and writes the result."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_video(sample_video(seed=0, index=0, length_s=SECONDS), clip, SIZE, FPS)
        for case, fps in CASES.items():
            seconds: dict[Decoder, list[float]] = {"pyav": []}
            if find_spec("decord"):  # it has no wheel for some machines
                seconds["decord"] = []
            for _ in range(ROUNDS):
                for decoder, measured in seconds.items():
                    took_s, num_frames = read_seconds(clip, decoder, fps)
                    measured.append(took_s)
            speeds = {f"{name}_frames_per_s": num_frames / statistics.median(found) for name, found in seconds.items()}
            rows[case] = {"frames": num_frames, **speeds}
            if "decord" in seconds:
                ratios = np.divide(seconds["pyav"], seconds["decord"])
                ratio = {"median": float(np.median(ratios)), "rounds": ratios.tolist()}
                rows[case]["pyav_seconds_over_decord_seconds"] = ratio
            print(case, rows[case])
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    clip_text = f"H.264, {SECONDS} s of {SIZE[1]}x{SIZE[0]} at {FPS:g} frames/s"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"clip": clip_text, "machine": machine, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
