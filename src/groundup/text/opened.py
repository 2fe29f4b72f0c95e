"""An input as a stream of UTF-8, with the format that its suffix and its first bytes tell."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from groundup.errors import DataError
from groundup.text import sniff
from groundup.text.encodings import Transcoded
from groundup.text.files import STANDARD_INPUT, Kind, file_errors, format_of, is_stream
from groundup.text.formats import open_stream
from groundup.text.options import ReadOptions

_BUFFER_BYTES = 1 << 20


@dataclass
class OpenedInput:
    """An input that is ready to be read."""

    kind: Kind
    stream: BinaryIO
    """Text as UTF-8; for parquet the file, in which one can seek."""
    position: Callable[[], int]
    """How many bytes of the input have been read."""
    is_array: bool
    """Whether a JSON text is one array, and not one row a line."""
    is_plain: bool
    """Whether the bytes of the file are the text as it is read."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how the input is read."""


@contextmanager
def open_input(path: Path, options: ReadOptions) -> Iterator[OpenedInput]:
    """Open an input and find out what it is.

    Raises:
        FileMissingError: it does not exist.
        DataError: it cannot be read, is not text, is of another encoding, or is compressed in a broken way. When the
            block ends: a file changed while it was read.
        MissingExtraError: zstandard is needed and not installed.
    """
    with file_errors(path), ExitStack() as stack:
        if is_stream(path):
            file = _standard_input() if str(path) == STANDARD_INPUT else stack.enter_context(path.open("rb"))
            counted = _Stream(file)
            yield _opened(path, options, stack, _buffered(counted), lambda: counted.count)
            return
        file = stack.enter_context(path.open("rb"))
        before = os.fstat(file.fileno())
        yield _opened(path, options, stack, file, file.tell)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(
                f"{path} changed while it was read ({before.st_size:,} bytes before, {after.st_size:,} after); "
                "wait until it is complete, or read a copy of it"
            )


def _opened(
    path: Path, options: ReadOptions, stack: ExitStack, file: BinaryIO, position: Callable[[], int]
) -> OpenedInput:
    known = format_of(path)
    kind = options.format if options.format != "auto" else known[0] if known else None
    named_compression = known[1] if known else ""
    head = _peek(file)
    if kind == "parquet" and not is_stream(path):
        return OpenedInput("parquet", file, position, False, False)
    notes = []
    compression = named_compression or sniff.compression_of(head)
    if compression:
        if not named_compression and not is_stream(path):
            notes.append(f"{path} is compressed ({compression}) though its name does not say so; it is decompressed")
        unpacked = stack.enter_context(open_stream(path, file, compression))
        file = _buffered(_Stream(unpacked))
        head = _peek(file)
        if inner := sniff.compression_of(head):
            raise DataError(f"{path} is compressed twice (inside it is {inner}); decompress it once first")
    is_plain = not compression and options.is_utf8
    if not options.is_utf8 and not sniff.is_parquet(head):
        sniff.check_wide(path, head, options.encoding)
        file = _buffered(Transcoded(path, file, options.encoding))
        head = _peek(file)
    if kind is None:
        kind = sniff.kind_of(head)
        if kind != "txt":
            name = "standard input" if str(path) == STANDARD_INPUT else path
            notes.append(f"{name} is read as {_KIND_NAMES[kind]}" + _INSTEAD.get(kind, ""))
    if kind == "parquet":
        return OpenedInput("parquet", stack.enter_context(_on_disk(file)), position, False, False, notes)
    _check_head(path, head, options)
    if options.is_utf8 and head.startswith(sniff.BYTE_ORDER_MARK):
        is_plain = False
        notes.append(f"{path} begins with a UTF-8 byte order mark, which is not part of its text")
        file.read(len(sniff.BYTE_ORDER_MARK))
    is_array = sniff.is_array(head, kind)
    return OpenedInput(kind, file, position, is_array, is_plain and kind == "txt", notes)


_INSTEAD = dict.fromkeys(("jsonl", "json"), "; --format txt would take it as plain text")
_KIND_NAMES = {"jsonl": "JSON lines", "json": "a JSON array", "parquet": "parquet"}


def _check_head(path: Path, head: bytes, options: ReadOptions) -> None:
    if sniff.is_parquet(head) and options.format != "txt":
        raise DataError(f"{path} is parquet data under another name; rename it to .parquet, or give --format parquet")
    if options.is_utf8:
        sniff.check_encoding(path, head)
    if options.format != "txt":
        sniff.check_text(path, head)


def _peek(file: BinaryIO) -> bytes:
    """The first bytes, which stay to be read."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, _Stream | Transcoded):
        return file.peek(sniff.HEAD_BYTES)[: sniff.HEAD_BYTES]
    head = file.read(sniff.HEAD_BYTES)
    file.seek(0)
    return head


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise DataError("standard input is closed; give a file, or send text through a pipe")
    return sys.stdin.buffer


def _buffered(stream: io.RawIOBase) -> BinaryIO:
    return io.BufferedReader(stream, _BUFFER_BYTES)


@contextmanager
def _on_disk(stream: BinaryIO) -> Iterator[BinaryIO]:
    """A stream as a temporary file, for formats in which one has to seek."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, _BUFFER_BYTES)
        file.seek(0)
        yield cast(BinaryIO, file)


class _Stream(io.RawIOBase):
    """A stream that fills every buffer it is given, and counts its bytes."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.count = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._stream.read(len(target))
        target[: len(data)] = data
        self.count += len(data)
        return len(data)
