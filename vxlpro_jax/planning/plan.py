"""What a video will take on a device: memory by part, whether it fits, seconds, and the longest video that fits.

Source: ours; docs/limits.md shows the results. Nothing has run on the device: each figure says how it was found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.parallel.devices import DEVICES, Device
from vxlpro_jax.planning.counts import (
    decode_bytes,
    encode_flops,
    num_groups,
    prefill_flops,
    rows_of_video,
    score_flops,
)
from vxlpro_jax.planning.memory import GIB, Part, parts, peak_bytes
from vxlpro_jax.types import num_kept_by_rate

PROMPT_ROWS = 64  # chat markers, system prompt and a question of a line
POOL_SHARE = 0.95  # of a GPU's memory, with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95
DEFAULT_POOL_SHARE = 0.75  # of it, where that is not set
MOST_FRAMES = 1 << 24  # the longest video that is looked for: half a year at a frame a second


@dataclass(frozen=True)
class Work:
    """What is planned. keep: a share of the tokens (1 or less), a number of rows (more), or None: what fits the
    context. whole: every row is read, whatever the context that the LLM was trained with. host_bytes: memory for the
    index."""

    model: str
    device: Device
    num_frames: int
    keep: float | None = None
    whole: bool = False
    frames_per_batch: int = 64
    max_new_tokens: int = 128
    host_bytes: float = 64 * GIB

    @property
    def config(self) -> VideoXLProConfig:
        return PRESETS[self.model]


@dataclass(frozen=True)
class Plan:
    """num_rows: read by the LLM, prompt counted. held: memory by part. limit_bytes: what a program may have. seconds:
    at the hardware's limit, by phase. largest: frames of the longest video that fits, and what limits it."""

    work: Work
    num_rows: int
    held: list[Part]
    limit_bytes: float
    seconds: Mapping[str, float]
    largest: tuple[int, str]
    advice: list[str]

    @property
    def fits(self) -> bool:
        return not self.advice

    @property
    def setting(self) -> str | None:
        """What must be set for the device to give so much; None where nothing must."""
        device = self.work.device
        if not device.reserves_share or peak_bytes(self.held) <= DEFAULT_POOL_SHARE * device.memory_bytes:
            return None
        return f"XLA_PYTHON_CLIENT_MEM_FRACTION={POOL_SHARE}"


