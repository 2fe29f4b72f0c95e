"""Time and peak memory of `groundup export` and `groundup import`, beside copying the same file.

    python benchmarks/export_import.py --layers 2 --out export_import.json
    python benchmarks/export_import.py --layers 16                             # 1.1 billion parameters, 30 GB of disk

The model is synthetic: the shape of Llama 3.2 1B with a vocabulary of 32,000, untied, of random numbers. Each command
runs in a fresh process, and verifies what it wrote by groundup's own reader (transformers and llama.cpp are asked for
small models only). Copying is a plain copy of the checkpoint's weights with fsync, in the same process afterwards.
Required: at most twice the time of copying, and memory of 1.3 times the largest tensor plus 1 GB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groundup.config import ModelConfig, RunConfig, flatten
from groundup.interop.families import plain_names
from groundup.interop.weights import Weights, write_safetensors
from groundup.record.run import RunDirectory
from groundup.system.files import file_sha256
from groundup.train.checkpoint.folder import FILES, FORMAT, MODEL_FILE, OPTIMIZER_FILE, VERSION, write_state
from groundup.train.state import TrainState
from side_by_side import Report, Row, clocks, failed, in_fresh_process, peak_mb, short, since

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

WANTED_TIMES_COPY = 2.0
WANTED_TIMES_LARGEST = 1.3
_TIME_LIMIT = 3600
_COMMANDS = {
    "export, Hugging Face, f32": ["export", "runs/big", "--to", "hugging-face", "--out", "new"],
    "export, Hugging Face, bf16": ["export", "runs/big", "--to", "hugging-face", "--out", "new", "--dtype", "bf16"],
    "export, GGUF, f32": ["export", "runs/big", "--to", "gguf", "--out", "new.gguf"],
    "export, GGUF, q8_0": ["export", "runs/big", "--to", "gguf", "--out", "new.gguf", "--dtype", "q8_0"],
    "import, Hugging Face, f32": ["import", "there", "--out", "new"],
    "import, GGUF, f32": ["import", "there.gguf", "--out", "new"],
}


def main() -> None:
    """Make the model, and measure each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="blocks of 61 million parameters each")
    parser.add_argument("--commands", nargs="+", choices=list(_COMMANDS), default=list(_COMMANDS))
    parser.add_argument("--threads", type=int, default=1, help="threads of matmuls")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder of temporary files")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    options = parser.parse_args()
    report = Report(options.out)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        config = make_run(folder, options.layers)
        for sources in (
            ["export", "runs/big", "--out", "there"],
            ["export", "runs/big", "--to", "gguf", "--out", "there.gguf"],
        ):
            if any(sources[-1] in _COMMANDS[command] for command in options.commands):
                found = measured(sources, folder, options.threads)
                if failed(found):
                    raise SystemExit(f"{sources}: {found}")
        largest = 4 * max(config.vocab_size, config.ffn_dim) * config.d_model
        parameters = sum(_size(shape) for shape in plain_names(config).values())
        for command in options.commands:
            row: Row = {"what": command, "parameters": parameters, "largest_tensor_mb": short(largest / 1e6)}
            rounds = [measured(_COMMANDS[command], folder, options.threads) for _ in range(options.rounds)]
            if broken := next(filter(failed, rounds), None):
                report.add_failure(row, broken)
                continue
            found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
            row["rounds"] = options.rounds
            wanted = WANTED_TIMES_LARGEST * largest / 1e6 + 1000
            times = found["seconds"] / found["copy_seconds"]
            report.add(
                row
                | {name: short(value) for name, value in found.items()}
                | {"times_copy": short(times), "wanted_times_copy": WANTED_TIMES_COPY, "wanted_mb": short(wanted)}
                | {"within": times <= WANTED_TIMES_COPY and found["peak_mb"] <= wanted}
            )
    report.finish(
        ["what", "written_mb", "seconds", "cpu_seconds", "copy_seconds", "times_copy", "peak_mb", "wanted_mb", "within"]
    )


def measured(command: list[str], folder: Path, threads: int) -> Row:
    """Run a command in a fresh process, and delete what it wrote beside its sources."""
    arguments = {"command": command, "folder": str(folder)}
    found = in_fresh_process("export_import:run", arguments, threads=1, math_threads=threads, time_limit=_TIME_LIMIT)
    for name in ("new", "new.gguf", "copy"):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def run(command: list[str], folder: str) -> Row:
    """Run a command of groundup in this process; returns seconds, peak memory, and the time to copy what it wrote."""
    from groundup.cli.main import main as groundup

    os.chdir(folder)
    out = Path(command[command.index("--out") + 1])
    start = clocks()
    try:
        groundup(command)
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"groundup {' '.join(command)} ended with exit code {stop.code}") from None
    spent, peak = since(start), peak_mb()
    files = [path for path in (out.rglob("*") if out.is_dir() else [out]) if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    source = Path("runs/big/checkpoints/step-0") / MODEL_FILE
    start = clocks()
    with source.open("rb") as old, Path("copy").open("wb") as new:
        shutil.copyfileobj(old, new, 2**24)
        new.flush()
        os.fsync(new.fileno())
    copied = since(start)
    return {
        "seconds": spent[1], "cpu_seconds": spent[0], "peak_mb": peak, "written_mb": written / 1e6,
        "copy_seconds": copied[1], "copy_cpu_seconds": copied[0],
    }  # fmt: skip


class _Random(Weights):
    """Random tensors that are made when they are read."""

    source = "random"

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes
        self.dtypes = dict.fromkeys(shapes, torch.float32)
        self._numbers = 0.02 * torch.randn(2**24, generator=torch.Generator().manual_seed(0))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        shape = (stop - start, *self.shapes[name][1:])
        if len(shape) == 1:
            return torch.ones(shape)
        size = _size(shape)
        return self._numbers[:size].view(shape)  # a chunk is smaller


def make_run(folder: Path, layers: int) -> ModelConfig:
    """Write the run `big` with one checkpoint of random weights."""
    from groundup.tokenizer import Tokenizer, train_bpe_from_documents

    words = [" ".join(f"w{i * j % 977}" for i in range(60)) for j in range(60)]
    vocab, merges = train_bpe_from_documents(words, 400, ["<|endoftext|>"])
    config = ModelConfig(
        vocab_size=32_000, context_length=2048, d_model=2048, num_layers=layers, num_heads=32, num_kv_heads=8,
        d_ff=8192, rope_theta=500_000.0,
    )  # fmt: skip
    random_run(folder / "runs" / "big", config, Tokenizer(vocab, merges, ["<|endoftext|>"]))
    return config


def random_run(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write a run with one checkpoint of random weights, whose size is not limited by memory."""
    whole = RunConfig(name=path.name, model=config)
    directory = RunDirectory(path)
    directory.create(whole, {})
    tokenizer.save(directory.tokenizer_dir)
    checkpoint = directory.step_folder(0)
    checkpoint.mkdir()
    names = plain_names(config)
    write_safetensors(checkpoint / MODEL_FILE, _Random(names), list(names))
    write_safetensors(checkpoint / OPTIMIZER_FILE, _Random({}), [])
    state = TrainState().to_dict() | {
        "format": FORMAT, "version": VERSION, "dataset_sha256": None, "tokenizer_sha256": tokenizer.sha256,
        "evaluated_on": [None, 640], "options": flatten(whole), "optimizer": {},
        FILES: {name: file_sha256(checkpoint / name) for name in (MODEL_FILE, OPTIMIZER_FILE)},
    }  # fmt: skip
    write_state(checkpoint, state)
    directory.point("latest", 0)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


if __name__ == "__main__":
    main()
