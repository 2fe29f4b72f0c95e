"""Training side by side with Hugging Face tokenizers: same machine, same file, same run.

    python benchmarks/tokenizer_train.py webtext.txt --vocab-size 32000 --threads 2 --rounds 3 --out rows.json

Each training has a process of its own, which is where CPU time and the peak of memory are taken; reading the file is
part of it. In a round everyone takes a turn; figures are medians over rounds. The merges cannot be identical: of
equally frequent pairs Hugging Face takes the one with the smallest ids, and we the one with the greatest bytes. The
share of tokens that are in both vocabularies is in the row.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SEPARATOR = "<|endoftext|>"


def train_groundup(path: Path, vocab_size: int, threads: int) -> set[bytes]:
    from groundup.tokenizer import train_bpe

    vocab, _ = train_bpe(path, vocab_size, [SEPARATOR], num_threads=threads)
    return set(vocab.values())


def train_hugging_face(path: Path, vocab_size: int, threads: int) -> set[bytes]:
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
    import tokenizers

    from groundup.tokenizer.files import from_printable

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = path.read_bytes().decode("utf-8", "replace").split(SEPARATOR)
    tokenizer.train_from_iterator(documents, trainer)
    return set(map(from_printable, tokenizer.get_vocab()))


TRAINERS = {"groundup": train_groundup, "tokenizers": train_hugging_face}


def measure(results: Connection, name: str, path: Path, vocab_size: int, threads: int) -> None:
    wall = time.perf_counter()
    tokens = TRAINERS[name](path, vocab_size, threads)
    wall = time.perf_counter() - wall
    usage = resource.getrusage(resource.RUSAGE_SELF)
    results.send((usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / 1e6, tokens))


def run(name: str, path: Path, vocab_size: int, threads: int) -> tuple[float, float, float, set[bytes]]:
    """CPU seconds, wall seconds, peak megabytes and the tokens, from a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender, name, path, vocab_size, threads))
    process.start()
    sender.close()
    result: tuple[float, float, float, set[bytes]] = receiver.recv()
    process.join()
    return result


def contest(peer: str, path: Path, vocab_size: int, threads: int, rounds: int) -> dict[str, Any]:
    turns = [[run(name, path, vocab_size, threads) for name in ("groundup", peer)] for _ in range(rounds)]
    ours, theirs = zip(*turns, strict=True)
    ratios = [their_turn[0] / our_turn[0] for our_turn, their_turn in turns]
    row: dict[str, Any] = {"vocab_size": vocab_size, "threads": threads, "rounds": rounds}
    for who, results in (("ours", ours), ("peer", theirs)):
        for position, what in enumerate(("cpu_s", "wall_s", "peak_mb")):
            row[f"{who}_{what}"] = round(statistics.median(result[position] for result in results), 2)
    row |= {"ratio_median": round(statistics.median(ratios), 2), "ratio_min": round(min(ratios), 2)}
    return row | {"tokens_in_common": round(len(ours[0][3] & theirs[0][3]) / len(ours[0][3]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=f"text file with documents separated by {SEPARATOR}")
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the rows here instead of to stdout")
    options = parser.parse_args()

    try:
        peer = f"tokenizers {version('tokenizers')}"
    except PackageNotFoundError:
        sys.exit("tokenizers is not installed, so there is nothing to compare with; pip install tokenizers")
    source = f"{options.input.name} {options.input.stat().st_size / 1e6:.1f} MB"
    row = {"what": "train", "ours": f"groundup {version('groundup')}", "peer": peer, "input": source}
    row |= contest("tokenizers", options.input, options.vocab_size, options.threads, options.rounds)
    report = json.dumps([row], indent=2) + "\n"
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    else:
        print(report, end="")


if __name__ == "__main__":
    main()
