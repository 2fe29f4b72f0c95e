"""Regression benchmark: the calls of the speed tables in two checkouts of groundup, side by side.

    git worktree add ../old COMMIT && make -C ../old .venv/test.stamp
    python benchmarks/two_checkouts.py --old ../old webtext.txt --tokenizer gpt2/ --out rows.json

Each checkout runs its own code with its own `.venv`, in a fresh process for each measurement, and both have one turn in
each round. "ratio" is the new speed over the old one within a round, in CPU time; 0.98 means two per cent slower. If
ids, merges or losses differ, the run ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from side_by_side import SEPARATOR, Clocks, Report, Row, failed, in_fresh_process, python_of, ratios, run_turns, short
from tokenizer_measure import HARD
from tokenizer_peers import CALLS

HERE = Path(__file__).resolve().parents[1]
COLUMNS = """what input phase threads rounds old new ratio_median ratio_min wall_ratio_median identical_ids
    identical_merges losses_agree error timed_out_s""".split()
STEP = {"vocab_size": 10_000, "context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 4}
Measure = Callable[[str], Row]


class Bench:
    """Both checkouts, and the common columns of their rows."""

    def __init__(self, options: argparse.Namespace, scratch: Path, report: Report) -> None:
        self.options, self.scratch, self.report = options, scratch, report
        self.checkouts = {"old": options.old.resolve(), "new": options.new.resolve()}

    def call(self, function: str, arguments: Row, threads: int = 1, *, vocabulary: bool = True) -> Measure:
        """Call one of the benchmarks' functions in a checkout."""

        def measure(who: str) -> Row:
            given = {"vocabulary": str(self.scratch / who)} | arguments if vocabulary else arguments
            return in_fresh_process(
                function, given, threads=threads, math_threads=threads, time_limit=self.options.time_limit,
                checkout=self.checkouts[who],
            )  # fmt: skip

        return measure

    def wanted(self, what: str) -> bool:
        """Whether rows of this name are requested."""
        return not self.options.only or any(word in what for word in self.options.only)

    def compare(self, about: Row, measure: Measure, clocks: Callable[[Row], dict[str, Clocks]]) -> None:
        """One row for each phase; `clocks` returns its CPU and wall-clock seconds for a fixed amount of work."""
        if not self.wanted(about["what"]):
            return
        results = run_turns(["old", "new"], self.options.rounds, measure, needs_first=False)
        for rows in results.values():
            if failed(rows[0]):
                self.report.add_failure(about, rows[0])
                return
        found = {key: {str(r.get(key)) for rows in results.values() for r in rows} for key in ("sha256", "losses")}
        for phase in clocks(results["new"][0]):
            old, new = ([clocks(r)[phase] for r in results[who]] for who in ("old", "new"))
            row: Row = {"phase": phase, "rounds": len(new)}
            row |= {who: short(statistics.median(c[0] for c in each)) for who, each in (("old", old), ("new", new))}
            row |= ratios([c[0] for c in old], [c[0] for c in new])
            row |= ratios([c[1] for c in old], [c[1] for c in new], "wall_ratio")
            if "sha256" in results["new"][0]:
                row["identical_ids"] = len(found["sha256"]) == 1
            if "losses" in results["new"][0]:
                row["losses_agree"] = len(found["losses"]) == 1
            self.report.add(about | row)


