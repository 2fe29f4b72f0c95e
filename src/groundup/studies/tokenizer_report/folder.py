"""The folder that a tokenizer report is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from groundup.errors import ConfigError, DataError
from groundup.studies.tokenizer_report.measure import FORMAT, Report
from groundup.studies.tokenizer_report.tables import markdown
from groundup.system.files import write_atomically
from groundup.tokenizer.tokenizer import Tokenizer

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "report.json", "report.md", "report.png"
TOKENIZERS_FOLDER, SHARDS_FOLDER = "tokenizers", "shards"


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
            f"{out} holds something that is no report ({held[0]}{', …' if held[1:] else ''}), and is left alone; "
            "choose another --out"
        )
    if held and not overwrite:
        raise DataError(f"{out} holds a report already; choose another --out, or replace it with --overwrite")


def write(report: Report, tokenizers: Mapping[str, Tokenizer], out: Path, *, plot: bool = True) -> None:
    """Writes report.json, report.md, report.png and the tokenizers that were trained into a folder.

    A report that is there is replaced, and so are tokenizers of the same names; all else is left as it is.

    Raises:
        MissingExtraError: matplotlib is needed for the picture and not installed; the rest is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / PLOT_FILE).unlink(missing_ok=True)
    # First, since the others take it for the mark of a folder that may be written to.
    write_atomically(out / JSON_FILE, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
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
