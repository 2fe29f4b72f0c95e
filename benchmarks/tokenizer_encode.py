"""Encoding side by side with gigatoken, tiktoken and Hugging Face tokenizers: same machine, text and run.

    python benchmarks/tokenizer_encode.py webtext.txt --tokenizer gpt2/ --rounds 5 --out rows.json

Each measurement runs in a fresh process, and in a round each library has one turn. "construct" is loading the tokenizer
from its files. "cold" is the first pass of a process after that, including tables that a library builds with its first
text. "warm" is the median of the later passes. Rates are 10^6 bytes of text per second of CPU time (all threads) and
per second of wall-clock time. Figures are medians over rounds, and ratios are taken within a round. Libraries without
an effective cache get only the beginning of the text; "same_input_ratio" then compares with groundup on the same part.

If a library's ids differ from groundup's, the row says so, and the run ends with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from side_by_side import (
    SEPARATOR,
    Report,
    Row,
    failed,
    in_fresh_process,
    labelled,
    ratios,
    run_turns,
    short,
)
from tokenizer_measure import HARD
from tokenizer_peers import CALLS, OURS

REPORTED_MB_PER_S = 0.67
"""Results of the report on the first version of groundup's tokenizer."""
SLOW_MEGABYTES = {"tiktoken": 12.0, "tokenizers": 4.0}
COLUMNS = (
    "peer peer_call input phase threads ours_mb_per_cpu_s peer_mb_per_cpu_s ratio_median ratio_min "
    "same_input_ratio_median ours_mb_per_s peer_mb_per_s wall_ratio_median ours_us_best ours_us_median peer_us_best "
    "peer_us_median slowdown_median slowdown_max share_of_in_memory_median share_of_in_memory_min ours_peak_mb "
    "peer_peak_mb identical_ids timed_out_s error"
).split()


class Turn(NamedTuple):
    """One measurement of `CALLS`."""

    what: str
    call: int
    megabytes: float
    threads: int

    @property
    def library(self) -> str:
        return CALLS[self.what][self.call].library


class Bench:
    """Common options of all measurements of a run."""

    def __init__(self, options: argparse.Namespace, vocabulary: Path, report: Report) -> None:
        self.options, self.vocabulary, self.report = options, str(vocabulary), report

    def measure(self, function: str, arguments: Row, threads: int = 1) -> Row:
        arguments = {"vocabulary": self.vocabulary} | arguments
        limit = self.options.time_limit
        return in_fresh_process(f"tokenizer_measure:{function}", arguments, threads=threads, time_limit=limit)

    def source(self, result: Row) -> str:
        return f"{self.options.input.name} {result['bytes'] / 1e6:.1f} MB"


def compare(bench: Bench, what: str, threads: int) -> None:
    """Rows of one kind of call, ours against every peer's."""
    options = bench.options
    calls = [(i, call) for i, call in enumerate(CALLS[what]) if call.fits(threads)]
    most = options.document_megabytes if "one by one" in what else options.megabytes
    ours = Turn(what, calls[0][0], most, threads)
    pairs: list[tuple[Turn, Turn]] = []
    for index, call in calls[1:]:
        if call.library in options.peers:
            size = min(most, options.slow_megabytes or SLOW_MEGABYTES[call.library]) if call.slow else most
            pairs.append((Turn(what, index, size, threads), ours._replace(megabytes=size)))

    def measure(turn: Turn) -> Row:
        arguments = {"what": what, "call": turn.call, "input": str(options.input), "megabytes": turn.megabytes,
                     "documents": options.documents, "threads": threads, "passes": options.passes}  # fmt: skip
        return bench.measure("encode", arguments, threads)

    turns = [ours] + [turn for pair in pairs for turn in pair]
    results = run_turns(turns, options.rounds, measure)
    about: Row = {"what": what, "ours": labelled(OURS), "threads": threads}
    if failed(results[ours][0]):
        bench.report.add_failure(about, results[ours][0])
        return
    for peer, ours_on_same in pairs:
        call = CALLS[what][peer.call]
        about["peer"], about["peer_call"] = call.library, call.named(threads)
        if failed(results[peer][0]):
            bench.report.add_failure(about, results[peer][0])
            continue
        about["peer"] = labelled(call.library)
        about["ours_call"] = CALLS[what][ours.call].named(threads)
        for phase in ("cold", "warm"):
            bench.report.add(about | _rates(bench, results[ours], results[peer], results[ours_on_same], phase))
    if not pairs:
        for phase in ("cold", "warm"):
            row = _rates(bench, results[ours], results[ours], results[ours], phase)
            bench.report.add(about | {key: value for key, value in row.items() if not key.startswith(("peer", "rat"))})
    if threads == 1 and what in ("encode bytes to array", "encode documents one by one to lists"):
        each = [r["bytes"] / 1e6 / r["cold"][0] for r in results[ours]]
        row = {"what": what, "ours": labelled(OURS), "peer": "the original report's figure, not measured here",
               "input": bench.source(results[ours][0]), "phase": "cold", "threads": 1, "rounds": len(each),
               "ours_mb_per_cpu_s": short(statistics.median(each)), "peer_mb_per_s": REPORTED_MB_PER_S}  # fmt: skip
        bench.report.add(row | ratios(each, [REPORTED_MB_PER_S] * len(each)))


