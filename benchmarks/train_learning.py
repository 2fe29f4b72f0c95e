"""Benchmark of learning: final loss against a peer, and the tokens that Muon saves against AdamW.

    python benchmarks/train_learning.py TRAIN_SHARDS VALID_SHARDS --name stories [--what parity muon] [--seeds 3]
        [--tokens 819200] [--threads 2] [--out FILE] [--plot FILE] [--runs FILE]

    parity  `groundup train` against transformers' Llama with torch's AdamW, both in float32: the same shape, initial
            weights, batches, schedule, decay and clipping, and the same validation windows. The difference is taken
            per seed, and is noise if its mean is smaller than the standard deviation over the seeds. The optimizers
            differ by design: torch adds eps to the bias-corrected root, and decays before the update.
    muon    five peak learning rates for AdamW and for Muon, a factor of two apart, and further ones while the best is
            at an edge; then the best of each over all seeds. Muon's curve shows at which share of the tokens it reaches
            AdamW's final loss. Its schedule is not finished there, so Muon is also trained on 50, 62.5 and 75 % of the
            tokens with a full schedule. Required: AdamW's final loss with at most 75 %.

The shards come from `groundup encode`, with a vocabulary of about 4,096 for these small models. Every finished run is a
line of --runs and is not repeated: an interrupted script continues, and a finished one only plots.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from groundup.account import parameter_count
from groundup.config import ModelConfig
from groundup.data.shards import TokenShards
from groundup.errors import GroundupError, TrainingError
from groundup.reports.statistics import paired
from groundup.train.device import choose_precision
from learning_plot import check_plot, draw
from learning_runs import Corpus, Runs, Settings
from loss_curves import mean_curve, tokens_to_reach
from side_by_side import Report, Row, UnavailableError, labelled, short
from train_peers import OURS, PEER

BUDGETS = (0.5, 0.625, 0.75)
"""Shares of the tokens that Muon is also trained on."""
REQUIRED_SHARE = 0.75
SWEEP_FACTOR = 2.0
MOST_EXTRA_RATES = 4
FIRST_LOSS_TOLERANCE = 1e-3
COLUMNS = """ours peer optimizer input seeds rate adamw_rate muon_rate budget tokens loss best ours_loss_mean
    ours_loss_deviation peer_loss_mean peer_loss_deviation adamw_loss_mean adamw_loss_deviation muon_loss_mean
    muon_loss_deviation difference_mean difference_low difference_high paired_p within_noise share_of_tokens share_min
    share_max reached_by reached smallest_budget met losses_agree""".split()


class Findings(NamedTuple):
    """The runs behind the rows, for the plot. A part that was not requested is empty."""

    parity: dict[str, list[Row]]
    """By contender: one run a seed."""
    sweep: dict[str, dict[float, float]]
    """By optimizer: final loss of each learning rate."""
    best: dict[str, list[Row]]
    """By optimizer: one run a seed, at its best learning rate."""
    budgets: dict[float, list[Row]]
    """Muon's runs by share of the tokens."""


class Bench:
    """Options, rows, and the common settings of all runs."""

    def __init__(self, options: argparse.Namespace, report: Report) -> None:
        self.options, self.report = options, report
        self.runs = Runs(options.runs, Corpus(options.train, options.valid, options.device))
        train, valid = TokenShards.open(options.train), TokenShards.open(options.valid)
        model = {"vocab_size": train.vocab_size, "context_length": options.context_length, "d_model": options.d_model,
                 "num_layers": options.layers, "num_heads": options.heads}  # fmt: skip
        shape = ModelConfig(**model)
        # A whole number of steps between evaluations, so that all runs are evaluated at the same tokens.
        step_tokens = options.batch_size * options.context_length
        interval = max(1, round(options.tokens / step_tokens / options.evaluations))
        self.base = Settings(
            who=OURS, optimizer="adamw", rate=options.rate, steps=interval * options.evaluations, seed=0,
            precision="fp32", model=model, batch_size=options.batch_size, weight_decay=options.weight_decay,
            eval_interval=interval, eval_windows=options.windows, train_sha256=train.sha256, valid_sha256=valid.sha256,
        )  # fmt: skip
        shape_in_words = ", ".join(f"{key} {value:,}" for key, value in model.items())
        self.about: Row = {
            "input": f"{options.name}: {parameter_count(shape) / 1e6:.2f} M parameters, {shape_in_words}, "
            f"batch {options.batch_size}",
            "tokens": self.base.tokens,
            "epochs": short(self.base.tokens / len(train)),
        }

    def over_seeds(self, settings: Settings) -> list[Row]:
        """One run for each seed.

        Raises:
            TrainingError: one of them diverged.
        """
        rows = [self.runs.result(replace(settings, seed=seed)) for seed in range(self.options.seeds)]
        if not all(math.isfinite(loss) for loss in final_losses(rows)):
            raise TrainingError(
                f"{settings.who} {settings.optimizer} diverged at the rate {settings.rate:g} with one of the seeds 0 "
                f"to {len(rows) - 1}; expected a finite loss with each: lower --rate, or centre the sweep lower"
            )
        return rows


