"""The query-aware selector: how relevant each visual token is to the question, and which tokens stay.

Source: SPEC 9.3, 9.4 and 9.6; paper 3.3.
Differs: equal raw scores give zeros where the reference gives NaN (quirk 14); stamps of any length stay with their
group (quirk 11). Scores are float32 in every working type: of the 590,000 tokens of 16,384 frames nearly all would tie
in half precision (quirk 8), and ties go to the earliest.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vxlpro_jax.models.layers import Linear, gelu_erf
from vxlpro_jax.models.part_configs import SelectorConfig
from vxlpro_jax.parallel import axes
from vxlpro_jax.types import Selection


class WindowAttention(nn.Module):
    """Each visual token reads the stamp tokens of its own group; the result serves the scores only (SPEC 9.3, quirk
    3)."""

    config: SelectorConfig

    @nn.compact
    def __call__(
        self,
        visual: Float[Array, "B G P D"],
        stamps: Float[Array, "B G W D"],
        stamp_mask: Bool[Array, "B G W"],
    ) -> Float[Array, "B G P D"]:
        dim, heads = visual.shape[-1], self.config.num_heads

        def project(name, rows):
            split = Linear(dim, (axes.EMBED, axes.HEADS), name=name)(rows)
            return split.reshape(*rows.shape[:3], heads, dim // heads)

        q, k = project("q_proj", stamps), project("k_proj", visual)
        project("v_proj", stamps[:, :0])  # the released checkpoint carries it, nothing reads it
        logits = jnp.einsum("bgphc,bgwhc->bghpw", k, q) * (dim // heads) ** -0.5
        logits = jnp.where(stamp_mask[:, :, None, None, :], logits, jnp.finfo(logits.dtype).min)
        mixed = jnp.einsum("bghpw,bgwhc->bgphc", jax.nn.softmax(logits, axis=-1), q)
        return Linear(dim, (axes.HEADS, axes.EMBED), name="out_proj")(mixed.reshape(visual.shape))


class QuerySelector(nn.Module):
    """Scores of visual tokens against a query (SPEC 9.4)."""

    config: SelectorConfig

    def setup(self):
        self.window_attention = WindowAttention(self.config)

    @nn.compact
    def encode_query(self, query: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return gelu_erf(Linear(query.shape[-1], (axes.EMBED, None), name="text_mlp")(query))

    def __call__(
        self,
        visual: Float[Array, "B G P D"],
        stamps: Float[Array, "B G W D"],
        stamp_mask: Bool[Array, "B G W"],
        query: Float[Array, "B L D"],
        query_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B G P"]:
        """Raw scores: the mean over the query's tokens of the product with what the token read from its stamp."""
        return self.score(visual, stamps, stamp_mask, self.mean_query(query, query_mask))

    def mean_query(self, query: Float[Array, "B L D"], query_mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        """The mean over the query's tokens, which is all that the scores know of it; float32."""
        count = jnp.maximum(query_mask.sum(-1), 1)[:, None]
        encoded = jnp.where(query_mask[..., None], self.encode_query(query), 0)
        return encoded.astype(jnp.float32).sum(1) / count

    def score(
        self,
        visual: Float[Array, "V G P D"],
        stamps: Float[Array, "V G W D"],
        stamp_mask: Bool[Array, "V G W"],
        mean_query: Float[Array, "B D"],
    ) -> Float[Array, "B G P"]:
        """Raw scores, float32. V: B rows with videos of their own, or one row whose videos all the queries ask about:
        what a token reads does not depend on the query, and is computed once."""
        read = self.window_attention(visual, stamps, stamp_mask).astype(jnp.float32)
        if len(read) == len(mean_query):
            return jnp.einsum("bgpd,bd->bgp", read, mean_query)
        return jnp.einsum("gpd,bd->bgp", read[0], mean_query)


def normalise_scores(raw: Float[Array, "B G P"], video_of_group: Int[Array, "B G"]) -> Float[Array, "B G P"]:
    """Each video's scores stretched to [0, 1]; all zero where they are equal, and in padding groups."""

    def stretch(raw, video):
        segment = jnp.where(video >= 0, video, len(video))  # a row has no more videos than groups
        low = jax.ops.segment_min(raw.min(-1), segment, len(video) + 1)[segment][:, None]
        high = jax.ops.segment_max(raw.max(-1), segment, len(video) + 1)[segment][:, None]
        usable = (high > low) & (video >= 0)[:, None]
        return jnp.where(usable, (raw - low) / jnp.where(usable, high - low, 1), 0)

    return jax.vmap(stretch)(raw, video_of_group)


def _keep_by_rate(scores, video_of_group, num_keep):
    """The num_keep best of each video; earlier tokens win ties."""
    groups, tokens = scores.shape
    video = jnp.repeat(video_of_group, tokens)
    order = jnp.lexsort((-scores.reshape(-1), video))
    sorted_video = video[order]
    rank = jnp.arange(video.size) - jnp.searchsorted(sorted_video, sorted_video)
    kept = (rank < num_keep[sorted_video]) & (sorted_video >= 0)
    return jnp.zeros(video.size, bool).at[order].set(kept).reshape(groups, tokens)


def _keep_by_budget(scores, video_of_group, stamp_len, budget):
    """The best tokens that fit the budget, the first of a group paying for its stamp; earlier tokens win ties."""
    groups, tokens = scores.shape
    group = jnp.repeat(jnp.arange(groups), tokens)
    real = jnp.repeat(video_of_group >= 0, tokens)
    order = jnp.argsort(jnp.where(real, -scores.reshape(-1), jnp.inf), stable=True)
    place = jnp.zeros(order.size, int).at[order].set(jnp.arange(order.size)).reshape(groups, tokens)
    opens_group = place.min(-1)[group[order]] == jnp.arange(order.size)
    cost = 1 + jnp.where(opens_group, stamp_len[group[order]], 0)
    kept = (jnp.cumsum(cost) <= budget) & real[order]
    return jnp.zeros(order.size, bool).at[order].set(kept).reshape(groups, tokens)


def keep_tokens(
    scores: Float[Array, "B G P"],
    video_of_group: Int[Array, "B G"],
    stamp_mask: Bool[Array, "B G W"],
    selection: Selection,
    config: SelectorConfig,
) -> tuple[Bool[Array, "B G P"], Bool[Array, "B G W"]]:
    """Which visual and which stamp tokens stay (SelectorConfig.selection). No gradient passes; scores get theirs where
    added."""
    scores = jax.lax.stop_gradient(scores)
    if config.selection == "keep_rate":
        return jax.vmap(_keep_by_rate)(scores, video_of_group, selection.num_keep), stamp_mask
    keep = jax.vmap(_keep_by_budget)(scores, video_of_group, stamp_mask.sum(-1), selection.budget)
    return keep, stamp_mask & keep.any(-1)[..., None]
