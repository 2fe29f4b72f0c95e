"""Training side by side with gigatoken, Hugging Face tokenizers and rustbpe: same machine, text and run.

    python benchmarks/tokenizer_train.py webtext.txt --rounds 3 --out rows.json
    python benchmarks/tokenizer_train.py webtext.txt --what size --more 10gb.txt --threads 1 2 --out rows.json

Each training runs in a fresh process, which measures CPU seconds (user and system, all threads), wall-clock seconds and
peak memory. Times include reading the file, but not imports. In a round each library has one turn; figures are medians
over rounds, and ratios are taken within a round. "peers" compares on the first --megabytes and on the whole file,
"vocabulary" on the first --megabytes with vocabularies up to 128,000, "size" on growing parts of the file.

Equally frequent pairs may merge in any order. gigatoken and tokenizers are compared with the tie rule "huggingface" and
must learn the same merges. The other rules have no counterpart, and the row has the share of common tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from side_by_side import SEPARATOR, Report, Row, failed, in_fresh_process, labelled, ratios, run_turns, short
from tokenizer_peers import OURS

OUR_DEFAULT, OUR_HUGGING_FACE = f"{OURS}:bytes", f"{OURS}:huggingface"
SAME_RULE = {"gigatoken:huggingface": OUR_HUGGING_FACE, "tokenizers": OUR_HUGGING_FACE}
"""Peers that must learn the same merges as groundup with this tie rule."""
PEERS = [
    "gigatoken:huggingface", "gigatoken:assembled_bytes", "gigatoken:raw_token_ids", "tokenizers", "rustbpe",
]  # fmt: skip
COLUMNS = (
    "ours_call peer_call input vocab_size threads ours_cpu_s peer_cpu_s ratio_median ratio_min ours_wall_s peer_wall_s "
    "wall_ratio_median wall_speedup_median wall_speedup_min cpu_s_per_gb ours_peak_mb peer_peak_mb identical_merges "
    "tokens_in_common same_merges_as_one_thread timed_out_s error"
).split()


class Turn(NamedTuple):
    """One training."""

    who: str
    text: Path
    vocab_size: int
    threads: int


class Bench:
    """Texts, rows and learned merges."""

    def __init__(self, options: argparse.Namespace, scratch: Path, report: Report) -> None:
        self.options, self.report = options, report
        self._scratch = scratch

    def first(self, megabytes: float) -> Path:
        """A file with the first megabytes of the input, in whole documents; the input itself if it is not larger."""
        if megabytes * 1e6 >= self.options.input.stat().st_size:
            return self.options.input
        part = self._scratch / f"{megabytes:g}.txt"
        if not part.exists():
            written = in_fresh_process(
                "tokenizer_measure:write_prefix",
                {"input": str(self.options.input), "megabytes": megabytes, "out": str(part)},
                threads=1, time_limit=self.options.time_limit,
            )  # fmt: skip
            if failed(written):
                sys.exit(f"tokenizer_train: {written}")
        return part

    def source(self, text: Path) -> str:
        part = "" if text.parent != self._scratch else "the first "
        name = self.options.input.name if part else text.name
        return f"{name}, {part}{text.stat().st_size / 1e6:.1f} MB"

    def learned(self, turn: Turn) -> Path:
        return self._scratch / f"{turn.who.replace(':', '-')}-{turn.text.stem}-{turn.vocab_size}-{turn.threads}.hex"

    def measure(self, turn: Turn) -> Row:
        arguments = {"who": turn.who, "input": str(turn.text), "vocab_size": turn.vocab_size, "threads": turn.threads,
                     "learned": str(self.learned(turn))}  # fmt: skip
        limit = self.options.time_limit
        return in_fresh_process("tokenizer_measure:train_once", arguments, threads=turn.threads, time_limit=limit)

    def merges(self, turn: Turn) -> list[tuple[bytes, bytes]]:
        """What the last round's training learned."""
        lines = self.learned(turn).read_text(encoding="ascii").splitlines()
        return [
            (bytes.fromhex(left), bytes.fromhex(right)) for left, _, right in (line.partition(" ") for line in lines)
        ]


def compare(bench: Bench, what: str, text: Path, vocab_size: int, threads: int, peers: Sequence[str]) -> None:
    """Rows of groundup's training against every peer's."""
    ours = Turn(OUR_DEFAULT, text, vocab_size, threads)
    pairs = [(ours._replace(who=SAME_RULE.get(peer, OUR_DEFAULT)), ours._replace(who=peer)) for peer in peers]
    results = run_turns([ours, *(turn for pair in pairs for turn in pair)], bench.options.rounds, bench.measure)
    about: Row = {"what": what, "ours": labelled(OURS), "input": bench.source(text), "vocab_size": vocab_size,
                  "threads": threads}  # fmt: skip
    if failed(results[ours][0]):
        bench.report.add_failure(about | {"ours_call": ours.who}, results[ours][0])
        return
    if not pairs:
        bench.report.add(
            about | {"ours_call": ours.who, "rounds": len(results[ours])} | _figures("ours", results[ours])
        )
    for counterpart, peer in pairs:
        row = about | {"peer_call": peer.who}
        if failed(results[counterpart][0]):
            bench.report.add_failure(row, results[counterpart][0])
            counterpart = ours
        if failed(results[peer][0]):
            bench.report.add_failure(row, results[peer][0])
            continue
        row |= {"peer": labelled(peer.who.partition(":")[0]), "ours_call": counterpart.who}
        mine, theirs = results[counterpart], results[peer]
        row |= {"rounds": len(mine)} | _figures("ours", mine) | _figures("peer", theirs)
        for clock, name in (("cpu_s", "ratio"), ("wall_s", "wall_ratio")):
            row |= ratios([r[clock] for r in theirs], [r[clock] for r in mine], name)
        row |= _in_common(bench.merges(counterpart), bench.merges(peer), SAME_RULE.get(peer.who) == counterpart.who)
        bench.report.add(row)


