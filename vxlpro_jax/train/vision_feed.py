"""Batches of labelled groups for the vision stage, and how the bank is turned into cached features.

Source: ours (docs/tiny.md).
"""

from collections.abc import Callable

import jax
import numpy as np

from vxlpro_jax.data.image_transforms import to_pixels
from vxlpro_jax.data.synthetic_bank import KINDS, MIN_FRAMES_OF_MOTION, GroupBank, repaint, take, take_frames
from vxlpro_jax.models.video_xl_pro import VideoXLProModel
from vxlpro_jax.train.stages import VisionBatch, dts_features
from vxlpro_jax.train.state import Params

PLACES = ("column", "row")


# Kinds in a batch, in the order of synthetic_bank.KINDS. Ten digits need more examples than six shapes; with few
# movers the direction stays at chance for hundreds of steps.
FRAME_SHARES = (0.10, 0.28, 0.42, 0.17, 0.03)
GROUP_SHARES = (0.10, 0.20, 0.31, 0.36, 0.03)


def frame_batches(bank: GroupBank, seed: int, batch_frames: int, painted: float) -> Callable[[int], VisionBatch]:
    """step -> single frames [N, 1, S, S, 3] of random groups, each a frame that shows the group's event; pixels varied.

    painted: share of groups whose event is painted anew, see synthetic_bank.repaint.
    """
    by_kind = [np.flatnonzero(bank.kind == kind) for kind in range(len(KINDS))]

    def make(step: int) -> VisionBatch:
        rng = np.random.default_rng([seed, step])
        chosen = _draw(rng, by_kind, FRAME_SHARES, batch_frames)
        frame = (rng.random((batch_frames, bank.shown.shape[1])) + bank.shown[chosen]).argmax(1)
        groups = take_frames(bank, chosen, frame)
        repaint(rng, groups, bank, by_kind[0], painted)
        return labelled(groups, rng)

    return make


def group_batches(bank: GroupBank, seed: int, batch_groups: int, painted: float) -> Callable[[int], VisionBatch]:
    """step -> a batch of random groups, pixels varied; painted as in frame_batches."""
    by_kind = [np.flatnonzero(bank.kind == kind) for kind in range(len(KINDS))]

    def make(step: int) -> VisionBatch:
        rng = np.random.default_rng([seed, step])
        groups = take(bank, _draw(rng, by_kind, GROUP_SHARES, batch_groups))
        repaint(rng, groups, bank, by_kind[0], painted)
        return labelled(groups, rng)

    return make


def _draw(rng: np.random.Generator, by_kind: list[np.ndarray], shares: tuple[float, ...], count: int) -> np.ndarray:
    """Groups of the bank, their kinds drawn by share."""
    return np.array([rng.choice(by_kind[kind]) for kind in rng.choice(len(by_kind), count, p=shares)])


