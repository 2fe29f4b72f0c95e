"""Training logger: metrics, validation and samples, and the record they are written to."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from groundup.account import parameter_count, training_flops_per_token
from groundup.account.hardware import cpu_name
from groundup.config import RunConfig, flatten
from groundup.data.shards import TokenShards
from groundup.display.display import Display
from groundup.errors import DivergenceError, GroundupError, TrainingError
from groundup.generation import continue_text
from groundup.nn import TransformerLM
from groundup.optim.average import averaged_weights
from groundup.optim.dtensor import whole
from groundup.optim.schedule import kept_step
from groundup.record import json_values, read_object
from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink, Sinks, external_sinks
from groundup.system.interruption import Interruption
from groundup.train.checkpoint.writer import CheckpointWriter
from groundup.train.device import device_name, known_peak, peak_memory
from groundup.train.evaluate import Evaluation, evaluate_unless

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer
    from groundup.train.build import Trainer


class Logger:
    """Logger of a run: measures at the steps that are due, and writes what it finds to the sinks.

    A step's report has two parts. :meth:`begin` writes the line of metrics, or stores in the state what is due of it,
    so that a checkpoint can be saved in between; :meth:`finish` evaluates and samples, which can take long. A signal
    breaks that off, and the rest stays due in the state: the next session makes it again.

    All ranks must call both for the same steps, since they evaluate together.

    Args:
        sinks: where lines and samples go; without any on ranks other than the first.
        clock: seconds of the run so far, over all its sessions.
        interruption: breaks off :meth:`evaluate_and_sample`.
    """

    def __init__(self, trainer: Trainer, sinks: Sinks, *, clock: Callable[[], float], interruption: Interruption):
        self._trainer, self._sinks, self._clock, self._interruption = trainer, sinks, clock, interruption
        self._peak = (known_peak(trainer.config.train, trainer.device) or 0.0) * trainer.ranks.size
        self._last_logged = (trainer.state.tokens, trainer.state.train_seconds)

    def log_step(
        self, step_metrics: Mapping[str, Any] | None, found: Mapping[str, Any] | None = None, *, last: bool = False
    ) -> None:
        """Write the step's line of metrics, if due.

        If an evaluation or a sample is due, it is stored in the state for :meth:`evaluate_and_sample`.

        Args:
            step_metrics: learning rate and gradient norm of the step; None before the first.
            found: values that are logged at any step.
            last: whether it is the run's last step.
        """
        trainer, config, state = self._trainer, self._trainer.config, self._trainer.state
        line: dict[str, Any] = dict(found or {})
        state.due_report = state.last_report = None
        if last:
            state.last_report = {
                "metrics": json_values(step_metrics or {}),
                "found": json_values(line),
                "pending_losses": list(state.pending_losses),
                "best_val_loss": state.best_val_loss,
                "best_step": state.best_step,
            }
        if step_metrics is not None and (last or state.step % config.train.log_interval == 0):
            line = self._training_metrics() | dict(step_metrics) | line
        interval = config.sample.interval
        state.due_sample = bool(interval and trainer.tokenizer and state.step and (last or state.step % interval == 0))
        if trainer.valid_store is not None and (last or state.step % config.train.eval_interval == 0):
            state.due_line = json_values(line)  # it is saved as JSON
        else:
            self._write(line)

    def evaluate_and_sample(self) -> bool:
        """Evaluate and sample, if the state says that they are due.

        Returns:
            Whether the step's validation loss is the best so far.
        """
        trainer, state, is_best = self._trainer, self._trainer.state, False
        if state.due_line is not None:
            line = state.due_line
            if trainer.valid_store is not None:
                with averaged_weights(trainer.optimizer):
                    scored = self._evaluate(trainer.valid_store)
                raw = self._evaluate(trainer.valid_store) if state.averaged and scored is not None else scored
                if scored is None or raw is None:
                    return False
                line = (
                    line
                    | {
                        "val_loss": scored.loss,
                        "val_perplexity": scored.perplexity,
                        "val_bpb": scored.bits_per_byte,
                    }
                    | ({"val_loss_raw": raw.loss} if state.averaged else {})
                )
                better = state.best_val_loss is None or scored.loss < state.best_val_loss
                is_best = better and state.step > 0 and math.isfinite(scored.loss)
                if is_best:
                    state.best_val_loss, state.best_step = scored.loss, state.step
            state.due_line = None
            self._write(line)
        if state.due_sample:  # a run that has lost its tokenizer has nothing to write
            with averaged_weights(trainer.optimizer):
                state.due_sample = trainer.tokenizer is not None and not self._sample(trainer.tokenizer)
        return is_best

    def _write(self, line: Mapping[str, Any]) -> None:
        state = self._trainer.state
        if line:
            state.wall_seconds = self._clock()
            heading = {"step": state.step, "tokens": state.tokens, "wall_seconds": round(state.wall_seconds, 3)}
            self._sinks.metrics({**heading, **line})

    def _training_metrics(self) -> dict[str, Any]:
        state = self._trainer.state
        tokens, seconds = self._last_logged
        speed = (state.tokens - tokens) / max(state.train_seconds - seconds, 1e-9)
        self._last_logged = (state.tokens, state.train_seconds)
        mean_loss = sum(state.pending_losses) / len(state.pending_losses)
        state.pending_losses = []
        flops = training_flops_per_token(self._trainer.config.model)
        return {
            "train_loss": mean_loss,
            "tokens_per_second": round(speed, 1),
            "mfu": speed * flops / self._peak if self._peak else None,
            "peak_memory": peak_memory(self._trainer.device),
        }

    def _evaluate(self, store: TokenShards) -> Evaluation | None:
        trainer, config = self._trainer, self._trainer.config
        with trainer.parallel.reading(trainer.model):
            return evaluate_unless(
                self._stop,
                trainer.model,
                store,
                config.model.context_length,
                config.train.eval_batch_size,
                config.train.eval_windows,
                trainer.ranks,
                store.offsets_for(config.data.pack),
                trainer.compiled,
            )

    def _sample(self, tokenizer: Tokenizer) -> bool:
        """Write the sample; False if a signal breaks it off."""
        if self._stop():
            return False
        trainer = self._trainer
        together = trainer.parallel.all_compute
        if not (trainer.ranks.is_main or together):
            return True
        # Ranks that take no part in the sample cannot be asked: they wait for the first one before the next step.
        stop = self._stop if together else lambda: self._interruption.signal is not None
        with trainer.parallel.reading(trainer.model):
            line = sample_line(trainer.model, tokenizer, trainer.config, trainer.state.step, stop)
        if line is not None:
            self._sinks.sample(line)
        return line is not None

    def _stop(self) -> bool:
        """Whether any rank has received a signal, which all then know; all ranks must ask."""
        number = self._trainer.ranks.all_reduce_signal(self._interruption.signal or 0)
        self._interruption.receive(number)
        return bool(number)


def sample_line(
    model: TransformerLM,
    tokenizer: Tokenizer,
    config: RunConfig,
    step: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Generate a line of ``samples.jsonl``: the text, the prompt, and the settings that reproduce it.

    Args:
        stop: asked after each token; True gives up the sample, and the result is None.
    """
    settings = config.sample
    # One seed for every step: the sample depends on the run's seed and the step, not on earlier draws.
    seed = (config.train.seed * 1_000_003 + step) % 2**63
    pieces: list[str] = []
    try:
        for piece in continue_text(
            model, tokenizer, settings.prompt, settings.tokens, settings.temperature, settings.top_p, seed=seed,
            begin_token=settings.begin_token, end_token=settings.end_token,
        ):  # fmt: skip
            pieces.append(piece)
            if stop():
                return None
    except TrainingError as error:
        raise DivergenceError(f"step {step}: in its sample, {error}", step) from None
    return {
        "step": step,
        "prompt": settings.prompt,
        "text": "".join(pieces),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": seed,
    }