def encoding(bench: Bench) -> None:
    """Rows of every kind of call to encode, on one thread."""
    options = bench.options
    for what in CALLS:
        size = options.document_megabytes if "one by one" in what else options.megabytes
        arguments = {"what": what, "call": 0, "input": str(options.input), "megabytes": size, "documents": 100_000,
                     "threads": 1, "passes": 3}  # fmt: skip
        bench.compare(
            {"what": what, "input": f"{options.input.name} {size:g} MB", "threads": 1},
            bench.call("tokenizer_measure:encode", arguments),
            lambda row: {"cold": row["cold"], "warm": sorted(row["warm"])[len(row["warm"]) // 2]},
        )
    for kind in HARD:
        arguments = {"kind": kind, "input": str(options.input), "megabytes": options.hard_megabytes, "seed": 0}
        bench.compare(
            {"what": "encode hard inputs", "input": f"{kind} {options.hard_megabytes:g} MB", "threads": 1},
            bench.call("tokenizer_measure:hard_input", arguments),
            lambda row: {"cold": row["cold"], "warm": row["warm"]},
        )
    for what in ("encode documents one by one to lists", "encode documents one by one to arrays"):
        arguments = {"what": what, "call": 0, "input": str(options.input), "calls": 2048, "blocks": 200}
        bench.compare(
            {"what": f"latency, {what.split()[-1]}", "input": "50 characters", "threads": 1},
            bench.call("tokenizer_measure:latency", arguments),
            lambda row: {key: [row[key][1]] * 2 for key in ("same_text", "texts_in_turn")},
        )


def files(bench: Bench) -> None:
    """A row of `groundup encode` from file to shards, and rows of training a tokenizer."""
    options = bench.options

    def shards(who: str) -> Row:
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            result = _run(bench.checkouts[who], ["encode", str(options.input), "--tokenizer",
                          str(bench.scratch / who / "groundup"), "--out", f"{folder}/shards"])  # fmt: skip
            if failed(result):
                return result
            measure = bench.call("tokenizer_measure:shards", {"folder": f"{folder}/shards"}, vocabulary=False)
            return measure(who) | result

    about = {"what": "encode file to shards", "input": options.input.name}
    bench.compare(about, shards, lambda row: {"whole": row["whole"]})
    for size in (10_000, 32_000):

        def train(who: str, size: int = size) -> Row:
            learned = bench.scratch / "learned"
            arguments = {"who": "groundup", "input": str(bench.scratch / "sample.txt"), "vocab_size": size,
                         "threads": 1, "learned": str(learned)}  # fmt: skip
            row = bench.call("tokenizer_measure:train_once", arguments, vocabulary=False)(who)
            return row if failed(row) else row | {"sha256": learned.read_text(encoding="ascii")}

        bench.compare(
            {"what": "train a tokenizer", "input": f"32 MB, {size:,} tokens", "threads": 1},
            train,
            lambda row: {"train": [row["cpu_s"], row["wall_s"]]},
        )


def steps(bench: Bench) -> None:
    """Rows of training steps, eager, and of runs."""
    for threads in (1, 2):
        for who in ("groundup", "groundup:plain"):
            arguments = {"who": who, "model": STEP, "batch_size": 8, "seconds": 6, "squares": [1024]}
            bench.compare(
                {"what": f"training step, {who}", "input": "d_model 256, 8 x 256 tokens", "threads": threads},
                bench.call("train_measure:speed", arguments, threads, vocabulary=False),
                lambda row: {"step": [1 / row["tokens_per_cpu_s"], 1 / row["tokens_per_s"]]},
            )
    if bench.wanted("run"):
        _compare_runs(bench)


def _compare_runs(bench: Bench) -> None:
    """Rows of `groundup train`: the time up to the first step, and a whole run with its losses."""
    data = {who: bench.scratch / f"{who}-data" for who in bench.checkouts}
    for who, folder in data.items():
        bench.call("train_measure:startup_data", {"folder": _made(folder)}, vocabulary=False)(who)

    def start(who: str) -> Row:
        small = {"--d_model": 64, "--num_heads": 2, "--num_layers": 2, "--context_length": 64}
        arguments = {
            "shards": str(data[who] / "shards"),
            "folder": str(bench.scratch / f"{who}-runs"),
            "options": small,
        }
        return bench.call("train_measure:startup", arguments, vocabulary=False)(who)

    def whole(who: str) -> Row:
        folder = bench.scratch / f"{who}-whole"
        options = (
            "--max_iters 300 --d_model 128 --num_layers 4 --num_heads 4 --context_length 256 --batch_size 4 "
            f"--warmup_iters 10 --device cpu --overwrite --name run --runs_dir {folder} --train_path {data[who]}/shards"
        )
        result = _run(bench.checkouts[who], ["train", *options.split()])
        if failed(result):
            return result
        lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return result | {"losses": [json.loads(line).get("train_loss") for line in lines]}

    about = {"what": "start of a run", "input": "up to its first step"}
    bench.compare(about, start, lambda row: {"start": [row["seconds"]] * 2})
    bench.compare(
        {"what": "whole run", "input": "300 steps of 1,024 tokens"}, whole, lambda row: {"whole": row["whole"]}
    )


def _run(checkout: Path, arguments: list[str]) -> Row:
    """CPU and wall-clock seconds of a command, as "whole"."""
    command = [python_of(checkout), "-m", "groundup", *arguments]
    with tempfile.TemporaryFile() as messages:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=messages, stderr=messages, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages.seek(0)
            return {"error": messages.read().decode("utf-8", "replace").strip()[-500:]}
    return {"whole": [usage.ru_utime + usage.ru_stime, wall]}


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def main() -> None:
    """Measure the requested calls and print a table; the rows are written to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=f"text file with documents separated by {SEPARATOR}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer, such as GPT-2's")
    parser.add_argument("--old", type=Path, required=True, help="checkout with a .venv, to compare with")
    parser.add_argument("--new", type=Path, default=HERE, help="checkout with a .venv; by default this one")
    parser.add_argument("--only", nargs="+", help="measure only rows with one of these words in their name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=32)
    parser.add_argument("--document-megabytes", type=float, default=8)
    parser.add_argument("--hard-megabytes", type=float, default=5)
    parser.add_argument("--time-limit", type=float, default=600, help="seconds for one measurement")
    parser.add_argument("--out", type=Path, help="write the rows here, as JSON")
    options = parser.parse_args()
    report = Report(options.out)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder), report)
        for who in bench.checkouts:
            into = {"tokenizer": str(options.tokenizer), "vocabulary": _made(bench.scratch / who)}
            written = bench.call("tokenizer_measure:write_vocabularies", into)(who)
            if failed(written):
                parser.error(f"{who}: {written}")
        # Tokenizers are trained on the beginning of the text.
        prefix = {"input": str(options.input), "megabytes": 32, "out": str(bench.scratch / "sample.txt")}
        bench.call("tokenizer_measure:write_prefix", prefix, vocabulary=False)("new")
        for part in (encoding, files, steps):
            part(bench)
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
