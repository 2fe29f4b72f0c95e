"""A model on disk, as export and import hand it on: options, weights, tokenizer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from groundup.config import END_OF_TEXT, RunConfig
from groundup.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FileMissingError,
    MissingExtraError,
    TokenizerError,
)
from groundup.interop.families import plain_names
from groundup.interop.verify import Side
from groundup.interop.weights import SafetensorsWeights, ShardWeights, Weights, check_tensors
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from groundup.record.run import RunDirectory
from groundup.system.files import delete, discard, file_sha256, sync_directory
from groundup.system.threads import in_background
from groundup.text.chat.rendering import Renderer
from groundup.text.chat.templates import ChatTemplate
from groundup.tokenizer.chat import LEARN, check_can_chat
from groundup.train.checkpoint.folder import MODEL_FILE, check_hashes, read_state
from groundup.train.checkpoint.shards import MODEL_SHARDS

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """A model on disk. Nothing of its weights is in memory."""

    config: RunConfig
    """Options; of a foreign model only those of the section ``model`` and the tokens of ``sample`` mean something."""
    weights: Weights
    """Under groundup's names."""
    tokenizer: Tokenizer | None
    origin: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: entries for ``environment.json``."""
    family: str = ""
    """Class in transformers, architecture in llama.cpp, or the name of another program."""
    kinds: tuple[str, ...] = ()
    """Types of the matrices in a GGUF file."""
    chat_template: str = ""
    """Jinja template of the conversations that it was trained on; empty for none."""
    unreadable_template: str = ""
    """Why its chat template could not be read; empty if it could be, or if there is none."""
    state: dict[str, Any] = field(default_factory=dict)
    """Of a run's checkpoint, its ``state.json``."""

    @property
    def side(self) -> Side:
        """The model, to be compared."""
        return Side(self.config.model, self.weights)

    def module(self, device: str = "cpu") -> TransformerLM:
        """The model in memory, in float32 and in evaluation mode; tensors are read one by one."""
        model = accelerate(TransformerLM.uninitialized(self.config.model, device), kernels="plain")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                self.weights.fill(name, parameter)
        return model.eval()

    def begin_and_end(self) -> tuple[str, str]:
        """The tokens that begin and end a text; empty where the tokenizer does not have them."""
        special = () if self.tokenizer is None else self.tokenizer.special_tokens
        sample = self.config.sample
        return (
            sample.begin_token if sample.begin_token in special else "",
            sample.end_token if sample.end_token in special else "",
        )

    def end_of_turn(self) -> str:
        """The token that ends a message of a conversation; empty if its chat template has none or cannot be used."""
        if self.tokenizer is None or not self.chat_template:
            return ""
        try:
            with Renderer(ChatTemplate("", self.chat_template), self.tokenizer.special_tokens) as renderer:
                return renderer.end_of_turn() or ""
        except (DataError, MissingExtraError):  # a template that cannot be rendered ends no turn
            return ""


def model_of_checkpoint(run: RunDirectory, folder: Path) -> Model:
    """Open a checkpoint of a run. Its hashes are not compared (:func:`check_weights`).

    Raises:
        CheckpointError: a damaged checkpoint.
    """
    state = read_state(folder)
    config = run.config_at(state)
    shards = folder / MODEL_SHARDS
    weights: Weights
    if shards.is_dir():
        weights = ShardWeights(shards)
    else:
        weights = SafetensorsWeights([folder / MODEL_FILE], str(folder / MODEL_FILE))
    check_tensors(weights, plain_names(config.model))
    try:
        tokenizer = run.tokenizer()
    except DataError:
        tokenizer = None
    template = run.chat_template().text if run.is_chat else ""
    return Model(config, weights, tokenizer, chat_template=template, state=state)


def check_weights(folder: Path, model: Model) -> None:
    """Compare the weights of a run's checkpoint with their hashes.

    Raises:
        CheckpointError: a file is missing or was changed.
    """
    sha256_of = model.weights.sha256 if isinstance(model.weights, SafetensorsWeights) else file_sha256
    check_hashes(folder, model.state, part="model", sha256_of=sha256_of)


