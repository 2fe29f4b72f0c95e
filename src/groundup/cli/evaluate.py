"""`groundup evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from groundup.cli.parse import call


def evaluate(arguments: list[str]) -> None:
    """Parse and run."""
    call(_evaluate, arguments, "evaluate")


def _evaluate(
    run: Path,
    /,
    *,
    checkpoint: str = "best",
    split: Literal["train", "valid"] = "valid",
    data: str = "",
    device: str = "auto",
    json_output: bool = False,
) -> None:
    """Loss, perplexity and bits per byte of a run's checkpoint on a full split.

    Args:
        run: run directory, or the name of a run in runs/.
        checkpoint: "best", "latest", or a step.
        split: split of the run's data.
        data: other token shards to evaluate on instead; they must come from the same tokenizer.
        device: device to run on; "auto" is the one that the run used.
        json_output: print one JSON object instead of a table.
    """
    from groundup.display.console import make_console, print_pairs
    from groundup.train import evaluate_run

    found = evaluate_run(run, checkpoint, split, data=data, device=device)
    bits = found.bits_per_byte
    if json_output:
        values = {"step": found.step, "loss": found.loss, "perplexity": found.perplexity, "bits_per_byte": bits}
        print(json.dumps(values | {"tokens": found.tokens, "bytes": found.bytes}))
        return
    rows = {
        "checkpoint": f"step {found.step:,}",
        "loss": f"{found.loss:.4f} nats per token",
        "perplexity": f"{found.perplexity:,.3f}",
        "bits per byte": f"{bits:.4f}" if bits is not None else "unknown: the data has no byte counts",
        "scored": f"{found.tokens:,} tokens" + (f" = {found.bytes:,} bytes of text" if found.bytes else ""),
    }
    print_pairs(make_console(), rows)
