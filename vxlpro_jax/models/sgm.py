"""Semantic-guided masking: tokens that the previous frame and the gist of their own frame make redundant are hidden.

Source: paper 3.2 (two sets of learnable tokens, two attention scores, their sum, low-scored tokens randomly masked) and
a second-hand account of its Algorithm 1 for the products; what neither settles is a field of SgmConfig.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.layers import Linear
from vxlpro_jax.parallel import axes

SCORE_EPS = 1e-6  # variance below which all tokens of a scope count as equally important


@dataclass(frozen=True)
class SgmConfig:
    """What the paper leaves open about masking; each default with its reason.

    masking: "semantic": by score. "random": the control of Table 6, the same number of tokens whatever their score.
    query: "linear": Temp Query and Spatio Query are linear maps, the plainest thing that can be "multiplied with the
        tokens" and gives a vector to attend with. "vectors": num_query_vectors learnt tokens, which a token mixes by
        attention: closer to the words "sets of learnable tokens", fewer parameters, less able.
    num_query_vectors: of "vectors"; 16 is a guess.
    scope: "clip": tokens of all frames compete, so that a still frame may be hidden whole and a lively one shown, which
        is what "inter-frame significance" asks for. "frame": every frame hides the same number.
    video_ratio, image_ratio: share of the tokens that are hidden. Video repeats itself and bears 0.75, VideoMAE's less
        than 0.9 because the paper warns that high ratios need more data; a picture does not repeat itself: 0.5.
    image_masks: "shared": a picture hides the same places in each of its repeats; "free": each repeat hides others,
        and what is hidden can be copied from the next repeat: nothing is learnt from that.
    temperature: of the draw, in standard deviations of the scores: 0.5 is low enough that scores decide most draws,
        high enough that the same clip is masked differently from epoch to epoch. 0 would be no draw.
    gradient_width: of the sigmoid through which scores get their gradient, in the draw's units; 1 is about the
        spread of the noise, so that tokens count that another draw would have treated otherwise.
    """

    masking: Literal["semantic", "random"] = "semantic"
    query: Literal["linear", "vectors"] = "linear"
    num_query_vectors: int = 16
    scope: Literal["clip", "frame"] = "clip"
    video_ratio: float = 0.75
    image_ratio: float = 0.5
    image_masks: Literal["shared", "free"] = "shared"
    temperature: float = 0.5
    gradient_width: float = 1.0

    def __post_init__(self):
        for name in ("video_ratio", "image_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"sgm.{name}={getattr(self, name)}: a share above 0 and below 1 is accepted")
        for name in ("temperature", "gradient_width", "num_query_vectors"):
            if getattr(self, name) <= 0:
                raise ValueError(f"sgm.{name}={getattr(self, name)}: a value above 0 is accepted")


class Masking(NamedTuple):
    """masked bool [N, t, P]: True where a token is hidden. strength float [N, t, P]: 1 there and 0 elsewhere, with a
    gradient to the scores. scores float [N, t, P]: high where a token matters; zeros under random masking."""

    masked: Array
    strength: Array
    scores: Array


class SemanticQuery(nn.Module):
    """Temp Query or Spatio Query: from tokens to vectors that the current frame's tokens are compared with."""

    config: SgmConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        dim = x.shape[-1]
        if self.config.query == "linear":
            # Small at birth: the scores' scale is divided out, but not how soon the first steps turn them.
            init = nn.initializers.variance_scaling(1e-6, "fan_in", "normal")
            return Linear(dim, (axes.DTS, axes.DTS_OUT), use_bias=False, kernel_init=init, name="map")(x)
        born = nn.with_logical_partitioning(nn.initializers.normal(dim**-0.5), (axes.TAPS, axes.DTS))
        vectors = self.param("vectors", born, (self.config.num_query_vectors, dim)).astype(x.dtype)
        return jax.nn.softmax(x @ vectors.T * dim**-0.5, axis=-1) @ vectors


class SemanticMasker(nn.Module):
    """Scores tokens, chooses which are hidden, and holds the token that stands in their place."""

    config: SgmConfig

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "N t P E"],
        is_image: Bool[Array, "N"],
        is_whole: Bool[Array, "N"],
        noise: Float[Array, "N t P"],
    ) -> tuple[Masking, Float[Array, "E"]]:
        """The masking of clips, and the mask token.

        is_image: True where a clip is one picture repeated. is_whole: True where nothing of a clip is hidden. noise:
        standard Gumbel noise, drawn by the caller.
        """
        born = nn.with_logical_partitioning(nn.initializers.normal(0.02), (axes.DTS,))
        mask_token = self.param("mask_token", born, features.shape[-1:])
        scores = jnp.zeros(features.shape[:-1], jnp.float32)
        if self.config.masking == "semantic":
            scores = token_scores(
                features, SemanticQuery(self.config, name="temp_query"), SemanticQuery(self.config, name="spatio_query")
            )
        return choose_masked(scores, is_image, is_whole, noise, self.config), mask_token


