"""`groundup data info`, `groundup data check` and `groundup data show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundup.cli.parse import call
from groundup.display.console import make_console, print_pairs
from groundup.display.progress import progress_bar
from groundup.display.units import size_text

if TYPE_CHECKING:
    from groundup.data.document import Document

_INPUTS_SHOWN = 20
_OTHER_COLUMNS = 54
"""Width of sizes, counts and hashes beside the name of an input."""
_TOKEN_COLORS = ("black on #bcd9ff", "black on #ffd9a8")  # told apart by people who cannot tell red from green


def info(arguments: list[str]) -> None:
    """Parse and run."""
    call(_info, arguments, "data info")


def check(arguments: list[str]) -> int:
    """Parse and run; 2 where something is wrong."""
    return call(_check, arguments, "data check")


def show(arguments: list[str]) -> None:
    """Parse and run."""
    call(_show, arguments, "data show")


def _info(path: Path, /, *, json_output: bool = False) -> None:
    """Show what a data set holds and how it was made.

    Args:
        path: folder of token shards, finished or not, or a .npy file of token ids.
        json_output: print one JSON object instead, with every input and shard.
    """
    from groundup.data.describe import describe

    found = describe(path)
    if json_output:
        print(json.dumps(found))
        return
    console = make_console()
    print_pairs(console, _facts(found))
    inputs = found.get("inputs", [])
    if inputs:
        console.print()
        console.print(_input_table(inputs[:_INPUTS_SHOWN], console.width))
        if len(inputs) > _INPUTS_SHOWN:
            console.print(Text(f"and {len(inputs) - _INPUTS_SHOWN:,} more; --json-output lists all", style="dim"))
    for note in found.get("notes", []):
        console.print(Text(f"note: {note}", style="dim"))


def _check(path: Path, /, *, json_output: bool = False) -> int:
    """Read a whole data set and compare it with its index: sizes, hashes, ids, documents, tokenizer.

    Prints every fault, and exits with code 2 if there is one. `groundup encode` with the same arguments makes files
    again that are gone or have a wrong size; delete a file that has a wrong hash to have it made again.

    Args:
        path: folder of token shards.
        json_output: print one JSON object instead.
    """
    from groundup.data.check import check_data_set
    from groundup.errors import DataError

    console = make_console()
    with progress_bar(console) as update:
        faults = check_data_set(path, lambda done, total: update("checking", done, total))
    if json_output:
        print(json.dumps({"path": str(path), "faults": [fault._asdict() for fault in faults]}))
        return 2 if faults else 0
    if not faults:
        console.print(Text(f"{path}: sound; every file is what {path / 'index.json'} says"), soft_wrap=True)
        return 0
    for fault in faults[1:]:
        console.print(Text(fault.reason), soft_wrap=True)
    raise DataError(faults[0].reason)


def _show(path: Path, number: int = 0, /, *, ids: bool = False) -> None:
    """Show one document as text, with its tokens in alternating colours.

    Where output goes to a file or pipe, one token a line: its id, and its text quoted.

    Args:
        path: folder of token shards.
        number: which document, from 0; -1 is the last.
        ids: one token a line also on a terminal.
    """
    from groundup.data.document import read_document

    console = make_console()
    document = read_document(path, number)
    if ids or not console.is_terminal:
        for piece in document.pieces:
            shown = piece.text if piece.is_special else repr(piece.text)
            print(f"{' '.join(map(str, piece.ids)):>7}  {shown}")
        return
    _print_document(console, path, document)


def _print_document(console: Console, path: Path, document: Document) -> None:
    heading = (
        f"{path}: document {document.number:,} of {document.documents:,}, {document.tokens:,} tokens from "
        f"{document.start:,} on"
    )
    console.print(Text(heading, style="dim"))
    text = Text()
    for place, piece in enumerate(document.pieces):
        style = "bold reverse" if piece.is_special else _TOKEN_COLORS[place % 2]
        # A token that is a line break would show no colour at all.
        text.append(_visible(piece.text), style=style)
    console.print(text, soft_wrap=False)


def _visible(text: str) -> str:
    shown = "".join(c if c.isprintable() or c == "\n" else "\t" if c == "\t" else "\ufffd" for c in text)
    return shown.replace("\t", "⇥   ").replace("\n", "⏎\n")


def _facts(found: dict[str, Any]) -> dict[str, object]:
    """Names and values for a person."""
    facts: dict[str, object] = {"data set": found["path"]}
    if found["state"] == "unfinished":
        facts["state"] = "unfinished: run the same encode command again"
    if "documents" in found:
        empty = f", {found['empty_documents']:,} empty ones dropped" if found["empty_documents"] else ""
        mean = f", {found['tokens_per_document']:,} tokens each on average" if found["tokens_per_document"] else ""
        facts["documents"] = f"{found['documents']:,}{mean}{empty}"
    facts["tokens"] = f"{found['tokens']:,} as {found['dtype']}, {size_text(found['bytes_on_disk'])}"
    if "shards" not in found:
        return facts | {"SHA-256": found["sha256"]}
    if found["bytes_per_token"]:
        facts["text"] = f"{size_text(found['bytes'])}, {found['bytes_per_token']:.2f} bytes a token"
    facts["shards"] = f"{len(found['shards']):,} of up to {found['shard_tokens'] or 0:,} tokens"
    facts["tokenizer"] = _tokenizer_fact(found)
    if found["separator"]:
        facts["separator"] = f"{found['separator']['token']} = {found['separator']['id']}"
    facts["special tokens"] = _special_fact(found)
    options = {"field": found["field"]} | found["reading"]
    facts["read with"] = ", ".join(f"{name} = {value!r}" for name, value in options.items() if value is not None)
    if found["skipped_rows"]:
        facts["skipped rows"] = f"{found['skipped_rows']:,}"
    if found["left_out"]:
        facts["left out"] = ", ".join(found["left_out"])
    facts["made by"] = f"groundup {found['groundup'] or '0.1'}"
    if "sha256" in found:
        facts["SHA-256"] = found["sha256"]
    return facts


def _tokenizer_fact(found: dict[str, Any]) -> str:
    tokenizer = found.get("tokenizer") or {}
    if "problem" in tokenizer:
        return f"damaged: {tokenizer['problem']}"
    about = f", pattern {tokenizer['pattern']}" if tokenizer else ""
    return f"{found['vocab_size']:,} ids{about}, SHA-256 {found['tokenizer_sha256'][:12]}…"


def _special_fact(found: dict[str, Any]) -> str:
    taken = {"text": "taken as text", "encode": "encoded as special tokens", "error": "not allowed"}
    mode = f"names in documents {taken.get(found['special_tokens'], found['special_tokens'])}"
    met = found["special_tokens_met"]
    if met is None:
        return mode
    return f"{mode}; met: " + (", ".join(f"{name} × {count:,}" for name, count in met.items()) or "none")


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
