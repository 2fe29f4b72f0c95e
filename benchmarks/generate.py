"""Speed of generation on a CPU, beside transformers and llama.cpp: tokens per second, prefill, and the first token.

    python benchmarks/generate.py --out generate.json
    python benchmarks/generate.py --models 23M --batches 1 --threads 1         # a few minutes

The models are Llama-shaped with random weights; a run is exported once for each side. Greedy decoding, `--tokens` new
tokens after a prompt of 16, the end-of-text token ignored. Every side generates them twice in a fresh process; the
second time counts, so that no side pays for what it compiles or allocates first. Rows of float32 say whether the tokens
of a batch's first text are those of groundup; two programs that round differently part where two logits are almost
equal, so this is told and not required. Tests hold that the logits are equal.

llama.cpp is its own server (xllamacpp), asked by one thread for each text. Its keys and values are in float16 by
default; `--same_cache` sets float32, as the others have.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from groundup.config import ModelConfig
from side_by_side import Report, Row, clocks, failed, in_fresh_process, peak_mb, ratios, run_turns, short, since

_PROMPT = 16
_LONG_PROMPT = 512
_CACHE_SLOTS = 256
_TIME_LIMIT = 900
MODELS = {
    "8M": {"vocab_size": 8192, "d_model": 256, "num_layers": 8, "num_heads": 8},
    "23M": {"vocab_size": 8192, "d_model": 512, "num_layers": 6, "num_heads": 8},
    "124M": {"vocab_size": 50257, "d_model": 768, "num_layers": 12, "num_heads": 12},
}
CONTEXT = 1024
SIDES = {
    "groundup f32": ("groundup", "float32"),
    "groundup bf16": ("groundup", "bfloat16"),
    "groundup int8": ("groundup", "int8"),
    "transformers f32": ("transformers", "float32"),
    "llama.cpp f32": ("llama_cpp", "f32"),
    "llama.cpp q8_0": ("llama_cpp", "q8_0"),
}


def main() -> None:
    """Make the models, and measure each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each text")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--same_cache", action="store_true", help="llama.cpp with keys and values in float32")
    parser.add_argument("--no_command", action="store_true", help="leave out the first token of the command")
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder of temporary files")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    options = parser.parse_args()
    report = Report(options.out, tokens=options.tokens, rounds=options.rounds, same_cache=options.same_cache)
    for model in options.models:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            make_model(Path(name), model)
            for threads in options.threads:
                for batch in options.batches:
                    about = {"what": "decode", "model": model, "threads": threads, "batch": batch}
                    arguments = {"batch": batch, "prompt": _PROMPT, "tokens": options.tokens}
                    compare(report, about, arguments, options, Path(name))
                about = {"what": "prefill", "model": model, "threads": threads, "batch": 1}
                compare(report, about, {"batch": 1, "prompt": _LONG_PROMPT, "tokens": 1}, options, Path(name))
            if not options.no_command:
                command(report, model, options.rounds, Path(name))
    report.finish(
        ["what", "model", "threads", "batch", "side", "tokens_per_s", "tokens_per_cpu_s", "times_transformers_median",
         "times_llama_cpp_median", "same_tokens", "seconds_median", "beside_mb"]
    )  # fmt: skip


def make_model(folder: Path, name: str) -> None:
    """Write a run of random weights, and export it for both peers."""
    from export_import import random_run
    from groundup.interop.export import export_model

    shape = MODELS[name]
    config = ModelConfig(context_length=CONTEXT, tie_embeddings=True, **shape)
    run = folder / "runs" / "run"
    random_run(run, config, pairs_tokenizer(config.vocab_size))
    export_model(run, folder / "hf")
    for dtype in ("f32", "q8_0"):
        export_model(run, folder / f"{dtype}.gguf", "gguf", dtype=dtype)


def pairs_tokenizer(size: int) -> Any:
    """A tokenizer of this size without training: bytes, and the first pairs of bytes."""
    from groundup.tokenizer import Tokenizer

    merges = [(bytes([i]), bytes([j])) for i in range(256) for j in range(256)][: size - 257]
    tokens = [bytes([i]) for i in range(256)] + [a + b for a, b in merges]
    vocab = dict(enumerate(tokens)) | {size - 1: b"<|endoftext|>"}
    return Tokenizer(vocab, merges, ["<|endoftext|>"])


def compare(report: Report, about: Row, arguments: Row, options: argparse.Namespace, folder: Path) -> None:
    """Add a row for each side, with ratios taken within rounds."""

    def measure(side: str) -> Row:
        function, kind = SIDES[side]
        more = {"same_cache": options.same_cache} if function == "llama_cpp" else {}
        threads = about["threads"]
        return in_fresh_process(
            f"generate:measure_{function}",
            arguments | more | {"folder": str(folder), "kind": kind, "threads": threads},
            threads=threads, math_threads=threads, time_limit=_TIME_LIMIT,
        )  # fmt: skip

    found = run_turns(options.sides, options.rounds, measure, needs_first=False)
    first = found.get("groundup f32", [{}])[0].get("ids")
    for side, rounds in found.items():
        row = about | {"side": side}
        if failed(rounds[0]):
            report.add_failure(row, rounds[0])
            continue
        for peer, name in (("transformers f32", "transformers"), (_llama_like(side), "llama_cpp")):
            theirs = found.get(peer, [{"error": ""}])
            if side.startswith("groundup") and not failed(theirs[0]):
                both = zip(rounds, theirs, strict=True)
                pairs = [(ours["tokens_per_s"], other["tokens_per_s"]) for ours, other in both]
                row |= ratios(*zip(*pairs, strict=True), name=f"times_{name}")
        for key in ("tokens_per_s", "tokens_per_cpu_s", "peak_mb"):
            row[key] = short(statistics.median(one[key] for one in rounds))
        if side.endswith("f32") and first:
            row["same_tokens"] = rounds[0]["ids"] == first
        report.add(row)