@contextmanager
def update_ratios(optimizer: torch.optim.Optimizer) -> Iterator[dict[str, float | None]]:
    """Measure the update-to-weight ratio of each parameter group in the block's optimizer step.

    The ratio is RMS(Δθ) / RMS(θ before), over all weights of a group. For AdamW at a suitable learning rate it is about
    1e-3. The weights are copied first, which takes their memory once more; the run's numbers do not change.

    Yields:
        A dictionary, filled when the block ends: ``update_ratio_NAME`` for every group; None if its weights were zero.
    """
    ratios: dict[str, float | None] = {}
    groups = {str(group.get("name", i)): group["params"] for i, group in enumerate(optimizer.param_groups)}
    before = {name: [p.detach().clone() for p in params] for name, params in groups.items()}
    yield ratios
    for name, params in groups.items():
        weights = _norm(before[name])
        torch._foreach_sub_(before[name], [p.detach() for p in params])
        ratios[f"update_ratio_{name}"] = _norm(before[name]) / weights if weights else None


def _norm(tensors: list[Tensor]) -> float:
    # One number of each tensor leaves the device; their squares are summed in float64.
    return math.sqrt(sum(whole(n).item() ** 2 for n in torch._foreach_norm(tensors)))


def open_record(trainer: Trainer, display: Display | None, *, resumed: bool) -> tuple[Sinks, CheckpointWriter | None]:
    """Open the run's sinks and its checkpoint writer; both are the first rank's, and empty on the others.

    The lines of the state's step stay in the record unless they are still due, and are then written again.
    """
    state, config, run, ranks = trainer.state, trainer.config, trainer.run, trainer.ranks
    again = state.due_report is not None
    last_metrics = state.step - (again or state.due_line is not None) if resumed else -1
    last_sample = state.step - (again or state.due_sample) if resumed else -1
    with ranks.error_barrier():
        if ranks.is_main:
            with _errors_of(run):
                found = environment(trainer)
                if resumed:
                    found["commands"] = _commands_before(run) + found["commands"]
                run.create(config, found)
                if trainer.tokenizer is not None:
                    trainer.tokenizer.save(run.tokenizer_dir)
                    if (template := trainer.train_store.chat_template) is not None:
                        run.write_chat_template(template)
                run.delete_leftovers()
                run.prune(config.train.keep_checkpoints, kept_step(config))
                extra = external_sinks(config.track, run.path, config.name, flatten(config))
                jsonl = JsonlSink(run.path, last_metrics, last_sample)
            if display is not None:
                for note in jsonl.notes:
                    display.note(note)
                extra.append(display)
            writer = CheckpointWriter(
                run,
                keep=config.train.keep_checkpoints,
                also=kept_step(config),
                background=config.train.background_checkpoints,
                sync_record=jsonl.sync,
            )
            sinks: tuple[Sinks, CheckpointWriter | None] = Sinks([jsonl, *extra]), writer
        else:
            sinks = Sinks([]), None
    return sinks


