"""Inputs as streams of UTF-8, with the format detected from the suffix and the first bytes."""

import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from groundup.errors import DataError
from groundup.text.files import STANDARD_INPUT, Kind, file_errors, format_of, is_stream
from groundup.text.formats import Transcoded, open_stream
from groundup.text.options import ReadOptions

_BUFFER_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
"""Size of the head of an input: the bytes from which its format is detected."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_LEAST_FOR_SHARE = 1024
_MOST_CONTROL_IN_TEXT = 0.5
_MOST_CONTROL_IN_BYTES = 0.05
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f\b\x1b") + b"\x7f"

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_PARQUET = b"PAR1"
_BINARY = [
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"PK\x03\x04", "a zip archive or office document"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"%PDF-", "a PDF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "an ELF program"),
    (b"\x89HDF\r\n", "HDF5 data"),
    (b"ARROW1\x00\x00", "Arrow data"),
    (b"Obj\x01", "Avro data"),
    (b"\x00asm", "a WebAssembly module"),
]
_BYTE_ORDER_MARKS = [
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
]
_OBJECT_BEGINS = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*+"\s*:')
_ARRAY_OF_OBJECTS_BEGINS = re.compile(rb'\[\s*\{\s*["}]')


@dataclass
class OpenedInput:
    """An input opened for reading."""

    kind: Kind
    stream: BinaryIO
    """Text as UTF-8; for parquet the seekable file."""
    position: Callable[[], int]
    """Returns the number of input bytes read so far."""
    is_array: bool
    """Whether JSON is one array, not one row a line."""
    is_plain: bool
    """Whether the bytes of the file are its text, unchanged."""
    notes: list[str] = field(default_factory=list)
    """Notes to the user on how the input is read."""


@contextmanager
def open_input(path: Path, options: ReadOptions) -> Iterator[OpenedInput]:
    """Open an input and detect its format.

    Raises:
        FileMissingError: it does not exist.
        DataError: it cannot be read, is not text, has another encoding, or its compressed data is damaged. At the end
            of the block: the file changed while it was read.
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
    kind: Kind | None = known[0] if known else None
    if options.format != "auto" and options.format != "chat":
        kind = options.format
    named_compression = known[1] if known else ""
    head = _peek(file)
    if kind == "parquet" and not is_stream(path):
        return OpenedInput("parquet", file, position, False, False)
    notes = []
    compression = named_compression or compression_of(head)
    if compression:
        if not named_compression and not is_stream(path):
            notes.append(f"{path} is compressed ({compression}) without a suffix that says so; it is decompressed")
        unpacked = stack.enter_context(open_stream(path, file, compression))
        file = _buffered(_Stream(unpacked))
        head = _peek(file)
        if inner := compression_of(head):
            raise DataError(f"{path} is compressed twice (inside it is {inner}); decompress it once first")
    is_plain = not compression and options.is_utf8
    if not options.is_utf8 and not is_parquet(head):
        check_wide(path, head, options.encoding)
        file = _buffered(Transcoded(path, file, options.encoding))
        head = _peek(file)
    if kind is None:
        kind = kind_of(head)
        if kind != "txt":
            name = "standard input" if str(path) == STANDARD_INPUT else path
            notes.append(f"{name} is read as {_KIND_NAMES[kind]}" + _INSTEAD.get(kind, ""))
    if kind == "parquet":
        return OpenedInput("parquet", stack.enter_context(_on_disk(file)), position, False, False, notes)
    _check_head(path, head, options)
    if options.is_utf8 and head.startswith(BYTE_ORDER_MARK):
        is_plain = False
        notes.append(f"{path} begins with a UTF-8 byte order mark; it is left out of the text")
        file.read(len(BYTE_ORDER_MARK))
    return OpenedInput(kind, file, position, is_array(head, kind), is_plain and kind == "txt", notes)


_INSTEAD = dict.fromkeys(("jsonl", "json"), "; --format txt reads it as plain text")
_KIND_NAMES = {"jsonl": "JSON lines", "json": "a JSON array", "parquet": "parquet"}


def _check_head(path: Path, head: bytes, options: ReadOptions) -> None:
    if is_parquet(head) and options.format != "txt":
        raise DataError(f"{path} is parquet data under another name; rename it to .parquet, or give --format parquet")
    if options.is_utf8:
        check_encoding(path, head)
    if options.format != "txt":
        check_text(path, head)


