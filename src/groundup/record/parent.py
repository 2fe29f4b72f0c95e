"""Parent of a run: the checkpoint whose weights it begins with (train.init), and the model that it inherits.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import ModelConfig, RunConfig, find_recipe, load_recipe, load_toml, override
from groundup.config.names import WITHOUT_WEIGHTS
from groundup.errors import CheckpointError, FileMissingError
from groundup.record.json import read_object
from groundup.record.run import RunDirectory
from groundup.system.command import command
from groundup.system.files import why

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

_STATE_FILE = "state.json"
_RUNS = "runs"


@dataclass(frozen=True)
class Parent:
    """A checkpoint that another run begins with."""

    init: str
    """The text that names it: train.init."""
    folder: Path
    run: RunDirectory | None
    """The run that it lies in; None for a checkpoint that was taken out of its run."""
    state: dict[str, Any]
    """``state.json``, unchecked."""

    @property
    def model(self) -> ModelConfig:
        """The options that its model was trained with.

        Raises:
            CheckpointError: it lies in no run and has none.
            ConfigError: they are damaged, or another version's.
        """
        if self.run is not None:
            return self.run.config_at(self.state).model
        options = {name: value for name, value in self.state["options"].items() if name.startswith("model.")}
        if not options:
            raise CheckpointError(f"{self.folder} has no options and lies in no run; name a run: --init RUN@STEP")
        return override(RunConfig(), options).model

    def tokenizer(self) -> Tokenizer | None:
        """Load the tokenizer of its run, if there is one."""
        return self.run.tokenizer() if self.run is not None and self.run.tokenizer_dir.is_dir() else None


def find_parent(init: str) -> Parent:
    """Find what train.init names: a run by name or path (its best checkpoint), RUN@STEP, or a checkpoint's folder.

    Raises:
        FileMissingError: there is no such run or folder; similar names are listed.
        CheckpointError: the run has no such checkpoint, or it cannot be read.
    """
    found = _located(init)
    if _is_no_run(init):
        raise FileMissingError(
            f"train.init = {init!r} is a model that is not a run; make it one first: "
            f"`{command('import', init, '--out', Path(_RUNS, 'imported'))}`, then --init imported"
        )
    if found is None:
        try:
            RunDirectory.open(init.rpartition("@")[0] or init)  # raises, with the runs that exist
        except FileMissingError as error:
            raise FileMissingError(f"train.init = {init!r}: {error}") from None
    assert found is not None
    place, which = found
    if (place / _STATE_FILE).is_file():
        folder, around = place, place.absolute().parent.parent
        run = RunDirectory(around) if (around / "config.toml").is_file() else None
    else:
        run = RunDirectory(place)
        folder = run.checkpoint(which or "best")
    try:
        state = read_object(folder / _STATE_FILE)
        if not isinstance(state.setdefault("options", {}), dict) or type(state.get("step")) is not int:
            raise ValueError("it has no options, or no step")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"train.init = {init!r}: {folder / _STATE_FILE} cannot be read: {why(error)}") from None
    return Parent(init, folder, run, state)


def _is_no_run(init: str) -> bool:
    """Whether it names a model on the Hub, of another program, or exported as a folder."""
    return (
        init.startswith("hf://")
        or init.endswith((".gguf", ".safetensors"))
        or os.path.isfile(os.path.join(init, "config.json"))
        or (
            os.path.isfile(os.path.join(init, "model.safetensors"))
            and not os.path.isfile(os.path.join(init, _STATE_FILE))
        )
    )


def absolute_init(init: str) -> str:
    """Return train.init with an absolute path, so that a run can be resumed from any folder.

    A parent that is gone keeps the path that it had: a name alone was one in runs/.
    """
    if not init:
        return ""
    found = _located(init)
    if found is None:
        return os.path.abspath(init if os.path.dirname(init) else os.path.join(_RUNS, init))
    place, which = found
    return os.path.abspath(place) + (f"@{which}" if which else "")


def _located(init: str) -> tuple[Path, str] | None:
    """The folder that train.init names, and the checkpoint behind its @; None if there is no such folder."""
    name, at, which = init.rpartition("@")
    for text, behind in [(init, "")] + [(name, which)] * bool(at and name and which):
        for place in (Path(text), Path(_RUNS, text)):
            if os.path.isfile(place / "config.toml") or (not behind and os.path.isfile(place / _STATE_FILE)):
                return place, behind
    return None


def inheriting_recipe(recipe: str | None, given: Mapping[str, Any] | None = None, *, resume: bool = False) -> RunConfig:
    """Return the config of a recipe; if there is a parent, with the parent's model.

    If the recipe names it, model options that the recipe leaves out are the parent's. If it is given beside the recipe,
    which was written for other weights, all of them are, but for the context length and the rotary options, which may
    change. The vocabulary's size is left to the data, which may have more ids than the parent.

    Args:
        recipe: as for :func:`groundup.config.load_recipe`; None for the defaults.
        given: train.init, name and runs_dir, where the command line or the call gives them.
        resume: take the model from the run itself if it has begun, since its parent may be gone.

    Raises:
        FileMissingError, ConfigError, CheckpointError: no such recipe or parent, or it is damaged.
    """
    values = load_toml(find_recipe(recipe)) if recipe is not None else {}
    train = values.get("train")
    options = values | {"train.init": train.get("init") if isinstance(train, dict) else None} | dict(given or {})
    init, name, runs_dir = (options.get(key) or default for key, default in _PLACE.items())
    base, ignored = RunConfig(), set[str]()
    model = values.get("model")
    if (given or {}).get("train.init"):
        ignored = {f"model.{f.name}" for f in dataclasses.fields(ModelConfig)} - _FREE
    complete = isinstance(model, dict) and {f.name for f in dataclasses.fields(ModelConfig)} <= model.keys()
    if isinstance(init, str) and init and (ignored or not complete):
        run = RunDirectory(Path(str(runs_dir), str(name)))
        if resume and run.config_file.is_file():
            base = RunConfig(model=run.config.model)
        else:
            base = RunConfig(model=dataclasses.replace(find_parent(init).model, vocab_size=0))
    return base if recipe is None else load_recipe(recipe, base, ignored)


_FREE = {
    f"model.{name}" for name in WITHOUT_WEIGHTS if name == "context_length" or name.startswith("rope_")
}  # fmt: skip
"""Options of the model that a recipe decides, whatever weights the run begins with."""
_PLACE = {"train.init": "", "name": RunConfig().name, "runs_dir": RunConfig().runs_dir}
