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
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
os.environ.update({"JAX_PLATFORMS": "cpu", **TPU_ENVIRONMENT})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from vxlpro_jax.infer.generate import _more_tokens, _Steps  # noqa: E402
from vxlpro_jax.infer.kv_cache import allocate  # noqa: E402
from vxlpro_jax.infer.reading import PIECE_LEN, _read_piece  # noqa: E402
from vxlpro_jax.infer.token_sampler import Sampling  # noqa: E402
from vxlpro_jax.models.presets import PRESETS  # noqa: E402
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params  # noqa: E402
from vxlpro_jax.types import RowPlan  # noqa: E402

GIB = 2**30
TARGETS = Path(__file__).parent / "targets"
OTHER_ROWS = 256  # prompt and answer


class Target(NamedTuple):
    """topology: a TPU's name to its compiler, or None for a GPU (bench/targets). bars: GiB at most, by frames."""

    topology: str | None
    memory_gib: float
    bars: dict[int, float]


KNOWN = {
    "a100-80gb": Target(None, 79.3, {8192: 18, 32768: 52}),
    "h100-80gb": Target(None, 79.3, {8192: 18, 32768: 52}),
    "v5p": Target("v5p:2x2x1", 95.0, {32768: 95.0}),
    "v6e": Target("v6e:2x2", 31.25, {16384: 31.25}),
}


def device_of(name: str, target: Target) -> Any:
    """A device to compile for."""
    if target.topology is None:
        config = (TARGETS / f"{name}.txtpb").read_text(encoding="utf-8")
        found = topologies.get_topology_desc(
            platform="cuda", topology_name=name, target_config=config, topology="1x1x1"
        )
    else:
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    return found.devices[0]


def compile_programs(device: Any, platform: str, frames: int) -> dict[str, float]:
    """GiB: params, cache, and what each program needs beside them."""
    config = PRESETS["video_xl_pro_3b"]
    rows = frames // config.dts.frames_per_group * (config.tokens_per_group + config.stamps.num_tokens) + OTHER_ROWS
    model = VideoXLProModel(config, dtype=jnp.bfloat16)
    mesh = jax.sharding.Mesh(np.array([device]), ("chip",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def placed(tree: Any, dtype: Any = None) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=whole), tree)

    def numbers(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    params = placed(abstract_params(config), jnp.bfloat16)
    slots = -(-rows // PIECE_LEN) * PIECE_LEN
    cache = placed(jax.eval_shape(lambda: allocate(config.llm, 1, slots, jnp.bfloat16)))
    ids = numbers(1, PIECE_LEN)
    plan = RowPlan(ids, ids, ids, numbers(1, PIECE_LEN, dtype=jnp.float32), numbers(1, PIECE_LEN, dtype=bool))
    visual = numbers(1, PIECE_LEN, config.projector.dim, dtype=jnp.bfloat16)
    steps = _Steps(numbers(1), numbers(1, dtype=bool), numbers(dtype=bool), numbers())
    key = placed(jax.eval_shape(lambda: jax.random.key(0)))
    programs = {
        "read_piece": _read_piece.trace(model, params, plan, visual, numbers(), cache),
        "decode": _more_tokens.trace(model, params, steps, cache, key, numbers(), numbers(2), Sampling()),
    }
    found = {"params": _bytes(params) / GIB, "cache": _bytes(cache) / GIB}
    for name, program in programs.items():
        memory = program.lower(lowering_platforms=(platform,)).compile().memory_analysis()
        beside = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        if memory.alias_size_in_bytes < _bytes(cache):
            raise SystemExit(f"{name}: the cache is copied, not written where it lies")
        found[name] = beside / GIB
    return found


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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
        device, platform = device_of(name, target), "tpu" if target.topology else "cuda"
        for frames in arguments.frames or target.bars:
            parts = compile_programs(device, platform, frames)
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
