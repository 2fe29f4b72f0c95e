"""`groundup encode`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from groundup.cli.parse import call
from groundup.cli.reading import DEFAULT_READING, Reading, say_how_read, say_left_out
from groundup.config import END_OF_TEXT
from groundup.data.encode import DEFAULT_SHARD_TOKENS, EncodeStats
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.display.units import size_text
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader
from groundup.tokenizer.special_names import SpecialTokenMode

_FEW_BYTES_A_TOKEN = 1.5

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


def encode(arguments: list[str]) -> None:
    """Parse and run."""
    call(_encode, arguments, "encode")


def _encode(
    inputs: tuple[Path, ...],
    /,
    *,
    tokenizer: Path,
    out: Path,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    special_tokens: SpecialTokenMode | None = None,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    threads: int | None = None,
) -> None:
    """Turn text into token shards, in bounded memory. Interrupted, the same command goes on where it stopped.

    Args:
        inputs: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; folders of them; - for standard input.
        tokenizer: folder that `groundup tokenizer train` wrote, or one with GPT-2's two files.
        out: folder for the shards.
        separator: token between the documents of plain text, which also ends each document in the shards.
        special_tokens: what the name of a special token inside a document is. By default text; between the documents
            of plain text the separator is a separator in any case.
        shard_tokens: tokens a shard file.
        overwrite: replace what is in the folder.
        threads: threads that encode; by default as many as this process may use cores. The result is the same.
    """
    from groundup.tokenizer import Tokenizer

    encode_with_progress(
        make_console(), list(inputs), Tokenizer.load(tokenizer), out,
        separator=separator, read=read, special_tokens=special_tokens, shard_tokens=shard_tokens, overwrite=overwrite,
        threads=threads,
    )  # fmt: skip


def encode_with_progress(
    console: Console,
    inputs: list[Path],
    tokenizer: Tokenizer,
    out: Path,
    *,
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    special_tokens: SpecialTokenMode | None = None,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    threads: int | None = None,
) -> EncodeStats:
    """``encode_files`` under a progress bar, with a line about the result."""
    from groundup.data.encode import encode_files

    began = time.perf_counter()
    reader = TextReader(inputs, separator=separator, read=read)
    say_left_out(console, reader)
    with progress_bar(console) as update:

        def show(done: int, total: int | None, tokens: int) -> None:
            update("encoding", done, total, f"{tokens:,} tokens")

        stats = encode_files(
            reader, tokenizer, out, separator=separator, special_tokens=special_tokens, shard_tokens=shard_tokens,
            overwrite=overwrite,
            num_threads=threads, progress=show,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    found = (
        f"{out}: {stats.documents:,} documents, {size_text(stats.bytes)} = {stats.tokens:,} tokens "
        f"({stats.bytes_per_token:.2f} bytes each) in {stats.shards} shard{'s' * (stats.shards > 1)}"
    )
    if stats.repaired:
        made_again = f"made again, as they were: {', '.join(stats.repaired)}"
        console.print(Text(f"{found}; {made_again}, {seconds:.1f} s"), soft_wrap=True)
    elif stats.already_complete:
        console.print(Text(f"{found}; nothing was left to do"), soft_wrap=True)
    else:
        kept = f", {stats.tokens_kept:,} tokens of them from before" if stats.tokens_kept else ""
        console.print(Text(f"{found}{kept}, {seconds:.1f} s"), soft_wrap=True)
    say_how_read(console, reader)
    in_text = stats.bytes / max(stats.tokens - stats.documents, 1)
    if in_text < _FEW_BYTES_A_TOKEN:
        warning = (
            f"warning: only {in_text:.2f} bytes a token without separators, where text has 3 to 5: the input may not "
            "be text, or may be of another language or encoding than what the tokenizer was trained on"
        )
        console.print(Text(warning), soft_wrap=True)
    if stats.special_tokens_met:
        met = ", ".join(f"{name} × {count:,}" for name, count in stats.special_tokens_met.items())
        taken = "as special tokens" if stats.special_tokens == "encode" else "as text; --special-tokens encode differs"
        console.print(Text(f"names of special tokens in documents were taken {taken}: {met}"), soft_wrap=True)
    return stats
