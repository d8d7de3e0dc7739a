"""The one door of configuration: a ConfigDict from configs/ becomes frozen dataclasses, strictly.

Source: ours.
"""

import dataclasses
import difflib
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from ml_collections import ConfigDict

from vxlpro_jax.train.answer_feed import RowMix
from vxlpro_jax.train.loop import LoopConfig
from vxlpro_jax.train.optimizers import OptimizerConfig
from vxlpro_jax.train.stages import StageConfig

T = TypeVar("T")


@dataclass(frozen=True)
class VisionDataConfig:
    """seed: of the banks, which all stages share. num_videos, num_heldout: of the bank that is trained on and of the
    held-out one; num_shuffled: videos with shuffled frames (data/synthetic_guess.py). batch_frames, batch_groups: per
    step, by stage.

    painted: share of events painted anew in every batch (data/synthetic_bank.py). workers: processes that render the
    banks.
    """

    seed: int
    num_videos: int
    num_heldout: int
    num_shuffled: int
    batch_frames: int
    batch_groups: int
    painted: float
    workers: int


@dataclass(frozen=True)
class TrainConfig:
    """A stage of training. preset: of models/presets.py. seed: of everything random in it. vision: the bank that all
    stages share.

    init_from: work folder of the stage before, empty to start from fresh parameters. rows: the mix of an "answers"
    stage, by name.
    """

    preset: str
    seed: int
    init_from: str
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


def _value(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, ConfigDict):
            raise ValueError(f"{where}={value!r}: a block of keys is accepted.")
        return build(value, hint, where)  # type: ignore[arg-type]
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