def _rates(bench: Bench, ours: list[Row], peer: list[Row], same: list[Row], phase: str) -> Row:
    def rate(results: list[Row], clock: int) -> list[float]:
        passes = [[r["cold"]] if phase == "cold" else r["warm"] for r in results]
        seconds = [statistics.median(each[clock] for each in some) for some in passes]
        return [r["bytes"] / 1e6 / s for r, s in zip(results, seconds, strict=True)]

    row: Row = {"input": bench.source(ours[0])}
    if ours[0]["documents"] > 1:
        row["input"] += f", {ours[0]['documents']} documents"
    if peer[0]["bytes"] != ours[0]["bytes"]:
        row["peer_input"] = f"the first {peer[0]['bytes'] / 1e6:.1f} MB"
    row |= {"phase": phase, "rounds": len(ours)}
    row |= {"ours_mb_per_cpu_s": _middle(rate(ours, 0)), "peer_mb_per_cpu_s": _middle(rate(peer, 0))}
    row |= ratios(rate(ours, 0), rate(peer, 0))
    row |= {"ours_mb_per_s": _middle(rate(ours, 1)), "peer_mb_per_s": _middle(rate(peer, 1))}
    row |= ratios(rate(ours, 1), rate(peer, 1), "wall_ratio")
    if "peer_input" in row:
        row |= ratios(rate(same, 0), rate(peer, 0), "same_input_ratio")
    for who, results in (("ours", ours), ("peer", peer)):
        row[f"{who}_construct_cpu_s"] = _middle([r["construct"][0] for r in results])
        row[f"{who}_peak_mb"] = _middle([r["peak_mb"] for r in results])
    found = {(r["tokens"], r["sha256"]) for r in [*same, *peer]}
    return row | {"tokens": same[0]["tokens"], "identical_ids": len(found) == 1}


def latency(bench: Bench) -> None:
    """Rows of one call on 50 characters."""
    options = bench.options
    for what in ("encode documents one by one to lists", "encode documents one by one to arrays"):
        calls = [i for i, call in enumerate(CALLS[what]) if call.library in (OURS, *options.peers)]

        def measure(call: int, what: str = what) -> Row:
            slow = CALLS[what][call].slow
            arguments = {"what": what, "call": call, "input": str(options.input), "calls": 256 if slow else 2048,
                         "blocks": options.latency_blocks}  # fmt: skip
            return bench.measure("latency", arguments)

        results = run_turns(calls, options.rounds, measure)
        about: Row = {"what": f"latency, {'list' if 'list' in what else 'array'}", "ours": labelled(OURS)}
        ours = results[calls[0]]
        if failed(ours[0]):
            bench.report.add_failure(about, ours[0])
            continue
        for index in calls[1:]:
            call, peer = CALLS[what][index], results[index]
            if failed(peer[0]):
                bench.report.add_failure(about | {"peer": call.library}, peer[0])
                continue
            about |= {"peer": labelled(call.library), "ours_call": CALLS[what][0].named(1), "peer_call": call.named(1)}
            for key in ("same_text", "texts_in_turn"):
                row: Row = {"input": f"50 characters, {key.replace('_', ' ')}", "phase": "warm", "threads": 1,
                            "rounds": len(ours)}  # fmt: skip
                for who, rs in (("ours", ours), ("peer", peer)):
                    row[f"{who}_us_best"] = short(min(r[key][0] for r in rs))
                    row[f"{who}_us_median"] = _middle([r[key][1] for r in rs])
                row |= ratios([r[key][1] for r in peer], [r[key][1] for r in ours], "wall_ratio")
                found = {(r["tokens"], r["sha256"]) for r in [*ours, *peer]}
                bench.report.add(about | row | {"identical_ids": len(found) == 1})


