"""What a long context needs on an accelerator, from the project's own programs compiled for it; none has to be there.

    make aot                                             # every target below, with its bars
    python -m bench.aot_memory --target a100-80gb --frames 8192 32768 --json FILE

needs the compilers of requirements-aot.txt (`make aot` sets up an environment of their own). The released size in
bfloat16, everything kept: a group of four frames is 154 rows. A program's figure is that of the compiler
(memory_analysis); to what the reading of a piece or the writing of a token needs, the resident encoder's weights are
added. Exits with 1 where a bar does not hold.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from vxlpro_jax.infer.compiled_memory import DECODE, READ, Compiler
from vxlpro_jax.models.presets import PRESETS

GIB = 2**30
OTHER_ROWS = 256  # prompt and answer


class Target(NamedTuple):
    """bars: GiB at most, by frames."""

    memory_gib: float
    bars: dict[int, float]


KNOWN = {
    "a100-80gb": Target(79.3, {8192: 18, 32768: 52}),
    "h100-80gb": Target(79.3, {8192: 18, 32768: 52}),
    "v5p": Target(95.0, {32768: 95.0}),
    "v6e": Target(31.25, {16384: 31.25}),
}


def compile_programs(device: str, frames: int) -> dict[str, float]:
    """GiB: params, cache, and what each program needs beside them."""
    config = PRESETS["video_xl_pro_3b"]
    rows = frames // config.dts.frames_per_group * (config.tokens_per_group + config.stamps.num_tokens) + OTHER_ROWS
    compiler = Compiler(config, device)
    programs = compiler.answer_bytes(rows)
    found = {"params": compiler.weight_bytes(), "cache": compiler.cache_bytes(rows)}
    found |= {"read_piece": programs[READ], "decode": programs[DECODE]}
    return {name: num_bytes / GIB for name, num_bytes in found.items()}


def main() -> int:
    """Compiles, prints a line per figure, writes them; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=sorted(KNOWN), nargs="+", default=sorted(KNOWN))
    parser.add_argument("--frames", type=int, nargs="+", help="default: those that have a bar")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table, held = [], True
    for name in arguments.target:
        target = KNOWN[name]
        for frames in arguments.frames or target.bars:
            parts = compile_programs(name, frames)
            total = parts["params"] + parts["cache"] + max(parts["read_piece"], parts["decode"])
            bar = target.bars.get(frames, target.memory_gib)
            held &= total <= bar
            table.append({"target": name, "frames": frames, **parts, "total": total, "bar": bar})
            print(json.dumps({key: round(x, 3) if isinstance(x, float) else x for key, x in table[-1].items()}))
    if arguments.json:
        arguments.json.write_text(json.dumps({"unit": "GiB", "compiled": table}, indent=1) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
