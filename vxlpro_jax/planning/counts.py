"""Parameters, operations and bytes of a model, counted from its sizes alone.

Source: SPEC 3 to 9. A product of matrices counts two operations a term; norms, softmax and the like are left out.
"""

from vxlpro_jax.models.part_configs import DtsConfig, ProjectorConfig, Qwen2Config, SiglipConfig
from vxlpro_jax.models.presets import VideoXLProConfig

WORD_BYTES = 2  # bfloat16, of weights, tokens and cache


def _linear(inward: int, outward: int) -> int:
    return inward * outward + outward


def num_params(config: VideoXLProConfig) -> dict[str, int]:
    """Parameters of each part."""
    vision, dts, llm = config.vision, config.dts, config.llm
    width = vision.dim
    layer = 4 * width + 4 * _linear(width, width) + _linear(width, vision.mlp_dim) + _linear(vision.mlp_dim, width)
    tower = 3 * vision.patch_size**2 * width + width + vision.grid_size**2 * width + vision.num_layers * layer
    spatial = 2 * width + 4 * _linear(width, width)
    table = (2 * dts.max_relative_offset + 1) * width
    temporal = 2 * width + _linear(width, 3 * width) + _linear(width, width) + 2 * table
    stage = spatial + temporal + 27 * width**2 + width
    queries, keys = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    attention = _linear(llm.dim, queries) + 2 * _linear(llm.dim, keys) + queries * llm.dim
    block = attention + 3 * llm.dim * llm.mlp_dim + 2 * llm.dim
    tables = llm.vocab_size * llm.dim * (1 if llm.tie_embeddings else 2)
    return {
        "vision_tower": tower + 2 * width,
        "dts": dts.frames_per_group * width + dts.num_stages * stage,
        "projector": _linear(width, config.projector.dim) + _linear(config.projector.dim, config.projector.dim),
        "selector": 5 * _linear(llm.dim, llm.dim),
        "llm": tables + llm.num_layers * block + llm.dim,
    }


def weight_bytes(config: VideoXLProConfig) -> int:
    return WORD_BYTES * sum(num_params(config).values())


def tower_flops(vision: SiglipConfig) -> int:
    """Of one frame through the vision tower."""
    patches, width = vision.grid_size**2, vision.dim
    layer = 2 * patches * (4 * width**2 + 2 * width * vision.mlp_dim) + 4 * patches**2 * width
    return vision.num_layers * layer + 2 * patches * 3 * vision.patch_size**2 * width


def dts_flops(dts: DtsConfig) -> int:
    """Of one group of frames through the token synthesizer."""
    places, width, total = dts.grid_size**2, dts.dim, 0
    for stage in range(dts.num_stages):
        time = dts.frames_per_group >> stage
        spatial = time * (8 * places * width**2 + 4 * places**2 * width)
        temporal = time * places * (8 * width**2 + 8 * time * width)
        total += spatial + temporal + (time // 2) * 2 * 27 * places * width**2
    return total


def projector_flops(config: ProjectorConfig, width: int, places: int) -> int:
    """Of one group's tokens, before they are pooled."""
    return 2 * places * (width * config.dim + config.dim**2)


def encode_flops(config: VideoXLProConfig, num_frames: int) -> int:
    """Of a video through tower, token synthesizer and projector."""
    places = config.dts.grid_size**2
    per_group = dts_flops(config.dts) + projector_flops(config.projector, config.dts.dim, places)
    return num_frames * tower_flops(config.vision) + num_groups(config, num_frames) * per_group


def score_flops(config: VideoXLProConfig, num_frames: int) -> int:
    """Of the selector over all tokens of a video."""
    rows = 2 * config.tokens_per_group + config.stamps.num_tokens
    return num_groups(config, num_frames) * 2 * rows * config.llm.dim**2


def prefill_flops(llm: Qwen2Config, num_rows: int) -> int:
    """Of reading so many rows; a row attends to itself and those before it."""
    queries, keys = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    per_row = 2 * (2 * llm.dim * queries + 2 * llm.dim * keys + 3 * llm.dim * llm.mlp_dim)
    return llm.num_layers * (num_rows * per_row + 2 * num_rows**2 * queries)


def row_bytes(llm: Qwen2Config) -> int:
    """Of one row in the key/value cache."""
    return WORD_BYTES * 2 * llm.num_layers * llm.num_kv_heads * llm.head_dim


def decode_bytes(config: VideoXLProConfig, num_rows: int) -> int:
    """Read from memory for one generated token of one answer: the LLM's weights and the cache."""
    return WORD_BYTES * num_params(config)["llm"] + num_rows * row_bytes(config.llm)


def num_groups(config: VideoXLProConfig, num_frames: int) -> int:
    return -(-num_frames // config.dts.frames_per_group)


def rows_of_video(config: VideoXLProConfig, num_frames: int) -> int:
    """Rows that a whole video takes in a prompt, stamps counted."""
    return num_groups(config, num_frames) * (config.tokens_per_group + config.stamps.num_tokens)


def index_bytes(config: VideoXLProConfig, num_frames: int) -> int:
    """Of the tokens of a video's index, on the host."""
    return WORD_BYTES * num_groups(config, num_frames) * config.tokens_per_group * config.projector.dim
