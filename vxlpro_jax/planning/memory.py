"""Bytes that indexing a video and asking about it take, part by part, from sizes alone.

Source: ours: the largest arrays that the programs of models/ and infer/ hold at once. tests/planning/test_memory.py
compares with the figures of compilers.
"""

from typing import Literal, NamedTuple

from vxlpro_jax.models.part_configs import DtsConfig, Qwen2Config, SiglipConfig
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.planning.counts import WORD_BYTES, index_bytes, row_bytes, weight_bytes

How = Literal["computed", "compiled", "measured"]

GIB = 2**30
PIECE_ROWS = 2048  # of a prompt, read at once
SCORE_BYTES = 4  # scores of attention are float32
CHOICE_BYTES = 64  # a visual token's score, place and rank while tokens are chosen, with the sort's copies
SPARE_BYTES = GIB  # libraries' own workspace, which no compiler counts


class Part(NamedTuple):
    """What takes memory. where: "device" or "host". phase: "always", or the phase of the work in which it is held; of
    "encode", "choose" and "answer" one is there at a time. how: where the figure comes from."""

    name: str
    bytes: int
    where: Literal["device", "host"]
    phase: Literal["always", "encode", "choose", "answer"]
    how: How = "computed"


def tower_activation_bytes(vision: SiglipConfig, num_frames: int, whole_scores: bool) -> int:
    """Of frames that go through the vision tower together. whole_scores: a frame's scores of attention, of all patches
    with all, are held in float32 and in the working type; else queries, keys, values, result and two copies of the
    stream, padded to whole blocks of 128."""
    patches = vision.grid_size**2
    if whole_scores:
        per_frame = (
            SCORE_BYTES + WORD_BYTES
        ) * vision.num_heads * patches**2 + WORD_BYTES * 5 * patches * vision.dim // 2
    else:
        per_frame = WORD_BYTES * 6 * -(-patches // 128) * 128 * vision.dim
    return num_frames * per_frame


def dts_activation_bytes(dts: DtsConfig, num_groups: int) -> int:
    """Of groups that go through the token synthesizer together: the columns of its first convolution, and its input
    and sums."""
    places = dts.grid_size**2
    columns = (dts.frames_per_group + 1) * places * 9 * dts.dim
    return num_groups * WORD_BYTES * (columns + 4 * dts.frames_per_group * places * dts.dim)


def encoder_bytes(config: VideoXLProConfig, num_frames: int) -> int:
    """Of a batch of frames on its way to tokens: pixels, and the larger of tower and token synthesizer."""
    pixels = SCORE_BYTES * 3 * config.vision.image_size**2 * num_frames
    tower = tower_activation_bytes(config.vision, num_frames, whole_scores=True)
    return pixels + max(tower, dts_activation_bytes(config.dts, num_frames // config.dts.frames_per_group))


def piece_bytes(llm: Qwen2Config, num_rows: int = PIECE_ROWS) -> int:
    """Of a piece of a prompt on its way through a layer of the LLM, when attention holds no scores but a block's."""
    return num_rows * WORD_BYTES * (4 * llm.mlp_dim + 5 * llm.dim // 2)


def cache_rows(num_rows: int) -> int:
    """Slots that are allocated for so many rows: whole pieces."""
    return -(-num_rows // PIECE_ROWS) * PIECE_ROWS if num_rows > PIECE_ROWS else num_rows


def parts(config: VideoXLProConfig, num_frames: int, num_rows: int, frames_per_batch: int) -> list[Part]:
    """What a video of so many frames takes of which the LLM reads and writes so many rows."""
    tokens = index_bytes(config, num_frames) // (WORD_BYTES * config.projector.dim)
    return [
        Part("weights", weight_bytes(config), "device", "always"),
        Part("encoder activations", encoder_bytes(config, min(frames_per_batch, num_frames)), "device", "encode"),
        Part("choosing tokens", CHOICE_BYTES * tokens, "device", "choose"),
        Part("key/value cache", cache_rows(num_rows) * row_bytes(config.llm), "device", "answer"),
        Part("workspace of prefill", piece_bytes(config.llm, min(num_rows, PIECE_ROWS)), "device", "answer"),
        Part("spare", SPARE_BYTES, "device", "always"),
        Part("index", index_bytes(config, num_frames), "host", "always"),
    ]


def peak_bytes(held: list[Part], where: Literal["device", "host"] = "device") -> int:
    """The most that is held at once."""
    own = [part for part in held if part.where == where]
    always = sum(part.bytes for part in own if part.phase == "always")
    phases = {part.phase for part in own} - {"always"}
    return always + max((sum(part.bytes for part in own if part.phase == phase) for phase in phases), default=0)
