"""Encoding side by side with tiktoken and Hugging Face tokenizers: same machine, same file, same run, one thread.

    python benchmarks/tokenizer_encode.py webtext.txt --tokenizer gpt2/ --rounds 5 --out rows.json

The file is split into documents, which are encoded one by one with the GPT-2 vocabulary. In a round everyone takes a
turn, so that a disturbance hits all; rates are medians over rounds, per second of CPU time and per second of wall
time. "cold" starts each round with new tokenizers (made before the clock starts), "warm" with ones that have seen the
file. A row is written only after the ids of all documents were compared.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import GPT2

SEPARATOR = "<|endoftext|>"
Encode = Callable[[str], Sequence[int]]
MakeEncode = Callable[[Tokenizer], Encode]


def groundup_list(tokenizer: Tokenizer) -> Encode:
    fresh = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)
    fresh.encode("")  # the C++ tables are made with the first text
    return fresh.encode


def groundup_array(tokenizer: Tokenizer) -> Encode:
    fresh = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)
    fresh.encode("")
    return lambda text: fresh.encode_bytes(text.encode())


def tiktoken_encoding(tokenizer: Tokenizer) -> Any:
    import tiktoken

    special_ids = {name: tokenizer.token_id(name) for name in tokenizer.special_tokens}
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special_ids.values()}
    return tiktoken.Encoding("same", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=special_ids)


def tiktoken_list(tokenizer: Tokenizer) -> Encode:
    return tiktoken_encoding(tokenizer).encode_ordinary


def tiktoken_array(tokenizer: Tokenizer) -> Encode:
    encoding = tiktoken_encoding(tokenizer)
    return lambda text: encoding.encode_to_numpy(text, disallowed_special=())


def hugging_face_list(tokenizer: Tokenizer) -> Encode:
    import tempfile

    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        model = tokenizers.models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt")
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: theirs.encode(text).ids


CONTESTS: list[tuple[str, MakeEncode, str, MakeEncode]] = [
    ("encode to list[int]", groundup_list, "tiktoken", tiktoken_list),
    ("encode to list[int]", groundup_list, "tokenizers", hugging_face_list),
    ("encode to array", groundup_array, "tiktoken", tiktoken_array),
]


def timed(encode: Encode, documents: list[str]) -> tuple[float, float]:
    """CPU and wall seconds for all documents. Ids are dropped at once, as a writer of shards would."""
    cpu, wall = time.process_time(), time.perf_counter()
    for document in documents:
        encode(document)
    return time.process_time() - cpu, time.perf_counter() - wall


def contest(
    tokenizer: Tokenizer, documents: list[str], ours: MakeEncode, theirs: MakeEncode, phase: str, rounds: int
) -> dict[str, Any]:
    size = sum(len(document.encode()) for document in documents) / 1e6
    encoders = [ours(tokenizer), theirs(tokenizer)]
    identical = all(list(encoders[0](text)) == list(encoders[1](text)) for text in documents)
    seconds: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds):
        if phase == "cold":
            encoders = [ours(tokenizer), theirs(tokenizer)]
        for results, encode in zip(seconds, encoders, strict=True):
            results.append(timed(encode, documents))
    ratios = [peer_cpu / our_cpu for (our_cpu, _), (peer_cpu, _) in zip(*seconds, strict=True)]
    (our_cpu, our_wall), (peer_cpu, peer_wall) = (map(statistics.median, zip(*s, strict=True)) for s in seconds)
    return {
        "phase": phase,
        "threads": 1,
        "rounds": rounds,
        "ours_mb_per_cpu_s": round(size / our_cpu, 2),
        "peer_mb_per_cpu_s": round(size / peer_cpu, 2),
        "ours_mb_per_s": round(size / our_wall, 2),
        "peer_mb_per_s": round(size / peer_wall, 2),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "identical_ids": identical,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=f"text file with documents separated by {SEPARATOR}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer, such as GPT-2's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, help="take only so much of the file")
    parser.add_argument("--out", type=Path, help="write the rows here instead of to stdout")
    options = parser.parse_args()

    limit = -1 if options.megabytes is None else int(options.megabytes * 1e6)
    with options.input.open("rb") as file:
        text = file.read(limit).decode("utf-8", "ignore")
    documents = [document for document in text.split(SEPARATOR) if document]
    tokenizer = Tokenizer.load(options.tokenizer)
    rows = []
    for what, ours, peer, theirs in CONTESTS:
        try:
            label = f"{peer} {version(peer)}"
        except PackageNotFoundError:
            print(f"{peer} is not installed; its rows are left out", file=sys.stderr)
            continue
        source = f"{options.input.name} {len(text.encode()) / 1e6:.1f} MB, {len(documents)} documents"
        for phase in ("cold", "warm"):
            row = {"what": what, "ours": f"groundup {version('groundup')}", "peer": label, "input": source}
            rows.append(row | contest(tokenizer, documents, ours, theirs, phase, options.rounds))
            print(json.dumps(rows[-1]), file=sys.stderr)
    report = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    else:
        print(report, end="")


if __name__ == "__main__":
    main()
