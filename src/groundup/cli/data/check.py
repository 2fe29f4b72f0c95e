"""`groundup data check`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from groundup.cli.parse import call
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.errors import DataError


def check(arguments: list[str]) -> int:
    """Parse and run; return 2 if the data set has a fault."""
    return call(_check, arguments, "data check")


def _check(path: Path, /, *, json_output: bool = False) -> int:
    """Read a whole data set and compare it with its index: sizes, hashes, ids, documents, tokenizer.

    Prints every fault, and exits with code 2 if there is one. `groundup encode` with the same arguments repairs files
    that are missing or have a wrong size; to have a file with a wrong hash repaired, delete it first.

    Args:
        path: folder of token shards.
        json_output: print one JSON object instead.
    """
    from groundup.data.check import check_data_set

    console = make_console()
    with progress_bar(console) as progress:
        faults = check_data_set(path, progress)
    if json_output:
        print(json.dumps({"path": str(path), "faults": [fault._asdict() for fault in faults]}))
        return 2 if faults else 0
    if not faults:
        console.print(Text(f"{path}: sound; every file is what {path / 'index.json'} says"), soft_wrap=True)
        return 0
    for fault in faults[1:]:
        console.print(Text(fault.reason), soft_wrap=True)
    raise DataError(faults[0].reason)
