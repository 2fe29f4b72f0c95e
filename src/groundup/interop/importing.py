"""`groundup import`: a model of another program as a run directory."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors.torch import save_file

from groundup.account.flops import training_flops_per_token
from groundup.account.params import parameter_count
from groundup.config import RunConfig, flatten
from groundup.data.index import INDEX_FILE, SHARD_PATTERN
from groundup.errors import CheckpointError, ConfigError, FileMissingError
from groundup.interop import gguf, hub, hugging_face, nano, plain
from groundup.interop.export import compared
from groundup.interop.families import Link, plain_names
from groundup.interop.model import Model, flushing, new_folder, why_no_chat
from groundup.interop.verify import asked_transformers, sample_ids, small_enough
from groundup.interop.weights import ExportedWeights, SafetensorsWeights, tensor_bytes, write_safetensors
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.system.command import command
from groundup.system.files import file_sha256
from groundup.system.threads import in_background
from groundup.text.chat.templates import TEMPLATE_FILE
from groundup.tokenizer.formats.detect import kind_of_tokenizer
from groundup.train.checkpoint.folder import FILES, FORMAT, MODEL_FILE, OPTIMIZER_FILE, VERSION, write_state
from groundup.train.state import TrainState
from groundup.version import VERSION as GROUNDUP_VERSION
from groundup.version import installed_version

RUN_FILES = {"config.toml", "environment.json", "checkpoints", "tokenizer", ".lock"}


@dataclass(frozen=True)
class Imported:
    """What an import wrote, and how it was checked."""

    out: Path
    family: str
    parameters: int
    bytes: int
    dtype: str
    difference: float
    """Largest difference of a logit between the files and the run."""
    checks: list[str]
    next: str
    """A command to try."""


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    context: int = 0,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write a model of another program as a run with one checkpoint, at step 0, and compare it with its source.

    Tensors keep their dtype; a run computes in float32 or as ``train.precision`` says.

    Args:
        source: a folder of transformers, a GGUF file, hf://ORG/NAME, or a folder that `groundup export --to folder`
            wrote.
        out: run directory to write.
        context: context length to limit the model to; 0 takes the model's.
        tokenizer: file or folder of a tokenizer, where it is not the source's.
        overwrite: replace an earlier import.

    Raises:
        FileMissingError: the source, or a file of it, does not exist.
        CheckpointError: damaged or foreign files, or a model that groundup cannot express.
        TokenizerError: its tokenizer cannot be read with the same ids.
        ConfigError: the output exists.
    """
    out = Path(out)
    if context < 0:
        raise ConfigError(f"--context {context}; expected a positive number, or 0 for the model's")
    _refuse_trained(out)
    model, place = open_source(source, context=context, tokenizer=tokenizer)
    here, there = Path(os.path.realpath(out)), Path(os.path.realpath(place))
    if here == there or here in there.parents or there in here.parents:
        raise ConfigError(f"--out {out} and the source {place} lie in each other; choose another --out")
    config = dataclasses.replace(model.config, name=out.absolute().name, runs_dir=str(out.parent))
    with new_folder(out, RUN_FILES, overwrite=overwrite) as folder, in_background(_hashes, place) as source_hashes:
        run = RunDirectory(folder)
        if model.tokenizer is not None:
            model.tokenizer.save(run.tokenizer_dir)
            if model.chat_template:
                run.write_chat_template(model.chat_template)
        file = _write_weights(run.step_folder(0), model)
        with in_background(file_sha256, file) as sha256:
            weights = SafetensorsWeights([file], str(file))
            written = Model(config, weights, run.tokenizer() if model.tokenizer is not None else None)
            with flushing(folder):
                found, checks = compared(model, written)
            if _is_of_transformers(place) and small_enough(weights):
                ids = sample_ids(config.model, model.tokenizer)
                own = model.tokenizer if tokenizer is None else None
                said = asked_transformers(place, ids, found.logits, own, is_ours=False)
                checks += [said] if said else []
            _complete_run(run, config, model, sha256(), source_hashes())
        unusable = why_no_chat(model, f"mend it in {RunDirectory(out).tokenizer_dir / TEMPLATE_FILE}")
    size = sum(tensor_bytes(model.weights, name) for name in model.weights.shapes)
    dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in model.weights.dtypes.values()})
    checks += [f"note: `groundup generate --chat` will not work: {unusable}"] if unusable else []
    chats = model.chat_template and not unusable
    following = command("generate", out, *(["--chat"] if chats else ["--prompt", "Once upon a time"]))
    return Imported(
        out, model.family, parameter_count(model.config.model), size, ", ".join(dtypes), found.difference, checks,
        following,
    )  # fmt: skip