@contextmanager
def _errors_of(run: RunDirectory) -> Iterator[None]:
    # A full disk does not say which file it was, and the other ranks hear of our own errors only.
    try:
        yield
    except GroundupError:
        raise
    except OSError as error:
        raise TrainingError(
            f"cannot write {run.path}: {error.strerror or error}; free some space or mend the permissions, and start "
            f"again"
        ) from None


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return versions, hardware, git state and the cost of a token, for ``environment.json``.

    Readers of the run would need torch to count parameters and FLOPs.
    """
    from groundup.version import VERSION, installed_version

    return {
        "groundup": VERSION,
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in ("torch", "numpy", "safetensors", "regex")},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": trainer.device,
        "device_name": device_name(trainer.device),
        "cuda": torch.version.cuda,
        "driver": _driver(trainer.device),
        "git": _git_state(),
        "working_git": working_git(Path.cwd()),
        "commands": [shlex.join([Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)])],
        "data": {
            "train": trainer.train_store.sha256,
            "valid": trainer.valid_store.sha256 if trainer.valid_store is not None else None,
            "tokenizer": trainer.train_store.tokenizer_sha256,
        },
        "ranks": trainer.ranks.size,
        "parameters": parameter_count(trainer.config.model),
        "flops_per_token": training_flops_per_token(trainer.config.model),
    } | ({"parent": trainer.state.parent} if trainer.state.parent else {})


def _commands_before(run: RunDirectory) -> list[str]:
    """The command of each session before this one, from the file that this session replaces."""
    try:
        found = read_object(run.path / "environment.json").get("commands", [])
    except (OSError, ValueError):
        return []
    return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []


def _driver(device: str) -> str | None:
    """The version of the GPU's driver; None without one."""
    if not device.startswith("cuda"):
        return None
    try:
        version = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", version)
    return found[0] if found else None


def working_git(folder: Path) -> dict[str, Any] | None:
    """The commit of the user's repository around a folder, and whether files that it tracks were changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_state() -> dict[str, Any] | None:
    source = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):  # installed inside another repository
            return None
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
