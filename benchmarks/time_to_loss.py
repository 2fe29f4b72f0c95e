"""Time to loss: what a user gets after some minutes, beside nanoGPT and transformers with torch's AdamW.

    python benchmarks/time_to_loss.py TRAIN_SHARDS VALID_SHARDS --nanogpt CHECKOUT --recipe RECIPE
        [--minutes 4 12] [--seeds 3] [--threads 2] [--out FILE] [--plot FILE] [--runs FILE]

groundup trains a recipe as `groundup train` does, for the minutes and for shares of them; its clock counts everything.
The peers train a model with the recipe's layers, width, heads and context, and so with the same FLOPs in its matmuls,
on the same batches: nanoGPT its own model, with its own `configure_optimizers` (model.py of the checkout, of which
nothing is kept), transformers its Llama with the same optimizer. Both as nanoGPT's train.py: compiled, bfloat16 by
autocast, clipping at 1, a warm-up, and a cosine that ends at a tenth of the rate when the time is over. Their clock
counts training steps only, neither compilation nor evaluation. The best of three learning rates in the shortest time is
theirs for all runs.

The validation loss is over the same windows for all, in float32 for the peers. Every finished run is a line of --runs
and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.config import RunConfig
from groundup.config.recipe import load_recipe, override
from groundup.data.batches import Batches, evaluation_batches
from groundup.data.shards import TokenShards
from learning_runs import FinishedRuns
from side_by_side import Report, Row, UnavailableError, failed, in_fresh_process, short

OURS, PEERS = "groundup", ("nanoGPT", "transformers")
RATES = (1e-3, 2e-3, 4e-3)
SHARES = (1, 1 / 2, 1 / 4, 1 / 8)
"""Of the minutes, that groundup trains for."""
WARM_UP = 0.05
STEPS_BEFORE_THE_CLOCK = 3
"""Of a peer: compilation, and the first pass of the optimizer."""
STEPS_OF_THE_SPEED = 20
EVALUATIONS = 8
COLUMNS = "what who minutes rate seeds tokens seconds loss_mean loss_deviation peer peer_loss share reached".split()


def main() -> None:
    """Make the missing runs, and report."""
    options = options_of()
    report = Report(options.out, threads=options.threads, recipe=str(options.recipe))
    runs = FinishedRuns(options.runs)
    base = {"recipe": str(options.recipe), "set": options.set, "train": str(options.train), "valid": str(options.valid)}
    finals: dict[tuple[str, float], list[Row]] = {}
    for who in options.peers:
        shortest = base | {"who": who, "minutes": min(options.minutes), "seed": 0}
        found = {rate: one_run(runs, options, shortest | {"rate": rate}) for rate in options.rates}
        if any(failed(row) for row in found.values()):
            report.add_failure({"what": "left out", "who": who}, next(row for row in found.values() if failed(row)))
            continue
        for rate, row in found.items():
            report.add({"what": "rate", "who": who, "rate": rate, **summary([row])})
        best = min(found, key=lambda rate: found[rate]["loss"])
        for minutes in options.minutes:
            settings = base | {"who": who, "minutes": minutes, "rate": best}
            finals[who, minutes] = [one_run(runs, options, settings | {"seed": seed}) for seed in range(options.seeds)]
            report.add({"what": "loss", "who": who, "minutes": minutes, "rate": best, **summary(finals[who, minutes])})
    for minutes in sorted({minutes * share for minutes in options.minutes for share in SHARES}, reverse=True):
        settings = base | {"who": OURS, "minutes": minutes, "rate": None}
        finals[OURS, minutes] = [one_run(runs, options, settings | {"seed": seed}) for seed in range(options.seeds)]
        report.add({"what": "loss", "who": OURS, "minutes": minutes, **summary(finals[OURS, minutes])})
    for (who, minutes), rows in finals.items():
        if who == OURS:
            continue
        theirs = statistics.mean(row["loss"] for row in rows)
        for share in SHARES:
            ours = [row["loss"] for row in finals[OURS, minutes * share]]
            mean = statistics.mean(ours)
            report.add(
                {"what": "time to loss", "peer": who, "minutes": minutes, "peer_loss": round(theirs, 4),
                 "share": share, "loss_mean": round(mean, 4), "reached": mean <= theirs}
            )  # fmt: skip
    if options.plot:
        draw(finals, options.plot)
    report.finish(COLUMNS)


def one_run(runs: FinishedRuns, options: argparse.Namespace, settings: Row) -> Row:
    """A run's ``loss``, ``tokens``, ``seconds`` and ``curve`` (seconds, loss), from the file or made now."""
    if (row := runs.get(settings)) is None:
        row = in_fresh_process(
            f"time_to_loss:{'ours' if settings['who'] == OURS else 'peer'}",
            settings | {"nanogpt": str(options.nanogpt), "threads": options.threads},
            threads=options.threads, math_threads=options.threads, time_limit=120 * settings["minutes"] + 1800,
        )  # fmt: skip
        if failed(row):
            print(f"{settings}: {row}", file=sys.stderr, flush=True)
            return row
        runs.add(settings, row)
    about = f"{settings['who']}, {settings['minutes']:g} min, seed {settings['seed']}, rate {settings['rate']}"
    result = f"loss {row['loss']:.4f}, {row['tokens']:,} tokens in {row['seconds']:.0f} s"
    print(f"{about}: {result}", file=sys.stderr, flush=True)
    return row


