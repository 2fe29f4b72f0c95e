"""`groundup data info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from groundup.cli.parse import call
from groundup.display.console import make_console, print_pairs
from groundup.display.units import size_text

_INPUTS_SHOWN = 20
_OTHER_COLUMNS = 54
"""Width of sizes, counts and hashes beside the name of an input."""


def info(arguments: list[str]) -> None:
    """Parse and run."""
    call(_info, arguments, "data info")


def _info(path: Path, /, *, json_output: bool = False) -> None:
    """Show what a data set holds and how it was made.

    Args:
        path: folder of token shards, finished or not, or a .npy file of token ids.
        json_output: print one JSON object instead, with every input and shard.
    """
    from groundup.data.describe import describe, facts

    found = describe(path)
    if json_output:
        print(json.dumps(found))
        return
    console = make_console()
    print_pairs(console, facts(found))
    inputs = found.get("inputs", [])
    if inputs:
        console.print()
        console.print(_input_table(inputs[:_INPUTS_SHOWN], console.width))
        if len(inputs) > _INPUTS_SHOWN:
            console.print(Text(f"and {len(inputs) - _INPUTS_SHOWN:,} more; --json-output lists all", style="dim"))
    for note in found.get("notes", []):
        console.print(Text(f"note: {note}", style="dim"))


def _input_table(inputs: list[dict[str, Any]], width: int) -> Table:
    """Names are cut where they do not fit; numbers and hashes never are."""
    longest = max(width - _OTHER_COLUMNS, 12)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("input", no_wrap=True, style="bold")
    for name in ("size", "documents", "text"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("SHA-256 of text", no_wrap=True)
    for source in inputs:
        name, *facts = _input_row(source)
        table.add_row(*map(Text, (name if len(name) <= longest else f"{name[: longest - 1]}…", *facts)))
    return table


def _input_row(source: dict[str, Any]) -> tuple[str, ...]:
    size = size_text(source["bytes"]) if "bytes" in source else ""
    if "text_sha256" not in source:
        return source["name"], size, "", "", "not recorded"
    documents, text = f"{source['documents']:,}", size_text(source["text_bytes"])
    return source["name"], size, documents, text, source["text_sha256"][:12] + "…"
