"""What launch/train.py and launch/make_tiny.py run: one stage, from its configuration to a trained state in a folder.

Source: ours (docs/tiny.md).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from launch import clip_stage
from launch.clip_stage import checkpoint_bytes
from launch.rendered_banks import BankKey, rendered_bank
from launch.run_record import check_record, check_room
from launch.starting_point import MODEL_FOLDER, Origin, check_sources, save_model, sources_of, starting_params, tell
from launch.whole_file import written_whole
from vxlpro_jax.checkpoint import restore_params
from vxlpro_jax.config import FRESH, TrainConfig, check
from vxlpro_jax.data.synthetic_bank import GroupBank, take, texture_video
from vxlpro_jax.data.synthetic_guess import GuessRows, blank_video, shuffled_video
from vxlpro_jax.data.synthetic_rows import BankIndex
from vxlpro_jax.data.synthetic_words import group_words
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import VideoXLProModel, abstract_params
from vxlpro_jax.train.answer_feed import AnswerFeed, mark_batches
from vxlpro_jax.train.loop import Watch, run_loop
from vxlpro_jax.train.optimizers import make_optimizer, rates_by_part
from vxlpro_jax.train.run_log import last_logged_step
from vxlpro_jax.train.stages import answer_check, stage_loss
from vxlpro_jax.train.state import Params, new_state
from vxlpro_jax.train.step import make_check, make_train_step
from vxlpro_jax.train.vision_feed import (
    encode_bank,
    frame_batches,
    group_batches,
    labelled,
    whitened_patches,
    with_fitted_projector,
    with_unit_features,
)
from vxlpro_jax.train.vision_heads import new_heads

# Frames whose patches are whitened, and the variance (pixels in [-1, 1]) below which a component counts as noise.
WHITENING_FRAMES, WHITENING_FLOOR = 4000, 0.004
EVAL_CHUNK, EVAL_ROWS = 64, 384
NUM_BLANK_VIDEOS = 4
UNLABELLED = {"shuffled": shuffled_video, "blank": blank_video, "texture": texture_video}  # other kinds of banks


def run(config: TrainConfig, workdir: Path, allow_changes: bool = False) -> None:
    """Train the stage and write its model to workdir/model; a stage that is done is not done again.

    Raises ValueError or OSError for what cannot work, before anything is loaded where that can be known before;
    StoppedError once a run that was asked to stop is saved.
    """
    sizes = check(config)
    check_sources(config, sizes)
    check_record(config, workdir, allow_changes)
    # Whole epochs are as many steps as the data makes of them: with the same configuration they are done.
    is_all = not allow_changes if config.stage.num_steps == 0 else last_logged_step(workdir) >= config.stage.num_steps
    if is_all and (workdir / MODEL_FOLDER).exists():
        return
    if config.stage.loss == "clips":
        clip_stage.run(config, sizes, workdir)
        return
    model = VideoXLProModel(sizes)
    params, origins = first_params(config, sizes, workdir)
    tqdm.write(tell(origins, workdir))
    optimizer = make_optimizer(config.optimizer, config.stage.num_steps)
    stage = _answer_stage if config.stage.loss in ("words", "answers") else _vision_stage
    make_batch, evaluate = stage(config, model, params, workdir)
    loss, trainable, frozen = stage_loss(config.stage, model), config.stage.trainable, config.stage.frozen
    step = make_train_step(loss, trainable, optimizer, frozen)
    state = new_state(params, trainable, optimizer, frozen, config.seed)
    check_room(workdir, checkpoint_bytes(state, config.loop))
    watch = Watch(rates=lambda updates: rates_by_part(config.optimizer, config.stage.num_steps, updates))
    state = run_loop(
        *(state, step, make_batch, config.stage.num_steps, config.loop, workdir, evaluate),
        micro_batches=config.stage.micro_batches,
        watch=watch,
    )
    params = state.params
    if config.stage.loss == "groups":
        params = with_unit_features(model, params, shared_bank(config, workdir.parent, heldout=True), EVAL_ROWS)
    save_model(params, workdir)


def first_params(config: TrainConfig, sizes: VideoXLProConfig, workdir: Path) -> tuple[Params, list[Origin]]:
    """Every module from its source; a fresh tower sees its patches whitened, a fresh projector fits the DTS's outputs,
    and auxiliary heads come along."""
    params, origins = starting_params(config, sizes)
    if sources_of(config)["vision_tower"] == FRESH:
        bank = shared_bank(config, workdir.parent, heldout=False)
        patches = whitened_patches(bank, sizes.vision.patch_size, sizes.vision.dim, WHITENING_FRAMES, WHITENING_FLOOR)
        params["vision_tower"]["patch_embedding"] = jax.tree.map(jax.numpy.asarray, patches)
    if config.stage.loss == "answers" and sources_of(config)["projector"] == FRESH:
        bank = shared_bank(config, workdir.parent, heldout=True)
        params = with_fitted_projector(VideoXLProModel(sizes), params, bank, EVAL_ROWS)
    if "heads" in config.stage.trainable:
        key = jax.random.fold_in(jax.random.key(config.seed % 2**31), 1)
        params = {**params, "heads": new_heads(key, sizes.vision.dim)}
    return params, origins


def stage_params(workdir: Path, sizes: VideoXLProConfig) -> Params:
    """The model's parameters of a finished stage."""
    return jax.tree.map(jax.numpy.asarray, restore_params(workdir / MODEL_FOLDER, abstract_params(sizes)))


