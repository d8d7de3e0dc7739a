"""Writes the tables of docs/limits.md: frames by seconds and GiB on every device, selected and whole.

    python -m launch.limits              # prints the page
    python -m launch.limits -o docs/limits.md

Source: ours; vxlpro_jax/planning.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.whole_file import write_whole
from vxlpro_jax.parallel.devices import DEVICES
from vxlpro_jax.planning.counts import weight_bytes
from vxlpro_jax.planning.memory import GIB
from vxlpro_jax.planning.plan import Work, largest_video, limit_bytes
from vxlpro_jax.planning.plan_text import limits_table

MODEL = "video_xl_pro_3b"
FRAMES = (128, 512, 2048, 4096, 8192, 16384, 32768, 49152)
EFFICIENCY = 0.5
INTRODUCTION = """# How many frames fit, and how long they take

Made by `python -m launch.limits -o docs/limits.md`; for one case: `vxlpro plan --device a100-80gb --frames 8192`.

**Every figure on this page is computed** from the sizes of `video_xl_pro_3b` in bfloat16 and the vendors' data sheets
(vxlpro_jax/planning, vxlpro_jax/parallel/devices.py). None was measured: nothing here has run on these devices. The
formulas are tested against parameter trees, counted operations of the programs, and memory figures of compilers for
A100 and TPUs (tests/planning). The project's own programs for reading and answering, **compiled** (`make aot`), need
17.8 GiB on an A100 for the whole of 8,192 frames, 50.3 GiB for 32,768, and on a v5p 50.2 GiB for 32,768; the formula
gives 17.8, 50.3 and 50.3, and adds a GiB to spare. For a batch of 64 frames in the encoder the formula takes 3.4 GiB,
scores of attention written out; compiled for an A100, the program needs 2.4 GiB with XLA's attention and
1.3 with JAX's kernel, pixels counted. `vxlpro plan --compile` takes memory from the compiler, where one is
installed (requirements-aot.txt); seconds have the formula alone.

- *selected*: the selector keeps what fits the context of {context:,} rows. *whole*: every row is read; beyond
  {context:,} rows the model was not trained, and answers may suffer.
- GiB: the most that the device holds at once: weights ({weights:.1f}), 1 GiB to spare, and either a batch of 64 frames
  in the encoder or the cache and a piece of the prompt. The index lies on the host.
- s: indexing, and one answer of 128 tokens; at the hardware's limit / at half of it. Decoding the video is not counted,
  nor bringing frames and index to the device. *Second question*: the index is there already.
- A GPU's programs can have 95 % of its memory, with `XLA_PYTHON_CLIENT_MEM_FRACTION=0.95` (75 % unless it is set).
- A stamp counts 10 tokens; from 10,000 s on it has 11.
"""


def page() -> str:
    """The whole page."""
    work = Work(MODEL, DEVICES[0], FRAMES[0])
    context = work.config.max_context_len
    sections = [INTRODUCTION.format(context=context, weights=weight_bytes(work.config) / GIB)]
    rows = [
        "| device | memory, GiB | longest video, whole | selected, 64 GiB of host memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    for device in DEVICES:
        longest = [_longest(Work(MODEL, device, FRAMES[0], whole=whole)) for whole in (True, False)]
        rows.append(f"| {device.name} | {limit_bytes(device) / GIB:.1f} | {longest[0]} | {longest[1]} |")
    sections.append("## The longest video, in frames\n\n" + "\n".join(rows) + "\n")
    for device in DEVICES:
        sections.append(f"## {device.name}\n\n{limits_table(MODEL, device, FRAMES, EFFICIENCY)}\n")
    return "\n".join(sections)


def _longest(work: Work) -> str:
    frames, reason = largest_video(work)
    return f"{frames:,} ({reason})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.limits", description="Write the tables of docs/limits.md.")
    parser.add_argument("-o", "--output", type=Path, help="default: to the screen")
    output = parser.parse_args(argv).output
    if output is None:
        print(page(), end="")
    else:
        write_whole(output, page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