def parity(bench: Bench) -> dict[str, list[Row]]:
    """The row that compares groundup with the peer."""
    labelled(PEER)  # before an hour of groundup's runs
    found = {who: bench.over_seeds(replace(bench.base, who=who)) for who in (OURS, PEER)}
    ours, theirs = (final_losses(found[who]) for who in (OURS, PEER))
    difference = paired(ours, theirs)
    row = {"what": "parity", "ours": labelled(OURS), "ours_call": "groundup train, AdamW, float32",
           "peer": labelled(PEER), "peer_call": "LlamaForCausalLM, SDPA, torch.optim.AdamW fused, float32"}  # fmt: skip
    row |= bench.about | {"seeds": len(ours), "rate": bench.base.rate}
    row |= spread("ours_loss", ours) | spread("peer_loss", theirs)
    row["difference_mean"] = short(difference.mean)
    row["difference_deviation"] = short(statistics.stdev(a - b for a, b in zip(ours, theirs, strict=True)))
    row["difference_low"], row["difference_high"] = short(difference.low), short(difference.high)
    row["paired_p"] = short(difference.p)
    row["within_noise"] = bool(abs(difference.mean) <= min(map(statistics.stdev, (ours, theirs))))
    firsts = [abs(a["curve"][0][1] - b["curve"][0][1]) for a, b in zip(found[OURS], found[PEER], strict=True)]
    row["losses_agree"] = max(firsts) <= FIRST_LOSS_TOLERANCE
    bench.report.add(row)
    return found


def muon(bench: Bench) -> tuple[dict[str, dict[float, float]], dict[str, list[Row]], dict[float, list[Row]]]:
    """Rows of the sweeps, of Muon against AdamW over the seeds, and of Muon with fewer tokens."""
    precision = choose_precision("auto", bench.options.device)
    sweeps, at = {}, {}
    for optimizer, centre in (("adamw", bench.options.adamw_rate), ("muon", bench.options.muon_rate)):
        settings = replace(bench.base, optimizer=optimizer, precision=precision)
        losses = sweep(centre, lambda rate: bench.runs.result(replace(settings, rate=rate))["final_loss"])  # noqa: B023 - called at once
        rate = min(losses, key=losses.__getitem__)
        for tried, loss in sorted(losses.items()):
            bench.report.add(
                {"what": "rate sweep", "optimizer": optimizer, **bench.about, "precision": precision, "rate": tried,
                 "loss": finite(loss), "best": tried == rate}
            )  # fmt: skip
        sweeps[optimizer], at[optimizer] = losses, replace(settings, rate=rate)
    best = {optimizer: bench.over_seeds(settings) for optimizer, settings in at.items()}
    target = statistics.mean(final_losses(best["adamw"]))
    budgets = {share: bench.over_seeds(replace(at["muon"], steps=round(share * at["muon"].steps))) for share in BUDGETS}
    about = bench.about | {"precision": precision, "seeds": bench.options.seeds}
    for share, rows in budgets.items():
        losses = final_losses(rows)
        bench.report.add(
            {"what": "Muon with fewer tokens", **about, "budget": share, "tokens": rows[0]["curve"][-1][0],
             **spread("muon_loss", losses), "adamw_loss_mean": short(target),
             "reached_by": f"{sum(loss <= target for loss in losses)} of {len(losses)} seeds",
             "reached": statistics.mean(losses) <= target}
        )  # fmt: skip
    bench.report.add(
        {"what": "tokens to AdamW's loss", "ours": labelled(OURS)} | about
        | {"adamw_rate": at["adamw"].rate, "muon_rate": at["muon"].rate} | tokens_saved(best, budgets)
    )  # fmt: skip
    return sweeps, best, budgets


