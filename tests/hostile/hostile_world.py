"""A small undamaged world that every hostile case gets a copy of: one of each file that groundup reads or writes.

Paths in it are relative, since each case runs in its own copy.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

from groundup.cli.main import main

SEPARATOR = "<|endoftext|>"
_SENTENCES = (
    "The cat sat on the mat and looked at the moon.",
    "A dog ran to the pond, and the cat ran after it.",
    '"Come back," said the cat, "the moon is in the pond!"',
    "The dog looked at the moon in the pond and sat on the mat.",
)
# A model that trains in a tenth of a second.
_RECIPE = """name = "{name}"
[model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
[optim]
warmup_iters = 1
[data]
train = "train"
valid = "valid"
batch_size = 2
[train]
max_iters = 4
seed = {seed}
device = "cpu"
log_interval = 1
eval_interval = 2
eval_windows = 4
checkpoint_interval = 2
background_checkpoints = false
[sample]
interval = 2
tokens = 4
"""
_PLAN = """name = "plan"
question = "Which rate is best?"
recipe = "recipe.toml"
seeds = 1
baseline = { max_learning_rate = 1e-3 }
[options]
max_iters = 2
"sample.interval" = 0
[axes]
max_learning_rate = [1e-3, 1e-2]
[budgets.small]
seeds = 2
"""


def build(place: Path, *, whole: bool = True) -> None:
    """Make the world in an empty folder. Call it in a process that does nothing else.

    Args:
        whole: with a report on tokenizers, which takes some seconds.
    """
    os.chdir(place)
    for name, repeats in (("text", 24), ("valid", 6), ("other", 18)):
        documents = [" ".join(_SENTENCES[i % 4 :] + _SENTENCES[: i % 3]) + f" {name[0]}{i}" for i in range(repeats)]
        Path(f"{name}.txt").write_text(f"\n{SEPARATOR}\n".join(documents), encoding="utf-8")
    documents = Path("text.txt").read_text(encoding="utf-8").split(f"\n{SEPARATOR}\n")
    lines = "".join(json.dumps({"text": document, "id": i}) + "\n" for i, document in enumerate(documents))
    Path("text.jsonl").write_text(lines, encoding="utf-8")
    Path("text.txt.gz").write_bytes(gzip.compress(Path("text.txt").read_bytes(), mtime=0))
    _write_parquet(documents)
    Path("recipe.toml").write_text(_RECIPE.format(name="r", seed=0), encoding="utf-8")
    Path("plan.toml").write_text(_PLAN, encoding="utf-8")
    for text, name in (("text", "tok"), ("other", "tok2")):
        groundup("tokenizer train", f"{text}.txt", "--vocab-size", "290", "--out", name)
    for name, form in (("tok.json", "json"), ("tokenizer.json", "hugging-face"), ("tok.tiktoken", "tiktoken")):
        groundup("tokenizer convert", "tok", name, "--to", form)
    for text, tokenizer, out in (("text", "tok", "train"), ("valid", "tok", "valid"), ("other", "tok2", "train2")):
        groundup("encode", f"{text}.txt", "--tokenizer", tokenizer, "--out", out, "--shard-tokens", "400")
    for text, name in (("text", "counts.npz"), ("other", "counts2.npz")):
        groundup("tokenizer count", f"{text}.txt", "--out", name)
    for split, text in (("train", "text.txt"), ("valid", "valid.txt")):
        place = Path("texts", "stories")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{split}.txt").write_bytes(Path(text).read_bytes())
    _write_interrupted()
    _write_ids()
    _write_checkpoint()
    for name, seed in (("r", 0), ("s", 1)):
        groundup("train", "recipe.toml", "--name", name, "--seed", str(seed))
        groundup("runs", "--tag", name, "good")
    groundup("export", "runs/r", "--to", "folder", "--out", "exported")
    groundup("sweep", "plan.toml")
    groundup("runs")
    if whole:
        groundup("tokenizer report", "a=text.txt", "--out", "tokreport", "--vocab-size", "280", "--documents", "2")


def groundup(verb: str, *arguments: str) -> None:
    """Run a command that must succeed, and show nothing of it.

    Raises:
        RuntimeError: it fails.
    """
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            main([*verb.split(), *arguments])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"groundup {verb} {' '.join(arguments)}: {shown.getvalue()}") from None


def _write_parquet(documents: list[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": documents}), "text.parquet")


def _write_ids() -> None:
    import numpy as np

    from groundup.data.shards import TokenShards

    tokens = TokenShards.open("train")
    np.save("ids.npy", tokens.read(0, len(tokens)).astype(np.uint16))


def _write_checkpoint() -> None:
    """A checkpoint in one file."""
    import torch

    from groundup import AdamW, TransformerLM, save_checkpoint

    torch.manual_seed(0)
    model = TransformerLM(290, 16, 16, 1, 2, 64, 1e4)
    save_checkpoint(model, AdamW(model.parameters()), 7, "checkpoint.pt")


def _write_interrupted() -> None:
    """The folder ``part``: an encoding that was stopped half-way."""
    from groundup.data import document_pass
    from groundup.data.encode import encode_files
    from groundup.tokenizer import Tokenizer

    class Stopping(Tokenizer):
        calls = 0

        def encode_batch_to_numpy(self, *arguments: Any, **options: Any) -> Any:
            Stopping.calls += 1
            if Stopping.calls > 16:
                raise KeyboardInterrupt
            return super().encode_batch_to_numpy(*arguments, **options)

    batch, document_pass.BATCH_BYTES = document_pass.BATCH_BYTES, 1
    with contextlib.suppress(KeyboardInterrupt):
        encode_files(Path("text.txt"), Stopping.load("tok"), Path("part"), shard_tokens=400)
    document_pass.BATCH_BYTES = batch


def own_files(place: Path) -> list[str]:
    """All files of the world, by their paths in it."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
