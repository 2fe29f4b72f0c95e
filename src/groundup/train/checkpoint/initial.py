"""Initial weights: a run begins with those of another run's checkpoint (train.init)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundup.config import ModelConfig, RunConfig, override
from groundup.config.names import FIXED
from groundup.errors import ConfigError
from groundup.optim.dtensor import fill
from groundup.record.parent import Parent, find_parent
from groundup.record.run import RunDirectory
from groundup.system.files import file_sha256
from groundup.train.checkpoint.folder import (
    FILES,
    MODEL_FILE,
    check_hashes,
    parameters_by_name,
    read_state,
    read_tensors,
)

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer
    from groundup.train.build import Trainer

_VOCABULARY = re.compile(r"(token_embeddings|lm_head|value_embeddings\.\d+)\.weight")
"""Names of the parameters with a row for each id."""


def with_parent(config: RunConfig, *, begins: bool) -> tuple[RunConfig, Parent | None]:
    """Return the config and the parent of a run that train.init names; no parent if the run has begun.

    Args:
        begins: False for a run that has a checkpoint. It needs its parent no more: what the parent decided is in its
            config.toml.

    Raises:
        FileMissingError, CheckpointError: the parent is missing or has no such checkpoint.
        ConfigError: it lies in the run's own directory, which is about to be replaced.
    """
    if not begins:
        model = RunDirectory(config.run_dir).config.model
        left_out = [name for name in ("vocab_size", "embedding_scale") if not getattr(config.model, name)]
        return override(config, {f"model.{name}": getattr(model, name) for name in left_out}), None
    parent = find_parent(config.train.init)
    if parent.folder.resolve().is_relative_to(config.run_dir.resolve()):
        raise ConfigError(f"train.init = {parent.init!r} lies in {config.run_dir} itself; choose another --name")
    return config, parent


def check_parent(parent: Parent, config: RunConfig, tokenizer: Tokenizer | None) -> tuple[RunConfig, str]:
    """Refuse a parent whose weights or ids are not those of a run.

    Returns:
        The config, with model.embedding_scale where a tied table grows: the derived scale depends on its size. And a
        note for the user; empty if there is none.

    Raises:
        ConfigError: an option that decides the weights' shapes differs; the vocabulary is smaller than the parent's, or
            the tokenizer is another one.
    """
    ours, theirs = config.model, parent.model
    names = [name.removeprefix("model.") for name in FIXED if name.startswith("model.") and name != "model.vocab_size"]
    different = [name for name in names if _effective(ours, name) != _effective(theirs, name)]
    # What is derived differs because of the others, and its name was never given.
    given = [name for name in different if name not in _DERIVED or getattr(ours, name)] or different
    if given:
        told = [f"model.{name} = {_effective(ours, name)!r} (there {_effective(theirs, name)!r})" for name in given]
        raise ConfigError(
            f"train.init = {parent.init!r} has other weights: {', '.join(told)}; leave these options out of the "
            f"command line and the recipe to take the parent's"
        )
    if ours.vocab_size < theirs.vocab_size:
        raise ConfigError(
            f"model.vocab_size = {ours.vocab_size}, but train.init = {parent.init!r} has {theirs.vocab_size} rows; a "
            f"vocabulary can only grow: leave it out, or set it to {theirs.vocab_size} or more"
        )
    note = _check_tokenizer(parent, tokenizer)
    if ours.vocab_size > theirs.vocab_size and ours.tie_embeddings and not ours.embedding_scale:
        config = override(config, {"model.embedding_scale": theirs.input_scale})
    return config, note


_DERIVED = ("d_ff", "num_kv_heads", "head_size")
"""Options that are derived from others where they are 0."""


def _effective(model: ModelConfig, name: str) -> Any:
    derived = {"d_ff": model.ffn_dim, "num_kv_heads": model.kv_heads, "head_size": model.head_dim}
    return derived.get(name, getattr(model, name))


def _check_tokenizer(parent: Parent, tokenizer: Tokenizer | None) -> str:
    theirs = parent.tokenizer()
    expected = theirs.sha256 if theirs is not None else parent.state.get("tokenizer_sha256")
    if tokenizer is None or expected is None:
        who = "data.train has no tokenizer" if tokenizer is None else f"train.init = {parent.init!r} has no tokenizer"
        return f"{who}: make sure that its ids mean the same" if tokenizer is not None or expected is not None else ""
    if tokenizer.sha256 == expected:
        return ""
    told = f"SHA-256 {str(expected)[:12]}…, now {tokenizer.sha256[:12]}…"
    if theirs is not None and not (told := theirs.first_difference(tokenizer)):
        return ""
    own = "its tokenizer" if parent.run is None else str(parent.run.tokenizer_dir)
    raise ConfigError(
        f"data.train has another tokenizer than train.init = {parent.init!r}: {told}; encode the text with {own}, or "
        f"with one that begins with its ids"
    )


def begin_with(trainer: Trainer, parent: Parent) -> None:
    """Load a parent's weights into the trainer's model, and record the parent in its state; all ranks must call it.

    A vocabulary that has grown has new rows, in the embedding table and in the output matrix: each is the mean of the
    parent's rows. A mean row of the output matrix gives a logit that is the mean of the others, and by Jensen's
    inequality its softmax is at most the average one. So k new ids take at most a share of k / (V + k) of the
    probability, and the loss on a text without them rises by ln(1 + k / V) at the most; with random rows one of them
    may win everywhere (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").

    Raises:
        CheckpointError: the checkpoint is damaged, or of another architecture.
    """
    folder, ranks = parent.folder, trainer.ranks
    with ranks.error_barrier():
        state = read_state(folder)
        check_hashes(folder, state, part="model", rank=ranks.rank, size=ranks.size)
    parameters = parameters_by_name(trainer.model)
    rows, new_rows = parent.model.vocab_size, trainer.config.model.vocab_size
    tables: dict[str, Tensor] = {}
    if new_rows > rows:
        tables = {
            name: torch.empty(rows, *parameter.shape[1:])
            for name, parameter in parameters.items()
            if _VOCABULARY.fullmatch(name)
        }
    with ranks.error_barrier():
        read_tensors(folder, parameters | tables)
    for name, table in tables.items():
        mean = table.double().mean(0, keepdim=True).to(table.dtype)
        fill(parameters[name], torch.cat([table, mean.expand(new_rows - rows, -1)]))
    place = parent.folder if parent.run is None else parent.run.path
    trainer.state.parent = {
        "run": str(place.absolute()),
        "step": state["step"],
        "weights_sha256": _weights_sha256(folder, state),
        "tokenizer_sha256": state.get("tokenizer_sha256"),
        "parent": state.get("parent"),
    }
    grown = f"; {new_rows - rows:,} new ids, each the mean of the {rows:,} rows before" if tables else ""
    trainer.notes.append(f"begins with the weights of {place} at step {state['step']:,}{grown}")


def _weights_sha256(folder: Path, state: dict[str, Any]) -> str:
    """SHA-256 of the file of weights; of sharded ones, of the list of their files' hashes."""
    files = {name: sha256 for name, sha256 in state.get(FILES, {}).items() if name.startswith("model")}
    if set(files) == {MODEL_FILE}:
        return str(files[MODEL_FILE])
    if not files and (folder / MODEL_FILE).is_file():  # version 0.1 recorded no hashes
        return file_sha256(folder / MODEL_FILE)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
