"""Strict readers of files of ours and of TOML: every fault is an OSError or a ValueError.

A FIFO would wait for a writer, a device need not end, and tomllib raises RecursionError for deep nesting: none of that
reaches a caller. JSON is read by :mod:`groundup.system.files` and :mod:`groundup.record`.
"""

import errno
import os
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read bytes.

    Raises:
        OSError: it is missing, a folder, cannot be read, or is a FIFO, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(path, "rb")


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as :func:`open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Return the text of a regular file in UTF-8; a byte order mark at its beginning is dropped.

    Args:
        errors: "surrogateescape" where names of files may stand as bytes that are not UTF-8.

    Raises:
        OSError: as :func:`open_regular`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig", errors)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML document.

    Raises:
        ValueError: it is not TOML, nests too deeply, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def why(error: Exception) -> str:
    """Return the reason of an OSError or ValueError, without the name of the file."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
