"""Documents out of text files, as bytes, in bounded memory.

Formats, by suffix: ``.txt``, ``.jsonl`` (one object a line), ``.parquet``; the first two also as ``.gz`` and ``.zst``;
``-`` is plain text from standard input; a folder stands for the files of these formats in it, in sorted order
(hidden files, sub-folders and other suffixes are left out; ``TextReader.files`` tells what was taken).

Text is bytes. Nothing is decoded, so invalid UTF-8, NUL and CRLF reach the tokenizer as they are in the file.

Which line break belongs to the separator of plain text: if the separator stands alone on its line, the line break
before it and the one after it are part of it; anywhere else, only the separator itself is. Hence

    one\\n<|endoftext|>\\ntwo      two documents, "one" and "two"
    one\\n\\n<|endoftext|>\\n two   two documents, "one\\n" and " two"
    one<|endoftext|>\\ntwo        two documents, "one" and "\\ntwo"

so that writing every document followed by ``\\n<|endoftext|>\\n`` gives the same documents back, byte for byte.
A line break is ``\\n``, or ``\\r\\n`` where the separator's own line ends in ``\\r\\n`` or with the file.
What follows the last separator is a document if it is not empty; a file never joins a document with the next file.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from groundup.config import END_OF_TEXT
from groundup.errors import DataError, FileMissingError
from groundup.text.formats import json_documents, open_stream, parquet_documents
from groundup.text.options import DEFAULT_FIELD, OnBadRow, ReadOptions, TextFormat

STANDARD_INPUT = "-"

Inputs: TypeAlias = str | Path | Sequence[str | Path]

_FORMATS = (".txt", ".jsonl", ".parquet")
_COMPRESSIONS = (".gz", ".zst")
_EXPECTED = ".txt, .jsonl (each also with .gz or .zst) or .parquet"


class Piece(NamedTuple):
    """A part of a document: the bytes, and whether the document ends with them."""

    data: bytes
    ends_document: bool


@dataclass
class SkippedRows:
    """Rows that were passed over because of ``on_bad_row="skip"``."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Place and reason of the first few."""


