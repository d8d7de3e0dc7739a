"""Sizes and switches of the model's parts, as frozen dataclasses: what a module is told and all that it sees.

Source: SPEC 3 to 9; SPEC 12 for the switches. No jax here, so that what reckons with sizes starts fast; the values
stand in models/presets.py.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

Compression = Literal["none", "x2", "x4", "x8"]


@dataclass(frozen=True)
class SiglipConfig:
    """Sizes of the tower. num_layers counts the layers that run (the stock model has one more)."""

    image_size: int
    patch_size: int
    dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    norm_eps: float

    @property
    def grid_size(self) -> int:
        """Patches along a side; pixels left over at the right and bottom are not used."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class DtsConfig:
    """Sizes and the two switches in which the released code departs from the paper.

    frames_per_group: frames that become one; a power of two, one stage per halving. One frame: no stage, and the DTS
        hands tokens on as they are (with_compression).
    grid_size: side of the token grid that enters; the tower's grid is resized to it.
    num_norm_groups, norm_eps: of every GroupNorm. max_relative_offset: clip of the temporal offsets.
    frame_packing: "paper": the time axis runs over the group's frames. "released": memory is reinterpreted, so that
        "time" runs over neighbouring channels of one frame and the frames lie in blocks of channels (SPEC 12, quirk 1).
    relative_term: "textbook": the query's own position looks up the relative key. "released": transposed (quirk 15).
    """

    dim: int
    frames_per_group: int
    grid_size: int
    num_norm_groups: int
    norm_eps: float
    max_relative_offset: int
    frame_packing: Literal["released", "paper"]
    relative_term: Literal["released", "textbook"]

    @property
    def num_stages(self) -> int:
        return self.frames_per_group.bit_length() - 1


def with_compression(config: DtsConfig, compression: str) -> DtsConfig:
    """The same DTS with 0 ("none") to 3 ("x8") stages (Compression): 1, 2, 4 or 8 frames become one.

    With a grid of 24 that is 576, 288, 144 and 72 tokens per frame before pooling. Differs: the paper's tables 4 and 5
    name 576, 256, 144 and 72; 256 fits no whole number of stages. Raises ValueError for another name.
    """
    names = get_args(Compression)
    if compression not in names:
        raise ValueError(f"compression {compression!r}: one of {names} is accepted")
    return replace(config, frames_per_group=1 << names.index(compression))


@dataclass(frozen=True)
class ProjectorConfig:
    """dim: the LLM's width. pool_stride, pool_mode: how a square of tokens becomes one."""

    dim: int
    pool_stride: int
    pool_mode: Literal["average", "max"]


@dataclass(frozen=True)
class SelectorConfig:
    """Switches of the selector; each says what the released code and the paper do.

    num_heads: of the window attention.
    selection: "keep_rate": the released way, a share of each video's tokens stays, rounded down to a multiple of
        keep_multiple, and every stamp stays (the released code draws the share at random, quirk 2; here it is given).
        "budget": the paper's reading, everything stays while it fits the context, else the best tokens that fit; a
        group without tokens loses its stamp.
    selector_query: which tokens form the query. "padded_row": the whole padded row, as released (quirk 13). "row": the
        row without its padding. "question": the user's question alone.
    query_encoder: "embeddings": token embeddings, as released. "llm": the LLM's hidden states over the text, as the
        paper says.
    score_use: how a token's score enters it. "add": to all its channels, as released (quirk 4). "none": not, as the
        paper reads. "gate": v * score + score, ours for training, where the loss then tells the sign of a score
        (docs/selector.md).
    rotation_base: base of the extra rotation of the video's rows (quirk 5, released: 1e6); None: no such rotation, as
        in the paper.
    trained_rows: the most rows that a video had in training. In a longer one the groups' row numbers are compressed
        evenly into so many, so that nothing is turned further than it ever was; None: never, as released.
    """

    num_heads: int
    keep_multiple: int
    selection: Literal["keep_rate", "budget"]
    selector_query: Literal["padded_row", "row", "question"]
    query_encoder: Literal["embeddings", "llm"]
    score_use: Literal["add", "gate", "none"]
    rotation_base: float | None
    trained_rows: int | None = None


@dataclass(frozen=True)
class Qwen2Config:
    """Sizes of the decoder. vocab_size counts the rows of the (padded) embedding table."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_base: float
    norm_eps: float
    tie_embeddings: bool


@dataclass(frozen=True)
class ContextStretch:
    """A context `factor` times as long as the trained_len positions that the LLM was trained on (models/rope.py)."""

    factor: float
    trained_len: int
