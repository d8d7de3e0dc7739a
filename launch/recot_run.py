"""What launch/train.py and launch/recot_report.py run for the reconstructive stage: start, training, figures.

Source: paper 3.2; docs/recot.md, docs/train_dts.md.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from tqdm import tqdm

from launch.clip_stage import EXPORT_FOLDER, checkpoint_bytes
from launch.recot_clips import FedClips, ShardedClips, open_clips
from launch.run_record import check_record, check_room
from launch.starting_point import Origin, origin_of, save_model, tell
from launch.whole_file import write_whole
from vxlpro_jax.config import FRESH
from vxlpro_jax.convert import resolve_source, save_params_as
from vxlpro_jax.data.video_clips import folder_sources
from vxlpro_jax.eval.reconstruction import baseline_errors, heldout_errors
from vxlpro_jax.loading import EMBEDDED, load
from vxlpro_jax.models.recot import init_recot
from vxlpro_jax.models.siglip import SiglipTower
from vxlpro_jax.parallel.axes import FSDP_TENSOR
from vxlpro_jax.parallel.mesh import make_mesh, peak_flops
from vxlpro_jax.parallel.sharding import layouts_like, param_shardings, place_batch
from vxlpro_jax.train.flops import count_flops
from vxlpro_jax.train.loop import Watch, run_loop
from vxlpro_jax.train.losses import weighed_mean
from vxlpro_jax.train.optimizers import make_optimizer, rates_by_part
from vxlpro_jax.train.recot_stage import (
    TRAINABLE,
    ClipDataConfig,
    ReCoTBatch,
    ReCoTRunConfig,
    ReCoTStage,
    recot_loss,
)
from vxlpro_jax.train.recot_start import start_from_components
from vxlpro_jax.train.run_log import last_logged_step
from vxlpro_jax.train.state import Params, TrainState, join_params, new_state, split_params
from vxlpro_jax.train.step import make_train_step

EVAL_CLIPS = 128  # held-out clips whose error is measured, at most
SUMMARY_FILE = "summary.json"


def run(config: ReCoTRunConfig, workdir: Path, allow_changes: bool = False) -> dict[str, Any]:
    """Train the stage; returns what workdir/summary.json tells. A killed run goes on where it was, one that is done is
    not done again.

    Raises ValueError or OSError for what cannot work; StoppedError once a run that was asked to stop is saved.
    """
    check_record(config, workdir, allow_changes)
    summary = workdir / SUMMARY_FILE
    if summary.exists() and last_logged_step(workdir) >= config.num_steps:
        return json.loads(summary.read_text(encoding="utf-8"))
    if config.data.source == "folder":
        check_folder(config.data)
    tower_folder = resolve_source(config.tower) if config.tower else EMBEDDED
    loaded = load(tower_folder, dtype="float32")
    stage = ReCoTStage.of(config, loaded.config.vision, loaded.config.dts)
    tower = loaded.params["vision_tower"]
    with contextlib.ExitStack() as open_things:
        clips = open_things.enter_context(open_clips(config, loaded.config, stage, tower, workdir))
        sample = clips.sample()
        params = recot_params(config, stage, loaded.params, sample)
        tqdm.write(tell(origins(config, tower_folder, {**params, "vision_tower": tower}), workdir))
        mesh = make_mesh(config.mesh) if config.mesh else None
        open_things.enter_context(jax.set_mesh(mesh) if mesh else contextlib.nullcontext())
        step = train_step(config, stage, state_layout(config, stage, params, mesh))
        params, figures = train_arm(config, clips, params, step, sample, workdir, mesh)
    save_results(loaded, stage, params, tower_folder, workdir)
    write_whole(summary, json.dumps(figures, indent=2) + "\n")
    return figures


def origins(config: ReCoTRunConfig, tower_folder: Path, params: Params) -> list[Origin]:
    """Where every part starts from."""
    linear = ("components", "principal components of the training clips")
    starts = {
        "components": {"dts": linear, "decoder": linear},
        "model": {"dts": ("checkpoint", str(tower_folder))},
        "random": {},
    }[config.start] | {"vision_tower": ("checkpoint", str(tower_folder))}
    parts = ("vision_tower", *TRAINABLE)
    return [
        origin_of(name, *starts.get(name, (FRESH, FRESH)), params[name], trained=float(name in TRAINABLE))
        for name in parts
    ]


def check_folder(data: ClipDataConfig) -> None:
    """Raises ValueError for a folder of which nothing could be trained on or held out; opens no file."""
    if not data.folder:
        raise ValueError("config.data.folder='': the folder of your videos and pictures is wanted")
    num_files = len(folder_sources(data.folder, data.clip_frames, data.fps, data.max_frames, 0))
    if num_files < max(2, data.heldout_every):
        raise ValueError(
            f"config.data.folder={data.folder!r}: {num_files} videos and pictures, of which every "
            f"{data.heldout_every}th is held out (config.data.heldout_every): more of them, or a lower number from 2 on"
        )


def train_step(config: ReCoTRunConfig, stage: ReCoTStage, layout: Any = None) -> Callable:
    """The compiled update, over a mesh where there is a layout; arms that differ in their seed alone may share it."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    model = stage.model.clone(rules=FSDP_TENSOR) if layout else stage.model
    return make_train_step(recot_loss(stage._replace(model=model)), TRAINABLE, optimizer, shardings=layout)


def begin(config: ReCoTRunConfig, params: Params) -> TrainState:
    """The state at step 0."""
    return new_state(params, TRAINABLE, make_optimizer(config.optimizer, config.num_steps), seed=config.seed)


