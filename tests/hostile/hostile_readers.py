"""What reads the files that groundup writes: commands, and loaders of the Python API, each with its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_CLOCKS = ("wall_seconds", "train_seconds", "tokens_per_second", "mfu", "peak_memory", "seconds", "content_sha256")
_TIMES = re.compile(r"\d[\d,.]*(?:e[+-]?\d+)? ?(?:µs|ms|s|min|minutes|MB/s|kB/s|B/s|tokens/s|TFLOP/s)\b")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A command that reads a file of the world."""

    arguments: Sequence[str]
    writes: Sequence[str] = ()
    """Files, folders and patterns that are part of its result."""
    before: Callable[[], None] | None = None
    """What is done to the world first."""
    slow: bool = False
    words: bool = True
    """Whether what it says is part of its result; otherwise only what it writes, which may be made in other ways."""


def _at_step_2() -> None:
    """Make the run one that was interrupted after its first checkpoint."""
    shutil.rmtree("runs/r/checkpoints/step-4")
    for pointer in ("latest", "best"):
        Path("runs/r/checkpoints", pointer).write_text("step-2\n", encoding="utf-8")
    Path("runs/r/summary.json").unlink()


READERS: dict[str, Reader] = {
    "by resume": Reader(["train", "--resume", "runs/r"], ["runs/r/metrics.jsonl", "runs/r/checkpoints"], _at_step_2),
    "by generate": Reader(["generate", "runs/r", "--device=cpu", "--seed=1", "--tokens=8"]),
    "by evaluate": Reader(["evaluate", "runs/r", "--device=cpu", "--json-output"]),
    "by list": Reader(["runs", "--json"]),
    "by tag": Reader(["runs", "--tag", "r", "new"], ["runs/r/tags.json"]),
    "by compare": Reader(["compare", "runs/r", "runs/s"]),
    "by compare-cells": Reader(
        ["compare", "runs/plan/max_learning_rate=0.001,seed-0", "runs/plan/max_learning_rate=0.01,seed-0"]
    ),
    "by report": Reader(["report", "runs/plan", "--out=new"], ["new/report.md"], slow=True),
    "by report-run": Reader(["report", "runs/r", "runs/s", "--out=new"], ["new/report.md"], slow=True),
    "by report-tokenizers": Reader(["report", "tokreport", "--out=new"], ["new/report.md"], slow=True),
    "by sweep": Reader(["sweep", "plan.toml"], ["runs/plan/results.jsonl"], words=False),
    "by sweep-plan": Reader(["sweep", "plan.toml", "--dry-run"]),
    "by train": Reader(["train", "recipe.toml", "--name=new"], ["runs/new/metrics.jsonl", "runs/new/checkpoints"]),
    "by init": Reader(["train", "recipe.toml", "--name=new", "--init=runs/r@4"], ["runs/new/metrics.jsonl"]),
    "by train-ids": Reader(
        ["train", "recipe.toml", "--name=new", "--train_path=ids.npy", "--val_path=ids.npy", "--vocab_size=300"],
        ["runs/new/metrics.jsonl", "runs/new/checkpoints"],
    ),
    "by convert": Reader(["tokenizer", "convert", "tok", "new.json"], ["new.json"]),
    "by convert-json": Reader(["tokenizer", "convert", "tok.json", "new"], ["new"]),
    "by convert-hf": Reader(["tokenizer", "convert", "tokenizer.json", "new"], ["new"]),
    "by convert-tiktoken": Reader(
        ["tokenizer", "convert", "tok.tiktoken", "new", "--pattern=gpt2", "--special-tokens=<|endoftext|>=289"],
        ["new"],
    ),
    "by inspect": Reader(["tokenizer", "inspect", "tok", "--json-output"]),
    "by encode": Reader(["encode", "text.txt", "--tokenizer=tok", "--out=new"], ["new"]),
    "by encode-again": Reader(
        ["encode", "text.txt", "--tokenizer=tok", "--out=train", "--shard-tokens=400"], ["train"], words=False
    ),
    "by encode-on": Reader(
        ["encode", "text.txt", "--tokenizer=tok", "--out=part", "--shard-tokens=400"], ["part"], words=False
    ),
    "by encode-jsonl": Reader(["encode", "text.jsonl", "--tokenizer=tok", "--out=new"], ["new"]),
    "by encode-gz": Reader(["encode", "text.txt.gz", "--tokenizer=tok", "--out=new"], ["new"]),
    "by encode-parquet": Reader(["encode", "text.parquet", "--tokenizer=tok", "--out=new"], ["new"]),
    "by train-counts": Reader(["tokenizer", "train", "--counts=counts.npz", "--vocab-size=280", "--out=new"], ["new"]),
    "by data-info": Reader(["data", "info", "train", "--json-output"]),
    "by data-check": Reader(["data", "check", "train"]),
    "by data-show": Reader(["data", "show", "train", "2"]),
    "by account": Reader(["account", "runs/r", "--json"]),
    "by account-recipe": Reader(["account", "recipe.toml", "--vocab-size=290", "--json"]),
}

