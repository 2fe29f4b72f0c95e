"""List of all runs below a folder, cached in an SQLite file.

The file holds nothing that the run directories do not, so it may be deleted at any time.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundup.account.flops import count_flops
from groundup.config.expressions import Filter, resolve
from groundup.display.section import Section
from groundup.display.units import count_text, time_text
from groundup.errors import ConfigError, DataError, FileMissingError
from groundup.record.read import Run, find_runs, is_run, read_run, read_tags
from groundup.record.sweep import is_sweep, latest_results
from groundup.reports.settings import apply_result
from groundup.system.files import why, write_atomically

_VERSION = 4
_FILES = ("config.toml", "metrics.jsonl", "summary.json", "environment.json", "tags.json")
COLUMNS = (
    "run", "name", "sweep", "variant", "status", "seed", "val_loss", "val_bpb", "train_loss", "best_val_loss", "steps",
    "tokens", "seconds", "tokens_per_second", "flops", "parameters", "parent", "device", "commit", "tags", "problem",
)  # fmt: skip
"""The columns of every run, besides its options."""

Row = dict[str, Any]


def list_runs(
    folder: Path,
    *,
    filter_text: str = "",
    sort: str = "run",
    descending: bool = False,
    rebuild: bool = False,
) -> list[Row]:
    """Runs below a folder, with columns and, by dotted name, options. Runs without the value to sort by come last.

    Args:
        filter_text: see :class:`groundup.config.expressions.Filter`.
        rebuild: build the index again.

    Raises:
        FileMissingError: the folder does not exist.
        ConfigError: an invalid filter or an unknown column.
    """
    rows = refresh(folder, rebuild=rebuild)
    names = column_names(rows)
    if filter_text:
        holds = Filter(filter_text, names)
        rows = [row for row in rows if holds(row)]
    column = resolve(sort, names)
    present = [row for row in rows if row.get(column) is not None]
    present.sort(key=lambda row: _sortable(row[column]), reverse=descending)
    return present + [row for row in rows if row.get(column) is None]


def column_names(rows: Iterable[Row]) -> list[str]:
    """All columns, and the options of any of the runs."""
    return [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]


def refresh(folder: Path, *, rebuild: bool = False) -> list[Row]:
    """Update ``index.sqlite``, reading only the run directories that have changed.

    If the folder is not writable, the index is kept in memory.

    Raises:
        FileMissingError: the folder does not exist.
    """
    if not os.path.isdir(folder):
        raise FileMissingError(f"no folder {folder}; expected one with runs, such as runs")
    file = folder / "index.sqlite"
    if rebuild:
        file.unlink(missing_ok=True)
    try:
        return _refresh(folder, str(file))
    except sqlite3.OperationalError:  # read-only, or the disk is full
        return _refresh(folder, ":memory:")
    except sqlite3.DatabaseError:  # damaged: build it again
        file.unlink(missing_ok=True)
        return _refresh(folder, str(file))


def _refresh(folder: Path, file: str) -> list[Row]:
    results: dict[Path, dict[str, Any]] = {}
    for here, _, _ in os.walk(folder):  # os.walk skips folders that vanish or cannot be read
        if is_sweep(Path(here)):
            for line in latest_results(Path(here))[0]:
                results[Path(here, str(line.get("run") or line.get("trial")))] = line
    database = sqlite3.connect(file, timeout=30)
    try:
        with database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                database.execute("DROP TABLE IF EXISTS runs")
                database.execute("CREATE TABLE runs (path BLOB PRIMARY KEY, stamp TEXT NOT NULL, row TEXT NOT NULL)")
                database.execute(f"PRAGMA user_version = {_VERSION}")
            found = database.execute("SELECT path, stamp, row FROM runs")
            known = {path: (stamp, row) for path, stamp, row in found if isinstance(row, str)}
            rows: dict[bytes, tuple[str, str]] = {}
            for place in find_runs(folder, into_sweeps=True):
                path, result = os.fsencode(place.relative_to(folder)), results.get(place)
                stamp = _stamp(place, result)
                if path in known and known[path][0] == _sealed(stamp, known[path][1]):
                    rows[path] = known[path]
                else:
                    row = json.dumps(_row(folder, place, result))
                    rows[path] = _sealed(stamp, row), row
            database.executemany("DELETE FROM runs WHERE path = ?", [(path,) for path in known.keys() - rows.keys()])
            changed = [(path, *row) for path, row in rows.items() if known.get(path) != row]
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", changed)
    finally:
        database.close()
    return [json.loads(row) for _, row in rows.values()]


def _parent(run: Run, folder: Path) -> str | None:
    """The checkpoint that a run began with, as RUN@STEP, named as the list names its runs; None without one."""
    path, root = Path(run.parent), folder.absolute()
    return (str(path.relative_to(root)) if path.is_relative_to(root) else run.parent) or None


def _stamp(place: Path, result: dict[str, Any] | None) -> str:
    """A fingerprint of the run's files and result."""
    found: list[Any] = [result]
    for name in _FILES:
        try:
            status = (place / name).stat()
            found.append([status.st_mtime_ns, status.st_size])
        except OSError:
            found.append(None)
    return json.dumps(found)


