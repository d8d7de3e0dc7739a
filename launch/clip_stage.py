"""A stage on videos and pictures (align, sft): from its configuration to a trained model in a folder.

Source: ours (docs/training.md); paper 4.2.
"""

import contextlib
import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from tqdm import tqdm

from launch.data_settings import shape_of
from launch.heldout_answers import answer_records, draw_records
from launch.run_record import check_room
from launch.starting_point import save_model, starting_params, tell
from vxlpro_jax.checkpoint import has_state
from vxlpro_jax.config import TrainConfig
from vxlpro_jax.convert import save_params_as
from vxlpro_jax.data.pipeline import DataFeed, open_feed
from vxlpro_jax.data.tokenizer import (
    TextTokenizer,
    build_tiny_tokenizer,
    load_tokenizer,
    released_ids,
    save_tiny_tokenizer,
)
from vxlpro_jax.models.kernel_check import usable_kind
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params, init_params
from vxlpro_jax.parallel.axes import FSDP_TENSOR, UNSHARDED
from vxlpro_jax.parallel.mesh import make_mesh, peak_flops
from vxlpro_jax.parallel.sharding import layouts_like, param_shardings, place_batch
from vxlpro_jax.train.flops import count_flops
from vxlpro_jax.train.loop import CHECKPOINT_FOLDER, LoopConfig, Watch, run_loop
from vxlpro_jax.train.lora import add_lora, lora_parts, merge_lora
from vxlpro_jax.train.losses import weighed_mean
from vxlpro_jax.train.optimizers import make_optimizer, rate_schedule, rates_by_part
from vxlpro_jax.train.stages import stage_loss
from vxlpro_jax.train.state import Params, TrainState, join_params, new_state, split_params
from vxlpro_jax.train.step import make_check, make_train_step
from vxlpro_jax.types import ClipBatch

EXPORT_FOLDER = "export"