_CELL = "runs/plan/max_learning_rate=0.001,seed-0"
_RUN_READERS = {
    "config.toml": ["by resume", "by init", "by generate", "by list", "by compare", "by account", "by report-run"],
    "environment.json": ["by list", "by compare", "by report-run"],
    "metrics.jsonl": ["by resume", "by list", "by compare", "by report-run"],
    "samples.jsonl": ["by resume", "by compare", "by report-run"],
    "summary.json": ["by list", "by compare", "by report-run"],
    "tags.json": ["by list", "by tag"],
    "tokenizer/vocab.json": ["by generate", "by init"],
    "tokenizer/merges.txt": ["by generate", "by init"],
    "tokenizer/meta.json": ["by generate", "by init"],
    "checkpoints/latest": ["by resume"],
    "checkpoints/best": ["by generate", "by resume"],
    "checkpoints/step-2/state.json": ["by resume"],
    "checkpoints/step-2/model.safetensors": ["by resume"],
    "checkpoints/step-2/optimizer.safetensors": ["by resume"],
    "checkpoints/step-4/state.json": ["by generate", "by evaluate", "by init"],
    "checkpoints/step-4/model.safetensors": ["by evaluate", "by init"],
}
# A file of the world -> the readers that it is damaged for.
OWN_FILES: dict[str, list[str]] = {
    **{f"runs/r/{file}": readers for file, readers in _RUN_READERS.items()},
    "runs/index.sqlite": ["by list"],
    "runs/plan/sweep.json": ["by sweep", "by list", "by compare-cells", "by report"],
    "runs/plan/results.jsonl": ["by sweep", "by list", "by compare-cells", "by report"],
    f"{_CELL}/config.toml": ["by list", "by compare-cells"],
    f"{_CELL}/metrics.jsonl": ["by compare-cells", "by report"],
    f"{_CELL}/summary.json": ["by list"],
    f"{_CELL}/checkpoints/step-2/state.json": ["by sweep"],
    "train/index.json": ["by train", "by encode-again", "by data-info", "by data-check"],
    "train/inputs.json": ["by encode-again", "by data-info", "by data-check"],
    "train/shard-00001.bin": ["by train", "by encode-again", "by data-check", "by data-show"],
    "train/documents.bin": ["by train", "by encode-again", "by data-check", "by data-show"],
    "train/token_lengths.npy": ["by train", "by encode-again", "by data-check"],
    "train/tokenizer/vocab.json": ["by train", "by data-check", "by data-show"],
    "train/tokenizer/merges.txt": ["by train"],
    "train/tokenizer/meta.json": ["by train"],
    "valid/index.json": ["by evaluate"],
    "valid/shard-00000.bin": ["by evaluate"],
    "valid/token_lengths.npy": ["by evaluate"],
    "part/progress.json": ["by encode-on", "by data-info"],
    "part/documents.bin": ["by encode-on"],
    "part/shard-00001.bin": ["by encode-on"],
    "part/shard-00002.bin.part": ["by encode-on"],
    "tok/vocab.json": ["by convert", "by encode", "by inspect"],
    "tok/merges.txt": ["by convert", "by encode"],
    "tok/meta.json": ["by convert", "by encode", "by inspect"],
    "tok.json": ["by convert-json"],
    "tokenizer.json": ["by convert-hf"],
    "tok.tiktoken": ["by convert-tiktoken"],
    "counts.npz": ["by train-counts"],
    "ids.npy": ["by train-ids"],
    "recipe.toml": ["by train", "by account-recipe"],
    "plan.toml": ["by sweep-plan"],
    "text.txt": ["by encode", "by encode-on"],
    "text.jsonl": ["by encode-jsonl"],
    "text.txt.gz": ["by encode-gz"],
    "text.parquet": ["by encode-parquet"],
    "tokreport/report.json": ["by report-tokenizers"],
    "tokreport/report.png": ["by report-tokenizers"],
}
LIKE_OTHERS = (
    "*/.lock", "runs/s/*", "runs/plan/*seed-0/*", "train2/*", "tok2/*", "counts2.npz", "other.txt", "valid.txt",
    "train/shard-*", "valid/shard-*", "valid/documents.bin", "valid/inputs.json", "valid/tokenizer/*",
    "part/shard-*", "part/tokenizer/*", "tokreport/*", "texts/*", "checkpoint.pt", "runs/r/checkpoints/step-4/*",
    "exported/*",  # tests/interop/test_bad_input.py damages what an import reads
)  # fmt: skip
"""Files that are like one that is damaged, or that are read by no command."""


