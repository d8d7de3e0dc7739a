"""A plan as people read it, and many plans as a table.

Source: ours.
"""

from collections.abc import Sequence
from dataclasses import replace

from vxlpro_jax.parallel.devices import Device
from vxlpro_jax.planning.memory import GIB, peak_bytes
from vxlpro_jax.planning.plan import Plan, Work, make_plan, rows_read

PHASES = {
    "encode": "index the video (tower, token synthesizer, projector)",
    "choose": "score and choose tokens",
    "prefill": "read the prompt",
    "token": "each generated token",
}


def told(plan: Plan, efficiency: float) -> str:
    """The plan in lines."""
    work = plan.work
    reads = "all of it" if plan.work.whole else f"context {work.config.max_context_len}"
    lines = [
        f"{work.model} on {work.device.name}: {work.num_frames} frames, {plan.num_rows} rows read ({reads})",
        "",
        f"{'memory':52} {'GiB':>8}",
    ]
    for part in plan.held:
        where = part.where if part.phase == "always" else f"{part.where}, while it {_verb(part.phase)}"
        lines.append(f"  {f'{part.name} ({where})':50} {part.bytes / GIB:8.2f}  {part.how}")
    lines.append(
        f"  {'device, at most at once':50} {peak_bytes(plan.held) / GIB:8.2f}  of {plan.limit_bytes / GIB:.2f}"
    )
    lines += ["", f"{'seconds':52} {'at limit':>8} {f'at {efficiency:.0%}':>8}"]
    for phase, value in plan.seconds.items():
        lines.append(f"  {PHASES[phase]:50} {_seconds(value):>8} {_seconds(value / efficiency):>8}  computed")
    again = sum(value for phase, value in plan.seconds.items() if phase in ("choose", "prefill"))
    again += work.max_new_tokens * plan.seconds["token"]
    total = again + plan.seconds["encode"]
    for name, value in (("in all, with an answer of the full length", total), ("a second question", again)):
        lines.append(f"  {name:50} {_seconds(value):>8} {_seconds(value / efficiency):>8}  computed")
    frames, reason = plan.largest
    lines += [
        "",
        f"fits: {'yes' if plan.fits else 'no'}{f', with {plan.setting}' if plan.fits and plan.setting else ''}",
    ]
    lines += [f"  {line}" for line in plan.advice]
    lines.append(f"longest video so: {frames} frames ({reason} ends it; computed)")
    if work.whole and plan.num_rows > work.config.max_context_len:
        lines.append(
            f"beyond the {work.config.max_context_len} rows that the model was trained with, answers may suffer"
        )
    return "\n".join(lines)


def _verb(phase: str) -> str:
    return {"encode": "encodes", "choose": "chooses", "answer": "answers"}[phase]


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def limits_table(model: str, device: Device, frames: Sequence[int], efficiency: float) -> str:
    """Markdown: frames by seconds and GiB on one device, selected and whole."""
    rows = [
        "| frames | index on the host, GiB | selected: GiB | selected: s | second question: s "
        "| whole: rows | whole: GiB | whole: s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count in frames:
        selected = make_plan(Work(model, device, count, host_bytes=float("inf")))
        whole = make_plan(replace(selected.work, whole=True))
        chosen_s, again_s = _both(selected, efficiency)
        whole_s = _both(whole, efficiency)[0] if whole.fits else "does not fit"
        index = peak_bytes(selected.held, "host") / GIB
        rows.append(
            f"| {count:,} | {index:.2f} | {_gib(selected)} | {chosen_s} | {again_s} | {rows_read(whole.work):,} "
            f"| {_gib(whole)} | {whole_s} |"
        )
    return "\n".join(rows)


def _gib(plan: Plan) -> str:
    return f"{peak_bytes(plan.held) / GIB:.1f}"


def _both(plan: Plan, efficiency: float) -> tuple[str, str]:
    """Seconds of indexing and an answer, and of a second question: at the limit / at the efficiency."""
    again = plan.seconds["choose"] + plan.seconds["prefill"] + plan.work.max_new_tokens * plan.seconds["token"]
    first = again + plan.seconds["encode"]
    return tuple(f"{_short(value)} / {_short(value / efficiency)}" for value in (first, again))  # type: ignore[return-value]


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
