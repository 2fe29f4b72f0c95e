"""`groundup stories`."""

from __future__ import annotations

import math
from pathlib import Path

from groundup.cli.parse import call
from groundup.config import END_OF_TEXT
from groundup.display.units import size_text


def stories(arguments: list[str]) -> None:
    """Parse and run."""
    call(_stories, arguments, "stories")


def _stories(
    out: Path | None = None,
    /,
    *,
    megabytes: float = 5.0,
    seed: int = 0,
    show: int = 3,
    overwrite: bool = False,
) -> None:
    """Write the built-in stories to a file, or show a few. The same seed writes the same bytes everywhere.

    Args:
        out: text file to write; without it, stories are printed instead.
        megabytes: approximate size of the file, in MB of 1,000,000 bytes.
        seed: seed of the stories.
        show: number of stories to show if no file is named.
        overwrite: replace the file if it exists.
    """
    from groundup.errors import ConfigError, DataError
    from groundup.text.stories import story, write_stories

    if not (0 < megabytes < math.inf and show > 0):
        raise ConfigError(f"--megabytes {megabytes} --show {show}; expected positive numbers")
    if out is not None and out.is_file() and not overwrite:
        raise DataError(f"{out} exists already; choose another file, or replace it with --overwrite")
    if out is None:
        print("\n\n—\n\n".join(story(seed, i) for i in range(show)))
        return
    stats = write_stories(out, int(megabytes * 1e6), seed=seed, separator=END_OF_TEXT)
    print(f"{out}: {stats.stories:,} stories, {size_text(stats.bytes)}")