def hard_inputs(bench: Bench) -> None:
    """Rows of groundup's speed on adversarial texts, relative to that on the input."""
    kinds = ["normal text", *bench.options.hard]

    def measure(kind: str) -> Row:
        arguments = {"kind": kind, "input": str(bench.options.input), "megabytes": bench.options.hard_megabytes,
                     "seed": 0}  # fmt: skip
        return bench.measure("hard_input", arguments)

    results = run_turns(kinds, bench.options.rounds, measure, needs_first=False)
    for kind in kinds:
        about: Row = {"what": "encode hard inputs", "ours": labelled(OURS), "input": kind, "threads": 1}
        if failed(results[kind][0]):
            bench.report.add_failure(about, results[kind][0])
            continue
        size = results[kind][0]["bytes"] / 1e6
        for phase in ("cold", "warm"):
            each = [r["bytes"] / 1e6 / r[phase][0] for r in results[kind]]
            row = about | {"input": f"{kind} {size:.1f} MB", "phase": phase, "rounds": len(each),
                           "ours_mb_per_cpu_s": _middle(each)}  # fmt: skip
            if not failed(results["normal text"][0]):
                normal = [r["bytes"] / 1e6 / r[phase][0] for r in results["normal text"]]
                slower = [n / e for n, e in zip(normal, each, strict=True)]
                row |= {"slowdown_median": _middle(slower), "slowdown_max": short(max(slower))}
            row["ours_peak_mb"] = _middle([r["peak_mb"] for r in results[kind]])
            bench.report.add(row | {"bytes_kept": all(r["bytes_kept"] for r in results[kind])})


def linearity(bench: Bench) -> None:
    """Rows of groundup's speed on whole files of different sizes."""
    files = [bench.options.input, *bench.options.linearity]

    def measure(path: Path) -> Row:
        return bench.measure("whole_file", {"input": str(path), "slice_megabytes": 64})

    results = run_turns(files, bench.options.rounds, measure, needs_first=False)
    for path in files:
        about: Row = {"what": "encode files of different sizes", "ours": labelled(OURS), "input": path.name}
        if failed(results[path][0]):
            bench.report.add_failure(about, results[path][0])
            continue
        megabytes = results[path][0]["bytes"] / 1e6
        row: Row = {"input": f"{path.name} {megabytes:.1f} MB", "phase": "cold", "threads": 1}
        row |= {"rounds": len(results[path]), "tokens": results[path][0]["tokens"]}
        row["ours_mb_per_cpu_s"] = _middle([megabytes / r["cold"][0] for r in results[path]])
        row["ours_mb_per_s"] = _middle([megabytes / r["cold"][1] for r in results[path]])
        bench.report.add(about | row | {"ours_peak_mb": _middle([r["peak_mb"] for r in results[path]])})


def shards(bench: Bench) -> None:
    """Rows of `groundup encode` from file to shards, relative to one call in memory."""
    for path in bench.options.shards or [bench.options.input]:

        def measure(turn: str, path: Path = path) -> Row:
            if turn == "in memory":
                return bench.measure("in_memory_as_shards", {"input": str(path)})
            return _encode_command(bench, path)

        results = run_turns(["in memory", "command"], bench.options.rounds, measure)
        about: Row = {"what": "encode file to shards", "ours": labelled(OURS), "ours_call": "groundup encode"}
        about |= {"input": path.name, "threads": 1}
        bad = [rs[0] for rs in results.values() if rs and failed(rs[0])]
        if bad:
            bench.report.add_failure(about, bad[0])
            continue
        memory, command = results["in memory"], results["command"]
        megabytes = memory[0]["bytes"] / 1e6
        row: Row = {"input": f"{path.name} {megabytes:.1f} MB", "phase": "cold", "rounds": len(command)}
        for clock, unit, name in ((0, "mb_per_cpu_s", "share_of_in_memory_cpu"), (1, "mb_per_s", "share_of_in_memory")):
            row[f"ours_{unit}"] = _middle([megabytes / r["whole"][clock] for r in command])
            row[f"in_memory_{unit}"] = _middle([megabytes / r["cold"][clock] for r in memory])
            row |= ratios([r["cold"][clock] for r in memory], [r["whole"][clock] for r in command], name)
        row["ours_peak_mb"] = _middle([r["peak_mb"] for r in command])
        found = {(r["tokens"], r["sha256"]) for r in [*memory, *command]}
        bench.report.add(about | row | {"tokens": memory[0]["tokens"], "identical_ids": len(found) == 1})


