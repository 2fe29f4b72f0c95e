"""Peak memory of `groundup encode` on large inputs: parquet of small and huge row groups, and one line of JSON.

    python benchmarks/read_memory.py --megabytes 10 100 --out read_memory.json
    python benchmarks/read_memory.py --megabytes 10 100 1000                      # 1 GB of disk and some minutes

Each input is made in a temporary folder, encoded in a fresh process and deleted. The base is the memory of the same
command for 2 MB of plain text, which fill the tokenizer's caches. Required: parquet within 300 MB for any size; a JSON
line of n bytes within 3 n beyond the base.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from side_by_side import Report, Row, failed, in_fresh_process, peak_mb, short

WANTED_PARQUET_MB = 300
WANTED_TIMES_LINE = 3
_ROW_BYTES = 5_000
_BASE_BYTES = 2_000_000
_SMALL_GROUP_ROWS = 1_000
_TIME_LIMIT = 3600


def main() -> None:
    """Measure each kind of input at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100], help="sizes of the text")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder; default: train one of 1,000 tokens")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    options = parser.parse_args()
    report = Report(options.out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = options.tokenizer or learn_tokenizer(folder)
        plain = folder / "base.txt"
        plain.write_text("".join(texts(_BASE_BYTES)), encoding="utf-8")
        base = measure(plain, tokenizer, folder)
        if failed(base):
            raise SystemExit(f"the base cannot be measured: {base}")
        for megabytes in options.megabytes:
            for kind in options.kinds:
                report_input(report, kind, megabytes, base["peak_mb"], tokenizer, folder)
    report.finish(["input", "text_mb", "file_mb", "peak_mb", "base_mb", "times_file", "wanted_mb", "within"])


def report_input(report: Report, kind: str, megabytes: int, base_mb: float, tokenizer: Path, folder: Path) -> None:
    """Add the row of one input."""
    path = folder / f"input{KINDS[kind][0]}"
    KINDS[kind][1](path, megabytes * 1_000_000)
    found, size = measure(path, tokenizer, folder), path.stat().st_size
    path.unlink()
    row: Row = {"what": "memory of reading", "input": kind, "text_mb": megabytes, "file_mb": short(size / 1e6)}
    if failed(found):
        report.add_failure(row, found)
        return
    peak = found["peak_mb"]
    row |= {"peak_mb": short(peak), "base_mb": short(base_mb), "seconds": short(found["seconds"])}
    if path.suffix == ".parquet":
        row |= {"wanted_mb": WANTED_PARQUET_MB, "within": peak <= WANTED_PARQUET_MB}
    else:
        wanted, times = base_mb + WANTED_TIMES_LINE * size / 1e6, (peak - base_mb) / (size / 1e6)
        row |= {
            "times_file": short(times),
            "wanted_mb": short(wanted),
            "within": peak <= wanted,
        }
    report.add(row)


def measure(path: Path, tokenizer: Path, folder: Path) -> Row:
    """Measure peak memory and seconds of encoding a file, in a fresh process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        arguments = {"path": str(path), "tokenizer": str(tokenizer), "out": out}
        return in_fresh_process("read_memory:encode", arguments, threads=1, time_limit=_TIME_LIMIT)


def encode(path: str, tokenizer: str, out: str) -> Row:
    """Run `groundup encode` in this process; return its peak memory."""
    import time

    from groundup.cli.main import main

    began = time.perf_counter()
    try:
        main(["encode", path, "--tokenizer", tokenizer, "--out", f"{out}/tokens"])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"groundup encode ended with exit code {stop.code}") from None
    return {"peak_mb": peak_mb(), "seconds": time.perf_counter() - began}


def learn_tokenizer(folder: Path) -> Path:
    """Train a small tokenizer on the synthetic text."""
    from groundup.tokenizer import Tokenizer, train_bpe_from_documents

    vocab, merges = train_bpe_from_documents(texts(1_000_000), 1_000, ["<|endoftext|>"])
    Tokenizer(vocab, merges, ["<|endoftext|>"]).save(folder / "tokenizer")
    return folder / "tokenizer"


def texts(size: int) -> Iterator[str]:
    """Synthetic text of about ``size`` bytes, in pieces of about 5 kB: words of two scripts, quotes and line breaks."""
    draw = random.Random(0)
    words = [f"w{draw.randrange(30_000)}" for _ in range(5_000)] + ['"said"', "\n", "été", "文字"] * 200
    pieces = [" ".join(draw.choices(words, k=_ROW_BYTES // 7)) for _ in range(200)]
    written = number = 0
    while written < size:
        piece = f"{number} {pieces[number % len(pieces)]}"
        yield piece
        written += len(piece.encode())
        number += 1


def _parquet(path: Path, size: int, group_rows: int) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("id", pyarrow.int64()), ("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows: list[str] = []

        def flush() -> None:
            table = pyarrow.table({"id": range(len(rows)), "text": rows}, schema=schema)
            writer.write_table(table, row_group_size=max(len(rows), 1))
            rows.clear()

        for text in texts(size):
            rows.append(text)
            if len(rows) == group_rows:
                flush()
        if rows:
            flush()


def _json_line(path: Path, size: int, *, escaped: bool, before: str = "", after: str = "\n") -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{before}{{"id": 1, "text": "')
        for text in texts(size):
            file.write(json.dumps(text, ensure_ascii=escaped)[1:-1])
        file.write(f'", "more": [1, 2, 3]}}{after}')


KINDS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "parquet, row groups of 1,000": (".parquet", lambda path, size: _parquet(path, size, _SMALL_GROUP_ROWS)),
    "parquet, one row group": (".parquet", lambda path, size: _parquet(path, size, 1 << 62)),
    "one JSON line": (".jsonl", lambda path, size: _json_line(path, size, escaped=False)),
    "one JSON line, escaped": (".jsonl", lambda path, size: _json_line(path, size, escaped=True)),
    "one element of a JSON array": (
        ".json",
        lambda path, size: _json_line(path, size, escaped=False, before="[", after="]"),
    ),
}

if __name__ == "__main__":
    main()
