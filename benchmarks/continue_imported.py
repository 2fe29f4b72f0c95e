"""Train a small Llama in transformers, import it, and continue it: is the loss the one that it had?

    python benchmarks/continue_imported.py --out continue_imported.json

The text is that of `groundup stories`, the tokenizer groundup's. transformers trains with torch's AdamW and saves a
folder; `groundup import` makes it a run; `groundup evaluate` scores it; `groundup train --init` continues it, beside a
run of the same length from scratch. Everything happens in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import machine

SIZES = {"d_model": 192, "num_layers": 6, "num_heads": 6, "d_ff": 512, "context_length": 128}
VOCAB_SIZE, BATCH = 4096, 16
EVAL = ["--eval_windows", "0"]


def groundup(*words: str | Path) -> str:
    """Run the command line and return what it prints."""
    command = [sys.executable, "-m", "groundup", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"groundup {' '.join(map(str, words))} failed")
    return done.stdout


def train_in_transformers(folder: Path, data: Path, steps: int, threads: int) -> tuple[int, float]:
    """Train a Llama and save it with its tokenizer; returns its parameters and its loss on all validation windows."""
    import torch
    import transformers

    from groundup import Tokenizer
    from groundup.data.batches import Batches, evaluation_batches
    from groundup.data.shards import TokenShards

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=SIZES["d_model"], intermediate_size=SIZES["d_ff"],
        num_hidden_layers=SIZES["num_layers"], num_attention_heads=SIZES["num_heads"],
        num_key_value_heads=SIZES["num_heads"], max_position_embeddings=SIZES["context_length"],
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
    batches = Batches(TokenShards.open(data / "train"), BATCH, SIZES["context_length"], seed=0)
    for step in range(steps):
        x, y = batches.batch(step)
        loss = torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for x, y in evaluation_batches(TokenShards.open(data / "valid"), SIZES["context_length"], 32):
            logits = model(x).logits.flatten(0, 1)
            total += float(torch.nn.functional.cross_entropy(logits, y.flatten(), reduction="sum"))
            count += y.numel()
    model.save_pretrained(folder)
    Tokenizer.load(data / "tok").save_hugging_face(folder / "tokenizer.json")
    return sum(p.numel() for p in model.parameters()), total / count


def losses(run: Path) -> dict[int, float]:
    """Validation losses of a run by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}


def measure(folder: Path, megabytes: float, steps: int, threads: int) -> dict[str, Any]:
    """Make the data, train in transformers, import, and continue."""
    data = folder / "data"
    data.mkdir()
    for name, size, seed in (("train", megabytes, 0), ("valid", megabytes / 20, 1)):
        groundup("stories", data / f"{name}.txt", "--megabytes", str(size), "--seed", str(seed))
    groundup("tokenizer", "train", data / "train.txt", "--vocab-size", str(VOCAB_SIZE), "--out", data / "tok")
    for name in ("train", "valid"):
        groundup("encode", data / f"{name}.txt", "--tokenizer", data / "tok", "--out", data / name)
    parameters, theirs = train_in_transformers(folder / "theirs", data, steps, threads)
    imported = folder / "runs" / "imported"
    groundup("import", folder / "theirs", "--out", imported)
    ours = json.loads(groundup("evaluate", imported, "--data", data / "valid", "--json-output"))["loss"]
    common = [
        "--data.train", str(data / "train"), "--data.valid", str(data / "valid"), "--runs_dir", str(folder / "runs"),
        "--batch_size", str(BATCH), "--max_iters", str(steps), "--warmup_iters", str(steps // 10),
        "--max_learning_rate", "1e-3", "--eval_interval", str(max(1, steps // 4)), "--sample.interval", "0", *EVAL,
    ]  # fmt: skip
    groundup("train", "--init", imported, "--name", "continued", "--seed", "1", *common)
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    groundup("train", "--name", "scratch", "--seed", "1", *sizes, *common)
    return {
        "parameters": parameters,
        "steps": steps,
        "loss in transformers": theirs,
        "loss after import": ours,
        "difference": abs(theirs - ours),
        "continued": losses(folder / "runs" / "continued"),
        "from scratch": losses(folder / "runs" / "scratch"),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=5.0, help="of stories")
    parser.add_argument("--steps", type=int, default=300, help="in transformers, and again in groundup")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.megabytes, options.steps, options.threads)
    assert math.isclose(found["continued"][0], found["loss after import"], rel_tol=1e-6), found
    text = json.dumps({"machine": machine(), **found}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
