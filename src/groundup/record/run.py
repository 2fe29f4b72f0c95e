"""The run directory: everything a run leaves behind, and the one meeting point of training and what comes after."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import RunConfig, from_dict, load_toml, override, save_toml
from groundup.config.recipe import suggestion
from groundup.errors import CheckpointError, ConfigError, DataError, FileMissingError, TrainingError
from groundup.system.files import locked, write_atomically
from groundup.system.launch import Launch
from groundup.system.leftovers import delete, discard, discarded
from groundup.system.reading import read_text

if TYPE_CHECKING:
    from groundup.nn import TransformerLM
    from groundup.tokenizer import Tokenizer

_STEP_FOLDER = re.compile(r"step-(\d+)")
_MADE_FIRST = {"config.toml", "environment.json", "checkpoints", "tokenizer", "tensorboard", "wandb", "wandb_id"}
"""What a run has before its first line of metrics."""


class RunDirectory:
    """``config.toml``, ``environment.json``, ``metrics.jsonl``, ``samples.jsonl``, ``summary.json``, ``tokenizer/``,
    and ``checkpoints/`` with one folder a step, and ``latest`` and ``best``, files that hold the name of one.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer_dir = self.path / "tokenizer"

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run, by its path or by its name in runs/.

        Raises:
            FileMissingError: there is no such run; nearby runs are named.
        """
        given = Path(path)
        for candidate in (given, "runs" / given):
            if os.path.isfile(candidate / "config.toml"):  # which takes a name that is too long for one of no file
                return cls(candidate)
        parent = given.parent if given.parent != Path() else Path("runs")
        try:
            siblings = sorted(p.parent.name for p in parent.glob("*/config.toml"))
        except OSError:  # the name is too long to look
            siblings = []
        there = f"{suggestion(given.name, siblings)} in {parent}" if siblings else "; train one first"
        raise FileMissingError(f"no run {given} (it has no config.toml){there}")

    @property
    def config(self) -> RunConfig:
        """The resolved options the run was started with.

        Raises:
            ConfigError: they are damaged, or another version's.
        """
        path = self.path / "config.toml"
        values = load_toml(path)
        try:
            return from_dict(RunConfig, values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def config_at(self, state: dict[str, Any]) -> RunConfig:
        """The options with the architecture that a checkpoint was made with, whatever config.toml has become since.

        Raises:
            ConfigError: config.toml, or the options in the state, are damaged.
        """
        saved = {name: value for name, value in state.get("options", {}).items() if name.startswith("model.")}
        return override(self.config, saved)

    def create(self, config: RunConfig, environment: dict[str, Any]) -> None:
        """Write what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_toml(config, self.path / "config.toml")  # first: it is what makes the folder a run
        self.checkpoints.mkdir(exist_ok=True)
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=1) + "\n")

    def is_untouched(self) -> bool:
        """Whether nothing is there yet, but what a process that failed or was killed while it started has left."""
        if not self.path.exists():
            return True
        there = {p.name for p in self.path.iterdir() if p.name != ".lock" and not p.name.endswith(".tmp")}
        # A config.toml by itself may be anybody's; with the rest it is that of a run which never made a line.
        begun = {"config.toml", "environment.json"} <= there <= _MADE_FIRST
        return not there or (begun and not self.steps())

    def may_train(self, *, resume: bool, overwrite: bool, launch: Launch) -> bool:
        """Whether to resume, where that is possible, in a run that may be trained at all.

        Raises:
            ConfigError: torchrun has started a job again that would begin by deleting what it did before.
            FileMissingError: nothing is there to resume; nearby runs are named.
            TrainingError: something is there and nothing was said about it, or it is not a run.
        """
        if overwrite and launch.restarts:
            raise ConfigError(
                f"torchrun has started the job again, and --overwrite would delete what {self.path} holds of it; "
                f"with --resume in its place the same command begins a run and goes on with it"
            )
        if self.is_untouched():
            if resume and not launch.by_torchrun:
                RunDirectory.open(self.path)  # which says what runs there are
            return False
        if not (resume or overwrite):
            raise TrainingError(
                f"{self.path} exists already; continue it with --resume, replace it with --overwrite, "
                f"or choose another --name"
            )
        if not (self.path / "config.toml").is_file():
            raise TrainingError(
                f"{self.path} holds something, but not a run (it has no config.toml), and is left alone; "
                f"choose another --name"
            )
        return resume

    def check_present(self) -> None:
        """Notice that the run is gone before something is written where it was.

        Raises:
            TrainingError: the directory was deleted, moved or emptied.
        """
        if not (self.path / "config.toml").is_file():
            raise TrainingError(
                f"{self.path} was deleted or moved while it was being trained; move it back and resume the run, or "
                f"start it again"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the run to this process; the lock goes with the process, however it ends.

        Raises:
            TrainingError: another process is training it.
        """
        taken = TrainingError(f"{self.path} is being trained by another process; wait for it, or stop it")
        with locked(self.path / ".lock", taken):
            yield

    def clear(self) -> None:
        """Delete everything in the run but its lock.

        Killed half-way, what is left is still a run, without checkpoints.
        """
        self.sweep()
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

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        if not self.checkpoints.is_dir():
            return []
        found = (_STEP_FOLDER.fullmatch(p.name) for p in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def step_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step}"

    def checkpoint(self, which: str = "best") -> Path:
        """Folder of a checkpoint: "best" (the newest where nothing was evaluated), "latest", or a step's number.

        Raises:
            CheckpointError: the run has none, or not that one; the existing ones are named.
        """
        steps = self.steps()
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
        # A crash between the rename of a checkpoint and the pointer's leaves the pointer one behind: still complete.
        try:
            name = read_text(self.checkpoints / pointer).strip()
        except (OSError, ValueError):
            return None
        if _STEP_FOLDER.fullmatch(name) is None:  # a path could lead into another run
            return None
        folder = self.checkpoints / name
        return folder if folder.is_dir() else None

    def point(self, pointer: str, step: int) -> None:
        """Make "latest" or "best" name a step's checkpoint."""
        self._free(pointer)
        write_atomically(self.checkpoints / pointer, f"step-{step}\n")

    def _free(self, pointer: str) -> None:
        """Remove a folder that has taken a pointer's name."""
        if (self.checkpoints / pointer).is_dir():
            discard(self.checkpoints / pointer)

    def sweep(self) -> None:
        """Delete what earlier processes left half written or could not delete, as far as that is possible.

        Call it while nothing is being written.
        """
        for folder in (self.path, self.checkpoints, self.tokenizer_dir, *map(self.step_folder, self.steps())):
            for leftover in folder.glob(".*.tmp"):
                delete(leftover)

    def rewind(self, step: int, best_step: int | None) -> None:
        """Make a step the newest, to go on from it: checkpoints after it will be made again.

        A kill leaves such a checkpoint where it had its name but ``latest`` not yet. Pointers move first, so that at
        no instant one names a folder that is being deleted. One that cannot be deleted is replaced when its step
        comes.
        """
        for pointer, target in (("best", best_step), ("latest", step)):
            if target in self.steps():
                if self._pointed(pointer) != self.step_folder(target):
                    self.point(pointer, target)
            else:
                self._free(pointer)
                (self.checkpoints / pointer).unlink(missing_ok=True)
        for later in self.steps():
            if later > step:
                with suppress(OSError):
                    discard(self.step_folder(later))

    def prune(self, keep: int) -> list[Path]:
        """Delete all but the ``keep`` newest checkpoints and those that ``latest`` and ``best`` name; 0 keeps all.

        Returns:
            What cannot be deleted now. The next call tries it again.
        """
        for leftover in discarded(self.checkpoints):
            delete(leftover)
        stuck = []
        pointed = {self._pointed("best"), self._pointed("latest")}
        for step in self.steps()[:-keep] if keep else []:
            if (folder := self.step_folder(step)) not in pointed:
                try:
                    discard(folder)
                except OSError:
                    stuck.append(folder)
        return stuck + discarded(self.checkpoints)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the run's data was made with.

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

    def model(self, which: str = "best", device: str = "cpu") -> tuple[TransformerLM, dict[str, Any]]:
        """The model of a checkpoint, in evaluation mode, and the checkpoint's state.

        Raises:
            CheckpointError: truncated or foreign checkpoint.
        """
        from groundup.nn import TransformerLM
        from groundup.nn.fast.accelerate import accelerate
        from groundup.train.checkpoint.folder import check_hashes, read_model, read_state

        folder = self.checkpoint(which)
        state = read_state(folder)
        check_hashes(folder, state, part="model")
        model = accelerate(TransformerLM(self.config_at(state).model, device=device), kernels="plain")
        read_model(folder, model)
        return model.eval(), state