def check_work(work: Work, efficiency: float) -> None:
    """Raises ValueError for what cannot be planned."""
    for name, value, least in (
        *(("frames", work.num_frames, 1), ("frames_per_batch", work.frames_per_batch, 1)),
        ("max_new_tokens", work.max_new_tokens, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: {least} or more is accepted")
    if work.num_frames > MOST_FRAMES:
        raise ValueError(f"frames={work.num_frames}: at most {MOST_FRAMES} are accepted")
    if work.keep is not None and not work.keep > 0:
        raise ValueError(f"keep={work.keep:g}: a share above 0 and at most 1, or a number of rows, is accepted")
    if work.keep is not None and work.whole:
        raise ValueError(f"keep={work.keep:g} and whole: one of the two is accepted")
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency={efficiency:g}: a share above 0, at most 1, is accepted")
    if not work.host_bytes > 0:
        raise ValueError(f"host memory of {work.host_bytes / GIB:g} GiB: more than 0 is accepted")


def model_named(name: str) -> str:
    """Raises ValueError for a model that is no preset."""
    if name not in PRESETS:
        raise ValueError(
            f"model {name!r}: one of {', '.join(sorted(PRESETS))} is accepted (vxlpro_jax/models/presets.py)"
        )
    return name


def rows_read(work: Work) -> int:
    """Rows that the LLM reads. Raises ValueError where the released rule keeps more than the context holds."""
    config = work.config
    everything = PROMPT_ROWS + rows_of_video(config, work.num_frames)
    room = config.max_context_len - work.max_new_tokens
    if work.whole:
        return everything
    if work.keep is None or work.keep > 1:
        budget = everything if work.keep is None else PROMPT_ROWS + int(work.keep)
        return min(everything, room, budget)
    groups = num_groups(config, work.num_frames)
    tokens = num_kept_by_rate(groups * config.tokens_per_group, work.keep, config.selector.keep_multiple)
    rows = PROMPT_ROWS + groups * config.stamps.num_tokens + tokens
    if rows > room:
        raise ValueError(
            f"keep={work.keep:g} leaves {rows} rows, as every stamp stays; the context holds {room} besides the "
            "answer: lower it, or give a number of rows instead, with which groups without tokens lose their stamps"
        )
    return rows


def limit_bytes(device: Device, share: float = POOL_SHARE) -> float:
    return device.memory_bytes * (share if device.reserves_share else 1)


def seconds_at_limit(work: Work, num_rows: int, flops_per_s: float | None = None) -> dict[str, float]:
    """By phase: encode (tower, token synthesizer, projector), choose (the selector), prefill, and each generated token.

    flops_per_s: None: the device's peak. Video decoding and the way to the device are not counted.
    """
    rate = flops_per_s or work.device.peak_flops
    config, frames = work.config, work.num_frames
    return {
        "encode": encode_flops(config, frames) / rate,
        "choose": score_flops(config, frames) / rate,
        "prefill": prefill_flops(config.llm, num_rows) / rate,
        "token": decode_bytes(config, num_rows) / work.device.bytes_per_s,
    }


def make_plan(work: Work, compiled: Mapping[str, int] | None = None) -> Plan:
    """compiled: bytes of some parts, by name, as a compiler found them for this work."""
    num_rows = rows_read(work)
    held = _parts(work, num_rows)
    if compiled:
        held = [
            part._replace(bytes=compiled[part.name], how="compiled") if part.name in compiled else part for part in held
        ]
    return Plan(
        work=work,
        num_rows=num_rows,
        held=held,
        limit_bytes=limit_bytes(work.device),
        seconds=seconds_at_limit(work, num_rows),
        largest=largest_video(work),
        advice=_advice(work, held),
    )


def _parts(work: Work, num_rows: int) -> list[Part]:
    return parts(work.config, work.num_frames, num_rows + work.max_new_tokens, work.frames_per_batch)


def _fits(work: Work) -> bool:
    """On device and host, by the formula."""
    try:
        held = _parts(work, rows_read(work))
    except ValueError:  # the released rule would keep more than the context holds, or nothing
        return False
    return peak_bytes(held) <= limit_bytes(work.device) and peak_bytes(held, "host") <= work.host_bytes


def largest_video(work: Work) -> tuple[int, str]:
    """Frames of the longest video that fits by the formula (0: none does), in whole groups, and what ends it."""
    size = work.config.dts.frames_per_group

    def fits(groups: int) -> bool:
        return _fits(replace(work, num_frames=groups * size))

    first = 1
    while first * size <= MOST_FRAMES and not fits(first):  # a share of a short video can be nothing
        first *= 2
    if first * size > MOST_FRAMES:
        return 0, "nothing fits"
    low, high = first, MOST_FRAMES // size + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    longer = replace(work, num_frames=(low + 1) * size)
    try:
        held = _parts(longer, rows_read(longer))
    except ValueError:
        return low * size, "the context"
    return low * size, "the host's memory" if peak_bytes(held) <= limit_bytes(work.device) else "the device's memory"


def _advice(work: Work, held: list[Part]) -> list[str]:
    """What would make it fit; empty where it fits."""
    advice = []
    if peak_bytes(held, "host") > work.host_bytes:
        need = peak_bytes(held, "host") / GIB
        advice.append(f"the index needs {need:.1f} GiB of host memory: a host that has it, or fewer frames")
    if peak_bytes(held) <= limit_bytes(work.device):
        return advice
    options: tuple[tuple[str, Callable[[], Work]], ...] = (
        ("without --whole", lambda: replace(work, whole=False)),
        ("--frames-per-batch 8", lambda: replace(work, frames_per_batch=8)),
        ("without --whole and with --frames-per-batch 8", lambda: replace(work, whole=False, frames_per_batch=8)),
    )
    for text, option in options:
        if option() != work and _fits(option()):
            advice.append(f"{text} it fits")
            break
    frames, reason = largest_video(work)
    if frames:
        advice.append(f"{frames} frames fit so ({reason} ends it)")
    larger = sorted(
        (device for device in DEVICES if _fits(replace(work, device=device))), key=lambda device: device.memory_bytes
    )
    if larger:
        advice.append(f"it fits on {', '.join(device.name for device in larger)}")
    return advice or ["nothing here makes it fit: fewer frames, or a device with more memory"]


def record(plan: Plan, efficiency: float) -> dict[str, Any]:
    """The plan for JSON; every figure says how it was found."""
    work = plan.work
    return {
        "model": work.model,
        "device": work.device.name,
        "frames": work.num_frames,
        "whole": work.whole,
        "rows_read": plan.num_rows,
        "memory": [part._asdict() for part in plan.held],
        "device_bytes": peak_bytes(plan.held),
        "device_limit_bytes": plan.limit_bytes,
        "host_bytes": peak_bytes(plan.held, "host"),
        "fits": plan.fits,
        "setting": plan.setting,
        "advice": plan.advice,
        "seconds": {
            phase: {"at_limit": value, "at_efficiency": value / efficiency, "how": "computed"}
            for phase, value in plan.seconds.items()
        },
        "efficiency": efficiency,
        "largest_frames": {"frames": plan.largest[0], "ends_at": plan.largest[1], "how": "computed"},
    }
