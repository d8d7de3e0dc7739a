"""AdamW with a warm-up, a cosine, a clipped gradient, and rates by part.

Source: SPEC 13 (AdamW, clip 1.0); rates and lengths are ours, per stage, in configs/.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import optax

from vxlpro_jax.train.state import FlatParams, part_of

UNDECAYED = ("bias", "scale")


@dataclass(frozen=True)
class OptimizerConfig:
    """peak_rate is reached after warmup_steps; at the stage's last step the rate is final_share of it. weight_decay
    applies to kernels and embeddings alone (see decays). clip_norm bounds the gradient's global norm.

    warmup_share: the warm-up as a share of the stage, where warmup_steps is 0. rates: peak rate of single parts
    ("vision_tower", "llm/layers/mlp", "embeddings"); the others follow peak_rate.
    """

    peak_rate: float
    warmup_steps: int
    final_share: float
    weight_decay: float
    beta2: float
    clip_norm: float
    warmup_share: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("peak_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"config.optimizer.{name}={getattr(self, name)}: a number above 0 is accepted.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"config.optimizer.warmup_share={self.warmup_share}: from 0 to below 1 is accepted.")
        if self.warmup_steps < 0:
            raise ValueError(f"config.optimizer.warmup_steps={self.warmup_steps}: at least 0 is accepted.")


def rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Learning rate by update. Raises ValueError when the warm-up is not shorter than the stage."""
    if config.warmup_steps and config.warmup_share:
        raise ValueError(
            f"optimizer.warmup_steps={config.warmup_steps} and warmup_share={config.warmup_share}: give one of the two."
        )
    warmup_steps = config.warmup_steps or round(config.warmup_share * num_steps)
    if warmup_steps >= num_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} of num_steps={num_steps}: it must be shorter (optimizer.warmup_steps or "
            "warmup_share)."
        )
    final = config.peak_rate * config.final_share
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup_steps else config.peak_rate, config.peak_rate, warmup_steps, num_steps, final
    )


def rates_by_part(config: OptimizerConfig, num_steps: int, updates: int) -> dict[str, float]:
    """The learning rate after so many updates, of everything and of each part that has its own."""
    rate = float(rate_schedule(config, num_steps)(updates))
    shares = {f"rate/{part}": peak / config.peak_rate for part, peak in config.rates.items()}
    return {"rate": rate, **{name: rate * share for name, share in shares.items()}}


def decays(path: str, leaf: jax.Array) -> bool:
    """Whether weight decay applies to the leaf: to kernels and embeddings; not to biases and norm scales, which have a
    second dimension where layers are stacked, nor to a single vector."""
    return leaf.ndim > 1 and path.rsplit("/", 1)[-1] not in UNDECAYED


def _decay_mask(params: Any) -> Any:
    """A bool for each leaf of a tree, flat by path or nested."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: decays(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf), params
    )


def _scale_parts(config: OptimizerConfig) -> optax.GradientTransformation:
    """Updates of leaves by path, each times its part's share of the peak rate."""

    def scale(updates: FlatParams, params: Any) -> FlatParams:
        parts = {path: part_of(path, config.rates) for path in updates}
        return {
            path: update if (part := parts[path]) is None else update * (config.rates[part] / config.peak_rate)
            for path, update in updates.items()
        }

    return optax.stateless(scale)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The update rule of a stage of num_steps."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            rate_schedule(config, num_steps),
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=_decay_mask,
        ),
        *([_scale_parts(config)] if config.rates else []),
    )
