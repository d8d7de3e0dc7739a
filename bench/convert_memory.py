"""Measures peak memory of conversion: subprocesses on a generated checkpoint, against the model plus one shard.

Source: ours.

    python -m bench.convert_memory

takes about 4 GB of disk for a while and writes bench/results/convert_memory.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.make_3b_checkpoint import write_random_checkpoint
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig

RESULTS = Path(__file__).parent / "results" / "convert_memory.json"
MB = 10**6

# Runs in a process of its own and prints what the kernel says about it. VmHWM, not ru_maxrss: the latter starts at the
# size of the process that forked it. "idle" is the peak before any weights: interpreter, libraries and the plan on
# abstract shapes.
_CHILD = """
import json, sys
import orbax.checkpoint  # which the package imports where it is needed
from vxlpro_jax.convert import convert, load_config, load_params
from vxlpro_jax.convert.torch_to_jax import leaf_shapes
def peak_bytes():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
source, target, how = sys.argv[1:]
leaf_shapes(load_config(source))
idle = peak_bytes()
if how == "load":
    params = load_params(source)
else:
    convert(source, target, to=how)
print(json.dumps({"idle_bytes": idle, "peak_bytes": peak_bytes()}))
"""


def mid_size(scale: int) -> VideoXLProConfig:
    """Return a config of real proportions; its parameters grow with scale (4: 1.2 GB in bf16, 1: .3 GB)."""
    base = PRESETS["video_xl_pro_3b"]
    vision = replace(base.vision, dim=512, num_layers=6, num_heads=8, mlp_dim=2048)
    llm = replace(base.llm, vocab_size=32768, dim=1024, num_layers=6 * scale, num_heads=8, num_kv_heads=2, mlp_dim=5504)
    return replace(
        base, vision=vision, dts=replace(base.dts, dim=512), projector=replace(base.projector, dim=1024), llm=llm
    )


def run_child(source: Path, target: Path, how: str) -> dict[str, float]:
    """Return idle and peak bytes, and seconds, of one conversion in a process of its own."""
    start_s = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, str(source), str(target), how]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"conversion to {how} failed:\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - start_s
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": round(seconds, 1)}


def measure(scale: int, folder: Path) -> dict:
    """Return sizes and one measurement per direction, on a checkpoint of five shards."""
    source = folder / "source"
    config = mid_size(scale)
    write_random_checkpoint(source, config, shard_bytes=260 * MB * scale // 4)
    shards = sorted(path.stat().st_size for path in source.glob("*.safetensors"))
    result: dict = {"model_bytes": sum(shards), "num_shards": len(shards), "largest_shard_bytes": shards[-1]}
    steps = {
        "torch to orbax": (source, "orbax"),
        "orbax to torch": (folder / "torch to orbax", "torch"),
        "torch to torch": (source, "torch"),
        "load torch": (source, "load"),
        "load orbax": (folder / "torch to orbax", "load"),
    }
    result["runs"] = {name: run_child(start, folder / name, how) for name, (start, how) in steps.items()}
    for run in result["runs"].values():
        run["share_of_bound"] = round(run["peak_bytes"] / (result["model_bytes"] + shards[-1]), 3)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=int, default=4, help="4: a checkpoint of 1.2 GB")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(args.scale, Path(folder))
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result["bound"] = "peak_bytes <= model_bytes + largest_shard_bytes, interpreter and libraries counted"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
