"""The released size for real: a random 3B checkpoint is converted, loaded, shown 8 frames, and generates 4 tokens.

    python -m bench.full_size CLIP [--folder DIR]

needs 15 GB of disk (--folder, kept for the next run) and about 20 GB of memory; writes bench/results/full_size.json.
Each step runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "full_size.json"
PRELUDE = """
import json, sys, time
def done(**figures):
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    print(json.dumps({"peak_bytes": peak, **figures}))
"""
STEPS = {
    "make": """
from pathlib import Path
from bench.make_3b_checkpoint import write_random_checkpoint
from vxlpro_jax.data.tokenizer import save_tiny_tokenizer
from vxlpro_jax.models.presets import PRESETS
write_random_checkpoint(Path(sys.argv[1]), PRESETS["video_xl_pro_3b"])
save_tiny_tokenizer(sys.argv[1])
done()
""",
    "convert": """
from vxlpro_jax.convert import convert
convert(sys.argv[1], sys.argv[2], to="orbax")
done()
""",
    "answer": """
import vxlpro_jax
start = time.perf_counter()
model = vxlpro_jax.load(sys.argv[2], dtype="bfloat16")
load_s = time.perf_counter() - start
start = time.perf_counter()
video = model.index(sys.argv[3], max_frames=8, fps=1000.0, frames_per_batch=8)
index_s = time.perf_counter() - start
answer = model.ask(video, "What happens in this video?", max_new_tokens=4)
assert video.tokens.shape[0] == 2 and answer.timings["num_steps"] == 4
done(load_s=load_s, index_s=index_s, num_tokens=answer.num_tokens, **answer.timings)
""",
}


def main() -> None:
    """Runs the steps that are not done yet and writes what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", help="a video file with 8 frames or more")
    parser.add_argument("--folder", type=Path, default=Path("runs/full_size"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    released, orbax = arguments.folder / "released", arguments.folder / "orbax"
    # What an earlier run measured of a step that need not be done again stays in the report.
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    report["clip"] = Path(arguments.clip).name
    for name, code in STEPS.items():
        if (name == "make" and released.exists()) or (name == "convert" and orbax.exists()):
            continue
        start_s = time.perf_counter()
        command = [sys.executable, "-c", PRELUDE + code, str(released), str(orbax), arguments.clip]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        report[name] = {"seconds": time.perf_counter() - start_s, **json.loads(output.strip().splitlines()[-1])}
        print(name, report[name])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