def state_layout(config: ReCoTRunConfig, stage: ReCoTStage, params: Params, mesh: Mesh | None) -> Any:
    """Shardings of the state; None without a mesh."""
    if mesh is None:
        return None
    vision = stage.vision
    pixels = jax.ShapeDtypeStruct((1, vision.image_size, vision.image_size, 3), jax.numpy.float32)
    boxed = jax.eval_shape(lambda key: init_recot(stage.model.config, stage.model.dts_config, key), jax.random.key(0))
    tower = jax.eval_shape(SiglipTower(vision).init, jax.random.key(0), pixels)["params"]
    named = flatten_dict(param_shardings({**boxed, "vision_tower": tower}, mesh, FSDP_TENSOR), sep="/")
    return layouts_like(jax.eval_shape(partial(begin, config), params), named, mesh)


def train_arm(
    config: ReCoTRunConfig,
    clips: ShardedClips | FedClips,
    params: Params,
    step: Callable,
    sample: np.ndarray,
    workdir: Path,
    mesh: Mesh | None = None,
) -> tuple[Params, dict[str, Any]]:
    """Train from `params`; the trained parameters and how well held-out clips are rebuilt, before and after."""
    stage, mean = clips.stage, sample.mean((0, 1, 2, 3))
    heldout = clips.heldout(EVAL_CLIPS)
    group = config.recot.dts_of(stage.model.dts_config).frames_per_group
    measure = heldout_errors(stage.model, mean, config.recot.sgm.video_ratio)
    before = measure(params, heldout)
    state = begin(config, params)
    if layout := state_layout(config, stage, params, mesh):
        state = jax.device_put(state, layout)
    check_room(workdir, checkpoint_bytes(state, config.loop))
    batches = clips.batches()
    last: dict[int, dict[str, float]] = {}

    def evaluate(params: Params, done: int) -> dict[str, float]:
        last[done] = measure(params, heldout)
        return last[done]

    watch = Watch(
        rates=lambda updates: rates_by_part(config.optimizer, config.num_steps, updates),
        work=counted_work(stage, params),
        peak_flops=peak_flops(mesh.size if mesh else 1),
    )
    state = run_loop(
        *(state, step, lambda number: place_batch(batches(number), mesh, FSDP_TENSOR)),
        *(config.num_steps, config.loop, workdir, evaluate),
        micro_batches=config.micro_batches,
        watch=watch,
    )
    after = last.get(config.num_steps) or measure(state.params, heldout)
    baselines = baseline_errors(sample, heldout, group)
    return state.params, {
        "heldout_clips": sum(len(part) for part in heldout),
        **clips.told(),
        "error_before": before,
        "error": after,
        "baselines": baselines,
        "beats_all_baselines": after["whole"] < min(baselines.values()),
    }


def counted_work(stage: ReCoTStage, params: Params) -> Callable[[Sequence[ReCoTBatch]], dict[str, float]]:
    """(batches) -> clips, frames and operations in them: of loss and gradient, counted once, for all are alike."""
    loss, flops = recot_loss(stage), 0
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    chosen, rest = split_params(abstract, TRAINABLE, ())

    def gradient(chosen: Params, rest: Params, batch: ReCoTBatch) -> Params:
        return jax.grad(lambda chosen: weighed_mean(loss(join_params(rest, chosen), batch).terms))(chosen)

    def work(batches: Sequence[ReCoTBatch]) -> dict[str, float]:
        nonlocal flops
        size, time = batches[0].clips.shape[:2]
        flops = flops or count_flops(gradient, chosen, rest, batches[0])
        of_one = {"samples": size, "frames": size * time, "flops": flops}
        return {name: float(len(batches) * number) for name, number in of_one.items()}

    return work


def recot_params(config: ReCoTRunConfig, stage: ReCoTStage, model_params: Params, sample: np.ndarray) -> Params:
    """Parameters to start from (ReCoTRunConfig.start), with the frozen tower where steps run it."""
    recot, dts = config.recot, stage.model.dts_config
    params = nn.unbox(jax.jit(lambda key: init_recot(recot, dts, key))(jax.random.key(config.seed % 2**31)))
    if config.start == "components":
        params = start_from_components(params, sample, recot.dts_of(dts))
    elif config.start == "model":
        if recot.dts_of(dts) != dts:
            raise ValueError(
                f"config.start='model': the model's DTS is {dts}, the stage's {recot.dts_of(dts)}: set config.recot."
                "compression, frame_packing and relative_term to the model's, or start from 'components' or 'random'"
            )
        params = {**params, "dts": jax.tree.map(jax.numpy.array, model_params["dts"])}
    if config.data.keep == "frames":
        held = partial(jax.numpy.array, dtype=stage.model.dtype)
        params = {**params, "vision_tower": jax.tree.map(held, model_params["vision_tower"])}
    return params


def save_results(loaded: Any, stage: ReCoTStage, params: Params, tower_folder: Path, workdir: Path) -> None:
    """workdir/export: the tower's model with the new DTS, in the released layout. workdir/model: DTS, masker and
    decoder, from which the next stage takes its DTS."""
    out = workdir / EXPORT_FOLDER
    shutil.rmtree(out, ignore_errors=True)
    config = replace(loaded.config, dts=stage.model.config.dts_of(stage.model.dts_config))
    save_params_as(out, config, {**loaded.params, "dts": params["dts"]}, "torch", tokenizer_folder=tower_folder)
    save_model({name: params[name] for name in TRAINABLE}, workdir)
