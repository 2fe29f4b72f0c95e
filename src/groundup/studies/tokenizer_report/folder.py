"""A tokenizer report in its folder: measure, write report.json, report.md and report.png, encode token shards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.errors import ConfigError, DataError
from groundup.studies.tokenizer_report.corpus import Corpus
from groundup.studies.tokenizer_report.measure import FORMAT, Report, measure
from groundup.studies.tokenizer_report.tables import markdown
from groundup.system.files import sealed, write_atomically
from groundup.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from groundup.display.progress import Progress

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "report.json", "report.md", "report.png"
TOKENIZERS_FOLDER, SHARDS_FOLDER = "tokenizers", "shards"


def make_report(
    corpora: Sequence[Corpus],
    out: Path,
    *,
    given: Mapping[str, str | Path] | None = None,
    train: bool = True,
    sampled_documents: int = 10,
    longest: int = 10,
    seed: int = 0,
    threads: int | None = None,
    plot: bool = True,
    shards: bool = False,
    overwrite: bool = False,
    progress: Progress,
) -> Report:
    """Measure tokenizers on texts, and write the report into a folder.

    Args:
        out: folder for the report.
        given: folders of further tokenizers, by name.
        train, sampled_documents, longest, seed, threads: see `measure`.
        plot: draw the picture, which needs matplotlib.
        shards: also encode each text to token shards with its own tokenizer.
        overwrite: replace a report that is in the folder.
        progress: shows what is measured, and receives notes on the inputs.

    Raises:
        ConfigError, DataError, FileMissingError, TokenizerError: as `check_folder` and `measure`.
        MissingExtraError: matplotlib is needed and not installed.
    """
    check_folder(out, overwrite=overwrite)
    if plot:
        from groundup.studies.tokenizer_report.plot import check_plot

        check_plot()
    loaded = {name: Tokenizer.load(folder) for name, folder in (given or {}).items()}
    for corpus in corpora:
        for inputs in filter(None, (corpus.inputs, corpus.held_out)):
            corpus.reader(inputs).say_left_out(progress.note)
    found, tokenizers = measure(
        corpora, loaded, train=train, sampled_documents=sampled_documents, longest=longest, seed=seed, threads=threads,
        progress=progress,
    )  # fmt: skip
    write(found, tokenizers, out, plot=plot)
    if shards:
        found["shards"] = _encode_shards(corpora, tokenizers, out, progress)
        write(found, tokenizers, out, plot=plot)
    return found


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Whether a report may be written into a folder.

    Raises:
        ConfigError: it is the current folder.
        DataError: it is a file or cannot be written to, holds something else, or holds a report that is not to be
            replaced.
    """
    if out == Path():
        raise ConfigError("--out is the current folder; name one for the report")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for the report")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise DataError(f"{out} cannot be written: {nearest} is not a folder that one may write to; choose another")
    held = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if held and not _is_report(out):
        raise DataError(
            f"{out} contains something that is not a report ({held[0]}{', …' if held[1:] else ''}), and is left alone; "
            "choose another --out"
        )
    if held and not overwrite:
        raise DataError(f"{out} holds a report already; choose another --out, or replace it with --overwrite")


def write(report: Report, tokenizers: Mapping[str, Tokenizer], out: Path, *, plot: bool = True) -> None:
    """Write report.json, report.md, report.png and the trained tokenizers into a folder.

    An existing report is replaced, and so are tokenizers of the same names; everything else is kept.

    Raises:
        MissingExtraError: matplotlib is needed for the picture and not installed; the rest is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / PLOT_FILE).unlink(missing_ok=True)
    # First, since the others take it for the mark of a folder that may be written to.
    write_atomically(out / JSON_FILE, json.dumps(sealed(report), ensure_ascii=False, indent=1) + "\n")
    for facts in report["tokenizers"]:
        if facts["training"]:
            tokenizers[facts["name"]].save(out / TOKENIZERS_FOLDER / facts["name"])
    write_atomically(out / MARKDOWN_FILE, markdown(report, picture=PLOT_FILE if plot else None))
    if plot:
        from groundup.studies.tokenizer_report.plot import picture

        write_atomically(out / PLOT_FILE, picture(report))


def _is_report(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / JSON_FILE).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _encode_shards(
    corpora: Sequence[Corpus], tokenizers: Mapping[str, Tokenizer], out: Path, progress: Progress
) -> list[Report]:
    """Encode each text, and its separate held-out text, with the text's own tokenizer; return the sizes."""
    from groundup.data.encode import encode_files
    from groundup.data.shards import token_dtype

    rows = []
    for corpus in corpora:
        if corpus.name not in tokenizers:
            continue
        tokenizer = tokenizers[corpus.name]
        dtype = token_dtype(tokenizer.vocab_size)
        for split, inputs in (("train", corpus.inputs), ("valid", corpus.held_out)):
            if not inputs:
                continue

            def show(what: str, done: int, total: int | None, extra: str = "", name: str = corpus.name) -> None:
                progress(f"{name}: {what}", done, total)

            began = time.perf_counter()
            folder = f"{SHARDS_FOLDER}/{corpus.name}/{split}"
            stats = encode_files(
                corpus.reader(inputs), tokenizer, out / folder, separator=corpus.separator, overwrite=True,
                progress=show,
            )  # fmt: skip
            rows.append(
                {
                    "corpus": corpus.name,
                    "split": split,
                    "folder": folder,
                    "dtype": dtype.name,
                    "tokens": stats.tokens,
                    "text_bytes": stats.bytes,
                    "shard_bytes": stats.tokens * dtype.itemsize,
                    "seconds": time.perf_counter() - began,
                }
            )
    return rows