class TextReader:
    """The documents of some inputs, in order, as pieces of at most about ``block_bytes``.

    Plain text is never held beyond one block, however long a document is. A JSON line, and a row of a parquet file,
    is one piece and is held whole.

    Args:
        inputs: a path, or several; ``-`` for standard input; a folder for the files in it.
        separator: token between the documents of plain text; None: each file is one document.
        field: name of the JSON field, or parquet column, that holds the text.
        template, format, encoding, on_bad_row: see ``ReadOptions``.
        read: the same options as one object, instead.
        block_bytes: how much plain text is read at a time.

    Attributes:
        files: what is read, in order.
        left_out: files and folders that the walk through a folder passed over, each with the reason.
        current: the file that the last piece came from.
        skipped_rows: how many rows were passed over so far (``count``), and what was wrong with the ``first`` few.

    Raises:
        FileMissingError: an input does not exist.
        DataError: an input is empty, cannot be read, or has a suffix that no reader knows. While reading: a broken
            or truncated file, or no text in any input.
        MissingExtraError: zstandard or pyarrow is needed and not installed.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        separator: str | None = END_OF_TEXT,
        field: str = DEFAULT_FIELD,
        template: str | None = None,
        format: TextFormat | None = None,
        encoding: str = "utf-8",
        on_bad_row: OnBadRow = "error",
        block_bytes: int = 1 << 20,
        read: ReadOptions | None = None,
    ):
        options = read or ReadOptions(
            template=template, format=format or "auto", encoding=encoding, on_bad_row=on_bad_row
        )
        if separator == "":
            raise DataError(
                "the separator is empty; name a token such as <|endoftext|>, or None for one document a file"
            )
        if block_bytes < 1:
            raise DataError(f"block_bytes = {block_bytes} must be at least 1; the default is {1 << 20}")
        self.files: list[Path] = text_files(inputs)
        self.left_out: list[tuple[Path, str]] = []
        self.current: Path | None = None
        self.skipped_rows = SkippedRows()
        self._options = options.with_field(field)
        self._separator = None if separator is None else separator.encode()
        self._field = self._options.fields[0]
        self._block_bytes = block_bytes
        self._finished_bytes = 0
        self._position: Callable[[], int] = lambda: 0

    @property
    def bytes_total(self) -> int | None:
        """Size of all inputs on disk (compressed ones as compressed); None if one is standard input."""
        if not self.is_repeatable:
            return None
        return sum(path.stat().st_size for path in self.files)

    @property
    def is_repeatable(self) -> bool:
        """Whether the inputs can be read again, giving the same documents in the same order; not so for streams."""
        return not any(map(is_stream, self.files))

    def is_delimited(self, path: Path) -> bool:
        """Whether the format of this input delimits documents, as that of JSON lines, JSON arrays and parquet does.

        For a stream without a known suffix this is known from its first piece on.
        """
        known = _format(path)
        return known is not None and known[0] != ".txt"

    @property
    def bytes_read(self) -> int:
        """How far reading has come, in the bytes of ``bytes_total``."""
        return self._finished_bytes + self._position()

    def __iter__(self) -> Iterator[Piece]:
        self._finished_bytes, empty = 0, True
        self.skipped_rows = SkippedRows()
        for path in self.files:
            for piece in self._pieces(path):
                self.current, empty = path, False
                yield piece
            self._finished_bytes, self._position = self.bytes_read, lambda: 0
        if empty:
            raise DataError(f"{_named(self.files)}: no text in it; expected at least one document")

    def documents(self) -> Iterator[bytes]:
        """Whole documents. Memory is that of the longest one: use the pieces where that is not known."""
        parts: list[bytes] = []
        for data, ends_document in self:
            parts.append(data)
            if ends_document:
                yield b"".join(parts)
                parts.clear()

    def _pieces(self, path: Path) -> Iterator[Piece]:
        if str(path) == STANDARD_INPUT:
            stream = _Counted(sys.stdin.buffer)
            self._position = lambda: stream.count
            yield from split_documents(stream.read, self._separator, self._block_bytes)
            return
        kind, compression = _known_format(path)
        if kind == ".parquet":
            size = path.stat().st_size
            for done, data in parquet_documents(path, self._field):
                self._position = lambda done=done: int(done * size)  # type: ignore[misc]
                yield Piece(data, True)
            self._position = lambda: size
            return
        with _file_errors(path), path.open("rb") as file, open_stream(path, file, compression) as text:
            self._position = file.tell
            if kind == ".jsonl":
                for data in json_documents(path, text, self._field):
                    yield Piece(data, True)
            else:
                yield from split_documents(text.read, self._separator, self._block_bytes)
            end = file.tell()
            self._position = lambda: end


def read_documents(
    inputs: Inputs,
    *,
    separator: str | None = END_OF_TEXT,
    field: str = DEFAULT_FIELD,
    read: ReadOptions | None = None,
) -> Iterator[bytes]:
    """The documents of ``inputs``, each whole; arguments and errors as for ``TextReader``."""
    return TextReader(inputs, separator=separator, field=field, read=read).documents()


def is_stream(path: Path) -> bool:
    """Whether an input can be read only once: standard input or a named pipe."""
    return str(path) == STANDARD_INPUT or path.is_fifo()


def text_files(inputs: Inputs) -> list[Path]:
    """The files that ``inputs`` stand for, in reading order, checked to exist, be readable, known and not empty.

    Raises:
        FileMissingError, DataError: as for ``TextReader``.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    files: list[Path] = []
    for path in map(Path, inputs):
        if str(path) == STANDARD_INPUT:
            files.append(path)
            continue
        with _file_errors(path):
            if path.is_dir():
                files.extend(_files_in(path))
            elif path.stat().st_size == 0 and path.is_file():
                raise DataError(f"{path} is empty (0 bytes); give a file with text, or leave it out")
            else:
                _known_format(path)
                files.append(path)
    if not files:
        raise DataError(f"no input was named; give at least one file: {_EXPECTED}, or - for standard input")
    if sum(str(path) == STANDARD_INPUT for path in files) > 1:
        raise DataError("standard input (-) is named more than once, but can be read only once; name it once")
    return files


