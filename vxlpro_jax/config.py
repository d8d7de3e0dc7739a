"""The one door of configuration: a ConfigDict from configs/ becomes frozen dataclasses, strictly.

Source: ours.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vxlpro_jax.data.pipeline import DataConfig
from vxlpro_jax.models.presets import PRESETS, VideoXLProConfig, with_switches
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.train.answer_feed import RowMix
from vxlpro_jax.train.loop import LoopConfig
from vxlpro_jax.train.lora import LoraConfig, add_lora
from vxlpro_jax.train.optimizers import OptimizerConfig, rate_schedule
from vxlpro_jax.train.stages import StageConfig
from vxlpro_jax.train.state import ALIASES, part_of

T = TypeVar("T")


@dataclass(frozen=True)
class VisionDataConfig:
    """seed: of the banks, which all stages share. num_videos, num_heldout: of the bank that is trained on and of the
    held-out one; num_shuffled: videos with shuffled frames (data/synthetic_guess.py); num_textures: videos of textures
    alone, of which stages on answers make haystacks too. batch_frames, batch_groups: per step, by stage.

    painted: share of events painted anew in every batch (data/synthetic_bank.py). workers: processes that render the
    banks. bank_frames: of each group in them, one or more of the model's groups; 0: one of them.
    """

    seed: int
    num_videos: int
    num_heldout: int
    num_shuffled: int
    num_textures: int
    batch_frames: int
    batch_groups: int
    painted: float
    workers: int
    bank_frames: int


@dataclass(frozen=True)
class HeldoutConfig:
    """What a stage on clips is judged by: num_batches of data.heldout for the losses, num_answers questions about its
    videos that are really asked, each of at most max_frames frames and max_new_tokens tokens of answer."""

    num_batches: int
    num_answers: int
    max_frames: int
    max_new_tokens: int


@dataclass(frozen=True)
class TrainConfig:
    """A stage of training. preset: of models/presets.py. seed: of everything random in it. vision: the bank that all
    stages share.

    switches: fields of the preset to change, in blocks as the preset has them.
    init_from: where parameters start from: the work folder of a stage, or a checkpoint's folder (or hub id) of any
    kind that `vxlpro convert` reads; empty for fresh ones. parts: the same for single modules, which then do not start
    from init_from; "fresh" for newly drawn ones.
    mesh: devices by axis, {} for one device. lora: low-rank additions to the LLM instead of its own weights.
    tokenizer: folder of the LLM's tokenizer; empty for the embedded model's. data: of a stage on clips: what it is
    trained on ("train") and judged by ("heldout"). export: True: the trained model is written in the released layout.
    rows: the mix of an "answers" stage, by name.
    """

    preset: str
    switches: dict[str, Any]
    seed: int
    init_from: str
    parts: dict[str, str]
    mesh: dict[str, int]
    lora: LoraConfig
    tokenizer: str
    data: dict[str, DataConfig]
    heldout: HeldoutConfig
    export: bool
    stage: StageConfig
    optimizer: OptimizerConfig
    loop: LoopConfig
    vision: VisionDataConfig
    rows: dict[str, RowMix]


def build(config: ConfigDict, cls: type[T] = TrainConfig, where: str = "config") -> T:  # type: ignore[assignment]
    """The frozen record of a ConfigDict.

    Raises ValueError on an unknown key (naming its nearest neighbour), a missing key or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in config:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(names)}."
            raise ValueError(f"{where}.{key} is no configuration key of {cls.__name__}: {hint}")
    missing = [name for name in names if name not in config]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)} (see configs/base.py).")
    return cls(**{name: _value(config[name], hints[name], f"{where}.{name}") for name in names})


FRESH = "fresh"
MODULES = ("vision_tower", "dts", "projector", "selector", "llm")


class NamesModel(Protocol):
    """A configuration that names a preset, and the fields of it to change."""

    @property
    def preset(self) -> str: ...

    @property
    def switches(self) -> dict[str, Any]: ...