def bank_key(config: TrainConfig, heldout: bool) -> BankKey:
    """Names the bank that a stage trains on, or the held-out one."""
    sizes, vision = PRESETS[config.preset], config.vision
    num_videos = vision.num_heldout if heldout else vision.num_videos
    frames = vision.bank_frames or sizes.dts.frames_per_group
    return BankKey("bank", vision.seed + heldout, num_videos, sizes.vision.image_size, frames)


def shared_bank(config: TrainConfig, folder: Path, heldout: bool) -> GroupBank:
    """The bank to train on, or the held-out one."""
    return rendered_bank(bank_key(config, heldout), folder, config.vision.workers)


def guess_keys(config: TrainConfig) -> tuple[BankKey, BankKey]:
    """Names the banks of videos that can only be guessed at: with shuffled frames, and blank ones."""
    key = bank_key(config, heldout=False)
    return (
        key._replace(kind="shuffled", num_videos=config.vision.num_shuffled),
        key._replace(kind="blank", num_videos=NUM_BLANK_VIDEOS),
    )


def texture_keys(config: TrainConfig) -> list[BankKey]:
    """Names the bank of textures alone, where there is one."""
    num_videos = config.vision.num_textures
    return [bank_key(config, heldout=False)._replace(kind="texture", num_videos=num_videos)] if num_videos else []


def bank_features(model: VideoXLProModel, params: Params, key: BankKey, folder: Path, workers: int) -> np.ndarray:
    """DTS outputs of a bank, kept beside it for the next stage under a name that tells tower and DTS."""
    digest = hashlib.sha256(repr((model.config.vision, model.config.dts)).encode())
    for leaf in jax.tree.leaves([params["vision_tower"], params["dts"]]):
        digest.update(np.asarray(leaf).tobytes())
    path = folder / f"{key.name}_{digest.hexdigest()[:12]}.npy"
    if not path.exists():
        bank = rendered_bank(key, folder, workers, UNLABELLED.get(key.kind))
        with written_whole(path) as part:
            np.save(part, encode_bank(model, params, bank, EVAL_CHUNK))
    return np.load(path)


def _vision_stage(
    config: TrainConfig, model: VideoXLProModel, params: Params, workdir: Path
) -> tuple[Callable, Callable]:
    bank, heldout = (shared_bank(config, workdir.parent, flag) for flag in (False, True))
    check = make_check(stage_loss(config.stage, model))

    def evaluate(params: Params, step: int) -> dict[str, float]:
        chunks = [np.arange(i, i + EVAL_CHUNK) for i in range(0, len(heldout) - EVAL_CHUNK + 1, EVAL_CHUNK)]
        return check(params, [labelled(take(heldout, chunk)) for chunk in chunks])

    if config.stage.loss == "frames":
        return frame_batches(bank, config.seed, config.vision.batch_frames, config.vision.painted), evaluate
    return group_batches(bank, config.seed, config.vision.batch_groups, config.vision.painted), evaluate


def _answer_stage(
    config: TrainConfig, model: VideoXLProModel, params: Params, workdir: Path
) -> tuple[Callable, Callable]:
    tokenizer = TextTokenizer(build_tiny_tokenizer())
    bank, heldout = (shared_bank(config, workdir.parent, flag) for flag in (False, True))
    index, guess_rows = BankIndex(bank), None
    if config.stage.loss == "words":
        features, held_features = (group_words(groups, tokenizer.encode)[:, None] for groups in (bank, heldout))
    else:
        keys = (bank_key(config, True), bank_key(config, False), *guess_keys(config), *texture_keys(config))
        held_features, *train = (
            bank_features(model, params, key, workdir.parent, config.vision.workers) for key in keys
        )
        features, num_guessed = np.concatenate(train), sum(map(len, train[1:3]))
        index = BankIndex(bank, textures=range(len(bank) + num_guessed, len(features)))
        guesses = config.vision.seed, config.vision.num_shuffled, num_guessed
        guess_rows = GuessRows(index, *guesses, offset=len(bank))
    feed = AnswerFeed(features, index, tokenizer, model.config, guess_rows)
    held_feed = AnswerFeed(held_features, BankIndex(heldout), tokenizer, model.config)
    check = jax.jit(answer_check(config.stage, model))
    rng = np.random.default_rng(config.seed + 1)
    held = {
        name: [held_feed.draw(rng, mix) for _ in range(max(1, EVAL_ROWS // mix.batch_size))]
        for name, mix in config.rows.items()
    }

    def evaluate(params: Params, step: int) -> dict[str, float]:
        marks = {name: mark_batches(lambda batch: check(params, batch), batches) for name, batches in held.items()}
        return {f"{name}_{key}": round(value, 4) for name, found in marks.items() for key, value in found.items()}

    return feed.batches(config.rows, config.seed), evaluate