def split_documents(read: Callable[[int], bytes], separator: bytes | None, block_bytes: int) -> Iterator[Piece]:
    """Cuts plain text at ``separator`` by the rule at the head of this file, wherever the reads happen to end.

    Args:
        read: returns up to the number of bytes asked for, and b"" only at the end.
        separator: None for one document.
        block_bytes: how much to ask for at a time. A document shorter than this is always one piece.
    """
    buffer, start, searched = b"", 0, 0
    at_line_start = True  # at a line start, and no byte of this document has left yet
    at_end = False
    while not at_end:
        block = read(block_bytes)
        at_end = not block
        buffer, searched, start = buffer[start:] + block, searched - start, 0
        while separator and (found := buffer.find(separator, searched)) >= 0:
            searched, after = found, found + len(separator)
            if len(buffer) < after + 2 and not at_end:
                break
            end, following, alone = _whole_line(buffer, start, found, after, at_line_start)
            yield Piece(buffer[start:end], True)
            start = searched = following
            at_line_start = alone
        else:
            # The beginning of a separator may be the end of the buffer.
            searched = max(searched, len(buffer) - len(separator or b"") + 1)
        # Two bytes stay behind: they may be the line break that belongs to a separator still to come.
        if searched - 2 - start >= block_bytes:
            yield Piece(buffer[start : searched - 2], False)
            start, at_line_start = searched - 2, False
    if start < len(buffer):
        yield Piece(buffer[start:], True)


def _whole_line(buffer: bytes, start: int, found: int, after: int, at_line_start: bool) -> tuple[int, int, bool]:
    """Where the document before the separator ends, where the next starts, and whether the separator stood alone.

    ``buffer[found:after]`` is the separator; ``buffer[start:found]`` is what is left of its document.
    """
    if buffer.startswith(b"\r\n", after):
        following, line_break = after + 2, b"\r\n"
    elif buffer.startswith(b"\n", after):
        following, line_break = after + 1, b"\n"
    elif after == len(buffer):
        following, line_break = after, b"\r\n"
    else:
        return found, after, False
    if found == start and at_line_start:
        return found, following, True
    if found > start and buffer[found - 1] == 0x0A:
        with_carriage_return = line_break == b"\r\n" and buffer[start:found].endswith(b"\r\n")
        return found - (2 if with_carriage_return else 1), following, True
    return found, after, False


class _Counted:
    """Counts what is read from a stream that cannot tell its position."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.count = stream, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


def _format(path: Path) -> tuple[str, str] | None:
    """``(".jsonl", ".gz")`` for ``a.jsonl.gz``; None where no reader knows the suffix."""
    name, compression = path.name.lower(), ""
    for suffix in _COMPRESSIONS:
        if name.endswith(suffix):
            name, compression = name.removesuffix(suffix), suffix
    kind = next((kind for kind in _FORMATS if name.endswith(kind)), None)
    return None if kind is None or (kind == ".parquet" and compression) else (kind, compression)


def _known_format(path: Path) -> tuple[str, str]:
    known = _format(path)
    if known is None:
        raise DataError(
            f"{path}: cannot tell the format from the suffix {''.join(path.suffixes[-2:]) or '(none)'}; expected "
            f"{_EXPECTED}; rename it, or send plain text through standard input with -"
        )
    return known


def _files_in(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.iterdir())
        if _format(path) and not path.name.startswith(".") and path.is_file() and path.stat().st_size
    ]
    if not files:
        raise DataError(f"{folder} holds no text that can be read; expected files ending in {_EXPECTED}")
    return files


def _named(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if isinstance(error, FileMissingError):
            raise
        raise FileMissingError(f"{path} does not exist; check the path (the current folder is {Path.cwd()})") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from None
