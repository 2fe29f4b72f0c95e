"""`groundup runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.errors import ConfigError

_SHOWN = ("run", "status", "val_loss", "val_bpb", "steps", "tokens", "seconds", "tags")
_WITH_PARENT = (*_SHOWN[:-1], "parent", "tags")


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
    """List runs: filter, sort, tag, export.

    groundup runs --filter "d_model >= 256 and status = finished" --sort val_loss

    Args:
        sort: a column or an option; runs without it come last.
        descending: highest first.
        filter_text: comparisons of columns and options, with = != < <= > >= and ~ (contains), joined by and, or.
        columns: more columns, separated by commas: options such as d_model, or device, commit, flops.
        tag: RUN TAG: add a tag to a run. It is stored in the run directory.
        untag: RUN TAG: remove a tag.
        csv: write all columns and options of the runs into this file.
        rebuild: build the index again. It holds nothing that the runs do not.
        json_output: print JSON instead of a table.
        runs_dir: folder of the runs; index.sqlite is kept there.
    """
    from groundup.config.expressions import resolve
    from groundup.display.console import make_console, print_section
    from groundup.reports.run_list import as_csv, column_names, list_runs, runs_section, tag_run
    from groundup.system.files import write_atomically

    console = make_console()
    for pair, remove in ((tag, False), (untag, True)):
        if pair is not None:
            inside = runs_dir / pair[0]
            tags = tag_run(inside if inside.is_dir() else Path(pair[0]), pair[1], remove=remove)
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
    first = _WITH_PARENT if any(row["parent"] for row in rows) else _SHOWN
    shown = [*first, *(resolve(name.strip(), names) for name in columns.split(",") if name.strip())]
    if sort not in shown and rows:
        shown.append(resolve(sort, names))
    section = runs_section(rows, list(dict.fromkeys(shown)), runs_dir)
    if not rows:
        console.print(section.title, markup=False)
        return
    print_section(console, *section)
    for row in rows:
        if row["status"] not in ("diverged", "stopped") and row["problem"]:
            console.print(f"{row['run']}: {row['problem']}", markup=False)