def _llama_like(side: str) -> str:
    return "llama.cpp q8_0" if side.endswith("int8") else "llama.cpp f32"


def prompts(batch: int, length: int, vocab_size: int) -> list[list[int]]:
    """Random ids, other ones in each row."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocab_size - 1, (batch, length), generator=generator).tolist()


def timed(generate: Callable[[int], list[list[int]]], arguments: Row) -> Row:
    """Call twice, other prompts each time, and measure the second call.

    Args:
        generate: from a number of the call to the new ids of each text.
    """
    generate(0)
    start = clocks()
    texts = generate(1)
    cpu, wall = since(start)
    made = sum(map(len, texts)) if arguments["tokens"] > 1 else arguments["batch"] * arguments["prompt"]
    assert all(len(text) == arguments["tokens"] for text in texts), [len(text) for text in texts]
    return {"tokens_per_s": made / wall, "tokens_per_cpu_s": made / cpu, "peak_mb": peak_mb(), "ids": texts[0]}


def _shared(folder: str, batch: int, prompt: int) -> list[list[list[int]]]:
    """The prompts of both calls."""
    from groundup.record.run import RunDirectory

    config = RunDirectory.open(Path(folder) / "runs" / "run").config.model
    every = prompts(2 * batch, prompt, config.vocab_size)
    return [every[:batch], every[batch:]]


def measure_groundup(folder: str, kind: Any, threads: int, **arguments: Any) -> Row:
    """The engine, as `groundup generate` and `groundup serve` use it."""
    from groundup import load
    from groundup.generation import Sampling

    torch.set_num_threads(threads)
    both = _shared(folder, arguments["batch"], arguments["prompt"])
    model = load(Path(folder) / "runs" / "run", checkpoint="latest", device="cpu", weights=kind)
    engine = model.engine(rows=arguments["batch"])

    def generate(number: int) -> list[list[int]]:
        settings = Sampling(max_tokens=arguments["tokens"], temperature=0, ignore_end=True)
        texts = [engine.submit(ids, settings) for ids in both[number]]
        while not engine.is_idle:
            engine.step()
        return [text.token_ids for text in texts]

    return timed(generate, arguments)


def measure_transformers(folder: str, kind: str, threads: int, **arguments: Any) -> Row:
    """`model.generate` with its defaults."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    both = _shared(folder, arguments["batch"], arguments["prompt"])
    model = AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=getattr(torch, kind)).eval()

    def generate(number: int) -> list[list[int]]:
        ids = torch.tensor(both[number])
        new = {"max_new_tokens": arguments["tokens"], "min_new_tokens": arguments["tokens"]}
        with torch.no_grad():
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, eos_token_id=None, **new
            )
        return found[:, ids.shape[1] :].tolist()

    return timed(generate, arguments)


def measure_llama_cpp(folder: str, kind: str, threads: int, same_cache: bool, **arguments: Any) -> Row:
    """llama.cpp's server, a slot for each text."""
    import xllamacpp

    batch, tokens = arguments["batch"], arguments["tokens"]
    both = _shared(folder, batch, arguments["prompt"])
    settings = xllamacpp.CommonParams()
    settings.model.path = str(Path(folder) / f"{kind}.gguf")
    settings.n_parallel = batch
    settings.n_ctx = batch * (arguments["prompt"] + tokens + 16)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.n_gpu_layers = settings.port = 0
    settings.chat_template = "chatml"
    settings.use_jinja = settings.fit_params = False
    settings.verbosity = -1
    if same_cache:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(settings)

    def one(ids: list[int]) -> list[int]:
        request = {
            "prompt": ids, "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "return_tokens": True,
            "cache_prompt": False, "stream": False,
        }  # fmt: skip
        body = json.dumps(request).encode()
        asked = urllib.request.Request(
            server.listening_address + "/completion", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=_TIME_LIMIT) as answer:
            return json.load(answer)["tokens"]

    with ThreadPoolExecutor(batch) as pool:
        return timed(lambda number: list(pool.map(one, both[number])), arguments)


def command(report: Report, model: str, rounds: int, folder: Path) -> None:
    """Seconds from the start of `groundup generate RUN` to its first token, and its memory beside weights and cache.

    A first start, which does not count, writes the bytecode of the sources, as pip does when it installs a package.
    """
    from groundup.account.params import parameter_count

    run = folder / "runs" / "run"
    config = ModelConfig(context_length=CONTEXT, tie_embeddings=True, **MODELS[model])
    cache = 2 * config.num_layers * config.kv_heads * config.head_dim * _CACHE_SLOTS * 4
    expected = (4 * parameter_count(config) + cache) / 1e6
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    arguments = ["generate", str(run), "--prompt", "a", "--tokens", str(_CACHE_SLOTS - 1), "--checkpoint", "latest"]
    line = [sys.executable, "-m", "groundup", *arguments]
    subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, check=True)
    seconds, peaks = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert process.stdout is not None
        process.stdout.read(2)  # the prompt, and the first character after it
        seconds.append(time.perf_counter() - start)
        process.stdout.read()
        peaks.append(os.wait4(process.pid, 0)[2].ru_maxrss * 1024 / 1e6)
    peak = statistics.median(peaks)
    report.add(
        {"what": "first token", "model": model, "side": "groundup generate",
         "seconds_median": short(statistics.median(seconds)), "peak_mb": short(peak),
         "weights_and_cache_mb": short(expected), "beside_mb": short(peak - expected)}
    )  # fmt: skip


if __name__ == "__main__":
    main()
