"""Commands that messages and reports print: they must do what they say when they are pasted into a shell."""

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """Return a `groundup` command line, quoted where a shell needs it.

    A path that begins with a dash is written ``./-x``, or it would be taken for an option.
    """
    written = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    return shlex.join(["groundup", *written])