def _peek(file: BinaryIO) -> bytes:
    """The first bytes, without consuming them."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, _Stream | Transcoded):
        return file.peek(HEAD_BYTES)[:HEAD_BYTES]
    head = file.read(HEAD_BYTES)
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
    """A stream as a temporary file, for formats that need a seekable file."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, _BUFFER_BYTES)
        file.seek(0)
        yield file


class _Stream(io.RawIOBase):
    """Stream that fills every buffer completely and counts its bytes."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.count = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._stream.read(len(target))
        target[: len(data)] = data
        self.count += len(data)
        return len(data)


def compression_of(head: bytes) -> str:
    """Compression of the data: ``.gz``, ``.zst``, or empty for none."""
    if head.startswith(_GZIP):
        return ".gz"
    return ".zst" if head.startswith(_ZSTD) or _ZSTD_SKIPPABLE.match(head) else ""


def is_parquet(head: bytes) -> bool:
    """Whether the data begins like a parquet file."""
    return head.startswith(_PARQUET)


def kind_of(head: bytes) -> Kind:
    """The format of a stream that has no suffix.

    JSON lines: the first line that is not blank is a JSON object (or begins like one, if it is longer than the head).
    A JSON array: the data begins with ``[`` and an object. Everything else is plain text.
    """
    if is_parquet(head):
        return "parquet"
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if _ARRAY_OF_OBJECTS_BEGINS.match(text):
        return "json"
    line, line_break, _ = text.partition(b"\n")
    if not line_break and len(head) >= HEAD_BYTES:
        return "jsonl" if _OBJECT_BEGINS.match(line) else "txt"
    try:
        return "jsonl" if line.startswith(b"{") and isinstance(json.loads(line, parse_int=len), dict) else "txt"
    except (ValueError, RecursionError):
        return "txt"


def is_array(head: bytes, kind: Kind) -> bool:
    """Whether JSON is one array of rows. With the suffix of JSON lines it must begin with ``[{``, as no row does."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return text.startswith(b"[") if kind == "json" else kind == "jsonl" and bool(_ARRAY_OF_OBJECTS_BEGINS.match(text))


def check_encoding(path: Path, head: bytes) -> None:
    """Refuse text in another encoding than UTF-8, whose bytes would otherwise be tokenized.

    Raises:
        DataError: a byte order mark of UTF-16 or UTF-32, or NULs in the places where European text in these has them.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise DataError(
                f"{path} begins with the byte order mark of {encoding.upper()} ({mark.hex(' ')}); expected UTF-8; "
                f"read it with --encoding {encoding}, or convert it with iconv -f {encoding} -t utf-8"
            )
    if encoding := _wide_encoding(head):
        raise DataError(
            f"{path} looks like {encoding.upper()} (NUL bytes at the same place of every character); expected UTF-8; "
            f"read it with --encoding {encoding}, or convert it with iconv -f {encoding} -t utf-8"
        )


def check_wide(path: Path, head: bytes, encoding: str) -> None:
    """Refuse plain ASCII that is declared as UTF-16 or UTF-32, because it would decode to other characters.

    Raises:
        DataError: only ASCII, without a byte order mark or a NUL.
    """
    is_wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32"))
    if is_wide and len(head) >= 16 and head.isascii() and b"\0" not in head:
        raise DataError(f"{path} is not {encoding}: it begins with ASCII text; leave out --encoding")


def check_text(path: Path, head: bytes) -> None:
    """Refuse binary data.

    Raises:
        DataError: the data begins like a known binary format, or contains too many control characters.
    """
    for magic, name in _BINARY:
        if head.startswith(magic):
            raise DataError(f"{path} is {name}, not text; extract the text first (--format txt reads the bytes as is)")
    control = len(head) - len(head.translate(None, _CONTROL))
    share = control / len(head) if head else 0.0
    if share > _MOST_CONTROL_IN_TEXT or (
        share > _MOST_CONTROL_IN_BYTES and len(head) >= _LEAST_FOR_SHARE and not _is_utf8(head)
    ):
        raise DataError(
            f"{path} is not text: {share:.0%} of its first {len(head)} bytes are control characters; give text "
            "(--format txt reads the bytes as is)"
        )


def _wide_encoding(head: bytes) -> str:
    if len(head) < 8:
        return ""
    for width, name in ((4, "utf-32"), (2, "utf-16")):
        columns = [head[i::width] for i in range(width)]
        zeros = [column.count(0) / len(column) for column in columns]
        for order, suffix in ((zeros, "le"), (zeros[::-1], "be")):
            # The low byte is rarely 0; the other bytes nearly always are.
            if order[0] < 0.02 and min(order[1:]) > 0.7:
                return f"{name}-{suffix}"
    return ""


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # the head may end inside a character
    return True
