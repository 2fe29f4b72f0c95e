"""The built-in stories: endless, reproducible text to try everything without a download.

They follow TinyStories (Eldan & Li 2023): a small vocabulary, and plots in which events have causes. Grammar, words and
plots are groundup's own. A plot is a script of beats (``screenplay``), each of which can be told in several ways. Its
cast is chosen at random (``casting``). Characters keep their pronouns, things that are mentioned early matter later,
and feelings follow from events.

Story i of a seed is a function of (seed, i) alone: the same bytes on every machine and Python version.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from groundup.config import END_OF_TEXT
from groundup.errors import DataError
from groundup.system.files import atomic_writer
from groundup.text.stories.casting import Cast
from groundup.text.stories.plots import PLOTS


@dataclass(frozen=True, kw_only=True)
class StoryStats:
    """Statistics of a file that ``write_stories`` wrote."""

    stories: int
    bytes: int
    """Size of the file, separators included."""
    words: int


def story(seed: int, index: int) -> str:
    """Story ``index`` of ``seed``: 80 to 250 words (a few have more), paragraphs separated by an empty line.

    Raises:
        DataError: ``seed`` or ``index`` is negative or not below 2^64.
    """
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 1 << 64:
            raise DataError(f"{name} = {value} is outside 0 to 2^64 - 1; choose one inside")
    # Python guarantees only that seeding with an integer and random() never change.
    teller = Cast(Random(seed << 64 | index).random)
    plot = teller.choose(PLOTS)
    plot.cast(teller)
    teller.tell(plot.script)
    return teller.finish()


def stories(seed: int = 0) -> Iterator[str]:
    """Endless iterator over ``story(seed, 0)``, ``story(seed, 1)``, …"""
    return (story(seed, index) for index in count())


def _check_room(path: Path, size_bytes: int) -> None:
    """Raise DataError if the disk has no room for the file, before hours of writing."""
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    free = shutil.disk_usage(path.parent).free
    if size_bytes > free:
        raise DataError(
            f"{path} cannot be written: it needs {size_bytes:,} bytes, but {free:,} are free on the disk; ask for "
            "fewer bytes, or choose another disk"
        )


def write_stories(path: str | Path, size_bytes: int, seed: int = 0, separator: str = END_OF_TEXT) -> StoryStats:
    """Write the first stories of ``seed`` to a text file, each followed by a line with ``separator``.

    ``text.readers`` reads the same stories back. The file appears when it is complete. It ends with the story that
    reaches ``size_bytes``, so it is larger by less than one story.

    Raises:
        DataError: ``size_bytes`` is not positive or exceeds the free disk space, ``separator`` is empty, or the file
            cannot be written.
    """
    if size_bytes < 1:
        raise DataError(f"size_bytes = {size_bytes}; expected at least 1, or 5,000,000 to train a small model")
    if not separator:
        raise DataError("the separator is empty; expected a token to write after each story, such as <|endoftext|>")
    path, end = Path(path), f"\n{separator}\n"
    written = words = number = 0
    try:
        _check_room(path, size_bytes)
        with atomic_writer(path) as file:
            while written < size_bytes:
                text = story(seed, number)
                written += file.write((text + end).encode())
                words += len(text.split())
                number += 1
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; check the folder, and the space on the disk"
        ) from None
    return StoryStats(stories=number, bytes=written, words=words)