def _encode_command(bench: Bench, path: Path) -> Row:
    with tempfile.TemporaryDirectory(dir=bench.options.scratch) as folder:
        tokenizer, out = f"{bench.vocabulary}/{OURS}", f"{folder}/shards"
        command = [sys.executable, "-m", "groundup", "encode", str(path), "--tokenizer", tokenizer, "--out", out]
        log = Path(folder) / "log"
        with log.open("wb") as messages:
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=messages, stderr=messages)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return {"error": log.read_text(encoding="utf-8", errors="replace").strip()[-500:]}
        found = in_fresh_process("tokenizer_measure:shards", {"folder": out}, threads=1, time_limit=600)
    unit = 1 if sys.platform == "darwin" else 1024
    return found | {"whole": [usage.ru_utime + usage.ru_stime, wall], "peak_mb": usage.ru_maxrss * unit / 1e6}


def _middle(values: Sequence[float]) -> float:
    return short(statistics.median(values))


def bytes_to_array(bench: Bench) -> None:
    """Rows of one call on a file's bytes."""
    for threads in bench.options.threads:
        compare(bench, "encode bytes to array", threads)


def documents(bench: Bench) -> None:
    """Rows of one call for each document."""
    compare(bench, "encode documents one by one to arrays", 1)
    compare(bench, "encode documents one by one to lists", 1)


def batches(bench: Bench) -> None:
    """Rows of one call on many small documents."""
    for threads in bench.options.threads:
        compare(bench, "encode a batch of small documents to arrays", threads)
        compare(bench, "encode a batch of small documents to lists", threads)


WHAT: dict[str, Callable[[Bench], None]] = {
    "bytes": bytes_to_array, "documents": documents, "batch": batches, "latency": latency, "hard": hard_inputs,
    "linearity": linearity, "shards": shards,
}  # fmt: skip


def main() -> None:
    """Measure the requested calls and print a table; the rows are written to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=f"text file with documents separated by {SEPARATOR}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer, such as GPT-2's")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--peers", nargs="*", default=["gigatoken", "tiktoken", "tokenizers"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3, help="warm passes in each process")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="for bytes and batch")
    parser.add_argument("--megabytes", type=float, default=100, help="of the file, for bytes and batch")
    parser.add_argument("--document-megabytes", type=float, default=32, help="of the file, for documents one by one")
    parser.add_argument("--slow-megabytes", type=float, help="for slow peers (tiktoken 12, tokenizers 4)")
    parser.add_argument("--documents", type=int, default=100_000, help="small documents in the batch, at most")
    parser.add_argument("--latency-blocks", type=int, default=200)
    parser.add_argument("--hard", nargs="+", choices=HARD, default=list(HARD), help="size of the adversarial texts")
    parser.add_argument("--hard-megabytes", type=float, default=50)
    parser.add_argument("--linearity", type=Path, nargs="*", default=[], help="more files, smaller and larger")
    parser.add_argument(
        "--shards", type=Path, nargs="*", default=[], help="files to encode to shards, if not the input"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the shards; the system's for temporary files if none")
    parser.add_argument("--time-limit", type=float, default=600, help="seconds for one measurement")
    parser.add_argument("--out", type=Path, help="write the rows here, as JSON")
    options = parser.parse_args()
    if options.rounds < 1 or options.passes < 1:
        parser.error(f"--rounds {options.rounds} and --passes {options.passes} must be at least 1")
    for path in (options.input, *options.linearity, *options.shards):
        if not path.is_file():
            parser.error(f"{path} is not a file; give a text file")
    report = Report(options.out)
    with tempfile.TemporaryDirectory() as vocabulary:
        bench = Bench(options, Path(vocabulary), report)
        # In a separate process: the memory of this one would count in the commands that it starts.
        written = bench.measure("write_vocabularies", {"tokenizer": str(options.tokenizer)})
        if failed(written):
            sys.exit(f"tokenizer_encode: {written.get('unavailable') or written.get('error') or written}")
        for what in options.what:
            WHAT[what](bench)
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
