"""The demo: built-in stories, a tokenizer, token shards and a small model, all from nothing in a few minutes."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from groundup.config import END_OF_TEXT, RunConfig, load_recipe, override
from groundup.data.encode import encode_with_summary
from groundup.display.progress import progress_bar
from groundup.display.units import size_text
from groundup.errors import ConfigError, DataError
from groundup.system.command import command
from groundup.system.threads import choose_wait_policy, wait_by_load
from groundup.tokenizer.training.merges import LearningOptions
from groundup.tokenizer.training.train import train_tokenizer

if TYPE_CHECKING:
    from groundup.train import TrainResult

_TRAIN_BYTES = 4_000_000
_VALID_BYTES = 200_000
_VOCAB_SIZE = 2048
_SAMPLES = 3
_MARK = ".groundup-demo"
_MOST_STEPS = 10_000
_LATEST = 1.2
"""Training ends at the latest at this multiple of --minutes after the demo's start, however busy the machine is."""
_LEAST = 0.5
"""Training gets at least this share of --minutes."""


def run_demo(console: Console, data: Path, *, minutes: float = 2.5, steps: int | None = None, seed: int = 0) -> int:
    """Write stories, train a tokenizer, encode, train a small model, and print stories that it writes.

    Args:
        data: folder for text, tokenizer and token shards. The run goes to runs/demo and replaces an earlier demo.
        minutes: about how long to train.
        steps: number of training steps, however long they take, instead.
        seed: seed of the stories and the model.

    Returns:
        0, or 128 + the signal that stopped training.

    Raises:
        ConfigError: minutes or steps are not positive.
        DataError: the folder holds something that the demo did not write.
    """
    choose_wait_policy()
    began = time.monotonic()
    if not (0 < minutes < math.inf and (steps is None or steps > 0)):
        raise ConfigError(f"--minutes {minutes} --steps {steps}; expected positive numbers")
    if data.exists() and any(data.iterdir()) and not (data / _MARK).exists():
        raise DataError(f"{data} holds something that the demo did not write, and is left alone; choose another --data")
    config = prepare(console, data, seed)

    import torch  # noqa: F401  loads OpenMP, whose wait policy is set next

    with wait_by_load():
        _heading(console, 4, "train a Transformer on them")
        result = _train(console, config, minutes * 60, steps, began)
        if not result.finished:
            return 128 + (result.signal or 0)
        _tell(console, result.run_dir, seed)
    _sum_up(console, result.run_dir, data)
    return 0


def _train(console: Console, config: RunConfig, seconds: float, steps: int | None, began: float) -> TrainResult:
    """Train for about ``seconds``, or for ``steps``; ``began`` is the time at which the demo started."""
    from groundup.display.console import ConsoleDisplay
    from groundup.train import seconds_per_step, train, train_in_time

    display = ConsoleDisplay(console)
    if steps is not None:
        return train(override(config, schedule(steps)), overwrite=True, display=display)
    a_step = seconds_per_step(config)
    limit = max(_LATEST * seconds - (time.monotonic() - began), _LEAST * seconds)
    affordable = int(min(seconds, limit) / a_step / 10) * 10
    steps = min(max(affordable, 10), _MOST_STEPS)
    return train_in_time(override(config, schedule(steps)), planned=steps * a_step, limit=limit, display=display)


def schedule(steps: int) -> dict[str, int]:
    """Options for a run of ``steps`` steps: ten evaluations, three samples, a short warm-up."""
    return {
        "train.max_iters": steps,
        "train.eval_interval": math.ceil(steps / 10),
        "train.checkpoint_interval": steps,
        "sample.interval": math.ceil(steps / 3),
        "optim.warmup_iters": min(100, steps // 10),
    }


def prepare(console: Console, data: Path, seed: int) -> RunConfig:
    """Text, tokenizer and shards in ``data``, and the config of a run on them."""
    from groundup.text.stories import story, write_stories

    _heading(console, 1, "write stories")
    text = data / "text"
    text.mkdir(parents=True, exist_ok=True)
    (data / _MARK).touch()
    for name, count, story_seed in (("train", _TRAIN_BYTES, 2 * seed), ("valid", _VALID_BYTES, 2 * seed + 1)):
        stats = write_stories(text / f"{name}.txt", count, seed=story_seed, separator=END_OF_TEXT)
        console.print(Text(f"{text / name}.txt: {stats.stories:,} stories, {size_text(stats.bytes)}"))
    console.print("The first one:")
    console.print(Padding(Text(story(2 * seed, 0), style="italic"), (0, 2)))

    _heading(console, 2, "train a tokenizer")
    shutil.rmtree(data / "tokenizer", ignore_errors=True)
    began = time.perf_counter()
    with progress_bar(console) as progress:
        trained = train_tokenizer([text / "train.txt"], LearningOptions(_VOCAB_SIZE), progress=progress)
    trained.tokenizer.save(data / "tokenizer")
    summary = trained.summary(_VOCAB_SIZE, time.perf_counter() - began)
    console.print(Text(f"{data / 'tokenizer'}: {summary}"), soft_wrap=True)

    _heading(console, 3, "encode text to token shards")
    for name in ("train", "valid"):
        source, out = text / f"{name}.txt", data / "tokens" / name
        with progress_bar(console) as progress:
            encode_with_summary([source], trained.tokenizer, out, overwrite=True, progress=progress)

    config = load_recipe("demo")
    return override(
        config,
        {
            "data.train": str(data / "tokens" / "train"),
            "data.valid": str(data / "tokens" / "valid"),
            "train.seed": seed,
        },
    )


def _tell(console: Console, run: Path, seed: int) -> None:
    from groundup.generation import continue_text
    from groundup.record.run import RunDirectory
    from groundup.train.checkpoint.folder import load_model

    _heading(console, 5, "stories by the model")
    directory = RunDirectory(run)
    model, _ = load_model(directory)
    tokenizer = directory.tokenizer()
    for i in range(_SAMPLES):
        pieces = continue_text(model, tokenizer, "", 250, 0.7, 0.9, seed=seed + i)
        console.print(Padding(Text("".join(pieces).strip(), style="italic"), (0, 2, 1, 2)))


def _sum_up(console: Console, run: Path, data: Path) -> None:
    from groundup.display.console import print_pairs
    from groundup.display.curve import loss_curve
    from groundup.errors import MissingExtraError
    from groundup.record import read_jsonl, read_metrics, read_object

    try:
        drawn = loss_curve(
            read_metrics(run / "metrics.jsonl").lines, width=min(console.width, 100), color=console.is_terminal
        )
        console.print(Text.from_ansi(drawn))
    except MissingExtraError as error:
        console.print(f"(no curve: {error})")
    summary = read_object(run / "summary.json")
    last = list(read_jsonl(run / "metrics.jsonl"))[-1]
    console.print()
    print_pairs(
        console,
        {
            "trained": f"{summary['parameters']:,} parameters, {summary['tokens']:,} tokens, "
            f"{summary['wall_seconds'] / 60:.1f} minutes, {summary['tokens_per_second']:,.0f} tokens/s",
            "validation": f"loss {last['val_loss']:.4f}, {last['val_bpb']:.4f} bits per byte",
            "text": data / "text",
            "tokenizer": data / "tokenizer",
            "tokens": data / "tokens",
            "run": f"{run}  (config.toml, metrics.jsonl, samples.jsonl, checkpoints)",
            "more": command("generate", run, "--prompt", "Once upon a time"),
        },
    )


def _heading(console: Console, number: int, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{number}  {text}", align="left"))
