"""What launch/train.py and launch/make_tiny.py run: one stage, from its configuration to a trained state in a folder.

Source: ours (docs/tiny.md).
"""

from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from vxlpro_jax.checkpoint import restore_params
from vxlpro_jax.config import TrainConfig
from vxlpro_jax.data.synthetic_bank import GroupBank, build_bank, join_banks, load_bank, save_bank
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params, init_params
from vxlpro_jax.train.loop import CHECKPOINT_FOLDER, run_loop
from vxlpro_jax.train.optimizers import make_optimizer
from vxlpro_jax.train.stages import stage_loss
from vxlpro_jax.train.state import Params, TrainState, new_state
from vxlpro_jax.train.step import make_train_step
from vxlpro_jax.train.vision_feed import labelled_groups, vision_batches
from vxlpro_jax.train.vision_heads import new_heads

EVAL_CHUNK = 64


def run(config: TrainConfig, workdir: Path) -> TrainState:
    """Train the stage; returns its last state, which workdir holds too."""
    if config.preset not in PRESETS:
        raise ValueError(
            f"config.preset={config.preset!r}: one of {', '.join(PRESETS)} is accepted (models/presets.py)."
        )
    model = VideoXLProModel(PRESETS[config.preset])
    params = starting_params(config, model.config)
    optimizer = make_optimizer(config.optimizer, config.stage.num_steps)
    make_batch, evaluate = _vision_stage(config, model, workdir)
    step = make_train_step(stage_loss(config.stage, model), config.stage.trainable, optimizer)
    state = new_state(params, config.stage.trainable, optimizer)
    return run_loop(state, step, make_batch, config.stage.num_steps, config.loop, workdir, evaluate)


def starting_params(config: TrainConfig, sizes: VideoXLProConfig) -> Params:
    """The parameters of config.init_from, or fresh ones; with the auxiliary heads where the stage trains them."""
    key = jax.random.key(config.seed % 2**31)
    if config.init_from:
        params = stage_params(Path(config.init_from), sizes)
    else:
        params = nn.unbox(jax.jit(lambda: init_params(sizes, key))())
    if "heads" in config.stage.trainable:
        params = {**params, "heads": new_heads(jax.random.fold_in(key, 1), sizes.vision.dim)}
    return params


def stage_params(workdir: Path, sizes: VideoXLProConfig) -> Params:
    """The model's parameters of a finished stage, without its auxiliary heads."""
    abstract = {"params": abstract_params(sizes)}
    stored = restore_params(workdir / CHECKPOINT_FOLDER, abstract, partial=True)
    return jax.tree.map(jax.numpy.asarray, stored["params"])


def shared_bank(config: TrainConfig, folder: Path, heldout: bool) -> GroupBank:
    """The bank to train on, or the held-out one; rendered into `folder` when it is not there yet."""
    path = folder / ("heldout.npz" if heldout else "bank.npz")
    if not path.exists():
        sizes = PRESETS[config.preset]
        num_videos = config.vision.num_heldout if heldout else config.vision.num_videos
        seed = config.seed + int(heldout)
        args = (seed, num_videos, sizes.vision.image_size, sizes.dts.frames_per_group, config.vision.workers)
        folder.mkdir(parents=True, exist_ok=True)
        save_bank(join_banks(list(build_bank(*args))), path)
    return load_bank(path)


def _vision_stage(config: TrainConfig, model: VideoXLProModel, workdir: Path) -> tuple[Callable, Callable]:
    bank, heldout = (shared_bank(config, workdir.parent, flag) for flag in (False, True))
    loss = jax.jit(stage_loss(config.stage, model))

    def evaluate(params: Params, step: int) -> dict[str, float]:
        chunks = [np.arange(i, i + EVAL_CHUNK) for i in range(0, len(heldout) - EVAL_CHUNK + 1, EVAL_CHUNK)]
        lines = [loss(params, labelled_groups(heldout, chunk))[1] for chunk in chunks]
        return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}

    return vision_batches(bank, config.seed, config.vision.batch_groups), evaluate
