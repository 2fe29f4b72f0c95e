"""A training run of `train_learning.py`: its settings, its training, and the file of finished runs.

groundup's run is a whole `groundup train`. The peer is transformers' Llama with torch's AdamW, clipping and
cross-entropy, trained by the loop below. It takes from groundup only the initial weights, the batches, the values of
the schedule and the positions of the validation windows.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, SampleConfig, TrainConfig
from groundup.data.batches import Batches, evaluation_batches
from groundup.data.shards import TokenShards
from groundup.errors import TrainingError
from groundup.optim import learning_rate
from groundup.record.sinks import Silent
from groundup.train import train
from side_by_side import Row
from train_peers import OURS, Llama

LEAST_TO_PEAK = 0.1
"""Learning rate at the last step over the peak."""
WARM_UP = 0.05
"""Share of the steps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run's result depends on, up to rounding; the key of a finished run."""

    who: Literal["groundup", "transformers"]
    optimizer: Literal["adamw", "muon"]
    rate: float
    """Peak learning rate of the cosine schedule."""
    steps: int
    seed: int
    """Seed of the weights and the batches."""
    precision: Literal["fp32", "bf16"]
    model: Mapping[str, int]
    """Keywords of `ModelConfig`."""
    batch_size: int
    weight_decay: float
    eval_interval: int
    """Steps between evaluations; the run is also evaluated before the first and after the last step."""
    eval_windows: int
    train_sha256: str
    valid_sha256: str

    @property
    def tokens(self) -> int:
        """Number of tokens that the run trains on."""
        return self.steps * self.batch_size * self.model["context_length"]

    def __str__(self) -> str:
        return f"{self.who} {self.optimizer}, rate {self.rate:g}, seed {self.seed}, {self.tokens:,} tokens"


@dataclass(frozen=True)
class Corpus:
    """Token shards of two splits, and the device of the training."""

    train: Path
    valid: Path
    device: str = "cpu"


class FinishedRuns:
    """File of finished runs, one JSON object a line with its ``settings``. A finished run is not repeated.

    The key does not include the version of the code: after a change that may change a loss, begin a new file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, Row] = {}
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:  # the process was killed while it wrote the last line
                path.write_text(whole, encoding="utf-8")
            self._done = {_key(row["settings"]): row for row in map(json.loads, whole.splitlines())}

    def get(self, settings: Mapping[str, Any]) -> Row | None:
        """The run with these settings; None if it has not been made."""
        return self._done.get(_key(settings))

    def add(self, settings: Mapping[str, Any], row: Row) -> None:
        """Keep a run."""
        row = {"settings": settings, **row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._done[_key(settings)] = row


class Runs:
    """Runs of `train_learning.py`, made where they are missing in a file of finished ones."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.corpus = corpus
        self._finished = FinishedRuns(path)

    def result(self, settings: Settings) -> Row:
        """Return the run's ``settings``, ``curve`` (tokens and validation loss), ``final_loss`` and ``seconds``.

        If the run diverged, the final loss is infinite and the curve is short.

        Raises:
            UnavailableError: transformers is not installed.
            SystemExit: a signal stopped the run; the runs before it are in the file.
        """
        key = asdict(settings)
        if (row := self._finished.get(key)) is not None:
            return _told(settings, row, "done before")
        began = time.perf_counter()
        config = run_config(settings, self.corpus)
        curve = train_ours(config) if settings.who == OURS else train_peer(config)
        complete = bool(curve) and curve[-1][0] == settings.tokens
        row = {
            "settings": key,
            "final_loss": curve[-1][1] if complete else math.inf,
            "seconds": round(time.perf_counter() - began, 1),
            "curve": curve,
        }
        self._finished.add(key, row)
        return _told(settings, row, f"{row['seconds']} s")


def _told(settings: Settings, row: Row, how: str) -> Row:
    print(f"{settings}: validation loss {row['final_loss']:.4f} ({how})", file=sys.stderr, flush=True)
    return row


def run_config(settings: Settings, corpus: Corpus) -> RunConfig:
    """RunConfig of the settings, for `groundup train`."""
    return RunConfig(
        name="learning",
        model=ModelConfig(**settings.model),
        optim=OptimConfig(
            optimizer=settings.optimizer, max_learning_rate=settings.rate,
            min_learning_rate=LEAST_TO_PEAK * settings.rate, schedule="cosine",
            warmup_iters=max(1, round(WARM_UP * settings.steps)), weight_decay=settings.weight_decay, grad_clip=1.0,
        ),
        data=DataConfig(train=str(corpus.train), valid=str(corpus.valid), batch_size=settings.batch_size),
        train=TrainConfig(
            max_iters=settings.steps, seed=settings.seed, device=corpus.device, precision=settings.precision,
            log_interval=settings.eval_interval, eval_interval=settings.eval_interval,
            eval_windows=settings.eval_windows, checkpoint_interval=settings.steps, keep_checkpoints=1,
            ratio_interval=0,
        ),
        sample=SampleConfig(interval=0),
    )  # fmt: skip


class _Curve(Silent):
    """Display that keeps the validation losses of a run."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def metrics(self, line: Mapping[str, Any]) -> None:
        if "val_loss" in line:
            self.points.append((line["tokens"], line["val_loss"]))


def train_ours(config: RunConfig) -> list[tuple[int, float]]:
    """Tokens and validation losses of a run of `groundup train`; the curve is short if the run diverged.

    Raises:
        SystemExit: a signal stopped it.
    """
    seen = _Curve()
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = train(replace(config, runs_dir=folder), display=seen)
        except TrainingError as error:
            print(f"groundup: {error}", file=sys.stderr)
            return seen.points
    if not ended.finished:
        sys.exit(f"stopped by signal {ended.signal}; the runs before this one are kept")
    return seen.points


def train_peer(config: RunConfig) -> list[tuple[int, float]]:
    """The same for transformers' Llama and torch's AdamW, in float32.

    Raises:
        UnavailableError: transformers is not installed.
    """
    llama = Llama(config, None)
    llama.model.to(config.train.device)
    train_split, valid_split = TokenShards.open(config.data.train), TokenShards.open(config.data.valid)
    batches = Batches(
        train_split, config.data.batch_size, config.model.context_length, config.train.seed, config.data.order
    )
    points = []
    for step in range(config.train.max_iters + 1):
        last = step == config.train.max_iters
        if last or step % config.train.eval_interval == 0:
            loss = validation_loss(llama.model, valid_split, config)
            points.append((step * config.data.batch_size * config.model.context_length, loss))
        if not last:
            for group in llama.optimizer.param_groups:
                group["lr"] = learning_rate(step + 1, config.train.max_iters, config.optim)
            x, y = batches.batch(step)
            llama.step(x.to(config.train.device), y.to(config.train.device))
    return points


@torch.no_grad()
def validation_loss(llama: nn.Module, split: TokenShards, config: RunConfig) -> float:
    """Mean cross-entropy in nats per token, by torch from the model's logits."""
    device = config.train.device
    llama.eval()
    nats, tokens = 0.0, 0
    windows = config.train.eval_windows, config.train.eval_batch_size
    for x, y in evaluation_batches(split, config.model.context_length, windows[1], windows[0]):
        logits = llama(input_ids=x.to(device)).logits.float()
        nats += nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), reduction="sum").item()
        tokens += y.numel()
    llama.train()
    return nats / tokens


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
