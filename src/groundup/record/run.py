"""Run directory: the layout of a run on disk, its lock, and its checkpoints by name. Needs no torch."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import RunConfig, from_dict, load_toml, override, save_toml
from groundup.config.recipe import suggestion
from groundup.errors import CheckpointError, ConfigError, DataError, FileMissingError, TrainingError
from groundup.record.json import read_object
from groundup.system.files import delete, discard, discarded, is_locked, locked, read_text, write_atomically
from groundup.system.launch import Launch
from groundup.text.chat.templates import TEMPLATE_FILE, ChatTemplate, stored_template

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

_STEP_FOLDER = re.compile(r"step-(\d+)")
_BEST_FOLDER = re.compile(r"best-(\d+)")
"""Weights without optimizer state (``train.keep_best = "weights"``)."""
_MADE_FIRST = {"config.toml", "environment.json", "checkpoints", "tokenizer", "tensorboard", "wandb", "wandb_id"}
"""Entries of a run before its first line of metrics."""

_RECENT = 60.0
"""Seconds. A run that another machine trains shows no lock here; its metrics are then this new at most."""


class RunDirectory:
    """``config.toml``, ``environment.json``, ``metrics.jsonl``, ``samples.jsonl``, ``summary.json``, ``tokenizer/``,
    and ``checkpoints/`` with one folder a step, and ``latest`` and ``best``, files that hold the name of one.
    With ``train.keep_best = "weights"``, ``best`` names ``best-STEP``, a folder without the optimizer's state.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer_dir = self.path / "tokenizer"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run, by its path or by its name in runs/.

        Raises:
            FileMissingError: no such run; similar names are listed.
        """
        given = Path(path)
        for candidate in (given, "runs" / given):
            if os.path.isfile(candidate / "config.toml"):  # False for a name that is too long
                return cls(candidate)
        parent = given.parent if given.parent != Path() else Path("runs")
        try:
            siblings = sorted(p.parent.name for p in parent.glob("*/config.toml"))
        except OSError:  # the name is too long to look
            siblings = []
        there = suggestion(given.name, siblings) if siblings else "; train one first"
        where = f" in {parent}" if there.startswith("; valid") else ""
        raise FileMissingError(f"no run {given} (it has no config.toml){there}{where}")

    @property
    def config(self) -> RunConfig:
        """The resolved options that the run was started with.

        Raises:
            ConfigError: they are damaged, or another version's.
        """
        path = self.config_file
        values = load_toml(path)
        try:
            return from_dict(RunConfig, values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def config_at(self, state: dict[str, Any]) -> RunConfig:
        """Return the options with the architecture of a checkpoint, even if config.toml has changed since.

        Raises:
            ConfigError: config.toml, or the options in the state, are damaged.
        """
        saved = {name: value for name, value in state.get("options", {}).items() if name.startswith("model.")}
        return override(self.config, saved)

    def create(self, config: RunConfig, environment: dict[str, Any]) -> None:
        """Write the options and the environment, before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_toml(config, self.config_file)  # first: this file makes the folder a run
        self.checkpoints.mkdir(exist_ok=True)
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=1) + "\n")

    def is_untouched(self) -> bool:
        """Whether the folder is empty, or holds only the remains of a process that failed or was killed at its
        start."""
        if not self.path.exists():
            return True
        there = {p.name for p in self.path.iterdir() if p.name != ".lock" and not p.name.endswith(".tmp")}
        # A config.toml alone may be the user's; with the rest it belongs to a run without a line of metrics.
        begun = {"config.toml", "environment.json"} <= there <= _MADE_FIRST
        return not there or (begun and not self.steps())

    def may_train(self, *, resume: bool, overwrite: bool, launch: Launch) -> bool:
        """Return whether to resume; refuse a run that may not be trained.

        Raises:
            ConfigError: torchrun has restarted a job that would begin by deleting its own work.
            FileMissingError: no run to resume; similar names are listed.
            TrainingError: the folder is taken, or is not a run.
        """
        if overwrite and launch.restarts:
            raise ConfigError(
                f"torchrun has started the job again, and --overwrite would delete what {self.path} holds of it; "
                f"with --resume in its place the same command begins a run and goes on with it"
            )
        if self.is_untouched():
            if resume and not launch.by_torchrun:
                RunDirectory.open(self.path)  # raises, with the runs that exist
            return False
        if not (resume or overwrite):
            raise TrainingError(
                f"{self.path} exists already; continue it with --resume, replace it with --overwrite, "
                f"or choose another --name"
            )
        if resume and self._is_imported():
            raise TrainingError(
                f"{self.path} is an imported model, which has no training to resume; begin a run with its weights: "
                f"--init {self.path}"
            )
        if not (self.config_file).is_file():
            raise TrainingError(
                f"{self.path} holds something, but not a run (it has no config.toml), and is left alone; "
                f"choose another --name"
            )
        return resume

    def _is_imported(self) -> bool:
        """Whether `groundup import` wrote it, and nothing was trained since."""
        try:
            return "imported" in read_object(self.path / "environment.json") and self.steps() == [0]
        except (OSError, ValueError):
            return False

    def check_present(self) -> None:
        """Refuse to write to a run that is gone.

        Raises:
            TrainingError: the directory was deleted, moved or emptied.
        """
        if not (self.config_file).is_file():
            raise TrainingError(
                f"{self.path} was deleted or moved while it was being trained; move it back and resume the run, or "
                f"start it again"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process; the lock ends with the process.

        Raises:
            TrainingError: another process is training it.
        """
        taken = TrainingError(f"{self.path} is being trained by another process; wait for it, or stop it")
        with locked(self.path / ".lock", taken):
            yield

    def is_being_trained(self) -> bool:
        """Whether a process trains it: one of this machine holds the lock, or another wrote metrics just now."""
        if is_locked(self.path / ".lock"):
            return True
        try:
            return not self.has_summary() and time.time() - os.stat(self.path / "metrics.jsonl").st_mtime < _RECENT
        except OSError:
            return False

    def has_summary(self) -> bool:
        """Whether a session has ended regularly."""
        return (self.path / "summary.json").is_file()

    def clear(self) -> None:
        """Delete everything in the run but its lock.

        After a kill half-way, the rest is still a run, without checkpoints.
        """
        self.delete_leftovers()
        discard(self.checkpoints)
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == "config.toml"):
            if entry.name == ".lock" or entry.name.endswith(".tmp"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                discard(entry)
            else:
                entry.unlink()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")

    def forget_summary(self) -> None:
        """Delete ``summary.json``: the run is not finished any more."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending."""
        if not self.checkpoints.is_dir():
            return []
        found = (_STEP_FOLDER.fullmatch(p.name) for p in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def step_folder(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.checkpoints / f"step-{step}"

    def checkpoint(self, which: str = "best") -> Path:
        """Return the folder of a checkpoint: "best" (the newest if nothing was evaluated), "latest", or a step's
        number.

        Raises:
            CheckpointError: the run has no checkpoint, or not this one; the existing ones are listed.
        """
        steps = self.steps()
        if which == "best" and (folder := self._pointed("best")) is not None:
            return folder
        if not steps:
            raise CheckpointError(f"{self.path} has no checkpoint yet; train it first")
        if which in ("best", "latest"):
            return self._pointed(which) or self._pointed("latest") or self.step_folder(steps[-1])
        for step in steps:
            if which.removeprefix("step-") == str(step):  # as text: int() refuses thousands of digits
                return self.step_folder(step)
        raise CheckpointError(
            f"{self.path} has no checkpoint {which!r}; it has best, latest, {', '.join(map(str, steps))}"
        )

    def _pointed(self, pointer: str) -> Path | None:
        # A crash between the rename of a checkpoint and that of the pointer leaves the older one: still complete.
        try:
            name = read_text(self.checkpoints / pointer).strip()
        except (OSError, ValueError):
            return None
        weights_only = pointer == "best" and _BEST_FOLDER.fullmatch(name) is not None
        if not weights_only and _STEP_FOLDER.fullmatch(name) is None:  # a path could lead into another run
            return None
        folder = self.checkpoints / name
        return folder if folder.is_dir() else None

    def best_folder(self, step: int) -> Path:
        """Return the folder of a step's weights, where they are kept without the optimizer's state."""
        return self.checkpoints / f"best-{step}"

    def best_steps(self) -> list[int]:
        """Return the steps whose weights are kept without the optimizer's state, ascending."""
        if not self.checkpoints.is_dir():
            return []
        found = (_BEST_FOLDER.fullmatch(p.name) for p in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def point(self, pointer: str, step: int, *, folder: Path | None = None) -> None:
        """Make "latest" or "best" name a step's checkpoint, or another folder beside it."""
        self._free(pointer)
        write_atomically(self.checkpoints / pointer, f"{(folder or self.step_folder(step)).name}\n")

    def _free(self, pointer: str) -> None:
        """Remove a folder that has taken a pointer's name."""
        if (self.checkpoints / pointer).is_dir():
            discard(self.checkpoints / pointer)

    def delete_leftovers(self) -> None:
        """Delete half-written files of earlier processes, and what they could not delete.

        Call it while nothing is being written.
        """
        weights = map(self.best_folder, self.best_steps())
        for folder in (self.path, self.checkpoints, self.tokenizer_dir, *map(self.step_folder, self.steps()), *weights):
            for leftover in folder.glob(".*.tmp"):
                delete(leftover)

    def rewind(self, step: int, best_step: int | None) -> None:
        """Make a step the newest, to resume from it; later checkpoints are deleted and written again.

        A kill between a checkpoint's rename and that of ``latest`` leaves such a later one. Pointers move first, so
        that none ever names a folder that is being deleted. A folder that cannot be deleted is replaced when its step
        comes.
        """
        for pointer, target in (("best", best_step), ("latest", step)):
            weights = self.best_folder(target) if pointer == "best" and target is not None else None
            if weights is not None and weights.is_dir():
                if self._pointed(pointer) != weights:
                    self.point(pointer, step, folder=weights)
            elif target in self.steps():
                if self._pointed(pointer) != self.step_folder(target):
                    self.point(pointer, target)
            else:
                self._free(pointer)
                (self.checkpoints / pointer).unlink(missing_ok=True)
        later = [self.step_folder(other) for other in self.steps() if other > step]
        later += [self.best_folder(other) for other in self.best_steps() if other > step]
        for folder in later:
            with suppress(OSError):
                discard(folder)

    def prune(self, keep: int, also: int = 0) -> list[Path]:
        """Delete all but the ``keep`` newest checkpoints and those that ``latest`` and ``best`` name; 0 keeps all.

        Args:
            also: a step whose checkpoint is kept, too.

        Returns:
            Folders that cannot be deleted now. The next call tries again.
        """
        for leftover in discarded(self.checkpoints):
            delete(leftover)
        stuck = []
        # A resumed run begins with the latest checkpoint, and needs the weights that were the best then.
        latest = max(self.steps(), default=0)
        best = self.best_steps()
        kept = {self._pointed("best")} | {self.best_folder(step) for step in [s for s in best if s <= latest][-1:]}
        for folder in (self.best_folder(step) for step in best):
            if folder not in kept:
                try:
                    discard(folder)
                except OSError:
                    stuck.append(folder)
        pointed = {self._pointed("best"), self._pointed("latest")}
        for step in self.steps()[:-keep] if keep else []:
            if (folder := self.step_folder(step)) not in pointed and step != also:
                try:
                    discard(folder)
                except OSError:
                    stuck.append(folder)
        return stuck + discarded(self.checkpoints)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer of the run's data.

        Raises:
            DataError: the run was trained on bare ids, without a tokenizer.
        """
        from groundup.tokenizer import Tokenizer

        if not self.tokenizer_dir.is_dir():
            raise DataError(
                f"{self.tokenizer_dir} does not exist: the run was trained on bare token ids, or its tokenizer was "
                f"removed; train on shards made by `groundup encode`, or with data.vocab and data.merges"
            )
        return Tokenizer.load(self.tokenizer_dir)

    def write_chat_template(self, text: str) -> None:
        """Write the template of the conversations that the run is trained on, beside its tokenizer."""
        write_atomically(self.tokenizer_dir / TEMPLATE_FILE, text)

    @property
    def is_chat(self) -> bool:
        """Whether the run was trained on conversations."""
        return (self.tokenizer_dir / TEMPLATE_FILE).is_file()

    def chat_template(self) -> ChatTemplate:
        """Return the template of the conversations that the run was trained on.

        Raises:
            DataError: it was trained on text.
        """
        found = stored_template(self.tokenizer_dir)
        if found is None:
            raise DataError(
                f"{self.path} was not trained on conversations: there is no {self.tokenizer_dir / TEMPLATE_FILE}; "
                "encode some with `groundup encode --format chat` and train on them"
            )
        return found