def _sealed(stamp: str, row: str) -> str:
    """The stamp with a checksum of the row, so that a damaged index cannot show a wrong loss."""
    return f"{zlib.crc32(row.encode()):08x} {stamp}"


def _row(folder: Path, place: Path, result: dict[str, Any] | None) -> Row:
    run = read_run(place, curves=False, count_flops=count_flops)
    if result is not None:
        run = apply_result(run, result)
    git = run.environment.get("git")
    values: Row = {
        "run": str(place.relative_to(folder)),
        "name": run.name,
        "sweep": place.parent.name if is_sweep(place.parent) else None,
        "variant": run.variant or None,
        "status": run.status,
        "seed": run.options.get("train.seed"),
        "parent": _parent(run, folder),
        "device": run.environment.get("device_name"),
        "commit": str(git.get("commit"))[:12] if isinstance(git, dict) else None,
        "tags": run.tags,
        "problem": run.problem or None,
    }
    values |= {name: run.figures.get(name) for name in COLUMNS if name not in values}
    options = {name: value for name, value in run.options.items() if name not in values and _is_plain(value)}
    return {name: values[name] for name in COLUMNS} | options


def tag_run(run: Run | Path, tag: str, *, remove: bool = False) -> list[str]:
    """Add or remove a tag of a run, in its ``tags.json``; returns its tags.

    Raises:
        ConfigError: the tag is empty, or the run does not have it.
        FileMissingError: the run does not exist.
        DataError: its tags are damaged.
    """
    place = run.path if isinstance(run, Run) else run
    if not is_run(place):
        raise FileMissingError(f"no run {place}; `groundup runs` lists them")
    try:
        tags, tag = read_tags(place), tag.strip()
    except (OSError, ValueError) as error:  # overwriting it would lose its tags
        raise DataError(f"{place / 'tags.json'} cannot be read: {why(error)}; restore it, or delete it") from None
    if not tag:
        raise ConfigError("a tag is empty; expected a word")
    if remove and tag not in tags:
        raise ConfigError(f"{place} has no tag {tag!r}; it has {', '.join(tags) or 'none'}")
    tags = [other for other in tags if other != tag] if remove else sorted({*tags, tag})
    write_atomically(place / "tags.json", json.dumps(tags, ensure_ascii=False) + "\n")
    return tags


def as_csv(rows: Sequence[Row]) -> str:
    """All columns and options of runs as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, column_names(rows), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"tags": " ".join(row["tags"])})
    return file.getvalue()


def _cell_text(name: str, value: Any) -> str:
    """The text of a column or option in a table for the terminal."""
    if value is None:
        return ""
    if name == "seconds":
        return time_text(value)
    if name == "tokens":
        return count_text(value)
    if name.startswith(("val_", "train_l", "best_")):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def runs_section(rows: Sequence[Row], columns: Sequence[str], folder: Path) -> Section:
    """A table of runs for the terminal."""
    header = tuple("time" if name == "seconds" else name.rpartition(".")[2] for name in columns)
    table = [tuple(_cell_text(name, row.get(name)) for name in columns) for row in rows]
    return Section(f"{len(rows):,} run{'' if len(rows) == 1 else 's'} in {folder}", header, table)


def _sortable(value: Any) -> tuple[Any, ...]:
    number = isinstance(value, int | float)
    return (0, value, "") if number else (1, 0, ", ".join(value) if isinstance(value, list) else str(value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