def model_config(config: NamesModel) -> VideoXLProConfig:
    """Sizes and switches of the model that a configuration names. Raises ValueError for what the preset does not
    have."""
    if config.preset not in PRESETS:
        raise ValueError(
            f"config.preset={config.preset!r}: one of {', '.join(PRESETS)} is accepted (models/presets.py)."
        )
    flat = {".".join(path): value for path, value in flatten_dict(config.switches).items()}
    return with_switches(PRESETS[config.preset], flat)


def check(config: TrainConfig) -> VideoXLProConfig:
    """Refuse combinations that cannot work, before anything is loaded; returns the model's sizes and switches.

    Raises ValueError naming the key, its value and what is accepted.
    """
    sizes = model_config(config)
    stage = config.stage
    _check_numbers(config)
    _check_used(config)
    tree = {**abstract_params(sizes), **{name: {} for name in ("heads",) if name in stage.trainable}}
    if not stage.trainable:
        raise ValueError("config.stage.trainable=(): at least one part is trained.")
    _check_parts("stage.trainable", stage.trainable, tree)
    _check_parts("stage.frozen", stage.frozen, tree)
    _check_parts("optimizer.rates", tuple(config.optimizer.rates), tree)
    for name in config.parts:
        if name not in MODULES:
            raise ValueError(f"config.parts.{name}: {', '.join(MODULES)} are accepted.")
    if config.mesh and set(config.mesh) != {"data", "tensor"}:
        raise ValueError(f"config.mesh={config.mesh}: the axes data and tensor are accepted, as in data=4, tensor=2.")
    if config.mesh and stage.loss != "clips":
        raise ValueError(f"config.mesh={config.mesh}: stage.loss={stage.loss!r} runs on one device; leave it empty.")
    _check_data(config)
    if stage.num_steps == 0 and stage.loss != "clips":
        raise ValueError(f"config.stage.num_steps=0: stage.loss={stage.loss!r} draws without end; give a number.")
    if stage.num_steps:
        rate_schedule(config.optimizer, stage.num_steps)
    _check_lora(config, tree)
    if stage.ranking_weight == 0 and sizes.selector.score_use == "none" and _reaches("selector", stage):
        raise ValueError(
            "stage.trainable has the selector, but no gradient would reach it: switches.selector.score_use is 'none' "
            "and stage.ranking_weight is 0. Freeze it, or give one of the two."
        )
    return sizes


# Keys of the stage that only the one on clips uses.
OF_CLIPS = (
    *("epochs", "z_weight", "dtype", "frozen_dtype", "remat", "encode_groups", "loss_chunk"),
    *("selection", "attention"),
)


def _check_used(config: TrainConfig) -> None:
    """A key that the stage would not look at is no wish to pass over."""
    if config.stage.loss == "clips":
        return
    unset = {field.name: field.default for field in dataclasses.fields(StageConfig)}
    for name, value, default in (
        ("lora.rank", config.lora.rank, 0),
        ("export", config.export, False),
        ("tokenizer", config.tokenizer, ""),
        ("data", sorted(config.data), []),
        *((f"stage.{name}", getattr(config.stage, name), unset[name]) for name in OF_CLIPS),
    ):
        if value != default:
            raise ValueError(
                f"config.{name}={value!r}: stage.loss={config.stage.loss!r} does not use it, stage.loss='clips' alone "
                f"does; {default!r} is accepted."
            )


def _check_lora(config: TrainConfig, tree: Any) -> None:
    lora, trainable = config.lora, config.stage.trainable
    if not lora.rank:
        return
    if "llm" not in trainable:
        raise ValueError(f"config.lora.rank={lora.rank}, but stage.trainable={trainable} has no llm to add to.")
    if not lora.targets:
        raise ValueError(f"config.lora.targets=(), but lora.rank={lora.rank}: name layers of the LLM to add to.")
    jax.eval_shape(lambda: add_lora({"llm": tree["llm"]}, lora, jax.random.key(0)))