def run(config: TrainConfig, sizes: VideoXLProConfig, workdir: Path) -> None:
    """Train and write workdir/model (and workdir/export in the released layout, where config.export says so).

    Raises ValueError, OSError and BrokenDataError for what cannot work; data is looked at before weights are read.
    """
    stage, started = config.stage, time.perf_counter()
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else TextTokenizer(build_tiny_tokenizer())
    process = (jax.process_index(), jax.process_count())
    shape = shape_of(training_sizes(config, sizes))
    mesh = make_mesh(config.mesh) if config.mesh else None
    with contextlib.ExitStack() as open_things:
        feeds = [
            open_things.enter_context(
                open_feed(data, shape, tokenizer.encode, config.seed, workdir / "data" / name, process)
            )
            for name, data in config.data.items()
        ]
        feed = feeds[list(config.data).index("train")]
        num_steps = stage.num_steps or max(1, feed.num_steps(stage.epochs) // stage.micro_batches)
        rate_schedule(config.optimizer, num_steps)
        open_things.enter_context(jax.set_mesh(mesh) if mesh else contextlib.nullcontext())
        model, state, trainable = first_state(config, sizes, mesh, num_steps, workdir)
        check_room(workdir, checkpoint_bytes(state, config.loop))
        loss = stage_loss(stage, model)
        optimizer = make_optimizer(config.optimizer, num_steps)
        step = make_train_step(loss, trainable, optimizer, stage.frozen, state_layout(state, sizes, mesh))
        work = CountedWork(config, model, trainable, state)
        evaluate = make_evaluation(config, sizes, tokenizer, loss, feeds, mesh)
        ready_s = time.perf_counter() - started
        tqdm.write(f"{num_steps} steps of {stage.micro_batches} micro-batches each; ready after {ready_s:.0f} s")
        state = run_loop(
            *(state, step, batches_of(feed, mesh, work), num_steps, config.loop, workdir, evaluate),
            micro_batches=stage.micro_batches,
            watch=Watch(
                rates=lambda updates: rates_by_part(config.optimizer, num_steps, updates),
                work=work.of_step,
                # The work of this process is counted, so its devices are.
                peak_flops=peak_flops(len(mesh.local_devices) if mesh else 1),
                name_sample=lambda number: ":".join(map(str, feed.mixture.place(number))),
                counts=lambda: {"rounds_dropped": feed.rounds_dropped},
            ),
        )
    params = merge_lora(state.params)
    if config.export:
        export(params, sizes, config.tokenizer, workdir)
    save_model(params, workdir)


def training_sizes(config: TrainConfig, sizes: VideoXLProConfig) -> VideoXLProConfig:
    """The model as it is trained: with the stage's own rule of selection, where it has one."""
    if not config.stage.selection:
        return sizes
    return dataclasses.replace(sizes, selector=dataclasses.replace(sizes.selector, selection=config.stage.selection))


def stage_model(config: TrainConfig, sizes: VideoXLProConfig, sharded: bool) -> VideoXLProModel:
    """The Linen module of a stage. On an accelerator its kernels are tried first (models/kernel_check.py)."""
    rules, stage, attention = FSDP_TENSOR if sharded else UNSHARDED, config.stage, config.stage.attention
    if jax.default_backend() != "cpu":
        attention = usable_kind(attention, sizes, stage.dtype, training=True)
    dtype = jnp.dtype(stage.dtype)
    return VideoXLProModel(training_sizes(config, sizes), rules, dtype, stage.remat, attention=attention)


def trained_parts(config: TrainConfig, params: Params) -> tuple[str, ...]:
    """Parts that get a gradient: with LoRA its additions stand for the LLM."""
    if not config.lora.rank:
        return config.stage.trainable
    others = tuple(part for part in config.stage.trainable if part != "llm" and not part.startswith("llm/"))
    return (*others, *lora_parts(params))


def first_state(
    config: TrainConfig, sizes: VideoXLProConfig, mesh: Mesh | None, num_steps: int, workdir: Path
) -> tuple[VideoXLProModel, TrainState, tuple[str, ...]]:
    """The state at step 0, laid out over the mesh. Where workdir holds a later one, weights are not read: they would
    be thrown away."""
    if has_state(workdir / CHECKPOINT_FOLDER):
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), abstract_params(sizes))
    else:
        params, origins = starting_params(config, sizes)
        tqdm.write(tell(origins, workdir))
    if config.lora.rank:
        params = add_lora(params, config.lora, jax.random.key((config.seed + 1) % 2**31))
    trainable = trained_parts(config, params)
    chosen, rest = split_params(params, trainable, config.stage.frozen)
    params = join_params(chosen, {path: leaf.astype(config.stage.frozen_dtype) for path, leaf in rest.items()})
    optimizer = make_optimizer(config.optimizer, num_steps)

    def begin(params: Params) -> TrainState:
        return new_state(params, trainable, optimizer, config.stage.frozen, config.seed)

    model = stage_model(config, sizes, mesh is not None)
    if mesh is None:
        return model, begin(params), trainable
    layout = state_layout(jax.eval_shape(begin, params), sizes, mesh)
    params = jax.device_put(params, layout.params)
    return model, jax.jit(begin, out_shardings=layout)(params), trainable


def state_layout(state: Any, sizes: VideoXLProConfig, mesh: Mesh | None) -> Any:
    """Shardings of a state; None without a mesh."""
    if mesh is None:
        return None
    boxed = jax.eval_shape(lambda: init_params(sizes, jax.random.key(0)))
    return layouts_like(state, flatten_dict(param_shardings(boxed, mesh, FSDP_TENSOR), sep="/"), mesh)


def checkpoint_bytes(state: TrainState, loop: LoopConfig) -> int:
    """What a run's checkpoints take at most, with the one that is being written."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * (loop.keep_last + loop.keep_best + 1)


def tokens_read(batch: ClipBatch, sizes: VideoXLProConfig) -> int:
    """Tokens of text, stamps and videos that the LLM reads of a batch, after selection. Under a budget as many as it
    has room for: a group's stamp that no longer fits may leave a few less."""
    rows, selection = batch.rows, batch.selection
    assert rows is not None and selection is not None and batch.width is not None
    media = np.arange(selection.num_keep.shape[1])
    visual = (rows.video_of_group[:, :, None] == media).sum(1) * sizes.tokens_per_group  # [B, videos]
    video_rows = visual.sum(1) + rows.stamp_mask.sum((1, 2))
    if sizes.selector.selection == "keep_rate":
        dropped = np.maximum(visual - selection.num_keep, 0).sum(1)
    else:
        dropped = np.maximum(video_rows - selection.budget, 0)
    return int(np.minimum((rows.row_source >= 0).sum(1) - dropped, batch.width.shape[0]).sum())