def replacement(file: str) -> str:
    """The file of another run, tokenizer or text that may stand in for a file of the world."""
    for one, other in (("runs/r/", "runs/s/"), ("train/", "train2/"), ("part/", "train2/"), ("tok/", "tok2/"),
                       ("valid/", "train2/"), ("=0.001,seed-0/", "=0.01,seed-0/"), ("text.txt", "other.txt"),
                       ("counts.npz", "counts2.npz")):  # fmt: skip
        found = file.replace(one, other, 1)
        if (file.startswith(one) or (one.startswith("=") and one in file)) and Path(found).is_file():
            return found
    return "runs/s/config.toml"


def _document(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _load_tokenizer(path: Any) -> str:
    from groundup.tokenizer import Tokenizer

    return Tokenizer.load(path).sha256


def _from_files(path: Any) -> str:
    from groundup.tokenizer import Tokenizer

    return Tokenizer.from_files(path, "tok/merges.txt", ["<|endoftext|>"]).sha256


def _from_merges(path: Any) -> str:
    from groundup.tokenizer import Tokenizer

    return Tokenizer.from_files("tok/vocab.json", path, ["<|endoftext|>"]).sha256


def _open_shards(path: Any) -> str:
    from groundup.data.shards import TokenShards

    tokens = TokenShards.open(path, verify=True)
    return hashlib.sha256(tokens.read(0, len(tokens)).tobytes()).hexdigest()


def _load_counts(path: Any) -> str:
    from groundup.tokenizer.training.counts import PretokenCounts

    return str(len(PretokenCounts.load(path)))


def _read_documents(path: Any) -> str:
    from groundup.text.readers import read_documents

    return hashlib.sha256(b"\n".join(read_documents(path))).hexdigest()


def _load_recipe(path: Any) -> str:
    from groundup.config import flatten, load_recipe

    return _document(flatten(load_recipe(path)))


def _load_plan(path: Any) -> str:
    from groundup.sweeps.plan import load_plan

    return _document([cell.name for cell in load_plan(path).trials(Path("x"))])


def _open_run(path: Any) -> str:
    from groundup.record.run import RunDirectory
    from groundup.train.checkpoint.folder import load_model

    _, state = load_model(RunDirectory.open(path), "best")
    return _document(state["step"])


def _load_studies(path: Any) -> str:
    from groundup.reports.content import content
    from groundup.reports.settings import load_studies

    return _document([content(study, []).finding for study in load_studies([path])])


def _list_runs(path: Any) -> str:
    from groundup.reports.run_list import list_runs

    return _document([row["run"] for row in list_runs(Path(path))])


def _find_texts(path: Any) -> str:
    from groundup.studies.published_study import find_texts

    return _document([source.name for source in find_texts(Path(path))])


def _encode_files(path: Any) -> str:
    from groundup.data.encode import encode_files
    from groundup.tokenizer import Tokenizer

    return str(encode_files(path, Tokenizer.load("tok"), "new").tokens)


def _train_bpe(path: Any) -> str:
    from groundup import train_bpe

    return str(len(train_bpe(path, 280, ["<|endoftext|>"])[0]))


def _load_checkpoint(path: Any) -> str:
    from groundup import TransformerLM, load_checkpoint

    return str(load_checkpoint(path, TransformerLM(290, 16, 16, 1, 2, 64, 1e4)))


# name -> the loader, and a path of the world that it loads
LOADERS: dict[str, tuple[Callable[[Any], str], str]] = {
    "Tokenizer.load": (_load_tokenizer, "tok.json"),
    "Tokenizer.load(folder)": (_load_tokenizer, "tok"),
    "Tokenizer.load(hugging-face)": (_load_tokenizer, "tokenizer.json"),
    "Tokenizer.from_files(vocab)": (_from_files, "tok/vocab.json"),
    "Tokenizer.from_files(merges)": (_from_merges, "tok/merges.txt"),
    "TokenShards.open": (_open_shards, "train"),
    "TokenShards.open(npy)": (_open_shards, "ids.npy"),
    "PretokenCounts.load": (_load_counts, "counts.npz"),
    "read_documents": (_read_documents, "text.txt"),
    "read_documents(jsonl)": (_read_documents, "text.jsonl"),
    "read_documents(parquet)": (_read_documents, "text.parquet"),
    "encode_files": (_encode_files, "text.txt"),
    "train_bpe": (_train_bpe, "text.txt"),
    "load_recipe": (_load_recipe, "recipe.toml"),
    "load_plan": (_load_plan, "plan.toml"),
    "RunDirectory.open": (_open_run, "runs/r"),
    "load_studies": (_load_studies, "runs/plan"),
    "list_runs": (_list_runs, "runs"),
    "find_texts": (_find_texts, "texts"),
    "load_checkpoint": (_load_checkpoint, "checkpoint.pt"),
}


def result(output: str, written: Sequence[str]) -> str:
    """What a command came to, without what depends on the clock: a hash that is equal for equal results."""
    output = _TIMES.sub("TIME", output.replace(str(Path.cwd()), "HERE"))
    found = hashlib.sha256(output.encode("utf-8", "surrogateescape"))
    for pattern in written:
        for path in sorted(_files(Path(pattern))):
            found.update(str(path).encode("utf-8", "surrogateescape"))
            found.update(_content(path))
    return found.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.is_file() else []


def _content(path: Path) -> bytes:
    if path.name == "inputs.json":  # when the inputs were last changed
        return b""
    content = path.read_bytes()
    if path.suffix == ".jsonl" or path.name == "state.json":
        lines = (
            [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else [json.loads(content)]
        )
        kept = [{k: v for k, v in line.items() if k not in _CLOCKS} for line in lines]
        return _document(kept).encode()
    return _TIMES.sub("TIME", content.decode("latin-1")).encode() if path.suffix == ".md" else content