def sizes(bench: Bench) -> None:
    """Rows of groundup's training on texts of different sizes, and the speed-up by more threads."""
    options = bench.options
    texts = list(dict.fromkeys(bench.first(megabytes) for megabytes in options.sizes))
    for text in [*texts, *([] if options.input in texts else [options.input]), *options.more]:
        turns = [Turn(OUR_DEFAULT, text, options.size_vocabulary, threads) for threads in options.threads]
        results = run_turns(turns, options.rounds, bench.measure)
        gigabytes = text.stat().st_size / 1e9
        for turn in turns:
            row: Row = {"what": "train on texts of different sizes", "ours": labelled(OURS), "ours_call": turn.who}
            row |= {"input": bench.source(text), "vocab_size": turn.vocab_size, "threads": turn.threads}
            if not results[turn] or failed(results[turn][0]):
                bench.report.add_failure(row, (results[turn] or results[turns[0]])[0])
                continue
            mine = results[turn]
            row |= {"rounds": len(mine)} | _figures("ours", mine)
            row["cpu_s_per_gb"] = short(statistics.median(r["cpu_s"] for r in mine) / gigabytes)
            if turn.threads > 1 and turns[0].threads == 1:
                row |= ratios([r["wall_s"] for r in results[turns[0]]], [r["wall_s"] for r in mine], "wall_speedup")
                row["same_merges_as_one_thread"] = bench.merges(turn) == bench.merges(turns[0])
            bench.report.add(row)


def peers(bench: Bench) -> None:
    """Rows of all peers on the sample and on the whole file."""
    for text in dict.fromkeys((bench.first(bench.options.megabytes), bench.options.input)):
        for vocab_size in bench.options.vocab_size:
            for threads in bench.options.threads:
                compare(bench, "train", text, vocab_size, threads, bench.options.peers)


def vocabularies(bench: Bench) -> None:
    """Rows of growing vocabularies on the sample."""
    text = bench.first(bench.options.megabytes)
    for vocab_size in bench.options.vocabularies:
        compare(bench, "train vocabularies of different sizes", text, vocab_size, 1, bench.options.vocabulary_peers)


WHAT = {"peers": peers, "vocabulary": vocabularies, "size": sizes}


def _figures(who: str, results: Sequence[Row]) -> Row:
    keys = ("cpu_s", "wall_s", "peak_mb", "peak_mb_before")
    return {f"{who}_{key}": short(statistics.median(r[key] for r in results)) for key in keys}


def _in_common(ours: list[tuple[bytes, bytes]], theirs: list[tuple[bytes, bytes]], same_rule: bool) -> Row:
    our_tokens, their_tokens = ({left + right for left, right in merges} for merges in (ours, theirs))
    shared = len(our_tokens & their_tokens) / max(1, len(our_tokens))
    row: Row = {"merges": len(ours), "peer_merges": len(theirs), "tokens_in_common": round(shared, 4)}
    return row | {"identical_merges": ours == theirs} if same_rule else row


def main() -> None:
    """Measure the requested parts and print a table; the rows are written to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=f"text file with documents separated by {SEPARATOR}")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--peers", nargs="*", default=PEERS, metavar="LIBRARY[:TIE_RULE]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="for peers and size")
    parser.add_argument("--megabytes", type=float, default=32, help="of the sample")
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[10_000, 32_000], help="for peers")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[1000, 10_000, 32_000, 65_000, 128_000])
    parser.add_argument("--vocabulary-peers", nargs="*", default=["gigatoken:huggingface"])
    parser.add_argument("--sizes", type=float, nargs="*", default=[10, 32, 100], help="megabytes of the input")
    parser.add_argument("--size-vocabulary", type=int, default=32_000)
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further files for size")
    parser.add_argument("--scratch", type=Path, help="folder for samples; the system's for temporary files if none")
    parser.add_argument("--time-limit", type=float, default=1800, help="seconds for one training")
    parser.add_argument("--out", type=Path, help="write the rows here, as JSON")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds} must be at least 1")
    for path in (options.input, *options.more):
        if not path.is_file():
            parser.error(f"{path} is not a file; give a text file")
    report = Report(options.out)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        bench = Bench(options, Path(scratch), report)
        for what in options.what:
            WHAT[what](bench)
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
