"""groundup's own folder of a model: config.toml, model.safetensors, tokenizer/. It has every option of groundup."""

from __future__ import annotations

from pathlib import Path

import torch

from groundup.config import RunConfig, from_dict, load_toml, override, save_toml
from groundup.errors import CheckpointError, ConfigError, FileMissingError
from groundup.interop.families import Link, plain_names
from groundup.interop.model import Model, check_tokenizer, load_tokenizer
from groundup.interop.weights import ExportedWeights, SafetensorsWeights, check_tensors, write_safetensors
from groundup.system.files import write_atomically
from groundup.text.chat.templates import TEMPLATE_FILE, stored_template

CONFIG_FILE = "config.toml"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FOLDER = "tokenizer"
FILES = {CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FOLDER}


def write_plain(folder: Path, model: Model, dtype: torch.dtype | None = None) -> None:
    """Write a model into an existing folder.

    Args:
        dtype: of all tensors; None keeps each as it is.
    """
    # Paths of data, and where the run lies, mean nothing elsewhere.
    nowhere = {f"data.{name}": "" for name in ("train", "valid", "vocab", "merges")}
    save_toml(override(model.config, nowhere | {"runs_dir": "runs"}), folder / CONFIG_FILE)
    same = [Link(name, name, shape) for name, shape in plain_names(model.config.model).items()]
    weights = ExportedWeights(model.weights, same, dtype)
    write_safetensors(folder / WEIGHTS_FILE, weights, list(weights.shapes))
    if model.tokenizer is not None:
        model.tokenizer.save(folder / TOKENIZER_FOLDER)
        if model.chat_template:
            write_atomically(folder / TOKENIZER_FOLDER / TEMPLATE_FILE, model.chat_template)


def read_plain(folder: Path, *, context: int = 0, tokenizer: Path | None = None) -> Model:
    """Open what :func:`write_plain` wrote.

    Args:
        context: context length to limit the model to; 0 takes the model's.
        tokenizer: of another place; None takes the folder's, if it has one.

    Raises:
        FileMissingError: a file is missing.
        CheckpointError: the weights are not those of the options, or damaged.
    """
    try:
        config = from_dict(RunConfig, load_toml(folder / CONFIG_FILE))
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from None
    if context > config.model.context_length:
        raise CheckpointError(
            f"context {context} is longer than the model's {config.model.context_length}; leave it out, or give less"
        )
    if context:
        config = override(config, {"model.context_length": context})
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileMissingError(f"no {path.name} in {folder}")
    weights = SafetensorsWeights([path], str(path))
    check_tensors(weights, plain_names(config.model))
    place = tokenizer or folder / TOKENIZER_FOLDER
    loaded = load_tokenizer(place) if tokenizer or place.is_dir() else None
    check_tokenizer(loaded, config.model.vocab_size, str(folder))
    template = stored_template(folder / TOKENIZER_FOLDER) if loaded is not None else None
    origin = {"source": str(folder.resolve())}
    text = template.text if template is not None else ""
    return Model(config, weights, loaded, origin, "groundup", chat_template=text)
