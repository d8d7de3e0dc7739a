"""What long videos need on an accelerator, from the project's own programs compiled for it; none has to be there.

    make aot                                             # every target below, with its bars
    python -m bench.aot_memory --target a100-80gb --frames 8192 32768 --json FILE

needs the compilers of requirements-aot.txt (`make aot` sets up an environment of their own). The released size in
bfloat16, everything kept: a group of four frames is 154 rows. A program's figure is that of the compiler
(memory_analysis); to what the reading of a piece or the writing of a token needs, the resident encoder's weights are
added. All of it with XLA's attention and with kernels: the encoder's are JAX's own ("auto" of models/attention.py),
those that read a cache the project's ("kernel"). Exits with 1 where a bar does not hold, or a program has a kernel
where it should not, or none where it should.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.infer.compiled_memory import DECODE, ENCODE, READ, Compiler
from vxlpro_jax.models.attention import AttentionKind
from vxlpro_jax.models.presets import PRESETS

GIB = 2**30
OTHER_ROWS = 256  # prompt and answer
ENCODED = (16, 64)  # frames encoded at once


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


def compile_encoder(device: str, frames: int, attention: AttentionKind) -> dict[str, float]:
    """GiB that encoding so many frames at once needs beside the weights, pixels counted."""
    compiler = Compiler(PRESETS["video_xl_pro_3b"], device, attention)
    needed = compiler.encode_bytes(frames) / GIB
    _expect(compiler, {ENCODE} if attention != "xla" else set())
    return {"encode": needed}


def compile_readers(device: str, frames: int, attention: AttentionKind) -> dict[str, float]:
    """GiB: params, cache, and what each program needs beside them."""
    config = PRESETS["video_xl_pro_3b"]
    rows = frames // config.dts.frames_per_group * (config.tokens_per_group + config.stamps.num_tokens) + OTHER_ROWS
    compiler = Compiler(config, device, attention)
    programs = compiler.answer_bytes(rows)
    _expect(compiler, {READ, DECODE} if attention == "kernel" else set())
    found = {"params": compiler.weight_bytes(), "cache": compiler.cache_bytes(rows)}
    found |= {"read_piece": programs[READ], "decode": programs[DECODE]}
    return {name: num_bytes / GIB for name, num_bytes in found.items()}


def _expect(compiler: Compiler, by_kernel: set[str]) -> None:
    if compiler.by_kernel != by_kernel:
        raise SystemExit(f"programs with a kernel: {sorted(compiler.by_kernel)}, expected: {sorted(by_kernel)}")


def _say(line: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps({key: round(x, 3) if isinstance(x, float) else x for key, x in line.items()}), flush=True)
    return line


def main() -> int:
    """Compiles, prints a line per figure, writes them; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=sorted(KNOWN), nargs="+", default=sorted(KNOWN))
    parser.add_argument("--frames", type=int, nargs="*", help="of the whole context; default: those that have a bar")
    parser.add_argument("--encode", type=int, nargs="*", default=ENCODED, help="frames encoded at once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table, encoder, held = [], [], True
    for name in arguments.target:
        target = KNOWN[name]
        for frames, kind in itertools.product(arguments.encode, ("xla", "auto")):
            parts = compile_encoder(name, frames, kind)
            encoder.append(_say({"target": name, "frames_at_once": frames, "attention": kind, **parts}))
        context = target.bars if arguments.frames is None else arguments.frames
        for frames, kind in itertools.product(context, ("xla", "kernel")):
            parts = compile_readers(name, frames, kind)
            total = parts["params"] + parts["cache"] + max(parts["read_piece"], parts["decode"])
            bar = target.bars.get(frames, target.memory_gib)
            held &= total <= bar
            line = {"target": name, "frames": frames, "attention": kind}
            table.append(_say({**line, **parts, "total": total, "bar": bar}))
    if arguments.json:
        found = {"unit": "GiB", "compiled": table, "encoder": encoder}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
