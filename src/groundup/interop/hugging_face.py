"""Folders of Hugging Face's transformers: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from groundup.config import END_OF_TEXT, RunConfig, override
from groundup.config.options import ModelConfig
from groundup.errors import CheckpointError, DataError, FileMissingError
from groundup.interop.families import config_json, family_of, is_tied, links, model_config
from groundup.interop.model import Model, check_tokenizer, load_tokenizer, refuse_pickle, sample_tokens
from groundup.interop.weights import (
    ExportedWeights,
    LinkedWeights,
    SafetensorsWeights,
    check_tensors,
    chunks,
    in_shards,
    tensor_bytes,
    write_safetensors,
)
from groundup.system.files import json_text, read_json, why, write_atomically
from groundup.text.chat.templates import TEMPLATE_FILE, load_template

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
CARD_FILE = "README.md"
FILES = {
    CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, GENERATION_FILE, CARD_FILE,
}  # fmt: skip
_TORCH_NAME = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float64"}


def write_folder(folder: Path, model: Model, dtype: torch.dtype | None, *, card: str) -> str:
    """Write a model into an existing folder, and return the name of its class in transformers.

    Args:
        dtype: of all tensors; None keeps each as it is.
        card: content of README.md.

    Raises:
        ConfigError: no family of transformers has the model's options.
        TokenizerError: its tokenizer has no form there.
    """
    config = model.config.model
    family = family_of(config, "hugging-face", model.tokenizer)
    weights = ExportedWeights(model.weights, links(config, family, "hugging-face"), dtype)
    begin, end = model.begin_and_end()
    ids = {"bos_token_id": _id(model.tokenizer, begin), "eos_token_id": _ends(model, end)}
    entries = config_json(config, family, tied=is_tied(config)) | ids | {"pad_token_id": None}
    entries["dtype"] = entries["torch_dtype"] = _TORCH_NAME[next(iter(weights.dtypes.values()))]
    write_atomically(folder / CONFIG_FILE, json_text(entries, indent=2))
    if model.tokenizer is not None:
        model.tokenizer.save_hugging_face(folder / TOKENIZER_FILE)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.context_length,
        } | {name: token for name, token in (("bos_token", begin), ("eos_token", end)) if token}
        if model.chat_template:
            settings["chat_template"] = model.chat_template
        write_atomically(folder / TOKENIZER_CONFIG_FILE, json_text(settings, indent=2))
    sampling: dict[str, Any] = {"do_sample": model.config.sample.temperature > 0} | ids
    if sampling["do_sample"]:
        sampling |= {"temperature": model.config.sample.temperature, "top_p": model.config.sample.top_p}
    write_atomically(folder / GENERATION_FILE, json_text(sampling, indent=2))
    write_atomically(folder / CARD_FILE, card)
    groups = in_shards(weights)
    names = [WEIGHTS_FILE]
    if len(groups) > 1:
        names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
        total = sum(tensor_bytes(weights, name) for name in weights.shapes)
        places = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        write_atomically(
            folder / INDEX_FILE, json_text({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
        )
    for file, group in zip(names, groups, strict=True):
        write_safetensors(folder / file, weights, group)
    return family.class_name


def _ends(model: Model, end: str) -> int | list[int] | None:
    """The token that ends a text; of a model of conversations also the one that ends a turn."""
    ids = [_id(model.tokenizer, name) for name in dict.fromkeys((end, model.end_of_turn())) if name]
    found = [token_id for token_id in ids if token_id is not None]
    return found if len(found) > 1 else found[0] if found else None


def _id(tokenizer: Tokenizer | None, name: str) -> int | None:
    return tokenizer.token_id(name) if tokenizer is not None and name else None


def read_folder(
    folder: Path, *, context: int = 0, tokenizer: Path | None = None, without_tokenizer: bool = False
) -> Model:
    """Open a model in a folder of transformers.

    Args:
        context: context length to limit the model to; 0 takes the model's.
        tokenizer: of another place; None takes the folder's.
        without_tokenizer: do not look for one.

    Raises:
        FileMissingError: a file is missing.
        CheckpointError: damaged or foreign files; a model that groundup cannot express; files that do not fit together.
        TokenizerError: its tokenizer cannot be read with the same ids.
    """
    entries = _object(folder / CONFIG_FILE)
    config, family = model_config(entries, context=context)
    weights = SafetensorsWeights(_weight_files(folder), str(folder))
    if config.num_layers > len(weights.shapes):
        raise CheckpointError(
            f"{folder}: num_hidden_layers = {config.num_layers} in config.json, and {len(weights.shapes)} tensors; "
            f"they do not belong together"
        )
    found = links(config, family, "hugging-face")
    check_tensors(weights, {link.theirs: link.shape for link in found}, _ignored(config))
    if config.tie_embeddings:
        _check_tied(weights)
    loaded = None if without_tokenizer else load_tokenizer(tokenizer or folder)
    check_tokenizer(loaded, config.vocab_size, str(folder))
    generation = _object(folder / GENERATION_FILE) if (folder / GENERATION_FILE).exists() else {}
    begin, end = (_token_id(folder, name, generation, entries) for name in ("bos_token_id", "eos_token_id"))
    run = override(RunConfig(model=config), sample_tokens(loaded, begin, end))
    template, unreadable = _chat_template(folder) if loaded is not None else ("", "")
    return Model(
        run, LinkedWeights(weights, found), loaded, {"source": str(folder.resolve())}, family.class_name,
        chat_template=template, unreadable_template=unreadable,
    )  # fmt: skip


def _token_id(folder: Path, name: str, generation: dict[str, Any], config: dict[str, Any]) -> object:
    """An id, a list of some, or None."""
    file, entries = (GENERATION_FILE, generation) if name in generation else (CONFIG_FILE, config)
    value = entries.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token_id) is not int or token_id < 0 for token_id in ids):
        raise CheckpointError(f"{folder / file}: {name} = {value!r}; expected an id, or a list of ids")
    return value


def _chat_template(folder: Path) -> tuple[str, str]:
    """The chat template of a folder, of several the default one, empty where it has none; and why it cannot be read."""
    for name in (TEMPLATE_FILE, TOKENIZER_CONFIG_FILE):
        path = folder / name
        if path.exists() and (name == TEMPLATE_FILE or _object(path).get("chat_template")):
            try:
                return load_template(str(path), END_OF_TEXT).text, ""
            except DataError as error:
                return "", str(error)
    return "", ""


def _check_tied(weights: SafetensorsWeights) -> None:
    """Refuse an output matrix that is not the embedding table, although config.json says so."""
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    if head not in weights.shapes:
        return
    same = weights.shapes[head] == weights.shapes[table] and all(
        torch.equal(a, b) for a, b in zip(chunks(weights, head), chunks(weights, table), strict=True)
    )
    if not same:
        raise CheckpointError(
            f"{weights.source}: lm_head.weight is not the embedding table, although config.json has "
            f"tie_word_embeddings = true; set it to false if the model is not tied"
        )


def _ignored(config: ModelConfig) -> list[str]:
    """Tensors that may be there and are not the model's: a tied head, and tables that older versions saved."""
    tables = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config.num_layers)]
    return [*tables, "lm_head.weight"] if config.tie_embeddings else tables


def _weight_files(folder: Path) -> list[Path]:
    index, one = folder / INDEX_FILE, folder / WEIGHTS_FILE
    if index.is_file():
        places = _object(index).get("weight_map")
        if not isinstance(places, Mapping) or not places:
            raise CheckpointError(f"{index} has no weight_map; it is damaged")
        names = sorted({str(name) for name in places.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{index} names {name!r}; expected files of safetensors in the same folder")
            if not (folder / name).is_file():
                raise FileMissingError(f"{folder / name} is missing, and {index.name} names it; download it again")
        return [folder / name for name in names]
    if one.is_file():
        return [one]
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles:
        raise refuse_pickle(pickles[0])
    raise FileMissingError(f"no {WEIGHTS_FILE} or {INDEX_FILE} in {folder}; expected a folder of transformers")


def _object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise FileMissingError(f"no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {why(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; expected a JSON object")
    return content
