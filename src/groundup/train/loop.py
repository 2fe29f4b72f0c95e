"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from groundup.account import parameter_count, peak_flops, training_flops_per_token
from groundup.config import RunConfig, flatten, override
from groundup.data.batches import Batches
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, DataError, TrainingError
from groundup.generation import continue_text, prompt_ids
from groundup.optim import get_lr_cosine_schedule
from groundup.track import Display, JsonlSink, Silent, Sinks, external_sinks
from groundup.train.build import (
    build_loss,
    build_model,
    build_optimizer,
    choose_device,
    choose_precision,
    fit_vocabulary,
    load_tokenizer,
    open_stores,
)
from groundup.train.checkpoint import FORMAT, VERSION, write_folder
from groundup.train.environment import device_name, environment
from groundup.train.evaluate import Evaluation, evaluate
from groundup.train.interrupt import Interruption
from groundup.train.resume import restore
from groundup.train.run_directory import RunDirectory
from groundup.train.state import TrainState
from groundup.train.step import train_step

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run_dir: Path
    finished: bool
    """False if a signal stopped it before the last step; it can be resumed."""
    signal: int | None
    summary: dict[str, Any]


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, display: Display | None = None
) -> TrainResult:
    """Train from the first step, or go on from the latest checkpoint as if the run had never stopped.

    Args:
        resume: continue the run in config.run_dir. A run without a checkpoint starts anew.
        overwrite: delete what is in config.run_dir first.
        display: shows the run to a person.

    Raises:
        ConfigError, DataError, FileMissingError: the config, the data, or both together make no run.
        TrainingError: the run directory is taken, or loss or gradients are no longer finite.
        CheckpointError: a checkpoint cannot be written or read.
    """
    run = RunDirectory(config.run_dir)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite contradict each other; leave one out")
    if run.path.exists() and any(run.path.iterdir()):
        if not (resume or overwrite):
            raise TrainingError(
                f"{run.path} exists already; continue it with --resume, replace it with --overwrite, "
                f"or choose another --name"
            )
        if not (run.path / "config.toml").is_file():
            raise TrainingError(
                f"{run.path} holds something, but not a run (it has no config.toml), and is left alone; "
                f"choose another --name"
            )
    elif resume:
        RunDirectory.open(run.path)  # which says what runs there are
    trainer = Trainer(config, run, display or Silent())
    with run.locked():
        if overwrite:
            run.clear()
        return trainer.run_all(resume=resume)


def absolute_paths(config: RunConfig) -> dict[str, str]:
    """The data's paths as they hold from any folder, so that a run can be evaluated and resumed from everywhere."""
    paths = {f"data.{key}": getattr(config.data, key) for key in ("train", "valid", "vocab", "merges")}
    return {key: str(Path(path).resolve()) for key, path in paths.items() if path}