def vary_pixels(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [N, t, S, S, 3] -> float32 around [-1, 1], each group's brightness, contrast and noise drawn."""
    shape = (len(frames), 1, 1, 1, 1)
    pixels = to_pixels(frames)
    pixels *= rng.uniform(0.85, 1.1, shape).astype(np.float32)
    pixels += rng.uniform(-0.08, 0.08, shape).astype(np.float32)
    noise = rng.standard_normal(pixels.shape, np.float32)
    pixels += noise * rng.uniform(0, 0.04, shape).astype(np.float32)
    return pixels


def whitened_patches(bank: GroupBank, patch_size: int, dim: int, num_frames: int, floor: float) -> Params:
    """A patch embedding {kernel, bias} that whitens the bank's patches: their `dim` strongest components at equal
    strength.

    Neighbouring pixels are alike, so a random kernel sees brightness and little else, and shapes are learnt late.
    floor: variance that is added to every component's, so that noise is not blown up.
    """
    frames = to_pixels(bank.frames[:: max(1, len(bank) // num_frames), 0])
    count, side = len(frames), frames.shape[1] // patch_size
    patches = frames.reshape(count, side, patch_size, side, patch_size, -1).transpose(0, 1, 3, 2, 4, 5)
    flat = patches.reshape(count * side * side, -1)
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False))
    kernel = vectors[:, ::-1][:, :dim] / np.sqrt(values[::-1][:dim] + floor)
    kernel = kernel.astype(np.float32)
    return {"kernel": kernel.reshape(patch_size, patch_size, -1, dim), "bias": -(mean @ kernel).astype(np.float32)}


def labelled(groups: GroupBank, rng: np.random.Generator | None = None) -> VisionBatch:
    """The groups as a batch; with rng, their pixels are varied a little."""
    pixels = to_pixels(groups.frames) if rng is None else vary_pixels(groups.frames, rng)
    shown = groups.shown
    group = {name: getattr(groups, name).astype(np.int32) for name in ("kind", "glyph", "colour")}
    moves = shown.sum(1) >= MIN_FRAMES_OF_MOTION
    direction = np.where(moves, groups.direction, -1).astype(np.int32)
    frame = {name: np.where(shown, value[:, None], -1).reshape(-1) for name, value in group.items()}
    frame["kind"] = np.where(shown, group["kind"][:, None], 0).reshape(-1)
    frame |= {name: getattr(groups, name).astype(np.int32).reshape(-1) for name in PLACES}
    return VisionBatch(pixels, frame, {**group, "direction": direction})


def encode_bank(model: VideoXLProModel, params: Params, bank: GroupBank, chunk: int) -> np.ndarray:
    """DTS outputs float16 [N, u, g, g, E] of every group of the bank, which may be u of the model's; `chunk` groups at
    a time (the last chunk is padded)."""
    encode = jax.jit(lambda params, pixels: dts_features(model, params, pixels)[1].astype(np.float16))
    parts = []
    for start in range(0, len(bank), chunk):
        chosen = np.minimum(np.arange(start, start + chunk), len(bank) - 1)
        features = np.asarray(encode(params, labelled(take(bank, chosen)).pixels))
        parts.append(features.reshape(chunk, -1, *features.shape[1:]))
    return np.concatenate(parts)[: len(bank)]


def with_unit_features(model: VideoXLProModel, params: Params, bank: GroupBank, num_groups: int) -> Params:
    """The parameters with the DTS's last convolution scaled so that its outputs have a mean square of one on the bank.

    The heads are blind to scale, and features grow to hundreds under them. The projector passes that on, and in the
    LLM what attention writes into a visual token (the time of its group, say) and the score that is added to it would
    both be lost.
    """
    scale = feature_size(model, params, bank, num_groups)
    last = f"stage_{model.config.dts.num_stages - 1}"
    stage = params["dts"][last]
    conv = jax.tree.map(lambda leaf: leaf / scale, stage["conv"])
    return {**params, "dts": {**params["dts"], last: {**stage, "conv": conv}}}


def with_fitted_projector(model: VideoXLProModel, params: Params, bank: GroupBank, num_groups: int) -> Params:
    """The parameters with the projector's first layer scaled as if the DTS's outputs had a mean square of one: what a
    new projector is born for, whichever DTS it is put behind."""
    scale = feature_size(model, params, bank, num_groups)
    first = {**params["projector"]["fc1"], "kernel": params["projector"]["fc1"]["kernel"] / scale}
    return {**params, "projector": {**params["projector"], "fc1": first}}


def feature_size(model: VideoXLProModel, params: Params, bank: GroupBank, num_groups: int) -> float:
    """Root of the mean square of the DTS's outputs on groups spread over the bank."""
    chosen = np.linspace(0, len(bank) - 1, num_groups).astype(int)
    features = jax.jit(lambda params, pixels: dts_features(model, params, pixels)[1])
    return float(np.sqrt(np.square(np.asarray(features(params, labelled(take(bank, chosen)).pixels))).mean()))
