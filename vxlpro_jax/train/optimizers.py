"""AdamW with a warm-up, a cosine and a clipped gradient.

Source: SPEC 13 (AdamW, clip 1.0); rates and lengths are ours, per stage, in configs/.
"""

from dataclasses import dataclass

import jax
import optax


@dataclass(frozen=True)
class OptimizerConfig:
    """peak_rate is reached after warmup_steps; at the stage's last step the rate is final_share of it. weight_decay
    applies to matrices alone. clip_norm bounds the gradient's global norm."""

    peak_rate: float
    warmup_steps: int
    final_share: float
    weight_decay: float
    beta2: float
    clip_norm: float


def rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Learning rate by step. Raises ValueError when the warm-up is not shorter than the stage."""
    if config.warmup_steps >= num_steps:
        raise ValueError(
            f"warmup_steps={config.warmup_steps} of num_steps={num_steps}: it must be shorter (optimizer.warmup_steps)."
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, config.peak_rate, config.warmup_steps, num_steps, config.peak_rate * config.final_share
    )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The update rule of a stage of num_steps."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            rate_schedule(config, num_steps),
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
