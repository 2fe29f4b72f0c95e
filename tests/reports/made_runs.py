"""Makes run directories and sweeps as training would leave them, out of a formula and a seed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from groundup.account import parameter_count, training_flops_per_token
from groundup.config import RunConfig, override, save_toml

MODEL = {"model.vocab_size": 1000, "model.context_length": 64, "model.d_model": 64, "model.num_layers": 2,
         "model.num_heads": 4}  # fmt: skip
ENVIRONMENT = {
    "groundup": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "platform": "Linux", "device": "cpu", "device_name": "Some Processor 9000", "cpu_count": 2, "threads": 2,
    "git": {"commit": "0123456789abcdef", "modified": False}, "ranks": 1,
}  # fmt: skip


def make_run(
    folder: Path,
    *,
    loss: float = 2.0,
    seed: int = 0,
    steps: int = 200,
    every: int = 2,
    noise: float = 0.05,
    options: dict[str, Any] | None = None,
    status: str = "finished",
    sample: str = "Once there was a cat.",
    peak: float | None = None,
) -> dict[str, Any]:
    """A run that ends at this validation loss, exactly; returns its line of results.jsonl.

    Args:
        peak: a training loss that it has once, early on.
    """
    rng = random.Random(f"{folder.name} {seed}")
    options = {**MODEL, "name": folder.name, "train.seed": seed, "train.max_iters": steps, **(options or {})}
    config = override(RunConfig(), options)
    folder.mkdir(parents=True)
    save_toml(config, folder / "config.toml")
    costs = {
        "parameters": parameter_count(config.model), "flops_per_token": training_flops_per_token(config.model)
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | costs))
    tokens_per_step = config.data.batch_size * config.model.context_length
    ended = steps if status == "finished" else steps // 2
    lines: list[str] = []
    for step in range(0, ended + 1, every):
        value = loss + (6.9 - loss) * (math.exp(-8 * step / steps) - math.exp(-8)) / (1 - math.exp(-8))
        line: dict[str, Any] = {"step": step, "tokens": step * tokens_per_step, "wall_seconds": round(0.02 * step, 3)}
        if step:
            line |= {"train_loss": value + rng.gauss(0, noise), "tokens_per_second": 1e5 + rng.gauss(0, 1e3),
                     "mfu": None, "lr": 1e-3, "grad_norm": abs(rng.gauss(1, 0.2))}  # fmt: skip
        if peak is not None and step == 10 * every:
            line["train_loss"] = peak
        if step % (10 * every) == 0 or step == ended:
            line |= {"val_loss": value, "val_perplexity": math.exp(value), "val_bpb": value * 0.37}
        lines.append(json.dumps(line))
    if status == "diverged":
        lines.append(
            json.dumps({"step": ended + every, "tokens": (ended + every) * tokens_per_step, "train_loss": None})
        )
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    settings = {"temperature": 0.8, "top_p": 0.9, "seed": seed}
    (folder / "samples.jsonl").write_text(
        json.dumps({"step": ended, "prompt": "Once", "text": sample, **settings}) + "\n"
    )
    tokens, seconds = ended * tokens_per_step, 0.02 * ended
    if status in ("finished", "stopped"):
        summary = {"finished": status == "finished", "step": ended, "tokens": tokens, "parameters": 200_000,
                   "best_val_loss": loss, "best_step": ended, "wall_seconds": seconds}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    finished = status == "finished"
    return {
        "cell": folder.name, "seed": seed, "status": status, "attempts": 1, "run": folder.name, "steps": ended,
        "tokens": tokens, "seconds": seconds, "train_loss": loss if finished else None,
        "val_loss": loss if finished else None, "best_val_loss": loss if finished else None,
        "val_bpb": 0.37 * loss if finished else None,
        "message": "the loss is not finite" if status == "diverged" else "",
    }  # fmt: skip


def make_sweep(folder: Path, cells: dict[str, dict[str, Any]], **plan: Any) -> Path:
    """A sweep directory.

    Args:
        cells: by name: ``varied``, ``losses`` (one for each seed; None diverges), and what :func:`make_run` takes.
    """
    folder.mkdir(parents=True)
    results = []
    for name, cell in cells.items():
        rest = {k: v for k, v in cell.items() if k not in ("varied", "losses", "variant")}
        for seed, loss in enumerate(cell["losses"]):
            made = make_run(
                folder / f"{name}-seed{seed}",
                loss=9.0 if loss is None else loss,
                seed=seed,
                status="diverged" if loss is None else "finished",
                options=cell.get("varied", {}),
                **rest,
            )
            results.append(made | {"varied": cell.get("varied", {}), "variant": cell.get("variant", "")})
    document = {"plan": {"name": folder.name, **plan}, "versions": {"groundup": "0.1.0"}}
    (folder / "sweep.json").write_text(json.dumps(document))
    (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    return folder


def rates_sweep(folder: Path, losses: dict[float, list[float | None]], **plan: Any) -> Path:
    """A sweep over the learning rate."""
    option = "optim.max_learning_rate"
    cells = {f"lr-{rate:g}": {"varied": {option: rate}, "losses": each} for rate, each in losses.items()}
    return make_sweep(folder, cells, question="Which learning rate is best?", **plan)


def ablations_sweep(folder: Path, **plan: Any) -> Path:
    """Four variants: one clearly worse than the baseline, one like it, one that diverges."""
    cells = {
        "baseline": {"variant": "baseline", "losses": [1.400, 1.402, 1.399]},
        "post-norm": {"variant": "post-norm", "varied": {"model.norm": "post"}, "losses": [1.450, 1.453, 1.448]},
        "nope": {"variant": "no position", "varied": {"model.position": "none"}, "losses": [1.401, 1.399, 1.403]},
        "no-norm": {"variant": "no norm", "varied": {"model.norm": "none"}, "losses": [None, None, None]},
    }
    question = "Does each part of the block earn its place?"
    return make_sweep(folder, cells, baseline="baseline", question=question, **plan)
