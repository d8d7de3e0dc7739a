"""What each compression costs: seconds of a training step and of answering, run alternately (the paper's Figure 5).

    python -m bench.compression_speed [--rounds 5] [--picture FILE]

The same frames go through the tower and a DTS of 0 (none), 1 (x2), 2 (x4) or 3 (x8) stages to an LLM that reads the
fewer rows the more frames become one. Every round runs all four, so that a busy machine slows all of them; ratios are
taken within a round. Weights are random, for time does not depend on them. Beside the seconds stand counted operations,
also of the released size. Writes bench/results/compression_speed.json.

Source: paper 4.8 and Figure 5 (x4 against none: training more than 2 times as fast, answering nearly 3 times).
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vxlpro_jax.data.batching import build_rows
from vxlpro_jax.data.conversation import Prompt
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.infer.answer import VideoXLPro
from vxlpro_jax.infer.generate import encode_frames
from vxlpro_jax.infer.kv_cache import allocate
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.part_configs import Compression, with_compression
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params, init_params
from vxlpro_jax.train.flops import count_flops
from vxlpro_jax.train.stages import StageConfig, stage_loss
from vxlpro_jax.train.state import new_state
from vxlpro_jax.train.step import TrainStep, make_train_step
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK, ClipBatch, RowBatch, Selection

RESULTS = Path(__file__).parent / "results" / "compression_speed.json"
COMPRESSIONS = get_args(Compression)
QUESTION, NEW_TOKENS = "Which digit is on the card?", 16
TEXT_LEN, ANSWER_LEN = 40, 8  # of a training row; the embedded model's questions are about as long
OUTER_PARTS = ("projector", "selector", "llm")
ALL_PARTS = ("vision_tower", "dts", *OUTER_PARTS)
WORKS = ("training step", "answer")


@dataclass(frozen=True)
class Size:
    """config: its DTS's number of stages is what is varied. num_frames: of every video. batch_size: videos of a step.
    trained: what the measured step trains. is_measured: False: operations are counted and nothing is run."""

    config: VideoXLProConfig
    num_frames: int
    batch_size: int
    trained: tuple[str, ...]
    is_measured: bool = True


TINY, RELEASED = PRESETS["tiny"], PRESETS["video_xl_pro_3b_paper"]
# Of an answer without compression the encoder has 34 % of the operations, in the released model 27 %.
MID = replace(
    TINY,
    vision=replace(TINY.vision, image_size=112, dim=256, num_layers=5, num_heads=4, mlp_dim=1024),
    dts=replace(TINY.dts, dim=256, grid_size=8),
    projector=replace(TINY.projector, dim=512),
    llm=replace(TINY.llm, dim=512, num_layers=8, num_heads=8, num_kv_heads=2, head_dim=64, mlp_dim=1408),
)
SIZES = {
    "tiny": Size(TINY, 128, 2, OUTER_PARTS),
    "mid": Size(MID, 32, 1, OUTER_PARTS),
    "released": Size(RELEASED, 128, 1, ALL_PARTS, is_measured=False),
}


def compressed(size: Size, compression: str) -> VideoXLProConfig:
    """The size with so many frames to a group, and a context that holds the whole video."""
    config = replace(size.config, dts=with_compression(size.config.dts, compression))
    return replace(config, max_context_len=2 * video_rows(config, size.num_frames) + 1024)


def video_rows(config: VideoXLProConfig, num_frames: int) -> int:
    """Rows that the LLM reads of a video: tokens and stamps."""
    groups = -(-num_frames // config.dts.frames_per_group)
    return groups * (config.tokens_per_group + config.stamps.num_tokens)


def training_batch(config: VideoXLProConfig, num_frames: int, batch_size: int) -> ClipBatch:
    """Random frames with a question and an answer each; nothing is dropped."""
    rng = np.random.default_rng(0)
    side = config.vision.image_size
    ids = np.insert(rng.integers(1, config.llm.vocab_size, TEXT_LEN), TEXT_LEN // 2, VIDEO_MARK).astype(np.int32)
    place = np.arange(len(ids))
    is_answer = place >= len(ids) - ANSWER_LEN
    prompt = Prompt(ids, np.where(is_answer, ids, IGNORE_LABEL).astype(np.int32), (place > TEXT_LEN // 2) & ~is_answer)
    groups = num_frames // config.dts.frames_per_group
    stamps = [rng.integers(1, config.llm.vocab_size, config.stamps.num_tokens).tolist() for _ in range(groups)]
    rows = build_rows(
        [prompt] * batch_size, [[stamps]] * batch_size, config.tokens_per_group, config.selector.selector_query
    )
    length = rows.row_source.shape[1]
    everything = Selection(np.full((batch_size, 1), length, np.int32), np.full(batch_size, length, np.int32))
    return ClipBatch(
        frames=rng.integers(0, 256, (batch_size, num_frames, side, side, 3), np.uint8),
        rows=rows,
        selection=everything,
        relevant=np.zeros((batch_size, groups), bool),
        has_relevant=np.zeros(batch_size, bool),
        valid=np.ones(batch_size, bool),
        sample_ids=np.arange(batch_size, dtype=np.int32),
        width=np.zeros(length, bool),
    )


def training_step(config: VideoXLProConfig, trained: tuple[str, ...]) -> tuple[TrainStep, Callable[[Any], Any]]:
    """The step of the stage `clips`, and what makes its first state of parameters."""
    stage = StageConfig(
        loss="clips",
        trainable=trained,
        num_steps=1,
        group_weight=0.0,
        ranking_weight=0.0,
        ranking_sharpness=1.0,
        stamp_weight=0.0,
    )
    optimizer = optax.adam(1e-5)
    step = make_train_step(stage_loss(stage, VideoXLProModel(config)), trained, optimizer)
    return step, lambda params: new_state(params, trained, optimizer)


class Runner:
    """One compression, ready to be run: compiled by its first call of each work."""

    def __init__(self, size: Size, compression: str):
        self.config = compressed(size, compression)
        params = nn.unbox(jax.jit(init_params, static_argnums=0)(self.config, jax.random.key(0)))
        self.batch = training_batch(self.config, size.num_frames, size.batch_size)
        self.step, start = training_step(self.config, size.trained)
        self.state = start(jax.tree.map(jnp.copy, params))  # a step uses its buffers up
        self.model = VideoXLPro(self.config, params, load_tokenizer(EMBEDDED))
        self.model.token_ids = ()  # random weights say the end at random: every answer has all its tokens
        self.num_rows = 0

    def run(self, work: str) -> float:
        """Seconds of the work, once. Raises RuntimeError where a step was not applied."""
        started = time.perf_counter()
        return (self._train if work == "training step" else self._answer)(started)

    def _train(self, started: float) -> float:
        self.state, metrics = self.step(self.state, [self.batch])
        loss = float(metrics["loss"])
        seconds = time.perf_counter() - started
        if not np.isfinite(loss) or int(metrics["skipped"]):
            raise RuntimeError(f"a loss of {loss}: the step was not applied, its time says nothing")
        return seconds

    def _answer(self, started: float) -> float:
        index = self.model.index(self.batch.frames[0], fps=1.0)
        answer = self.model.ask(index, QUESTION, max_new_tokens=NEW_TOKENS)
        seconds = time.perf_counter() - started
        self.num_rows = answer.num_tokens
        return seconds


def measure(size: Size, rounds: int, note: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """By compression: rows, and for each work seconds and how many times as fast as without compression."""
    runners = {compression: Runner(size, compression) for compression in COMPRESSIONS}
    seconds: dict[str, dict[str, list[float]]] = {work: {name: [] for name in runners} for work in WORKS}
    for number in range(-1, rounds):  # the first round compiles and does not count
        for work in WORKS:
            # Back and forth, so that none always runs right after the longest one.
            for name in COMPRESSIONS if number % 2 else COMPRESSIONS[::-1]:
                took_s = runners[name].run(work)
                if number >= 0:
                    seconds[work][name].append(took_s)
        note(f"round {number + 1} of {rounds}")
    faster = {work: speedups(found) for work, found in seconds.items()}
    return {
        name: {
            "video_rows": video_rows(runner.config, size.num_frames),
            "rows_read_by_an_answer": runner.num_rows,
            **{work: {"seconds": middle(seconds[work][name]), "times_as_fast": faster[work][name]} for work in WORKS},
        }
        for name, runner in runners.items()
    }


def speedups(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """How many times as fast as COMPRESSIONS[0], round by round: median, lowest, highest, all."""
    base = seconds[COMPRESSIONS[0]]
    return {
        name: middle([slow / fast for slow, fast in zip(base, found, strict=True)]) for name, found in seconds.items()
    }


def middle(values: Sequence[float]) -> dict[str, Any]:
    rounded = [round(value, 4) for value in values]
    return {"median": round(statistics.median(values), 4), "low": min(rounded), "high": max(rounded), "rounds": rounded}


def count(size: Size, compression: str) -> dict[str, Any]:
    """Operations of a training step on one video and of an answer."""
    config = compressed(size, compression)
    params = abstract_params(config)
    batch = training_batch(config, size.num_frames, 1)
    counted = {"video_rows": video_rows(config, size.num_frames)}
    step, start = training_step(config, size.trained)
    state, clips = jax.eval_shape(start, params), jax.eval_shape(lambda: batch)
    counted["training step"] = count_flops(lambda state, clips: step(state, [clips]), state, clips)
    model, side, length = VideoXLProModel(config), config.vision.image_size, batch.rows.row_source.shape[1]
    pixels = jax.ShapeDtypeStruct((size.num_frames, side, side, 3), jnp.float32)
    visual = jax.eval_shape(partial(encode_frames, model), params, pixels)

    def read(params: Any, visual: Any, rows: RowBatch, selection: Selection) -> Any:
        def forward(module: VideoXLProModel) -> Any:
            merged, _ = module.merge(visual[None], rows, selection, length)
            cache = allocate(config.llm, 1, length + NEW_TOKENS, model.dtype)
            return module.prefill(merged.embeds, merged.valid, cache)

        return model.apply({"params": params}, method=forward)

    cache = jax.eval_shape(read, params, visual, batch.rows, batch.selection)[1]
    tell = partial(model.apply, method=VideoXLProModel.decode_step)
    ids = jax.ShapeDtypeStruct((1,), jnp.int32)
    parts = {
        "encode": count_flops(partial(encode_frames, model), params, pixels),
        "prefill": count_flops(read, params, visual, batch.rows, batch.selection),
        "decode": (NEW_TOKENS - 1) * count_flops(tell, {"params": params}, ids, cache),
    }
    return {**counted, "answer": sum(parts.values()), "answer_parts": parts}


def counted_ratios(counted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The counts, and for each of them how many times fewer they are than without compression."""
    base = counted[COMPRESSIONS[0]]
    return {
        name: {**found, "times_fewer": {work: round(base[work] / found[work], 3) for work in WORKS}}
        for name, found in counted.items()
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """A panel for each work: how many times as fast, measured (with the rounds' range) and counted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(WORKS), figsize=(9, 3.4), sharey=True)
    places = np.arange(len(COMPRESSIONS))
    for panel, work in zip(panels, WORKS, strict=True):
        for name, size in result["sizes"].items():
            fewer = [size["counted"][compression]["times_fewer"][work] for compression in COMPRESSIONS]
            line = panel.plot(places, fewer, "--", label=f"{name}, operations counted")[0]
            if "measured" in size:
                found = [size["measured"][compression][work]["times_as_fast"] for compression in COMPRESSIONS]
                middles = np.array([one["median"] for one in found])
                ends = np.abs(np.array([[one["low"], one["high"]] for one in found]).T - middles)
                panel.errorbar(places, middles, ends, fmt="o-", capsize=3, color=line.get_color(), label=name)
        panel.set_xticks(places, COMPRESSIONS)
        panel.set_title(work)
        panel.set_ylim(bottom=0)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("times as fast as without compression")
    panels[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Counts, measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="also draw the result into this PNG file")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {
        "command": f"python -m bench.compression_speed --rounds {args.rounds}",
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("jax", "flax", "numpy")}},
        "weights": "random",
        "new_tokens": NEW_TOKENS,
        "load_average_at_start": [round(value, 1) for value in os.getloadavg()],
        "sizes": {},
    }
    for name, size in SIZES.items():
        counted = counted_ratios({compression: count(size, compression) for compression in COMPRESSIONS})
        about = {"num_frames": size.num_frames, "batch_size": size.batch_size, "trained": size.trained}
        result["sizes"][name] = {**about, "counted": counted}
    for name, size in SIZES.items():
        if size.is_measured:
            found = measure(size, args.rounds, lambda said, name=name: print(f"{name}: {said}", flush=True))
            result["sizes"][name]["measured"] = found
        result["load_average_at_end"] = [round(value, 1) for value in os.getloadavg()]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")  # what is measured outlives a run that is stopped
    print(json.dumps(result, indent=1))
    if args.picture:
        draw(result, args.picture)


if __name__ == "__main__":
    main()
