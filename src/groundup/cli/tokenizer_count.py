"""`groundup tokenizer count`: the first half of training, which many machines can share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.console import Console
from rich.text import Text

from groundup.cli.parse import call
from groundup.cli.reading import DEFAULT_READING, Reading, say_how_read, say_left_out
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console
from groundup.display.progress import Update, progress_bar
from groundup.display.units import size_text
from groundup.errors import ConfigError, DataError
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader

if TYPE_CHECKING:
    from groundup.tokenizer.training.counts import PretokenCounts
    from groundup.tokenizer.training.merges import Progress

SpecialTokenMode: TypeAlias = Literal["text", "encode", "error"]


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
    special_tokens_inside: SpecialTokenMode = "text",
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
        weight: the text counts as if it were there so many times.
        separator: token between the documents of plain text.
        special_tokens_inside: what the name of a special token inside a document is: text like any, the token, which is
            a boundary, or an error. The separator of plain text is a separator in any case.
        threads: threads that count; all cores by default. The result does not depend on it.
        overwrite: replace the file if it is there.
    """
    from groundup.tokenizer.training.counts import PretokenCounts

    console = make_console()
    began = time.perf_counter()
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out} does not end in .npz; name the file so")
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists; choose another --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.parent}; make it first")
    counts = PretokenCounts(pattern=pattern, special_tokens=special_tokens, num_threads=threads)
    with progress_bar(console) as update:
        add_inputs(counts, inputs, console, update, weight=weight, separator=separator, read=read,
                   special_tokens_inside=special_tokens_inside)  # fmt: skip
    if not len(counts):
        raise DataError(f"{', '.join(map(str, inputs))}: there is no text to count; check the input")
    counts.save(out)
    seconds = time.perf_counter() - began
    text = f"{out}: {len(counts):,} distinct pretokens in {size_text(counts.bytes_counted)}, {seconds:.1f} s"
    console.print(Text(text), soft_wrap=True)


def add_inputs(
    counts: PretokenCounts,
    inputs: Sequence[Path],
    console: Console,
    update: Update,
    *,
    weight: int = 1,
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    special_tokens_inside: SpecialTokenMode = "text",
) -> None:
    """Count the documents of inputs. Plain text is mapped into memory, and what else there is goes through the reader.

    Raises:
        FileMissingError, DataError, MissingExtraError: as `TextReader`.
    """
    from groundup.tokenizer.patterns import PATTERNS
    from groundup.tokenizer.special_names import refuse_names
    from groundup.tokenizer.training.counts import SlowPatternWarning, slow_pattern_note

    if counts.pattern not in PATTERNS:
        console.print(Text(f"note: {slow_pattern_note(counts.pattern)}"), soft_wrap=True)
    everything = TextReader(list(inputs), separator=separator, read=read)
    say_left_out(console, everything)
    is_error = special_tokens_inside == "error"  # to find which document it is, all go through the reader
    plain = [path for path in everything.files if everything.is_plain(path) and not is_error]
    others = [path for path in everything.files if path not in plain]
    reader = TextReader(others, separator=separator, read=read) if others else None
    inside: Literal["text", "encode"] = "text" if special_tokens_inside == "text" else "encode"
    total = sum(path.stat().st_size for path in plain)
    of_reader = reader.bytes_total if reader else 0
    show = _Shown(update, None if of_reader is None else total + of_reader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPatternWarning)
        for path in plain:
            counts.add_file(path, weight, separator=separator, special_tokens=inside, progress=show.file_progress())
            show.finished += path.stat().st_size
        if reader:
            documents = refuse_names(reader, counts.special_tokens) if is_error else reader.documents()
            counts.add_documents(documents, weight, special_tokens=inside, progress=show.reader_progress(reader))
    if reader:
        say_how_read(console, reader)
    if counts.special_tokens_met:
        met = ", ".join(f"{name} × {count:,}" for name, count in sorted(counts.special_tokens_met.items()))
        console.print(Text(f"names of special tokens in documents were taken as text: {met}"), soft_wrap=True)


class _Shown:
    """The progress of all inputs together, in bytes on disk."""

    def __init__(self, update: Update, total: int | None):
        self.finished = 0
        self._update, self._total = update, total
        self._began = time.perf_counter()

    def file_progress(self) -> Progress:
        return lambda phase, done, total: self._show(self.finished + done)

    def reader_progress(self, reader: TextReader) -> Progress:
        return lambda phase, done, total: self._show(self.finished + reader.bytes_read)

    def _show(self, done: int) -> None:
        seconds = max(time.perf_counter() - self._began, 1e-3)
        self._update("counting pretokens", done, self._total, f"{size_text(done / seconds)}/s")
