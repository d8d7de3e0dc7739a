"""Where weights may come from: a folder or a hub id, what kind of checkpoint it is, and the tokenizer beside it.

Source: ours. Of a hub repository only weights, JSON and tokenizer text are fetched; no code
is ever run.
"""

import re
import shutil
from pathlib import Path
from typing import Literal

from vxlpro_jax.checkpoint import has_params
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.safetensors_io import read_json

CONFIG_NAME = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_HUB_FILES = ["*.safetensors", "*.json", "merges.txt", "chat_template.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Kind = Literal["released", "orbax", "qwen2", "siglip"]
_KIND_OF_MODEL_TYPE: dict[str, Kind] = {
    "llava_qwen": "released",
    "qwen2": "qwen2",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
}


def resolve_source(name_or_path: str | Path) -> Path:
    """Return the local folder of a checkpoint: the path itself if it exists, else a hub repository, downloaded.

    Raises:
        ConversionError: neither a folder nor a hub id, or the download failed.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ConversionError(f"{path}: a folder with config.json and *.safetensors is needed, this is a file.")
    if not _HUB_ID.fullmatch(str(name_or_path)):
        raise ConversionError(f"{name_or_path}: no such folder, and no hub id of the form owner/name.")
    return _download(str(name_or_path))


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # late: whoever reads a folder starts without the hub's client
    from huggingface_hub.errors import CorruptedCacheException, HfHubHTTPError, HFValidationError

    # What the HTTP library under the client raises when a connection breaks; which library changes between versions.
    http_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (OSError, http_error, HFValidationError, CorruptedCacheException) as error:
        raise ConversionError(
            f"{hub_id}: no such folder here, and as a hub id it could not be downloaded ({error})."
        ) from error


def kind_of(folder: Path) -> Kind:
    """Tell what a folder holds, by its config.json.

    Raises:
        ConversionError: no config.json, or a model_type that is not known here.
    """
    if has_params(folder):
        return "orbax"
    if not (folder / CONFIG_NAME).is_file():
        raise ConversionError(f"{folder}: no {CONFIG_NAME}; a checkpoint's folder is needed.")
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    if not isinstance(model_type, str) or model_type not in _KIND_OF_MODEL_TYPE:
        accepted = ", ".join(_KIND_OF_MODEL_TYPE)
        raise ConversionError(f"{folder / CONFIG_NAME}: unknown model_type {model_type!r}; accepted: {accepted}.")
    return _KIND_OF_MODEL_TYPE[model_type]


def check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Check that every token has a row in the embedding; a folder without tokenizer files passes.

    Raises:
        ConversionError: the tokenizer's largest id is beyond the embedding.
    """
    ids = _token_ids(folder)
    if ids and max(ids.values()) >= vocab_size:
        token = max(ids, key=ids.__getitem__)
        raise ConversionError(
            f"{folder}: vocabulary mismatch: the tokenizer gives {token!r} the id {ids[token]}, "
            f"the embedding has {vocab_size} rows; the tokenizer of another model?"
        )


def _token_ids(folder: Path) -> dict[str, int]:
    """Return the ids of all tokens that the tokenizer files of a folder name."""
    ids: dict[str, int] = {}
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = read_json(folder / "tokenizer.json")
            vocab = tokenizer["model"]["vocab"]
            ids |= vocab if isinstance(vocab, dict) else {piece[0]: place for place, piece in enumerate(vocab)}
            ids |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
        elif (folder / "vocab.json").is_file():
            ids |= read_json(folder / "vocab.json")
        if (folder / "tokenizer_config.json").is_file():
            added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
            ids |= {token["content"]: int(place) for place, token in added.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(
            f"{folder}: tokenizer files of an unknown form ({type(error).__name__}: {error})."
        ) from error
    return ids


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer files that are there; links are followed, as a hub cache consists of them."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