def _check_numbers(config: TrainConfig) -> None:
    stage = config.stage
    bounds = (
        ("stage.micro_batches", stage.micro_batches, 1),
        ("stage.num_steps", stage.num_steps, 0),
        ("stage.epochs", stage.epochs, 1),
        ("stage.z_weight", stage.z_weight, 0),
        ("stage.loss_chunk", stage.loss_chunk, 0),
        ("stage.encode_groups", stage.encode_groups, 0),
        ("lora.rank", config.lora.rank, 0),
        ("vision.workers", config.vision.workers, 0),
        ("heldout.num_batches", config.heldout.num_batches, 0),
        ("heldout.num_answers", config.heldout.num_answers, 0),
        ("heldout.max_frames", config.heldout.max_frames, 1),
        ("heldout.max_new_tokens", config.heldout.max_new_tokens, 1),
        *((f"mesh.{axis}", size, 1) for axis, size in config.mesh.items()),
        *((f"rows.{name}.batch_size", mix.batch_size, 1) for name, mix in config.rows.items()),
        *(bound for name, data in config.data.items() for bound in _data_bounds(f"data.{name}", data)),
    )
    for name, value, low in bounds:
        if value < low:
            raise ValueError(f"config.{name}={value}: at least {low} is accepted.")


def _data_bounds(where: str, data: DataConfig) -> Iterator[tuple[str, float, int]]:
    """(key, value, the lowest that is accepted)."""
    yield f"{where}.max_media", data.max_media, 1
    yield f"{where}.workers", data.workers, 0
    yield f"{where}.buffered_batches", data.buffered_batches, 1
    yield f"{where}.max_broken_share", data.max_broken_share, 0
    for name, shape in data.buckets.items():
        for key, value in dataclasses.asdict(shape).items():
            yield f"{where}.buckets.{name}.{key}", value, 1


def _check_data(config: TrainConfig) -> None:
    unknown = sorted(config.data.keys() - {"train", "heldout"})
    if unknown:
        raise ValueError(f"config.data.{unknown[0]}: train and heldout are accepted.")
    if config.stage.loss != "clips":
        return
    if "train" not in config.data:
        raise ValueError("config.data.train is not there: stage.loss='clips' is trained on it (see configs/sft.py).")
    if config.loop.best_metric and "heldout" not in config.data:
        raise ValueError(
            f"config.loop.best_metric={config.loop.best_metric!r}, but there is no config.data.heldout to judge by: "
            "give one, or leave best_metric empty."
        )
    missing = [
        f"config.data.{name}.mixture={data.mixture!r}: there is no such file."
        for name, data in config.data.items()
        if not Path(data.mixture).is_file()
    ]
    if missing:
        raise ValueError(" ".join(missing))
    for name, data in config.data.items():
        if data.prompt == "none":
            raise ValueError(f"config.data.{name}.prompt='none': stage.loss='clips' needs questions.")
        if not data.buckets:
            raise ValueError(f"config.data.{name}.buckets is empty: at least one shape is needed.")
        for bucket, shape in data.buckets.items():
            if shape.batch_size % config.mesh.get("data", 1):
                raise ValueError(
                    f"config.data.{name}.buckets.{bucket}.batch_size={shape.batch_size}: a multiple of "
                    f"mesh.data={config.mesh['data']} is accepted."
                )
    if config.tokenizer and not Path(config.tokenizer).is_dir():
        raise ValueError(f"config.tokenizer={config.tokenizer!r}: there is no such folder.")


def _reaches(module: str, stage: StageConfig) -> bool:
    return module in stage.trainable and module not in stage.frozen


def _check_parts(key: str, parts: tuple[str, ...], tree: Any) -> None:
    paths = [*flatten_dict(tree, sep="/"), *tree]
    unknown = [part for part in parts if not any(part_of(path, (part,)) for path in paths)]
    if unknown:
        names = [*MODULES, *ALIASES]
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"{', '.join(names)} are, and paths inside them."
        raise ValueError(f"config.{key}={parts!r}: {unknown[0]!r} is no part of the model: {hint}")


def _value(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, ConfigDict):
            raise ValueError(f"{where}={value!r}: a block of keys is accepted.")
        return build(value, hint, where)  # type: ignore[arg-type]
    if hint is Any:
        return value.to_dict() if isinstance(value, ConfigDict) else value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return {name: _value(item, arguments[1], f"{where}.{name}") for name, item in value.items()}
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{where}={value!r}: a tuple is accepted.")
        return tuple(value)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}={value!r}: one of {arguments} is accepted.")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where}={value!r}: {hint.__name__} is accepted.")
    return value
