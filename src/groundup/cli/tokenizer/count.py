"""`groundup tokenizer count`: the first half of training, which many machines can share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from rich.text import Text

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.display.units import size_text
from groundup.errors import ConfigError, DataError


def count(arguments: list[str]) -> None:
    """Parse and run."""
    call(_count, arguments, "tokenizer count")


def _count(
    inputs: tuple[Path, ...],
    /,
    *,
    out: Path,
    pattern: str = "gpt2",
    special_tokens: tuple[str, ...] = (END_OF_TEXT,),
    weight: int = 1,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    special_tokens_inside: Literal["text", "encode", "error"] = "text",
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Count the pretokens of text into a file, for `groundup tokenizer train --counts`.

    groundup tokenizer count part1.txt --out part1.npz

    groundup tokenizer train --counts part1.npz part2.npz --vocab-size 32000 --out tokenizer

    Args:
        inputs: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; folders of them; - for standard input.
        out: file to write, .npz.
        pattern: gpt2, cl100k, llama3, qwen2, o200k, tekken, or a regular expression (about a hundred times slower).
        special_tokens: text that is always one token and a boundary in training.
        weight: number of times that the text counts.
        separator: token between the documents of plain text.
        special_tokens_inside: meaning of a special token's name inside a document: ordinary text, the token, which is
            a boundary, or an error. The separator of plain text is always a separator.
        threads: threads that count; default: all cores. The result does not depend on it.
        overwrite: replace the file if it is there.
    """
    from groundup.tokenizer.training.counts import PretokenCounts
    from groundup.tokenizer.training.train import count_inputs

    console = make_console()
    began = time.perf_counter()
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out} does not end in .npz; give a name that does")
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    counts = PretokenCounts(pattern=pattern, special_tokens=special_tokens, num_threads=threads)
    with progress_bar(console) as progress:
        count_inputs(
            counts, inputs, weight=weight, separator=separator, read=read, special_tokens_inside=special_tokens_inside,
            progress=progress,
        )  # fmt: skip
    if not len(counts):
        raise DataError(f"{', '.join(map(str, inputs))}: no text to count; check the input")
    counts.save(out)
    seconds = time.perf_counter() - began
    text = f"{out}: {len(counts):,} distinct pretokens in {size_text(counts.bytes_counted)}, {seconds:.1f} s"
    console.print(Text(text), soft_wrap=True)
