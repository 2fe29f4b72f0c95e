"""Command lines for messages and reports, quoted so that they can be pasted into a shell."""

import os
import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """Return a `groundup` command line, quoted where a shell needs it.

    A path that begins with a dash is written ``./-x``, so that it is not parsed as an option. A word with unprintable
    characters, such as escape codes or bytes that are not UTF-8, is written as a call of printf.
    """
    written = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    return " ".join(map(quoted, ["groundup", *written]))


def quoted(word: str) -> str:
    """Return a word of a command line as a shell reads it."""
    if word.replace("\n", "").isprintable():
        return shlex.quote(word)
    shown = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\0{b:03o}" for b in os.fsencode(word))
    return f"\"$(printf '%b' '{''.join(shown)}')\""
