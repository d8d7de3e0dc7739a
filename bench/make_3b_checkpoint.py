"""Makes a random checkpoint in the released layout, of full size by default: four bf16 shards, 7.2 GB.

Source: SPEC 10.

    python -m bench.make_3b_checkpoint /big/disk/random-3b --tokenizer vxlpro_jax/assets/tiny

Answers of random weights mean nothing; the checkpoint is for measuring conversion, loading and speed. The real
tokenizer is not needed for that: any tokenizer with Qwen's special tokens serves, as long as its ids fit the embedding
(the embedded model's does). Without --tokenizer the checkpoint converts, but cannot be asked.
"""

import argparse
import json
import math
import time
import zlib
from pathlib import Path

import numpy as np

from vxlpro_jax.convert.atomic_folder import new_folder
from vxlpro_jax.convert.conversion import DTYPE_NAMES
from vxlpro_jax.convert.released_config import BLOCK, released_from_config
from vxlpro_jax.convert.safetensors_io import write_folder
from vxlpro_jax.convert.sources import CONFIG_NAME, check_tokenizer, copy_tokenizer
from vxlpro_jax.convert.torch_to_jax import released_placements
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig


def random_tensor(key: str, shape: tuple[int, ...], seed: int, num_drawn: int | None = None) -> np.ndarray:
    """Return float32 values that keep activations of order one: norms near one, weights by their fan-in.

    num_drawn: larger tensors repeat after so many values, which is faster than to draw them all.
    """
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if num_drawn is None or math.prod(shape) <= num_drawn:
        values = rng.standard_normal(shape, dtype=np.float32)
    else:
        values = np.resize(rng.standard_normal(num_drawn, dtype=np.float32), shape)
    if len(shape) == 1:
        values *= np.float32(0.02)
        is_scale = "norm" in key and key.endswith("weight")
        return values + np.float32(1) if is_scale else values
    is_table = "embed" in key and "patch" not in key
    values *= np.float32(0.02 if is_table else np.prod(shape[1:]) ** -0.5)
    return values


def write_random_checkpoint(
    target: Path,
    config: VideoXLProConfig,
    seed: int = 0,
    dtype: str = "bfloat16",
    shard_bytes: int = 2 * 10**9,
    tokenizer: Path | None = None,
) -> Path:
    """Write a checkpoint of a config, one tensor in memory at a time; raises ConversionError as `convert` does."""
    kind = DTYPE_NAMES[dtype]
    placements = {placement.torch_key: placement for placement in released_placements(config, "the preset")}
    entries = {key: (placement.torch_shape, kind) for key, placement in placements.items()}
    num_bytes = sum(int(np.prod(shape)) for shape, _ in entries.values()) * kind.itemsize
    values = released_from_config(config, {}, dtype, {})
    if config == PRESETS["video_xl_pro_3b"]:
        del values[BLOCK]  # as published: nothing in it is ours
    if tokenizer is not None:
        check_tokenizer(tokenizer, config.llm.vocab_size)
    with new_folder(target, num_bytes) as folder:
        write_folder(folder, entries, lambda key: random_tensor(key, entries[key][0], seed), shard_bytes)
        (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            copy_tokenizer(tokenizer, folder)
    return target


def main() -> None:
    """Parse the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="video_xl_pro_3b")
    parser.add_argument("--dtype", choices=sorted(DTYPE_NAMES), default="bfloat16")
    parser.add_argument("--shard-bytes", type=int, default=2 * 10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied")
    args = parser.parse_args()
    start_s = time.perf_counter()
    write_random_checkpoint(args.target, PRESETS[args.preset], args.seed, args.dtype, args.shard_bytes, args.tokenizer)
    num_bytes = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {num_bytes / 1e9:.2f} GB in {time.perf_counter() - start_s:.0f} s")


if __name__ == "__main__":
    main()