def seconds_per_step(config: RunConfig, steps: int = 8) -> float:
    """Median time of a training step of this config on this machine; leaves nothing behind."""
    trainer = Trainer(config, RunDirectory(config.run_dir), Silent())
    times = []
    for _ in range(steps + 2):  # the first two allocate
        before = trainer.state.train_seconds
        trainer.update(learning_rate=0.0)
        times.append(trainer.state.train_seconds - before)
    return sorted(times[2:])[steps // 2]


class Trainer:
    """The objects of one run, and the loop over its steps."""

    def __init__(self, config: RunConfig, run: RunDirectory, display: Display):
        self.run, self.display = run, display
        self.train_store, self.valid_store = open_stores(config.data)
        self.device = choose_device(config.train.device)
        config = fit_vocabulary(config, self.train_store, self.valid_store)
        precision = choose_precision(config.train.precision, self.device)
        self.config = config = override(config, {"train.precision": precision, **absolute_paths(config)})
        if config.optim.warmup_iters > config.train.max_iters:
            raise ConfigError(
                f"optim.warmup_iters = {config.optim.warmup_iters} is longer than train.max_iters = "
                f"{config.train.max_iters}, so the rate would never come down; "
                f"set it to {config.train.max_iters // 10}, say"
            )
        self.identity = {
            "format": FORMAT,
            "version": VERSION,
            "dataset_sha256": self.train_store.sha256,
            "tokenizer_sha256": self.train_store.tokenizer_sha256,
            "evaluated_on": [self.valid_store.sha256 if self.valid_store else None, config.train.eval_windows],
        }
        self.tokenizer = load_tokenizer(config, self.train_store)
        if self.tokenizer is not None and config.sample.interval:
            prompt_ids(self.tokenizer, config.sample.prompt)  # an impossible prompt is an error now, not later
        self.model = build_model(config, self.device)
        self.loss = build_loss(self.model, compile=config.train.compile)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.batches = Batches(
            self.train_store,
            config.data.batch_size,
            config.model.context_length,
            config.train.seed,
            config.data.order,
        )
        self.state = TrainState()
        self._peak = peak_flops(device_name(self.device), config.train.precision)

    def run_all(self, *, resume: bool) -> TrainResult:
        """All steps that are left."""
        resumed = resume and restore(self.run, self.config, self.model, self.optimizer, self.state, self.identity)
        self.run.create(self.config, environment(self.device))
        if self.tokenizer is not None:
            self.tokenizer.save(self.run.tokenizer_dir)
        self.run.prune(self.config.train.keep_checkpoints)
        extra = external_sinks(self.config.track, self.run.path, self.config.name, flatten(self.config))
        self.jsonl = JsonlSink(self.run.path, after_step=self.state.step if resumed else -1)
        self.sinks = Sinks([self.jsonl, *extra, self.display])
        total = self.config.train.max_iters
        self.display.begin(self.plan(), total, self.state.step)
        self._sitting_began = time.perf_counter() - self.state.wall_seconds
        self._last_logged = (self.state.tokens, self.state.train_seconds)
        try:
            with Interruption() as interruption:
                if self.state.step == 0:
                    self._report(None)
                while self.state.step < total and interruption.signal is None:
                    self._step()
                self._finish(interruption)
        finally:
            self.sinks.close()
        finished = self.state.step >= total
        return TrainResult(self.run.path, finished, interruption.signal, self._summary(finished))

    def _step(self) -> None:
        config, state = self.config, self.state
        learning_rate = get_lr_cosine_schedule(
            state.step + 1,  # from 1, so that the first step moves and the last one is at the minimum
            config.optim.max_learning_rate,
            config.optim.min_learning_rate,
            config.optim.warmup_iters,
            config.train.max_iters,
        )
        loss, norm = self.update(learning_rate)
        state.step += 1
        state.tokens += config.data.batch_size * config.model.context_length
        state.pending_losses.append(loss)
        self.display.step(state.step, loss)
        is_best = self._report({"lr": learning_rate, "grad_norm": norm})
        # After the report: a checkpoint of a step must find the step's lines already in the record.
        if is_best or state.step % config.train.checkpoint_interval == 0:
            self._save(best=is_best)

    def update(self, learning_rate: float) -> tuple[float, float]:
        """Loss and gradient norm of the current step's batch, after the weights have moved.

        Raises:
            TrainingError: loss or gradient is not finite; the weights have not moved.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with self._training_time():
            try:
                return train_step(
                    self.model,
                    self.loss,
                    self.optimizer,
                    self._micro_batches(),
                    self.config.data.accumulation_steps,
                    self.config.optim.grad_clip,
                )
            except TrainingError as error:
                raise self._diverged(error, learning_rate) from None

    def _micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.batches.batch(self.state.step)
        highest = max(int(x.max()), int(y.max()))
        if highest >= self.config.model.vocab_size:
            raise DataError(
                f"{self.config.data.train} holds the token id {highest}, but model.vocab_size is "
                f"{self.config.model.vocab_size}; the shards have changed or are damaged: encode the text again"
            )
        parts = self.config.data.accumulation_steps
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            yield x_part.to(self.device), y_part.to(self.device)

    def _report(self, step_metrics: dict[str, Any] | None) -> bool:
        """Metrics, evaluation and sample, where the step is one for them; step_metrics is None before the first.

        Returns:
            Whether the step's validation loss is the best so far.
        """
        config, state = self.config, self.state
        last = state.step == config.train.max_iters
        line: dict[str, Any] = {}
        if step_metrics is not None and (last or state.step % config.train.log_interval == 0):
            line = self._training_metrics() | step_metrics
        is_best = False
        if self.valid_store is not None and (last or state.step % config.train.eval_interval == 0):
            found = self._evaluate(self.valid_store)
            line |= {
                "val_loss": found.loss,
                "val_perplexity": found.perplexity,
                "val_bpb": found.bits_per_byte,
            }
            better = state.best_val_loss is None or found.loss < state.best_val_loss
            is_best = better and state.step > 0 and math.isfinite(found.loss)
            if is_best:
                state.best_val_loss, state.best_step = found.loss, state.step
        if line:
            state.wall_seconds = time.perf_counter() - self._sitting_began
            heading = {"step": state.step, "tokens": state.tokens, "wall_seconds": round(state.wall_seconds, 3)}
            self.sinks.metrics(heading | line)
        interval = config.sample.interval
        if interval and self.tokenizer and state.step and (last or state.step % interval == 0):
            self._sample(self.tokenizer)
        return is_best

    def _training_metrics(self) -> dict[str, Any]:
        state = self.state
        tokens, seconds = self._last_logged
        rate = (state.tokens - tokens) / max(state.train_seconds - seconds, 1e-9)
        self._last_logged = (state.tokens, state.train_seconds)
        mean_loss = sum(state.pending_losses) / len(state.pending_losses)
        state.pending_losses = []
        mfu = rate * training_flops_per_token(self.config.model) / self._peak if self._peak else None
        return {"train_loss": mean_loss, "tokens_per_second": round(rate, 1), "mfu": mfu}

    def _evaluate(self, store: TokenShards) -> Evaluation:
        return evaluate(
            self.model,
            store,
            self.config.model.context_length,
            batch_size=self.config.train.eval_batch_size,
            limit=self.config.train.eval_windows,
        )

    def _sample(self, tokenizer: Tokenizer) -> None:
        settings = self.config.sample
        # A seed of its own for every step: the sample depends on the run's seed and the step, on nothing drawn before.
        seed = (self.config.train.seed * 1_000_003 + self.state.step) % 2**63
        pieces = continue_text(
            self.model,
            tokenizer,
            settings.prompt,
            settings.tokens,
            settings.temperature,
            settings.top_p,
            seed=seed,
        )
        self.sinks.sample(
            {
                "step": self.state.step,
                "prompt": settings.prompt,
                "text": "".join(pieces),
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "seed": seed,
            }
        )

    def _save(self, *, best: bool = False) -> None:
        state = self.state
        state.wall_seconds = time.perf_counter() - self._sitting_began
        self.jsonl.sync()
        write_folder(self.run.step_folder(state.step), self.model, self.optimizer, state.to_dict() | self.identity)
        if best:  # before latest: a run resumed from this step must find it named
            self.run.point("best", state.step)
        self.run.point("latest", state.step)
        self.run.prune(self.config.train.keep_checkpoints)

    def _finish(self, interruption: Interruption) -> None:
        if self.state.step not in self.run.steps():
            self._save()
        finished = self.state.step >= self.config.train.max_iters
        self.run.write_summary(self._summary(finished))
        if not finished:
            self.display.note(f"stopped at step {self.state.step:,}; its checkpoint is written")

    def _diverged(self, error: TrainingError, learning_rate: float) -> TrainingError:
        steps = self.run.steps()
        kept = f"checkpoint step-{steps[-1]} is good" if steps else "no checkpoint had been written yet"
        return TrainingError(
            f"step {self.state.step + 1}: {error}, at learning rate {learning_rate:.2e}; nothing was applied "
            f"and {kept}; lower optim.max_learning_rate ({self.config.optim.max_learning_rate:g}) "
            f"or lengthen optim.warmup_iters ({self.config.optim.warmup_iters})"
        )

    @contextmanager
    def _training_time(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.state.train_seconds += time.perf_counter() - began

    def _summary(self, finished: bool) -> dict[str, Any]:
        state = self.state
        return {
            "finished": finished,
            "step": state.step,
            "tokens": state.tokens,
            "epochs": round(self.batches.epoch(state.step), 3),
            "parameters": parameter_count(self.config.model),
            "best_val_loss": state.best_val_loss,
            "best_step": state.best_step,
            "wall_seconds": round(state.wall_seconds, 1),
            "train_seconds": round(state.train_seconds, 1),
            "tokens_per_second": round(state.tokens / state.train_seconds, 1) if state.train_seconds else None,
        }

    def plan(self) -> dict[str, str]:
        """The run in words, derived values included."""
        return describe(self.config, self.train_store, self.valid_store, self.device)


def describe(config: RunConfig, train: TokenShards, valid: TokenShards | None, device: str) -> dict[str, str]:
    """A resolved run in words, derived values included."""
    model, data = config.model, config.data
    micro = f" in {data.accumulation_steps} passes" if data.accumulation_steps > 1 else ""
    step_tokens = data.batch_size * model.context_length
    total = config.train.max_iters * step_tokens
    flops = total * training_flops_per_token(model)
    return {
        "model": f"{parameter_count(model):,} parameters: {model.num_layers} layers, d_model {model.d_model}, "
        f"{model.num_heads} heads of {model.head_dim}, {model.ffn} d_ff {model.ffn_dim}, "
        f"vocabulary {model.vocab_size:,}",
        "data": f"{len(train):,} training tokens" + (f", {len(valid):,} for validation" if valid else ""),
        "batch": f"{data.batch_size} x {model.context_length} = {step_tokens:,} tokens a step{micro}",
        "length": f"{config.train.max_iters:,} steps = {total:,} tokens = {total / len(train):.2f} epochs, "
        f"{flops:.2e} FLOPs",
        "rate": f"{config.optim.max_learning_rate:g} after {config.optim.warmup_iters} steps, cosine to "
        f"{config.optim.min_learning_rate:g}",
        "device": f"{device} ({device_name(device)}), {config.train.precision}",
        "run": str(config.run_dir),
    }
