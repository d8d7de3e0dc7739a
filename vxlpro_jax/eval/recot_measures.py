"""What a run of the reconstructive stage must tell besides its error: probes, order of frames, masks, gradients.

Source: paper 3.2 and 4.8 (what each part is said to do); the measures are ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.data.synthetic import DIRECTIONS
from vxlpro_jax.data.synthetic_bank import COLOUR_NAMES, GLYPHS, KINDS, MIN_FRAMES_OF_MOTION, GroupBank
from vxlpro_jax.eval.linear_probe import fit_probe, try_probe
from vxlpro_jax.models.recot import ReCoTModel
from vxlpro_jax.train.losses import weighed_mean
from vxlpro_jax.train.recot_stage import ReCoTBatch, ReCoTStage, recot_loss

Encode = Callable[[np.ndarray], np.ndarray]
CLASSES = {"kind": len(KINDS), "glyph": len(GLYPHS), "colour": len(COLOUR_NAMES), "direction": len(DIRECTIONS)}
OPPOSITE = np.array([DIRECTIONS.index(name) for name in ("right", "left", "down", "up")])


class LabelledClips(NamedTuple):
    """features [N, t, g, g, E]; what each clip shows, by name (clip_labels); shown bool [N, t]: in which frames."""

    features: np.ndarray
    labels: dict[str, np.ndarray]
    shown: np.ndarray


def clip_labels(bank: GroupBank, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """What the chosen clips of a bank show, by name of the label; -1: nothing of the kind."""
    labels = {name: getattr(bank, name)[chosen].astype(int) for name in CLASSES}
    moves = bank.shown[chosen].sum(1) >= MIN_FRAMES_OF_MOTION
    labels["direction"] = np.where(moves, labels["direction"], -1)
    return labels


def quarters(code: np.ndarray) -> np.ndarray:
    """Codes [N, G, g, g, E] as rows [N, G * 4 * E]: means over the quarters of the grid, so that places are kept and
    rows stay short whatever the grid."""
    half = code.shape[2] // 2
    sides = (slice(None, half), slice(half, None))
    means = [code[:, :, rows, columns].mean((2, 3)) for rows in sides for columns in sides]
    return np.stack(means, 2).reshape(len(code), -1)


def probe_codes(encode: Encode, train: LabelledClips, heldout: LabelledClips) -> dict[str, Any]:
    """Accuracy of a linear probe for every label, fitted on the codes of training clips."""
    rows = quarters(encode(train.features)), quarters(encode(heldout.features))
    found = {}
    for name, classes in CLASSES.items():
        result = try_probe(fit_probe(rows[0], train.labels[name], classes), rows[1], heldout.labels[name])
        found[name] = result._asdict()
    return found


def in_groups(clips: LabelledClips, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The groups of so many frames as clips of their own [N * G, size, g, g, E], and the direction that each shows."""
    features = clips.features.reshape(-1, size, *clips.features.shape[2:])
    per_clip = clips.shown.shape[1] // size
    moves = clips.shown.reshape(-1, size).sum(1) >= MIN_FRAMES_OF_MOTION
    return features, np.where(moves, clips.labels["direction"].repeat(per_clip), -1)


def frame_order(
    encode: Encode, train: np.ndarray, heldout: np.ndarray, train_direction: np.ndarray, direction: np.ndarray
) -> dict[str, Any]:
    """How much of the order of frames is in the code of clips [N, t, g, g, E].

    The clips are single groups (in_groups): from several codes side by side an order could be read that is in none.
    A probe that learnt the direction of movers is shown held-out clips as they are and backwards, where the right
    answer is the opposite one: in a world that is symmetric in time nothing else tells forward from backward. cosine_*:
    mean over clips of the cosine between a clip's code and that of its frames shuffled (none stays where it was) or
    reversed, each less the mean code.
    """
    moving = direction >= 0
    probe = fit_probe(
        quarters(encode(train[train_direction >= 0])), train_direction[train_direction >= 0], len(DIRECTIONS)
    )
    code = encode(heldout)
    backward = encode(heldout[:, ::-1])
    turned = np.roll(np.arange(heldout.shape[1]), 1)
    shuffled = encode(heldout[:, turned])
    return {
        "chance": 1 / len(DIRECTIONS),
        "forward": try_probe(probe, quarters(code[moving]), direction[moving])._asdict(),
        "reversed": try_probe(probe, quarters(backward[moving]), OPPOSITE[direction[moving]])._asdict(),
        "cosine_shuffled": _centred_cosine(code, shuffled),
        "cosine_reversed": _centred_cosine(code, backward),
        "cosine_shuffled_movers": _centred_cosine(code[moving], shuffled[moving]),
    }


def _centred_cosine(code: np.ndarray, other: np.ndarray) -> float:
    mean = code.mean(0)
    one, two = ((part - mean).reshape(len(code), -1) for part in (code, other))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return float(((one * two).sum(1) / np.maximum(norms, 1e-12)).mean())


def masked_foreground(
    model: ReCoTModel,
    params: Any,
    features: np.ndarray,
    foreground: np.ndarray,
    groups: dict[str, np.ndarray],
    seed: int,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Share of foreground bool [N, t, g, g] among masked tokens, by this model's masking and by random masking with the
    same noise, each with the half width of its 95 % interval over clips; masks and scores [N, t, P] for a picture.

    ratio_NAME: how much likelier a foreground token is to be masked than at random in the clips of a group (bool [N]).
    """
    noise = jax.random.gumbel(jax.random.key(seed), (*features.shape[:2], features.shape[2] * features.shape[3]))
    flags = jnp.zeros(len(features), bool)

    def mask(params, features):
        return model.apply({"params": {"sgm": params["sgm"]}}, features, flags, flags, noise, method=ReCoTModel.mask)[0]

    masking = jax.tree.map(np.asarray, jax.jit(mask)(params, jnp.asarray(features)))
    shown = foreground.reshape(masking.masked.shape)
    count = masking.masked.sum((1, 2))
    by_chance = np.asarray(noise).reshape(len(features), -1).argsort(1).argsort(1)
    random = (by_chance < count[:, None]).reshape(shown.shape)
    shares = {}
    for name, masked in (("masked", masking.masked), ("masked_at_random", random)):
        per_clip = (shown & masked).sum((1, 2)) / np.maximum(masked.sum((1, 2)), 1)
        shares[name] = float(per_clip.mean())
        shares[f"{name}_half_width"] = float(1.96 * per_clip.std(ddof=1) / np.sqrt(len(per_clip)))
    shares["all_tokens"] = float(shown.mean())
    for name, chosen in groups.items():
        of_group = shown[chosen]
        rate, usual = masking.masked[chosen][of_group].mean(), masking.masked[chosen].mean()
        shares[f"ratio_{name}"] = float(rate / usual)
    return shares, {"masked": masking.masked, "scores": masking.scores}


def query_gradients(stage: ReCoTStage, params: Any, batch: ReCoTBatch) -> dict[str, float]:
    """Norm of the loss's gradient by each Query; empty under random masking."""

    found = _masker_gradient(stage, params["sgm"], {k: part for k, part in params.items() if k != "sgm"}, batch)
    return {
        name: float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(part))))
        for name, part in found.items()
        if name.endswith("query")
    }


@partial(jax.jit, static_argnums=0)
def _masker_gradient(stage: ReCoTStage, sgm: Any, rest: Any, batch: ReCoTBatch) -> Any:
    return jax.grad(lambda sgm: weighed_mean(recot_loss(stage)({**rest, "sgm": sgm}, batch, None).terms))(sgm)