class CountedWork:
    """Samples, frames, tokens and operations of the micro-batches, counted while they are made."""

    def __init__(self, config: TrainConfig, model: VideoXLProModel, trainable: tuple[str, ...], state: TrainState):
        plain = dataclasses.replace(config.stage, remat=False, encode_groups=0, loss_chunk=0)
        self._loss = stage_loss(plain, model.clone(remat=False))
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
        self._chosen, self._rest = split_params(abstract, trainable, config.stage.frozen)
        self._sizes = model.config
        self._flops: dict[Any, int] = {}
        self._made: deque[dict[str, float]] = deque()

    def add(self, batch: ClipBatch) -> None:
        """Count a batch of host arrays."""
        rows = batch.rows
        assert rows is not None and batch.width is not None  # "clips" without prompts was refused
        real_groups = int((rows.video_of_group >= 0).sum())
        shape = (batch.frames.shape, rows.row_source.shape, rows.text_ids.shape, batch.width.shape)
        if shape not in self._flops:
            self._flops[shape] = self._count(batch)
        self._made.append(
            {
                "samples": float(batch.valid.sum()),
                "frames": float(real_groups * self._sizes.dts.frames_per_group),
                "tokens": float(tokens_read(batch, self._sizes)),
                "flops": float(self._flops[shape]),
            }
        )

    def of_step(self, batches: Sequence[Any]) -> dict[str, float]:
        """What the next micro-batches held."""
        lines = [self._made.popleft() for _ in batches]
        return {name: sum(line[name] for line in lines) for name in lines[0]}

    def _count(self, batch: ClipBatch) -> int:
        """Operations of loss and gradient, without what is computed again to save memory."""
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)

        def gradient(chosen, rest, batch):
            def objective(chosen):
                return weighed_mean(self._loss(join_params(rest, chosen), batch, jax.random.key(0)).terms)

            return jax.grad(objective)(chosen)

        return count_flops(gradient, self._chosen, self._rest, abstract)


def batches_of(feed: DataFeed, mesh: Mesh | None, work: CountedWork) -> Callable[[int], ClipBatch]:
    """number -> that micro-batch, on the devices."""

    def make(number: int) -> ClipBatch:
        batch = feed(number)
        work.add(batch)
        return place_batch(batch, mesh, FSDP_TENSOR)

    return make


def make_evaluation(
    config: TrainConfig, sizes: VideoXLProConfig, tokenizer: TextTokenizer, loss: Any, feeds: list[DataFeed], mesh: Any
) -> Callable[[Params, int], dict[str, Any]]:
    """(params, step) -> losses on held-out batches, the share of right answers to held-out questions, and the answers
    beside the truth."""
    names = list(config.data)
    if "heldout" not in names:
        return lambda params, step: {}
    feed, told = feeds[names.index("heldout")], config.heldout
    batches = [place_batch(feed(number), mesh, FSDP_TENSOR) for number in range(told.num_batches)]
    feed.close()
    check = make_check(loss)
    records = draw_records(feed.mixture, feed.plan.sizes.is_usable, told.num_answers, config.seed)

    def evaluate(params: Params, step: int) -> dict[str, Any]:
        found: dict[str, Any] = check(params, batches) if batches else {}
        if records:
            found |= answer_records(sizes, merge_lora(params), tokenizer, config.stage.dtype, records, told)
        return found

    return evaluate


def export(params: Params, sizes: VideoXLProConfig, tokenizer: str, workdir: Path) -> None:
    """Write workdir/export: the released PyTorch layout in bfloat16, with the tokenizer, ready for vxlpro_jax.load."""
    folder, out = Path(tokenizer), workdir / EXPORT_FOLDER
    released: dict[str, Any] = {}
    if not tokenizer:
        folder = workdir / "tokenizer"
        released = released_ids(save_tiny_tokenizer(folder))
    shutil.rmtree(out, ignore_errors=True)
    host = jax.tree.map(np.asarray, params)
    save_params_as(out, sizes, host, "torch", tokenizer_folder=folder, released=released, dtype="bfloat16")
