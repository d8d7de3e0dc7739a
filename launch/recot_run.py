"""What launch/train.py and launch/recot_report.py run for the reconstructive stage: clips, start, training, figures.

Source: paper 3.2; docs/recot.md, docs/train_dts.md.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from tqdm import tqdm

from launch.frame_encoder import tower_fingerprint
from launch.run_record import check_record
from vxlpro_jax.checkpoint import save_params
from vxlpro_jax.convert import save_params_as
from vxlpro_jax.data.clip_shards import ClipShards, ClipSource, write_shards
from vxlpro_jax.data.synthetic_bank import GroupBank, build_bank, join_banks, load_bank, save_bank
from vxlpro_jax.data.video_clips import folder_sources
from vxlpro_jax.eval.reconstruction import PCA_ROWS, baseline_errors, heldout_errors
from vxlpro_jax.loading import EMBEDDED, load
from vxlpro_jax.models.recot import ReCoTModel, init_recot
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
    ClipBatch,
    ReCoTRunConfig,
    ReCoTStage,
    clip_features,
    recot_batches,
    recot_loss,
    tower_features,
)
from vxlpro_jax.train.recot_start import start_from_components
from vxlpro_jax.train.run_log import last_logged_step
from vxlpro_jax.train.state import Params, TrainState, join_params, new_state, split_params
from vxlpro_jax.train.step import make_train_step

ENCODE_FRAMES = 256  # that the tower reads at once
EVAL_CLIPS = 128  # held-out clips whose error is measured, at most
PICTURE_EVERY = 4  # of generated clips, one gives a frame that is a picture of its own
HELDOUT = "heldout "
DTS_FOLDER, MODEL_FOLDER, SUMMARY_FILE = "recot", "model", "summary.json"


_features = jax.jit(clip_features, static_argnums=0)


@dataclass
class Clips:
    """The clips of a run: shards, and which are for training and which are held out."""

    config: ReCoTRunConfig
    stage: ReCoTStage
    tower: Params
    shards: ClipShards

    @cached_property
    def is_heldout(self) -> np.ndarray:
        names, every = self.shards.sources, self.config.data.heldout_every
        if self.config.data.source == "generated":
            held = [name.startswith(HELDOUT) for name in names]
        else:
            held = [number % every == every - 1 for number in range(len(names))]
        return np.array(held)[self.shards.source]

    def train_ids(self) -> np.ndarray:
        return np.flatnonzero(~self.is_heldout)

    def heldout_ids(self, most: int) -> np.ndarray:
        """At most so many video clips, spread evenly. Raises ValueError where there is none."""
        chosen = np.flatnonzero(self.is_heldout & ~self.shards.is_image)
        if not len(chosen):
            raise ValueError(
                f"{len(self.shards.sources)} sources give no held-out video clip: give more videos, or hold out more "
                f"often than every {self.config.data.heldout_every}th (config.data.heldout_every)"
            )
        return chosen[np.unique(np.linspace(0, len(chosen) - 1, most).astype(int))]

    def features(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """float32 features of the chosen clips, batch by batch of at most batch_size."""
        for part in np.array_split(chosen, -(-len(chosen) // self.config.batch_size)):
            yield np.asarray(_features(self.stage, {"vision_tower": self.tower}, self.shards.take(part)))

    def sample(self) -> np.ndarray:
        """Features of as many training clips as fitting linear maps takes."""
        ids = self.train_ids()
        ids = ids[~self.shards.is_image[ids]]
        grid = self.stage.model.dts_config.grid_size
        most = max(1, PCA_ROWS // grid**2)
        return np.concatenate(list(self.features(ids[np.unique(np.linspace(0, len(ids) - 1, most).astype(int))])))


def run(config: ReCoTRunConfig, workdir: Path, allow_changes: bool = False) -> dict[str, Any]:
    """Train the stage; returns what workdir/summary.json tells. A killed run goes on where it was, one that is done is
    not done again.

    Raises ValueError or OSError for what cannot work; StoppedError once a run that was asked to stop is saved.
    """
    check_record(config, workdir, allow_changes)
    summary = workdir / SUMMARY_FILE
    if summary.exists() and last_logged_step(workdir) >= config.num_steps:
        return json.loads(summary.read_text(encoding="utf-8"))
    loaded = load(config.tower or None, dtype="float32")
    stage = ReCoTStage(ReCoTModel(config.recot, loaded.config.dts), loaded.config.vision, config.data.feature_dtype)
    tower = loaded.params["vision_tower"]
    clips = prepare_clips(config, stage, tower, workdir / "clips")
    sample = clips.sample()
    params = starting_params(config, stage, loaded.params, sample)
    mesh = make_mesh(config.mesh) if config.mesh else None
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        step = train_step(config, stage, state_layout(config, stage, params, mesh))
        params, figures = train_arm(config, clips, params, step, sample, workdir, mesh)
    save_results(loaded, stage, params, Path(config.tower or EMBEDDED), workdir)
    part = summary.with_suffix(".part")
    part.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    part.replace(summary)
    return figures


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
    clips: Clips,
    params: Params,
    step: Callable,
    sample: np.ndarray,
    workdir: Path,
    mesh: Mesh | None = None,
) -> tuple[Params, dict[str, Any]]:
    """Train from `params`; the trained parameters and how well held-out clips are rebuilt, before and after."""
    stage, mean = clips.stage, sample.mean((0, 1, 2, 3))
    heldout = list(clips.features(clips.heldout_ids(EVAL_CLIPS)))
    group = config.recot.dts_of(stage.model.dts_config).frames_per_group
    measure = heldout_errors(stage.model, mean, config.recot.sgm.video_ratio)
    before = measure(params, heldout)
    state = begin(config, params)
    if layout := state_layout(config, stage, params, mesh):
        state = jax.device_put(state, layout)
    batches = recot_batches(clips.shards, clips.train_ids(), config)
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
        watch=watch,
    )
    after = last.get(config.num_steps) or measure(state.params, heldout)
    baselines = baseline_errors(sample, heldout, group)
    return state.params, {
        "heldout_clips": sum(len(part) for part in heldout),
        "train_clips": len(clips.train_ids()),
        "sources": len(clips.shards.sources),
        "broken": clips.shards.broken,
        "error_before": before,
        "error": after,
        "baselines": baselines,
        "beats_all_baselines": after["whole"] < min(baselines.values()),
    }


def counted_work(stage: ReCoTStage, params: Params) -> Callable[[Sequence[ClipBatch]], dict[str, float]]:
    """(batches) -> clips, frames and operations in them: of loss and gradient, counted once, for all are alike."""
    loss, flops = recot_loss(stage), 0
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    chosen, rest = split_params(abstract, TRAINABLE, ())

    def gradient(chosen: Params, rest: Params, batch: ClipBatch) -> Params:
        return jax.grad(lambda chosen: weighed_mean(loss(join_params(rest, chosen), batch).terms))(chosen)

    def work(batches: Sequence[ClipBatch]) -> dict[str, float]:
        nonlocal flops
        size, time = batches[0].clips.shape[:2]
        flops = flops or count_flops(gradient, chosen, rest, batches[0])
        of_one = {"samples": size, "frames": size * time, "flops": flops}
        return {name: float(len(batches) * number) for name, number in of_one.items()}

    return work


def starting_params(config: ReCoTRunConfig, stage: ReCoTStage, model_params: Params, sample: np.ndarray) -> Params:
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
        params = {**params, "vision_tower": jax.tree.map(jax.numpy.array, model_params["vision_tower"])}
    return params


def prepare_clips(config: ReCoTRunConfig, stage: ReCoTStage, tower: Params, folder: Path) -> Clips:
    """Render or decode what is not there yet, and encode it where features are kept."""
    data, size = config.data, stage.vision.image_size
    if data.source == "generated":
        sources = [
            source
            for heldout in (False, True)
            for source in bank_sources(generated_bank(config, size, folder.parent, heldout), data.shard_clips, heldout)
        ]
        what = {"seed": config.seed, "num_videos": data.num_videos, "num_heldout": data.num_heldout}
    else:
        sources = folder_sources(data.folder, data.clip_frames, data.fps, data.max_frames, size)
        what = {"fps": data.fps, "max_frames": data.max_frames}
    made_by = {"keep": data.keep, "clip_frames": data.clip_frames, "image_size": size, **what}
    if data.keep == "features":
        made_by |= {"tower": tower_fingerprint(stage.vision, tower), "type": data.feature_dtype}
        made_by |= {"grid": stage.model.dts_config.grid_size}
    encode = clip_encoder(stage, tower) if data.keep == "features" else lambda frames: frames
    for _ in tqdm(write_shards(folder, sources, encode, made_by), total=len(sources), desc="clips", unit="source"):
        pass
    return Clips(config, stage, tower, ClipShards(folder, data.clip_frames))


def clip_encoder(stage: ReCoTStage, tower: Params) -> Callable[[np.ndarray], np.ndarray]:
    """frames uint8 [n, t, S, S, 3] -> features [n, t, g, g, E], always the same number of frames at once."""
    encode = jax.jit(lambda tower, frames: tower_features(stage, {"vision_tower": tower}, frames))

    def run(clips: np.ndarray) -> np.ndarray:
        frames = clips.reshape(1, -1, *clips.shape[2:])
        parts = []
        for start in range(0, frames.shape[1], ENCODE_FRAMES):
            part = frames[:, start : start + ENCODE_FRAMES]
            fill = np.repeat(part[:, -1:], ENCODE_FRAMES - part.shape[1], axis=1)
            parts.append(np.asarray(encode(tower, np.concatenate([part, fill], 1)))[0, : part.shape[1]])
        features = np.concatenate(parts)
        return features.reshape(*clips.shape[:2], *features.shape[1:])

    return run


def generated_bank(config: ReCoTRunConfig, image_size: int, folder: Path, heldout: bool) -> GroupBank:
    """The bank to train on, or the held-out one; rendered into `folder` when it is not there yet."""
    data = config.data
    num_videos = data.num_heldout if heldout else data.num_videos
    path = folder / f"{'heldout' if heldout else 'bank'}_{num_videos}x{data.clip_frames}_{config.seed + heldout}.npz"
    if not path.exists():
        args = (config.seed + heldout, num_videos, image_size, data.clip_frames, data.workers)
        folder.mkdir(parents=True, exist_ok=True)
        save_bank(join_banks(list(tqdm(build_bank(*args), total=num_videos, desc=path.stem, unit="video"))), path)
    return load_bank(path)


def bank_sources(bank: GroupBank, shard_clips: int, heldout: bool) -> list[ClipSource]:
    """Clips of the bank, so many per file, and single frames of some of them as pictures."""
    prefix = HELDOUT if heldout else ""
    starts = range(0, len(bank), shard_clips)

    def clips(start: int) -> np.ndarray:
        return bank.frames[start : start + shard_clips]

    def pictures(start: int) -> np.ndarray:
        chosen = clips(start)[::PICTURE_EVERY]
        return chosen[np.arange(len(chosen)), np.arange(len(chosen)) % chosen.shape[1]][:, None]

    videos = [ClipSource(f"{prefix}clips {start}", False, partial(clips, start)) for start in starts]
    if heldout:
        return videos
    return videos + [ClipSource(f"pictures {start}", True, partial(pictures, start)) for start in starts]


def save_results(loaded: Any, stage: ReCoTStage, params: Params, tower_folder: Path, workdir: Path) -> None:
    """workdir/recot: DTS, masker and decoder. workdir/model: the tower's model with the new DTS, for the next stage."""
    part = workdir / f"{DTS_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    save_params(part, {name: params[name] for name in TRAINABLE})
    shutil.rmtree(workdir / DTS_FOLDER, ignore_errors=True)
    part.rename(workdir / DTS_FOLDER)
    model = workdir / MODEL_FOLDER
    shutil.rmtree(model, ignore_errors=True)
    config = replace(loaded.config, dts=stage.model.config.dts_of(stage.model.dts_config))
    save_params_as(model, config, {**loaded.params, "dts": params["dts"]}, "torch", tokenizer_folder=tower_folder)
