"""Input files: paths, folders and streams, in an order that depends on the names alone."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from groundup.errors import DataError, FileMissingError

STANDARD_INPUT = "-"

Inputs: TypeAlias = str | Path | Sequence[str | Path]
Kind: TypeAlias = Literal["txt", "jsonl", "json", "parquet"]

_KINDS: dict[str, Kind] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_COMPRESSIONS = (".gz", ".zst")
_EXPECTED = ".txt, .jsonl, .ndjson, .json (each also with .gz or .zst) or .parquet"
_NAMED_LEFT_OUT = 5


class Found(NamedTuple):
    """Files of the inputs."""

    files: list[Path]
    left_out: list[tuple[Path, str]]
    """Files and folders inside input folders that are not read, each with the reason."""


def find_files(inputs: Inputs, *, any_suffix: bool = False) -> Found:
    """The files of ``inputs`` in reading order. Each exists, is not empty and has a known format.

    A folder means the files in it and its sub-folders with a known suffix, sorted at every level. A folder that is
    reached a second time, through a link, is not read again. Data sets and tokenizers that groundup wrote are left out.
    ``.json`` files are read only if named, because most of those in a folder of text are metadata.

    Args:
        any_suffix: accept named files with any suffix.

    Raises:
        FileMissingError: an input, or the target of a link, does not exist.
        DataError: an input is empty or a device, cannot be read, or has an unknown suffix.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    found = Found([], [])
    for path in map(Path, inputs):
        if str(path) == STANDARD_INPUT:
            found.files.append(path)
            continue
        if "\0" in str(path):
            raise DataError(f"{str(path)!r} contains a NUL character; expected a path without one: check the path")
        with file_errors(path):
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                _walk(path, found)
            else:
                _check_named(path, status, any_suffix)
                found.files.append(path)
    if not found.files:
        raise DataError(f"no input is given; give at least one file: {_EXPECTED}, or - for standard input")
    if sum(str(path) == STANDARD_INPUT for path in found.files) > 1:
        raise DataError("standard input (-) is given more than once, but can be read only once; give it once")
    return found


def format_of(path: Path) -> tuple[Kind, str] | None:
    """Format and compression by the suffix: ``("jsonl", ".gz")`` for ``a.jsonl.gz``; None for an unknown suffix."""
    name, compression = path.name.lower(), ""
    for suffix in _COMPRESSIONS:
        if name.endswith(suffix):
            name, compression = name.removesuffix(suffix), suffix
    kind = next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), None)
    return None if kind is None or (kind == "parquet" and compression) else (kind, compression)


def is_stream(path: Path) -> bool:
    """Whether an input can be read only once: standard input or a named pipe."""
    return str(path) == STANDARD_INPUT or path.is_fifo()


def left_out_line(left_out: Sequence[tuple[Path, str]]) -> str:
    """One line on the files in folders that are not read; empty without any."""
    if not left_out:
        return ""
    folder = Path(os.path.commonpath([path.parent for path, _ in left_out]))
    named = [f"{path.relative_to(folder)} ({reason})" for path, reason in left_out[:_NAMED_LEFT_OUT]]
    if len(left_out) > len(named):
        named.append(f"and {len(left_out) - len(named)} more")
    return " ".join(f"left out {len(left_out)} in {folder}/: {', '.join(named)}".split())


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into a FileMissingError or DataError of one line."""
    try:
        yield
    except FileMissingError:
        raise
    except FileNotFoundError:
        if path.is_symlink():
            message = f"{path} is a link to {os.readlink(path)}, which does not exist; fix or remove the link"
        else:
            message = f"{path} does not exist; check the path (the current folder is {Path.cwd()})"
        raise FileMissingError(message) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from None


def _walk(folder: Path, found: Found) -> None:
    seen: dict[tuple[int, int], Path] = {}
    files_before, left_out_before = len(found.files), len(found.left_out)
    pending = [folder]
    while pending:
        path = pending.pop()
        if path != folder and path.name.startswith("."):
            found.left_out.append((path, "hidden"))
            continue
        with file_errors(path):
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                reason = _reason_to_leave_out(path, status)
                if reason:
                    found.left_out.append((path, reason))
                else:
                    found.files.append(path)
                continue
            first = seen.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                found.left_out.append((path, f"the same folder as {first}"))
                continue
            inside = sorted(path.iterdir(), reverse=True)
            if path != folder and (ours := _of_ours({entry.name for entry in inside})):
                found.left_out.append((path, ours))
                continue
            pending += inside
    if len(found.files) == files_before:
        left_out = left_out_line(found.left_out[left_out_before:])
        raise DataError(
            f"{folder} contains no text files; expected files ending in {_EXPECTED}"
            + (f"; {left_out}" if left_out else "")
        )


def _of_ours(names: set[str]) -> str:
    """Name of a kind of folder that groundup writes, by its file names; empty for other folders."""
    if names & {"index.json", "progress.json"} and any(name.startswith("shard-") for name in names):
        return "a token data set"
    return "a tokenizer" if {"vocab.json", "merges.txt"} <= names else ""


def _reason_to_leave_out(path: Path, status: os.stat_result) -> str:
    known = format_of(path)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if known is None:
        return "no known suffix"
    if known[0] == "json":
        return ".json is read only if named"
    return "" if status.st_size else "empty"


def _check_named(path: Path, status: os.stat_result, any_suffix: bool) -> None:
    if stat.S_ISFIFO(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is a device or socket; expected a file, a folder, a pipe, or - for standard input")
    if status.st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); give a file with text, or leave it out")
    if format_of(path) is None and not any_suffix:
        raise DataError(
            f"{path}: cannot tell the format from the suffix {''.join(path.suffixes[-2:]) or '(none)'}; expected "
            f"{_EXPECTED}; rename it, name the format with --format, or send it through standard input with -"
        )
