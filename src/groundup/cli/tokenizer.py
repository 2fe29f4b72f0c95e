"""`groundup tokenizer train` and `groundup tokenizer inspect`."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundup.cli.parse import call
from groundup.cli.reading import DEFAULT_READING, Reading
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.display.units import size_text
from groundup.text.options import ReadOptions

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.training.counts import PretokenCounts


def train(arguments: list[str]) -> None:
    """Parse and run."""
    call(_train, arguments, "tokenizer train")


def inspect(arguments: list[str]) -> None:
    """Parse and run."""
    call(_inspect, arguments, "tokenizer inspect")


def _train(
    inputs: tuple[Path, ...] = (),
    /,
    *,
    vocab_size: int,
    out: Path,
    counts: tuple[Path, ...] = (),
    pattern: str | None = None,
    special_tokens: tuple[str, ...] | None = None,
    tie_rule: Literal["bytes", "huggingface"] = "bytes",
    min_frequency: int = 1,
    max_token_length: int | None = None,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    special_tokens_inside: Literal["text", "encode", "error"] = "text",
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Learn a byte-pair vocabulary from text and write it in GPT-2's format.

    Args:
        inputs: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; folders of them; - for standard input.
        vocab_size: most tokens, the 256 bytes and special tokens included.
        out: folder for vocab.json, merges.txt and meta.json.
        counts: files that `groundup tokenizer count` wrote, instead of inputs or in addition.
        pattern: gpt2, cl100k, llama3, qwen2, o200k, tekken, or a regular expression (about a hundred times slower). By
            default that of the counts, or else gpt2.
        special_tokens: text that is always one token and a boundary in training. By default those of the counts, or
            else <|endoftext|>.
        tie_rule: which of two equally frequent pairs merges first: the greater byte strings, or as in Hugging Face's
            trainer.
        min_frequency: rarer pairs do not merge.
        max_token_length: most bytes of a token.
        separator: token between the documents of plain text.
        special_tokens_inside: what the name of a special token inside a document is: text like any, the token, which is
            a boundary, or an error. The separator of plain text is a separator in any case.
        threads: threads that count; all cores by default. The result does not depend on it.
        overwrite: replace a tokenizer that is in the folder.
    """
    from groundup.errors import ConfigError

    if not inputs and not counts:
        raise ConfigError("there is nothing to train on: name text to read, or files of counts with --counts")
    console = make_console()
    refuse_existing(out, overwrite=overwrite)
    train_with_progress(
        console,
        inputs,
        vocab_size,
        special_tokens,
        out,
        counts=counts,
        pattern=pattern,
        tie_rule=tie_rule,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        separator=separator,
        read=read,
        special_tokens_inside=special_tokens_inside,
        threads=threads,
    )


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Keep a tokenizer that is there, since data encoded with it would become useless."""
    from groundup.errors import TokenizerError

    if out == Path():
        raise TokenizerError("--out is the current folder; name one for the tokenizer")
    taken = [name for name in ("meta.json", "vocab.json", "merges.txt") if (out / name).exists()]
    if taken and not overwrite:
        raise TokenizerError(
            f"{out} holds a tokenizer already ({', '.join(taken)}); "
            f"choose another --out, or replace it with --overwrite"
        )


def train_with_progress(
    console: Console,
    inputs: Sequence[Path],
    vocab_size: int,
    special_tokens: Sequence[str] | None,
    out: Path,
    *,
    counts: Sequence[Path] = (),
    pattern: str | None = None,
    tie_rule: Literal["bytes", "huggingface"] = "bytes",
    min_frequency: int = 1,
    max_token_length: int | None = None,
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    special_tokens_inside: Literal["text", "encode", "error"] = "text",
    threads: int | None = None,
) -> Tokenizer:
    """Train under a progress bar, save, and say what came out. Options left None are those of the counts."""
    from groundup.cli.tokenizer_count import add_inputs
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.training.merges import LearningOptions

    began = time.perf_counter()
    options = LearningOptions(vocab_size, tie_rule, min_frequency, max_token_length)
    total = _sum_of_counts(counts, pattern, special_tokens, threads)
    total.check_room(options)
    with progress_bar(console) as update:
        if inputs:
            add_inputs(total, inputs, console, update, separator=separator, read=read,
                       special_tokens_inside=special_tokens_inside)  # fmt: skip
        size_counted = total.bytes_counted
        merging_began = time.perf_counter()

        def show(phase: str, done: int, limit: int | None) -> None:
            seconds = max(time.perf_counter() - merging_began, 1e-3)
            update("merging pairs", done, limit, f"{done / seconds:,.0f}/s")

        vocab, merges = total.train_and_empty(options, show)
    tokenizer = Tokenizer(vocab, merges, total.special_tokens, pattern=total.pattern)
    tokenizer.save(out)
    short = "" if len(vocab) == vocab_size else f" (no pair was left to merge before {vocab_size:,})"
    seconds = time.perf_counter() - began
    console.print(
        Text(f"{out}: {len(vocab):,} tokens{short} from {size_text(size_counted)}, {seconds:.1f} s"), soft_wrap=True
    )
    return tokenizer


def _sum_of_counts(
    paths: Sequence[Path], pattern: str | None, special_tokens: Sequence[str] | None, threads: int | None
) -> PretokenCounts:
    """What the files hold, or no counts yet; with the pattern and special tokens asked for, which must be theirs."""
    from groundup.errors import DataError, TokenizerError
    from groundup.tokenizer.training.counts import PretokenCounts

    parts = ((path, PretokenCounts.load(path, num_threads=threads)) for path in paths)
    first = next(parts, None)
    total = PretokenCounts(
        pattern=pattern if pattern is not None else first[1].pattern if first else "gpt2",
        special_tokens=special_tokens
        if special_tokens is not None
        else first[1].special_tokens
        if first
        else [END_OF_TEXT],
        num_threads=threads,
    )
    for path, part in itertools.chain([first] if first else [], parts):
        try:
            total.merge(part)
        except TokenizerError as error:
            raise DataError(f"{path}: {error}") from None
    return total


def _inspect(
    tokenizer: Path,
    /,
    *,
    text: Path | None = None,
    longest: int = 20,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    json_output: bool = False,
) -> None:
    """Show a tokenizer: size, special tokens, longest tokens; on a text also compression and speed.

    Args:
        tokenizer: folder of a tokenizer, or a run directory's tokenizer/.
        text: text to encode, to measure bytes per token and MB/s on it (single thread).
        longest: how many of the longest tokens to show.
        separator: token between the documents of the text.
        json_output: print one JSON object instead of tables.
    """
    from groundup.errors import ConfigError
    from groundup.tokenizer import Tokenizer

    if longest < 0:
        raise ConfigError(f"--longest {longest}; expected 0 or more")
    loaded = Tokenizer.load(tokenizer)
    special = {loaded.token_id(name) for name in loaded.special_tokens}
    by_length = sorted(((len(b), i, b) for i, b in loaded.vocab.items() if i not in special), reverse=True)
    facts: dict[str, object] = {
        "tokens": loaded.vocab_size,
        "merges": len(loaded.merges),
        "special_tokens": list(loaded.special_tokens),
        "pattern": loaded.pattern,
        "sha256": loaded.sha256,
    }
    if text is not None:
        facts |= _measure(loaded, text, separator, read)
    if json_output:
        shown = [{"id": i, "bytes": n, "text": _text(b)} for n, i, b in by_length[:longest]]
        print(json.dumps(facts | {"longest_tokens": shown}))
        return

    from groundup.display.console import print_pairs

    console = make_console()
    print_pairs(console, {name.replace("_", " "): _readable(value) for name, value in facts.items()})
    table = Table(title="longest tokens", title_justify="left", box=None, padding=(0, 2))
    for column in ("bytes", "id"):
        table.add_column(column, justify="right")
    table.add_column("token")
    for length, i, token in by_length[:longest]:
        table.add_row(str(length), str(i), Text(repr(_text(token))))
    console.print(table)


def _measure(tokenizer: Tokenizer, path: Path, separator: str, read: ReadOptions) -> dict[str, object]:
    from groundup.text.readers import read_documents

    documents = list(read_documents(path, separator=separator, read=read))
    for _ in range(2):  # the second time its cache is warm, as it is in any long text
        began = time.perf_counter()
        tokens = sum(len(tokenizer.encode_bytes(document)) for document in documents)
        seconds = time.perf_counter() - began
    count = sum(map(len, documents))
    return {
        "text": str(path),
        "text_bytes": count,
        "text_tokens": tokens,
        "bytes_per_token": round(count / max(tokens, 1), 4),
        "mb_per_second": round(count / 1e6 / seconds, 2),
    }


def _text(token: bytes) -> str:
    return token.decode("utf-8", errors="replace")


def _readable(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
