"""`groundup tokenizer report`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import UseAppendAction

from groundup.cli.parse import call
from groundup.cli.reading import DEFAULT_READING, Reading, say_left_out
from groundup.config import END_OF_TEXT
from groundup.config.recipe import suggestion
from groundup.display.console import make_console
from groundup.display.progress import Update, progress_bar
from groundup.errors import ConfigError
from groundup.text.options import ReadOptions
from groundup.text.readers import STANDARD_INPUT

if TYPE_CHECKING:
    from groundup.studies.tokenizer_report.corpus import Corpus
    from groundup.tokenizer import Tokenizer

_DEFAULT_VOCAB_SIZE = 10_000


def report(arguments: list[str]) -> None:
    """Parse and run."""
    call(_report, arguments, "tokenizer report")


def _report(
    corpora: tuple[str, ...],
    /,
    *,
    out: Path,
    vocab_size: UseAppendAction[tuple[str, ...]] = (),
    held_out: UseAppendAction[tuple[str, ...]] = (),
    tokenizer: UseAppendAction[tuple[str, ...]] = (),
    train: bool = True,
    documents: int = 10,
    longest: int = 10,
    seed: int = 0,
    threads: int | None = None,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    shards: bool = False,
    plot: bool = True,
    overwrite: bool = False,
    json_output: bool = False,
) -> None:
    """Train a tokenizer on each text, compare all of them on all texts, and write tables and a picture.

    groundup tokenizer report stories=stories.txt web=web.txt --vocab-size web=32000 --out report

    Args:
        corpora: texts, as NAME=PATH or PATH: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; or folders.
        out: folder for report.json, report.md, report.png and tokenizers/.
        vocab_size: tokens to learn, as N for all or NAME=N for one text; may be repeated. 10,000 by default.
        held_out: text to measure on, as NAME=PATH; may be repeated. By default one document in ten.
        tokenizer: a tokenizer to compare, as NAME=FOLDER; may be repeated. With a text's name it is that text's own.
        train: learn a tokenizer from each text that has none of its own.
        documents: how many documents to draw from each text, beside measuring on all that is held out.
        longest: how many of the longest tokens to list.
        seed: of the draw.
        threads: threads that count in training; all cores by default. Encoding is measured on one.
        separator: token between the documents of plain text.
        shards: also encode each text to token shards with its own tokenizer, in the folder shards/.
        plot: draw report.png, which needs matplotlib.
        overwrite: replace a report that is in the folder.
        json_output: print report.json instead of tables.
    """
    from groundup.studies.tokenizer_report.folder import check_folder, write
    from groundup.studies.tokenizer_report.measure import measure
    from groundup.tokenizer import Tokenizer

    texts = read_corpora(corpora, vocab_size, held_out, separator=separator, read=read)
    folders = _named(tokenizer, "--tokenizer NAME=FOLDER")
    check_folder(out, overwrite=overwrite)
    if plot:
        from groundup.studies.tokenizer_report.plot import check_plot

        check_plot()
    given = {name: Tokenizer.load(folder) for name, folder in folders.items()}
    console = make_console()
    for text in texts:
        for inputs in filter(None, (text.inputs, text.held_out)):
            say_left_out(console, text.reader(inputs))
    with progress_bar(console) as update:
        found, tokenizers = measure(
            texts, given, train=train, sampled_documents=documents, longest=longest, seed=seed, threads=threads,
            progress=update,
        )  # fmt: skip
        write(found, tokenizers, out, plot=plot)
        if shards:
            found["shards"] = _encode_shards(texts, tokenizers, out, update)
            write(found, tokenizers, out, plot=plot)
    if json_output:
        print(json.dumps(found))
        return
    print_report(console, found)
    names = ", ".join(sorted(path.name + "/" * path.is_dir() for path in out.iterdir()))
    console.print(Text(f"{out}: {names}"), soft_wrap=True)


def read_corpora(
    corpora: Sequence[str], vocab_sizes: Sequence[str], held_out: Sequence[str], *, separator: str, read: ReadOptions
) -> list[Corpus]:
    """The texts that the command line names.

    Raises:
        ConfigError: a name given twice or not at all, or a vocabulary size that is no number.
    """
    from groundup.studies.tokenizer_report.corpus import Corpus

    inputs = _named(corpora, "NAME=PATH", path_alone=True)
    measured = _named(held_out, "--held-out NAME=PATH")
    size_for_all, sizes = _DEFAULT_VOCAB_SIZE, {}
    for text in vocab_sizes:
        name, equals, number = text.rpartition("=")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise ConfigError(f"--vocab-size {text}; expected a number, or NAME=NUMBER")
        if not equals:
            size_for_all = int(number)
        elif name in sizes:
            raise ConfigError(f"--vocab-size {text}: {name} has a size already; give one")
        else:
            sizes[name] = int(number)
    for option, named in (("--vocab-size", sizes), ("--held-out", measured)):
        for name in named:
            if name not in inputs:
                raise ConfigError(f"{option} {name}=…: no text has the name {name!r}{suggestion(name, inputs)}")
    return [
        Corpus(
            name=name,
            inputs=[path],
            held_out=[measured[name]] if name in measured else [],
            vocab_size=sizes.get(name, size_for_all),
            separator=separator,
            read=read,
        )
        for name, path in inputs.items()
    ]


def _named(arguments: Sequence[str], form: str, *, path_alone: bool = False) -> dict[str, str]:
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals and path_alone:
            name = "standard-input" if argument == STANDARD_INPUT else Path(argument).name.split(".")[0]
            path = argument
        if not (name and path):
            raise ConfigError(f"{argument!r}; expected {form}")
        if name in found:
            raise ConfigError(
                f"{found[name]} and {path} both have the name {name!r}; give each a name of its own as NAME=PATH"
            )
        found[name] = path
    return found


def _encode_shards(
    texts: Sequence[Corpus], tokenizers: dict[str, Tokenizer], out: Path, update: Update
) -> list[dict[str, Any]]:
    """Each text, and its held-out text where that is apart, as token shards."""
    from groundup.data.encode import encode_files
    from groundup.data.shards import token_dtype
    from groundup.studies.tokenizer_report.folder import SHARDS_FOLDER

    rows = []
    for text in texts:
        if text.name not in tokenizers:
            continue
        for split, inputs in (("train", text.inputs), ("valid", text.held_out)):
            if not inputs:
                continue
            folder = out / SHARDS_FOLDER / text.name / split
            label = f"{text.name}: encoding"

            def show(done: int, total: int | None, tokens: int, label: str = label) -> None:
                update(label, done, total)

            began = time.perf_counter()
            stats = encode_files(
                text.reader(inputs),
                tokenizers[text.name],
                folder,
                separator=text.separator,
                overwrite=True,
                progress=show,
            )
            dtype = token_dtype(tokenizers[text.name].vocab_size)
            rows.append(
                {
                    "corpus": text.name,
                    "split": split,
                    "folder": f"{SHARDS_FOLDER}/{text.name}/{split}",
                    "dtype": dtype.name,
                    "tokens": stats.tokens,
                    "text_bytes": stats.bytes,
                    "shard_bytes": stats.tokens * dtype.itemsize,
                    "seconds": time.perf_counter() - began,
                }
            )
    return rows


def print_report(console: Console, found: dict[str, Any]) -> None:
    """All tables of a report, in the terminal."""
    from groundup.studies.tokenizer_report.tables import tables

    for shown in tables(found):
        console.print(Text(shown.title, style="bold"))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for i, column in enumerate(shown.columns):
            table.add_column(column, justify="left" if i < shown.names else "right", no_wrap=i == 0, overflow="fold")
        for row in shown.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        if shown.note:
            console.print(Text(shown.note, style="dim"))
        console.print()
