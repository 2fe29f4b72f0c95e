"""`groundup tokenizer report`."""

from __future__ import annotations

import json
from pathlib import Path

from tyro.conf import UseAppendAction

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console
from groundup.display.progress import progress_bar


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
        vocab_size: vocabulary size to train, as N for all or NAME=N for one text; may be repeated. Default: 10,000.
        held_out: held-out text, as NAME=PATH; may be repeated. Default: one document in ten.
        tokenizer: a tokenizer to compare, as NAME=FOLDER; may be repeated. With a text's name it is that text's
            tokenizer.
        train: train a tokenizer on each text that has none.
        documents: documents to sample from each held-out text, in addition to all of it.
        longest: number of longest tokens to list.
        seed: seed of the sample.
        threads: threads that count in training; default: all cores. Encoding is measured on one.
        separator: token between the documents of plain text.
        shards: also encode each text to token shards with its own tokenizer, in the folder shards/.
        plot: draw report.png, which needs matplotlib.
        overwrite: replace a report that is in the folder.
        json_output: print report.json instead of tables.
    """
    from groundup.studies.tokenizer_report.corpus import read_corpora, read_named
    from groundup.studies.tokenizer_report.folder import make_report
    from groundup.studies.tokenizer_report.tables import print_report

    texts = read_corpora(corpora, vocab_size, held_out, separator=separator, read=read)
    console = make_console()
    with progress_bar(console) as progress:
        found = make_report(
            texts, out, given=read_named(tokenizer, "--tokenizer NAME=FOLDER"), train=train,
            sampled_documents=documents, longest=longest, seed=seed, threads=threads, plot=plot, shards=shards,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if json_output:
        print(json.dumps(found))
        return
    print_report(console, found, out)