def token_scores(features: Float[Array, "N t P E"], temp_query, spatio_query) -> Float[Array, "N t P"]:
    """Algorithm 1: each token times Temp Query of the token that stood there one frame before (zeros before the first),
    plus each token times Spatio Query of its frame's mean."""
    before = jnp.concatenate([jnp.zeros_like(features[:, :1]), features[:, :-1]], axis=1)
    from_before = jnp.einsum("ntpc,ntpc->ntp", features, temp_query(before))
    from_gist = jnp.einsum("ntpc,ntc->ntp", features, spatio_query(features.mean(2)))
    return (from_before + from_gist).astype(jnp.float32) * features.shape[-1] ** -0.5


def num_masked(
    is_image: Bool[Array, "N"], is_whole: Bool[Array, "N"], shape: tuple[int, int], config: SgmConfig
) -> Int[Array, "N"]:
    """How many tokens of each clip of `shape` = (frames, places) are hidden: nothing that is learnt changes it."""
    time, places = shape
    each_frame = [time * round(ratio * places) for ratio in (config.video_ratio, config.image_ratio)]
    in_all = [round(ratio * time * places) for ratio in (config.video_ratio, config.image_ratio)]
    video = each_frame[0] if config.scope == "frame" else in_all[0]
    image = each_frame[1] if config.scope == "frame" or config.image_masks == "shared" else in_all[1]
    return jnp.where(is_whole, 0, jnp.where(is_image, image, video))


def choose_masked(
    scores: Float[Array, "N t P"],
    is_image: Bool[Array, "N"],
    is_whole: Bool[Array, "N"],
    noise: Float[Array, "N t P"],
    config: SgmConfig,
) -> Masking:
    """Hides a fixed number of tokens: those with the largest -score / temperature + noise, scores brought to mean 0 and
    variance 1 in their scope first."""
    size, time, places = scores.shape
    counts = num_masked(is_image, is_whole, (time, places), config)
    if config.scope == "clip":
        masking = _hide(scores.reshape(size, -1), noise.reshape(size, -1), counts, config)
    else:
        rows = (size * time, places)
        masking = _hide(scores.reshape(rows), noise.reshape(rows), jnp.repeat(counts // time, time), config)
    masking = Masking(*(part.reshape(scores.shape) for part in masking))
    if config.image_masks == "free":
        return masking
    # A picture is scored as one frame; its first repeat has no frame before it, the others have itself.
    still = _hide(scores.mean(1), noise[:, 0], counts // time, config)
    parts = zip(still, masking, strict=True)
    return Masking(*(jnp.where(is_image[:, None, None], one[:, None], other) for one, other in parts))


def _hide(
    scores: Float[Array, "R M"], noise: Float[Array, "R M"], counts: Int[Array, "R"], config: SgmConfig
) -> Masking:
    centred = scores - scores.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + SCORE_EPS)
    return Masking(*largest(noise - normed / config.temperature, counts, config.gradient_width), normed)


def largest(
    keys: Float[Array, "R M"], count: Int[Array, "R"], width: float
) -> tuple[Bool[Array, "R M"], Float[Array, "R M"]]:
    """Which keys are among the `count` largest of their row, and the same as 0 and 1 with a gradient (none for rows of
    which nothing is chosen).

    The gradient is that of a sigmoid of the given width around the middle between the last chosen key and the first
    that is not: a hard choice alone has none, and the queries would never learn.
    """
    order = jnp.argsort(-keys, axis=-1)
    chosen = jnp.argsort(order, axis=-1) < count[:, None]
    falling = jnp.take_along_axis(keys, order, axis=-1)
    edges = jnp.clip(jnp.stack([count - 1, count], axis=-1), 0, keys.shape[1] - 1)
    threshold = jnp.take_along_axis(falling, edges, axis=-1).mean(-1, keepdims=True)
    soft = jax.nn.sigmoid((keys - jax.lax.stop_gradient(threshold)) / width)
    alive = soft - jax.lax.stop_gradient(soft)
    return chosen, chosen + jnp.where(count[:, None] > 0, alive, 0)
