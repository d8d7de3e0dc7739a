"""A plan's parts as the device's own compiler finds them; alone in this room it needs jax, and minutes.

Source: ours.
"""

from collections.abc import Callable

from vxlpro_jax.infer.compiled_memory import Compiler
from vxlpro_jax.planning.counts import num_groups
from vxlpro_jax.planning.plan import Work, rows_read


def compiled_parts(work: Work, say: Callable[[str], None]) -> dict[str, int]:
    """Bytes by part, as planning/memory.py names them. say: told what takes so long.

    Raises ValueError for a device that cannot be compiled for, or whose memory a program exceeds.
    """
    config, num_rows = work.config, rows_read(work) + work.max_new_tokens
    group = config.dts.frames_per_group
    groups_per_batch = min(num_groups(config, work.num_frames), max(1, work.frames_per_batch // group))
    compiler = Compiler(config, work.device.name)
    say(f"compiling three programs for {work.device.name}: this can take minutes")
    return {
        "weights": compiler.weight_bytes(),
        "encoder activations": compiler.encode_bytes(groups_per_batch * group),
        "key/value cache": compiler.cache_bytes(num_rows),
        "workspace of prefill": max(compiler.answer_bytes(num_rows).values()),
    }