def run_config(settings: Row, **options: Any) -> RunConfig:
    """The recipe with the run's shards and seed."""
    values = {"data.train": settings["train"], "data.valid": settings["valid"], "train.seed": settings["seed"]}
    return override(load_recipe(settings["recipe"]), values | settings["set"] | options)


def ours(nanogpt: str, threads: int, **settings: Any) -> Row:
    """A whole `groundup train`: the schedule ends with the minutes, which count evaluations too."""
    from groundup.record.sinks import Silent
    from groundup.train import train

    torch.set_num_threads(threads)
    config = run_config(
        settings, **{"train.max_minutes": settings["minutes"], "train.finish_schedule": True, "sample.interval": 0}
    )
    with tempfile.TemporaryDirectory() as folder:
        ended = train(replace(config, name="run", runs_dir=folder), display=Silent())
        assert ended.finished
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    curve = [(line["wall_seconds"], line["val_loss"]) for line in lines if "val_loss" in line]
    return {"loss": curve[-1][1], "tokens": lines[-1]["tokens"], "seconds": curve[-1][0], "curve": curve}


def peer(who: str, nanogpt: str, threads: int, minutes: float, rate: float, **settings: Any) -> Row:
    """nanoGPT's way to train its model, or transformers' Llama."""
    torch.set_num_threads(threads)
    config = run_config(settings)
    torch.manual_seed(settings["seed"])
    train_split, valid_split = TokenShards.open(config.data.train), TokenShards.open(config.data.valid)
    vocab_size = config.model.vocab_size or train_split.vocab_size
    model, loss_of = (nano_gpt if who == "nanoGPT" else llama)(config, vocab_size, nanogpt)
    optimizer = nanogpt_module(nanogpt).GPT.configure_optimizers(model, 0.1, rate, (0.9, 0.95), "cpu")
    compiled = torch.compile(model)
    batches = Batches(train_split, config.data.batch_size, config.model.context_length, settings["seed"], "random")

    def step(number: int, factor: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
        x, y = batches.batch(number)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(compiled, x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # Compilation and speed, at a rate of 0, whose effect on the weights is none.
    clock = Clock()
    for number in range(STEPS_BEFORE_THE_CLOCK + STEPS_OF_THE_SPEED):
        if number == STEPS_BEFORE_THE_CLOCK:
            clock = Clock()
        with clock:
            step(number, 0.0)
    steps = max(1, int(60 * minutes * STEPS_OF_THE_SPEED / clock.seconds))
    optimizer.state.clear()
    clock, curve = Clock(), [(0.0, validation_loss(model, loss_of, valid_split, config))]
    for number in range(steps):
        with clock:
            step(number, schedule(number, steps))
        if (number + 1) % max(1, steps // EVALUATIONS) == 0 and number + 1 < steps:
            curve.append((clock.seconds, validation_loss(model, loss_of, valid_split, config)))
    curve.append((clock.seconds, validation_loss(model, loss_of, valid_split, config)))
    tokens = steps * config.data.batch_size * config.model.context_length
    return {"loss": curve[-1][1], "tokens": tokens, "seconds": clock.seconds, "curve": curve}


class Clock:
    """Seconds inside the blocks that it has been entered for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start


def schedule(step: int, steps: int) -> float:
    """nanoGPT's `get_lr` over the peak: a warm-up, then a cosine to a tenth."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def nano_gpt(config: RunConfig, vocab_size: int, checkout: str) -> tuple[nn.Module, Loss]:
    """nanoGPT's model in the recipe's shape, as its train.py makes it: no dropout, no biases."""
    module, shape = nanogpt_module(checkout), config.model
    model = module.GPT(
        module.GPTConfig(
            block_size=shape.context_length, vocab_size=vocab_size, n_layer=shape.num_layers, n_head=shape.num_heads,
            n_embd=shape.d_model, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    return model, lambda run, x, y: run(x, y)[1]


def llama(config: RunConfig, vocab_size: int, checkout: str) -> tuple[nn.Module, Loss]:
    """transformers' Llama in the recipe's shape, with untied embeddings, and its own initial weights."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise UnavailableError("transformers is not installed; pip install transformers") from None
    shape = config.model
    width = 64 * round(8 * shape.d_model / 3 / 64)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size, hidden_size=shape.d_model, intermediate_size=width, use_cache=False,
            num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
            max_position_embeddings=shape.context_length, attn_implementation="sdpa",
        )
    )  # fmt: skip
    return model, lambda run, x, y: run(input_ids=x, labels=y, shift_labels=y).loss


def nanogpt_module(checkout: str) -> Any:
    """model.py of a checkout of nanoGPT.

    Raises:
        UnavailableError: there is none.
    """
    if not (Path(checkout) / "model.py").is_file():
        raise UnavailableError(f"{checkout} has no model.py; git clone https://github.com/karpathy/nanoGPT")
    sys.path.insert(0, checkout)
    import model

    return model


@torch.no_grad()
def validation_loss(model: nn.Module, loss_of: Loss, split: TokenShards, config: RunConfig) -> float:
    """Mean cross-entropy in nats per token, in float32 and not compiled."""
    model.eval()
    nats, tokens = 0.0, 0
    size, windows = config.train.eval_batch_size, config.train.eval_windows
    for x, y in evaluation_batches(split, config.model.context_length, size, windows):
        nats += loss_of(model, x, y).item() * y.numel()
        tokens += y.numel()
    model.train()
    return nats / tokens


def summary(rows: Iterable[Row]) -> Row:
    """Mean over the seeds, and each."""
    rows = list(rows)
    losses = [row["loss"] for row in rows]
    return {
        "seeds": len(rows), "tokens": round(statistics.mean(row["tokens"] for row in rows)),
        "seconds": short(statistics.mean(row["seconds"] for row in rows)),
        "loss_mean": round(statistics.mean(losses), 4),
        "loss_deviation": short(statistics.stdev(losses)) if len(losses) > 1 else None,
        "loss_each": [round(loss, 4) for loss in losses],
    }  # fmt: skip


def draw(finals: dict[tuple[str, float], list[Row]], path: Path) -> None:
    """Validation loss over seconds: a line for each run, and groundup's final losses as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    longest = max(minutes for _, minutes in finals)
    for number, who in enumerate((OURS, *PEERS)):
        colour = f"C{number}"
        for (name, minutes), rows in finals.items():
            if name != who:
                continue
            for seed, row in enumerate(rows):
                seconds, losses = zip(*row["curve"][1:], strict=True)
                axes.plot(seconds, losses, color=colour, alpha=0.5, linewidth=1,
                          label=who if minutes == longest and seed == 0 else None)  # fmt: skip
                axes.plot(seconds[-1], losses[-1], "o", color=colour, markersize=4)
    axes.set(xlabel="seconds of training", ylabel="validation loss (nats per token)", xscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def options_of() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of token shards")
    parser.add_argument("valid", type=Path, help="folder of token shards")
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of github.com/karpathy/nanoGPT")
    parser.add_argument("--recipe", default="speedrun-cpu", help="groundup's, and the shape of the peers' models")
    parser.add_argument(
        "--set", type=json.loads, default={}, help='options over the recipe, such as {"model.d_model": 256}'
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[4, 12])
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="of the peers")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=Path, help="finished runs; by default beside --out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    options = parser.parse_args()
    options.runs = options.runs or (options.out or Path("time_to_loss")).with_suffix(".runs.jsonl")
    return options


if __name__ == "__main__":
    main()