def open_source(source: str | Path, *, context: int = 0, tokenizer: Path | None = None) -> tuple[Model, Path]:
    """Open a model of any format that is read; returns it with the file or folder that it lies in."""
    if str(source).startswith(hub.SCHEME):
        found = hub.download(str(source))
        model, place = open_source(found.place, context=context, tokenizer=tokenizer)
        return dataclasses.replace(model, origin=found.origin), place
    place = Path(source)
    if not place.exists():
        raise FileMissingError(f"no file or folder {place}; expected a folder of transformers, or hf://ORG/NAME")
    _refuse_shards(place)
    if not place.is_dir():
        if place.suffix in _OF_TORCH:
            raise nano.refusal(place)
        if place.suffix != ".gguf" and place.is_file() and not gguf.is_gguf(place):
            raise _refused_file(place)
        return gguf.read_gguf(place, context=context, tokenizer=tokenizer), place
    if (place / hugging_face.CONFIG_FILE).exists():
        return hugging_face.read_folder(place, context=context, tokenizer=tokenizer), place
    if (place / plain.CONFIG_FILE).exists():
        if (place / "checkpoints").is_dir():
            raise CheckpointError(f"{place} is a run already; use it as it is, or copy it")
        return plain.read_plain(place, context=context, tokenizer=tokenizer), place
    if saved := sorted(path for path in place.iterdir() if path.suffix in _OF_TORCH):
        raise nano.refusal(saved[-1])
    raise FileMissingError(f"no {hugging_face.CONFIG_FILE} in {place}; expected a folder of transformers")


def _refuse_shards(place: Path) -> None:
    """Refuse text that `groundup encode` wrote, whose files end like those of a model."""
    folder = place if place.is_dir() else place.parent
    is_text = (folder / INDEX_FILE).is_file() and any(folder.glob(SHARD_PATTERN))
    if is_text and (place.is_dir() or fnmatchcase(place.name, SHARD_PATTERN)):
        raise CheckpointError(
            f"{place} holds token shards, which are encoded text, not a model; name a model, and train or evaluate it "
            f"on them with `groundup train --train_path {folder}` or `groundup evaluate MODEL --data {folder}`"
        )


def _refused_file(place: Path) -> CheckpointError:
    """The error for a file that is not a model: what it is, and what to give instead."""
    folder = place.absolute().parent
    for inside in (folder / hugging_face.CONFIG_FILE, folder / plain.CONFIG_FILE):
        if inside.is_file() and place.suffix in _KINDS:
            return CheckpointError(f"{place} is one file of a model; name its folder, {place.parent}")
    if place.suffix == ".safetensors":
        return CheckpointError(
            f"{place} holds tensors alone; expected a folder of transformers, with {hugging_face.CONFIG_FILE} and the "
            f"tokenizer beside them"
        )
    if kind := kind_of_tokenizer(place):
        return CheckpointError(
            f"{place} is a tokenizer ({kind}), not a model; give it beside the model as --tokenizer, or convert it "
            f"with `groundup tokenizer convert`"
        )
    return CheckpointError(
        f"{place} is of no known format; expected a folder of transformers, a GGUF file, or a folder of "
        f"`groundup export --to folder`"
    )


_OF_TORCH = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that torch.save writes."""


def _refuse_trained(out: Path) -> None:
    """Refuse to replace a run that is more than an import."""
    try:
        imported = "imported" in read_object(out / "environment.json")
    except (OSError, ValueError):
        imported = False
    run = RunDirectory(out)
    if run.config_file.is_file() and not (imported and run.steps() == [0] and not (out / "metrics.jsonl").exists()):
        raise ConfigError(f"{out} is a run that was trained, and is left alone; choose another --out")


def _is_of_transformers(place: Path) -> bool:
    return (place / hugging_face.CONFIG_FILE).is_file()


def _write_weights(checkpoint: Path, model: Model) -> Path:
    """Write the weights of a checkpoint, and return their file."""
    checkpoint.mkdir(parents=True)
    names = plain_names(model.config.model)
    weights = ExportedWeights(model.weights, [Link(name, name, shape) for name, shape in names.items()])
    write_safetensors(checkpoint / MODEL_FILE, weights, list(names))
    return checkpoint / MODEL_FILE


def _complete_run(
    run: RunDirectory, config: RunConfig, model: Model, sha256: str, source_hashes: dict[str, str]
) -> None:
    """Write the other files of a run (docs/reference/run-directory.md)."""
    environment = {
        "groundup": GROUNDUP_VERSION,
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in ("torch", "numpy", "safetensors", "regex")},
        "platform": platform.platform(),
        "parameters": parameter_count(config.model),
        "flops_per_token": training_flops_per_token(config.model),
        "imported": {"family": model.family, **model.origin, "files": source_hashes},
    }
    run.create(config, environment)
    checkpoint = run.step_folder(0)
    save_file({}, checkpoint / OPTIMIZER_FILE)
    state = TrainState().to_dict() | {
        "format": FORMAT,
        "version": VERSION,
        "dataset_sha256": None,
        "tokenizer_sha256": None if model.tokenizer is None else model.tokenizer.sha256,
        "evaluated_on": [None, config.train.eval_windows],
        "options": flatten(config),
        "optimizer": {},
        FILES: {MODEL_FILE: sha256, OPTIMIZER_FILE: file_sha256(checkpoint / OPTIMIZER_FILE)},
    }
    write_state(checkpoint, state)
    for pointer in ("latest", "best"):
        run.point(pointer, 0)


_KINDS = (".json", ".jsonl", ".safetensors", ".toml", ".txt", ".model", ".tiktoken")
"""Endings of the files of a folder that are part of a model."""


def _hashes(place: Path) -> dict[str, str]:
    """SHA-256 of each file of the source, by name."""
    if place.is_file():
        return {place.name: file_sha256(place)}
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix in _KINDS)
    return {path.relative_to(place).as_posix(): file_sha256(path) for path in files}
