"""The data block of a configuration for the commands that look at data: parsed, checked, with the model's shape.

Source: ours (docs/data.md).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from launch.command_line import fail, read_command
from vxlpro_jax.config import build, model_config
from vxlpro_jax.data.pipeline import DataConfig
from vxlpro_jax.data.samples import ModelShape
from vxlpro_jax.data.tokenizer import TextTokenizer, build_tiny_tokenizer, load_tokenizer
from vxlpro_jax.models.presets import VideoXLProConfig

FEED_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "data" / "feed.py"


@dataclass(frozen=True)
class DataSettings:
    """preset: of models/presets.py, switches: its fields to change. tokenizer: folder of one, empty: the embedded
    model's."""

    preset: str
    switches: dict[str, Any]
    seed: int
    tokenizer: str
    data: DataConfig


def parse(argv: list[str], command: str, options: dict[str, str]) -> tuple[DataSettings, dict[str, str | None]]:
    """(the settings of --config, the other options by name). options: name -> what it is for; --part is one of all.

    --config may be a mixture itself (.yaml, .json, .jsonl): then the rest is as in configs/data/feed.py. Ends the
    program with code 2 where something is wrong.
    """
    options = {**options, "part": "which block of a configuration with several (default train)"}
    config, values = read_command(command, _with_mixture(argv), options)
    try:
        return read_settings(config, values.pop("part") or "train"), values
    except ValueError as error:
        fail(command, str(error))


def read_settings(config: ConfigDict, part: str = "train") -> DataSettings:
    """The settings of a configuration that has a `data` block, or several in it by name, whatever else it holds.

    part: which of several. Raises ValueError.
    """
    if not config.get("data"):
        raise ValueError("the configuration has no block `data` (configs/data/feed.py has one)")
    data = config.data
    if "mixture" not in data:
        if part not in data:
            raise ValueError(f"--part={part}: the configuration's data has {', '.join(sorted(data))}")
        data = data[part]
    block = {**{name: config[name] for name in ("preset", "seed") if name in config}, "data": data}
    more = {"tokenizer": config.get("tokenizer", ""), "switches": config.get("switches", ConfigDict())}
    settings = build(ConfigDict({**block, **more}), DataSettings)
    shape_of(model_config(settings))  # a wrong preset or switch is told here
    return settings


def shape_of(config: VideoXLProConfig) -> ModelShape:
    """What the data feed has to know of the model."""
    return ModelShape(
        image_size=config.vision.image_size,
        frames_per_group=config.dts.frames_per_group,
        tokens_per_group=config.tokens_per_group,
        stamps=config.stamps,
        max_context_len=config.max_context_len,
        short_group=config.short_group,
        label_mask=config.label_mask,
        picture_views=config.picture_views,
        selector_query=config.selector.selector_query,
        selection=config.selector.selection,
        keep_multiple=config.selector.keep_multiple,
    )


def tokenizer_of(settings: DataSettings) -> TextTokenizer:
    """Raises FileNotFoundError or ValueError where the folder holds none."""
    return load_tokenizer(settings.tokenizer) if settings.tokenizer else TextTokenizer(build_tiny_tokenizer())


def _with_mixture(argv: list[str]) -> list[str]:
    """The arguments, with --config=MIXTURE written out; the mixture's key is set last, so that it counts."""
    words: list[str] = []
    mixture: list[str] = []
    for word in argv:
        if words and words[-1] == "--config":
            words.pop()
            word = f"--config={word}"
        match = re.fullmatch(r"--config=(.+\.(?:ya?ml|jsonl?))", word)
        words.append(f"--config={FEED_CONFIG}" if match else word)
        mixture += [f"--config.data.mixture={match[1]}"] if match else []
    return words + mixture