def why_no_chat(model: Model, mend: str) -> str:
    """Why the chat template of a model cannot be used, in one line; empty if it can be, and if there is none.

    Args:
        mend: advice for a template that is broken.
    """
    if model.tokenizer is None or not model.chat_template:
        return model.unreadable_template
    template = ChatTemplate("of the model", model.chat_template, mend=mend)
    try:
        with Renderer(template, model.tokenizer.special_tokens) as renderer:
            check_can_chat(model.tokenizer, renderer.names, template.name, LEARN)
            renderer.end_of_turn()
    except (DataError, TokenizerError, MissingExtraError) as error:
        return str(error)
    return ""


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer of any format.

    Raises:
        FileMissingError, TokenizerError: there is none, or it cannot be read with the same ids.
    """
    from groundup.tokenizer import Tokenizer

    try:
        return Tokenizer.load(path)
    except (TokenizerError, FileMissingError) as error:
        raise type(error)(f"{error}; or name another tokenizer with --tokenizer") from None


def check_tokenizer(tokenizer: Tokenizer | None, vocab_size: int, source: str) -> None:
    """Refuse a tokenizer with ids that the model has no row for.

    Raises:
        CheckpointError: it has more ids than the model's vocabulary.
    """
    if tokenizer is not None and (largest := max(tokenizer.vocab)) >= vocab_size:
        raise CheckpointError(
            f"the tokenizer of {source} has the id {largest}, and the model has a vocabulary of {vocab_size}; "
            f"they do not belong together"
        )


def token_named(tokenizer: Tokenizer | None, token_id: object) -> str:
    """Name of a special token; empty where the id is none. Of a list of ids, the first."""
    if isinstance(token_id, list) and token_id:
        token_id = token_id[0]
    names = () if tokenizer is None else tokenizer.special_tokens
    return next((name for name in names if tokenizer is not None and tokenizer.token_id(name) == token_id), "")


def sample_tokens(tokenizer: Tokenizer | None, begin: object, end: object) -> dict[str, str]:
    """Options ``sample.begin_token`` and ``sample.end_token`` for the ids that a foreign model names."""
    names = (token_named(tokenizer, begin), token_named(tokenizer, end))
    fallback = END_OF_TEXT if not any(names) else ""
    return {"sample.begin_token": names[0] or fallback, "sample.end_token": names[1] or fallback}


@contextmanager
def flushing(out: Path) -> Iterator[None]:
    """Flush the files of a folder, or a file, to the disk while the block runs, and wait for that at its end."""
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    with in_background(_flush, files) as flushed:
        yield
        flushed()


def _flush(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def new_folder(out: Path, known: set[str], *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``out`` when the block ends, and is deleted after an error.

    Args:
        known: names of what such a folder holds. One with anything else is never replaced.

    Raises:
        ConfigError: the folder exists, and is not to be or may not be replaced.
    """
    check_free(out, known, overwrite=overwrite)
    with _parents(out):
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            yield temporary
            sync_directory(temporary)
            discard(out)
            os.rename(temporary, out)
            sync_directory(out.parent)
        finally:
            delete(temporary)


@contextmanager
def new_file(out: Path, looks_like: Callable[[bytes], bool], *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write, whose file becomes ``out`` when the block ends, and is deleted after an error.

    Args:
        looks_like: whether a file that begins with these bytes may be replaced.

    Raises:
        ConfigError: the file exists and is not to be replaced, is of another kind, or lies in a run.
    """
    if out.is_dir() or (os.path.lexists(out) and not overwrite):
        fix = "" if out.is_dir() else ", or replace it with --overwrite"
        raise ConfigError(f"{out} exists already; choose another --out{fix}")
    _refuse_in_a_run(out)
    if os.path.lexists(out) and not (out.is_file() and not out.is_symlink() and looks_like(_beginning(out))):
        raise ConfigError(f"{out} is not an earlier export of this kind, and is left alone; choose another --out")
    with _parents(out):
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            os.replace(temporary, out)
            sync_directory(out.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Make the folders that a path lies in, and remove them after an error if they are empty."""
    created = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
    try:
        with _ended_by_exceptions():
            out.parent.mkdir(parents=True, exist_ok=True)
            yield
    except BaseException:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, so that what was begun is deleted; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_free(out: Path, known: set[str], *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is to be replaced and holds nothing else."""
    here = Path.cwd()
    if Path(os.path.realpath(out)) in (here, *here.parents):
        raise ConfigError(f"--out {out} is the current folder or above it; name a new folder")
    _refuse_in_a_run(out)
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise ConfigError(f"{out} exists already and is not a folder, and is left alone; choose another --out")
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{out} exists already; choose another --out, or replace it with --overwrite")
    if out.is_dir() and not out.is_symlink():
        strangers = sorted(path.name for path in out.iterdir() if path.name not in known and not _is_shard(path.name))
        if strangers:
            raise ConfigError(
                f"{out} holds {strangers[0]}, which no export wrote, and is left alone; choose another --out"
            )


def _refuse_in_a_run(out: Path) -> None:
    """Refuse an output inside a run, whose files it could replace."""
    for parent in Path(os.path.realpath(out)).parents:
        if (parent / "config.toml").is_file() and (parent / "checkpoints").is_dir():
            raise ConfigError(f"--out {out} lies in the run {parent}; choose a place outside it")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)


def _is_shard(name: str) -> bool:
    return name.startswith("model-") and name.endswith(".safetensors")


def refuse_pickle(path: Path) -> CheckpointError:
    """The error for weights that only unpickling would read."""
    return CheckpointError(
        f"{path} is a pickle, which can run any code when it is read; convert it to safetensors where you trust it"
    )
