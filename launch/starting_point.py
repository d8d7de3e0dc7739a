"""Where a run's parameters start from, part by part, told in a table and written down.

Source: ours. SPEC 12, quirk 19: the reference silently draws some parts anew; here nothing is fresh unless it says so.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from launch.whole_file import write_whole
from vxlpro_jax.checkpoint import CheckpointError, check_names, has_params, read_some, save_params, stored_params
from vxlpro_jax.config import FRESH, MODULES, TrainConfig
from vxlpro_jax.convert import load_config, load_params, resolve_source
from vxlpro_jax.models.presets import VideoXLProConfig
from vxlpro_jax.models.video_xl_pro import abstract_params, init_params
from vxlpro_jax.train.state import Params, split_params

MODEL_FOLDER, PROVENANCE_FILE = "model", "provenance.json"


@dataclass(frozen=True)
class Origin:
    """part: a module. source: what the config names, or "fresh". kind: "stage", "checkpoint", "components" (linear
    algebra of the training data) or "fresh".

    digest: of the bytes as they were read, so that two runs can be told apart. trained: share of its parameters.
    """

    part: str
    source: str
    kind: str
    num_params: int
    digest: str
    trained: float


def sources_of(config: TrainConfig) -> dict[str, str]:
    """The source of every module, as the config names it; "fresh" where it names none."""
    return {name: config.parts.get(name) or config.init_from or FRESH for name in MODULES}


def check_sources(config: TrainConfig, sizes: VideoXLProConfig) -> None:
    """Look at names and shapes of everything that will be read; reads no weights.

    Raises ValueError for a source that is not there, or that holds another model.
    """
    tree = abstract_params(sizes)
    if config.stage.loss == "clips" and not config.init_from:
        silent = [name for name in MODULES if name not in config.parts]
        if silent:
            raise ValueError(
                f"config.init_from is empty and config.parts names nothing for {', '.join(silent)}: give a checkpoint "
                f"in config.init_from, or a source for each in config.parts ({FRESH!r} draws anew)."
            )
    for name, source in sources_of(config).items():
        if source == FRESH:
            continue
        where = f"config.parts.{name}" if name in config.parts else "config.init_from"
        wanted = {f"{name}/{path}": leaf for path, leaf in flatten_dict(tree[name], sep="/").items()}
        try:
            folder = _params_folder(source)
            if folder is None:
                stored = flatten_dict(abstract_params(load_config(source)), sep="/")
            else:
                stored = stored_params(folder)
            check_names(folder or Path(source), _of_module(stored, name), wanted, "Is config.preset this model's?")
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}={source!r}: {error}") from error


def starting_params(config: TrainConfig, sizes: VideoXLProConfig) -> tuple[Params, list[Origin]]:
    """Every module from its source, in float32; and where each came from.

    Raises CheckpointError or ConversionError for what cannot be read.
    """
    params: Params = {}
    whole: dict[str, Params] = {}
    origins = []
    for name, source in sources_of(config).items():
        if source == FRESH:
            kind, part = FRESH, _fresh(sizes, name, config.seed)
        elif (folder := _params_folder(source)) is not None:
            kind, part = "stage" if folder.name == MODEL_FOLDER else "checkpoint", _read_module(folder, name)
        else:
            kind = "checkpoint"
            if source not in whole:
                whole[source] = load_params(source)[1]
            part = whole[source].pop(name)
        params[name] = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), part)
        origins.append(origin_of(name, kind, source, part))
    return params, [_with_share(origin, params, config) for origin in origins]


def origin_of(name: str, kind: str, source: str, part: Params, trained: float = 0.0) -> Origin:
    """The origin of a module whose parameters are `part`."""
    digest, leaves = hashlib.sha256(), jax.tree.leaves(part)
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return Origin(name, source, kind, sum(leaf.size for leaf in leaves), digest.hexdigest()[:16], trained)


def tell(origins: list[Origin], workdir: Path) -> str:
    """Write the table to workdir/provenance.json; returns it as text."""
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(origin) for origin in origins], indent=2)
    write_whole(workdir / PROVENANCE_FILE, f"{text}\n")
    lines = [f"{'part':13} {'parameters':>13} {'trained':>8}  starts from"]
    for origin in origins:
        source = "FRESH, drawn from config.seed" if origin.kind == FRESH else f"{origin.source} ({origin.kind})"
        lines.append(f"{origin.part:13} {origin.num_params:13,} {origin.trained:8.0%}  {source}  {origin.digest}")
    return "\n".join(lines)


def _with_share(origin: Origin, params: Params, config: TrainConfig) -> Origin:
    if config.lora.rank and origin.part == "llm":
        return origin  # its own weights stay; the additions are listed by nobody, they start as nothing
    parts = tuple(part for part in config.stage.trainable if part != "heads")
    chosen, _ = split_params(params, parts, config.stage.frozen)
    trained = sum(leaf.size for path, leaf in chosen.items() if path.startswith(f"{origin.part}/"))
    return Origin(**{**asdict(origin), "trained": trained / origin.num_params})


def _params_folder(source: str) -> Path | None:
    """The folder of our own layout that a source names: a stage's work folder, or a converted checkpoint."""
    for folder in (Path(source) / MODEL_FOLDER, Path(source)):
        if has_params(folder):
            return folder
    if (Path(source) / MODEL_FOLDER).exists() or (Path(source) / "metrics.jsonl").exists():
        raise CheckpointError(f"{source}: a stage that is not finished ({MODEL_FOLDER}/params is missing).")
    resolve_source(source)
    return None


def _of_module(stored: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {path: leaf for path, leaf in stored.items() if path.startswith(f"{name}/")}


def _read_module(folder: Path, name: str) -> Params:
    return unflatten_dict(read_some(folder, _of_module(stored_params(folder), name)), sep="/")[name]


def _fresh(sizes: VideoXLProConfig, name: str, seed: int) -> Params:
    key = jax.random.key(seed % 2**31)
    return jax.jit(lambda: nn.unbox(init_params(sizes, key))[name])()


def save_model(params: Params, workdir: Path) -> None:
    """Write the model's parameters, without the auxiliary heads, to workdir/model."""
    part = workdir / f"{MODEL_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    save_params(part, {name: value for name, value in params.items() if name != "heads"})
    shutil.rmtree(workdir / MODEL_FOLDER, ignore_errors=True)
    part.rename(workdir / MODEL_FOLDER)
