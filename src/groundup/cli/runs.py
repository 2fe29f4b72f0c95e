"""`groundup runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.display.units import count_text, time_text
from groundup.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = ("run", "status", "val_loss", "val_bpb", "steps", "tokens", "seconds", "tags")


def runs(arguments: list[str]) -> None:
    """Parse and run."""
    call(_runs, arguments, "runs")


def _runs(
    *,
    sort: str = "run",
    descending: bool = False,
    filter_text: Annotated[str, arg(name="filter")] = "",
    columns: str = "",
    tag: tuple[str, str] | None = None,
    untag: tuple[str, str] | None = None,
    csv: Path | None = None,
    rebuild: bool = False,
    json_output: Annotated[bool, arg(name="json")] = False,
    runs_dir: Path = Path("runs"),
) -> None:
    """List the runs, and find them again: filter, sort, tag, export.

    groundup runs --filter "d_model >= 256 and status = finished" --sort val_loss

    Args:
        sort: a column or an option; runs without it come last.
        descending: the highest first.
        filter_text: conditions on columns and options: = != < <= > >= and ~ (contains), joined by and, or.
        columns: more columns to show, separated by commas: options such as d_model, or device, commit, flops.
        tag: RUN TAG: add a tag to a run. It is kept in the run.
        untag: RUN TAG: take it off.
        csv: write all columns and options of the runs into this file.
        rebuild: make the index anew. It holds nothing that the runs do not.
        json_output: print JSON instead of a table.
        runs_dir: where the runs are; index.sqlite is kept there.
    """
    from groundup.display.console import make_console
    from groundup.reports.run_filter import resolve
    from groundup.reports.run_list import as_csv, column_names, list_runs, tag_run
    from groundup.system.files import write_atomically

    console = make_console()
    for pair, remove in ((tag, False), (untag, True)):
        if pair is not None:
            inside = runs_dir / pair[0]
            place = inside if inside.is_dir() else Path(pair[0])
            tags = tag_run(place, pair[1], remove=remove)
            console.print(f"{pair[0]}: {', '.join(tags) or 'no tags'}", markup=False)
    if tag is not None or untag is not None:
        return
    rows = list_runs(runs_dir, filter_text=filter_text, sort=sort, descending=descending, rebuild=rebuild)
    if csv is not None:
        if csv.is_dir():
            raise ConfigError(f"--csv {csv} is a folder; expected a file")
        write_atomically(csv, as_csv(rows))
        console.print(f"{len(rows):,} runs written into {csv}", markup=False)
        return
    if json_output:
        print(json.dumps(rows, indent=1))
        return
    names = column_names(rows)
    shown = [*_SHOWN, *(resolve(name.strip(), names) for name in columns.split(",") if name.strip())]
    if sort not in shown and rows:
        shown.append(resolve(sort, names))
    _print(console, rows, list(dict.fromkeys(shown)), str(runs_dir))


def _print(console: Console, rows: list[dict[str, Any]], shown: list[str], where: str) -> None:
    from groundup.display.console import print_section

    table = [tuple(_text(name, row.get(name)) for name in shown) for row in rows]
    title = f"{len(rows):,} run{'' if len(rows) == 1 else 's'} in {where}"
    header = tuple("time" if name == "seconds" else name.rpartition(".")[2] for name in shown)
    if not table:
        console.print(title, markup=False)
        return
    print_section(console, title, header, table)
    for row in rows:
        if row["status"] not in ("diverged", "stopped") and row["problem"]:
            console.print(f"{row['run']}: {row['problem']}", markup=False)


def _text(name: str, value: Any) -> str:
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