def sweep(centre: float, loss_of: Callable[[float], float]) -> dict[float, float]:
    """Losses of five learning rates around the centre, and of more while the best is the smallest or the largest."""
    losses = {rate: loss_of(rate) for rate in (centre * SWEEP_FACTOR**k for k in range(-2, 3))}
    for _ in range(MOST_EXTRA_RATES):
        best = min(losses, key=losses.__getitem__)
        if best == min(losses):
            further = best / SWEEP_FACTOR
        elif best == max(losses):
            further = best * SWEEP_FACTOR
        else:
            break
        losses[further] = loss_of(further)
    return losses


def tokens_saved(best: dict[str, list[Row]], budgets: dict[float, list[Row]]) -> Row:
    """Share of AdamW's tokens that Muon needs: during a long schedule, and at the end of a short one.

    Args:
        best: runs of "adamw" and "muon" over the seeds, on all tokens.
        budgets: runs of Muon by share of the tokens.
    """
    finals = {name: final_losses(rows) for name, rows in best.items()}
    target = statistics.mean(finals["adamw"])
    tokens = best["adamw"][0]["curve"][-1][0]
    shares = [share_to_reach(row["curve"], target, tokens) for row in best["muon"]]
    whole = share_to_reach(mean_curve([row["curve"] for row in best["muon"]]), target, tokens)
    enough = [share for share, rows in budgets.items() if statistics.mean(final_losses(rows)) <= target]
    smallest = min(enough, default=None)
    return {
        **spread("adamw_loss", finals["adamw"]),
        **spread("muon_loss", finals["muon"]),
        "share_of_tokens": finite(whole),
        "share_min": finite(min(shares)),
        "share_max": finite(max(shares)),
        "smallest_budget": smallest,
        "required": REQUIRED_SHARE,
        "met": smallest is not None and smallest <= REQUIRED_SHARE,
    }


def share_to_reach(curve: Sequence[tuple[int, float]], loss: float, tokens: int) -> float:
    """Share of the tokens at which the curve reaches the loss; infinite if it never does."""
    reached = tokens_to_reach(curve, loss)
    return math.inf if reached is None else reached / tokens


def final_losses(rows: Sequence[Row]) -> list[float]:
    """One a run."""
    return [row["final_loss"] for row in rows]


def spread(name: str, losses: Sequence[float]) -> Row:
    """Mean and standard deviation over the seeds, and the value of each seed."""
    return {
        f"{name}_mean": round(statistics.mean(losses), 5),
        f"{name}_deviation": short(statistics.stdev(losses)),
        f"{name}_each": [round(loss, 5) for loss in losses],
    }


def finite(value: float) -> float | None:
    """The value rounded to five digits; None if it is not finite."""
    return round(value, 5) if math.isfinite(value) else None


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of token shards")
    parser.add_argument("valid", type=Path, help="folder of token shards")
    parser.add_argument("--name", required=True, help="what the text is, for the rows")
    parser.add_argument("--what", nargs="+", choices=["parity", "muon"], default=["parity", "muon"])
    parser.add_argument("--tokens", type=int, default=819_200, help="of a run; rounded to whole steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=4e-3, help="peak of parity's runs")
    parser.add_argument("--adamw-rate", type=float, default=4e-3, help="centre of AdamW's sweep")
    parser.add_argument("--muon-rate", type=float, default=8e-3, help="centre of Muon's sweep")
    parser.add_argument("--evaluations", type=int, default=16, help="of a run, the one before it begins aside")
    parser.add_argument("--windows", type=int, default=128, help="validation windows of an evaluation; 0 for all")
    parser.add_argument("--runs", type=Path, help="finished runs; by default beside --out, or ./learning.runs.jsonl")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: a spread takes at least 2")
    if "muon" in options.what and options.evaluations % 8:
        parser.error(f"--evaluations {options.evaluations}: Muon's budgets end at eighths; give a multiple of 8")
    options.runs = options.runs or (options.out or Path("learning")).with_suffix(".runs.jsonl")
    return options


def main() -> None:
    """Make the missing runs, and report."""
    options = options_of()
    try:
        if options.plot:
            check_plot()
        torch.set_num_threads(options.threads)
        report = Report(options.out, threads=options.threads, device=options.device)
        bench = Bench(options, report)
        compared: dict[str, list[Row]] = {}
        rest: tuple[Any, Any, Any] = ({}, {}, {})
        if "parity" in options.what:
            try:
                compared = parity(bench)
            except UnavailableError as error:
                report.add_failure({"what": "left out", "who": PEER}, {"unavailable": str(error)})
        if "muon" in options.what:
            rest = muon(bench)
        if options.plot:
            draw(Findings(compared, *rest), options.name).savefig(options.plot, dpi=150)
    except GroundupError as error:
        raise SystemExit(f"train_learning.py: {error}") from None
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
