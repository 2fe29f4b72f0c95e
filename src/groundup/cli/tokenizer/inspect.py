"""`groundup tokenizer inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console, print_pairs
from groundup.errors import ConfigError


def inspect(arguments: list[str]) -> None:
    """Parse and run."""
    call(_inspect, arguments, "tokenizer inspect")


def _inspect(
    tokenizer: Path,
    /,
    *,
    text: Path | None = None,
    longest: int = 20,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    json_output: bool = False,
) -> None:
    """Show a tokenizer: size, special tokens, longest tokens; on a text also compression and speed.

    Args:
        tokenizer: folder of a tokenizer, or a run directory's tokenizer/.
        text: text to encode, to measure bytes per token and MB/s on it (single thread).
        longest: number of longest tokens to show.
        separator: token between the documents of the text.
        json_output: print one JSON object instead of tables.
    """
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.describe import facts_of, longest_tokens, measure_on_text

    if longest < 0:
        raise ConfigError(f"--longest {longest}; expected 0 or more")
    loaded = Tokenizer.load(tokenizer)
    facts = facts_of(loaded)
    if text is not None:
        facts |= measure_on_text(loaded, text, separator, read)
    tokens = longest_tokens(loaded, longest)
    if json_output:
        print(json.dumps(facts | {"longest_tokens": tokens}))
        return
    console = make_console()
    print_pairs(console, {name.replace("_", " "): _readable(value) for name, value in facts.items()})
    table = Table(title="longest tokens", title_justify="left", box=None, padding=(0, 2))
    for column in ("bytes", "id"):
        table.add_column(column, justify="right")
    table.add_column("token")
    for token in tokens:
        table.add_row(str(token["bytes"]), str(token["id"]), Text(repr(token["text"])))
    console.print(table)


def _readable(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
