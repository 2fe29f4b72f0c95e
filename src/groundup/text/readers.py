"""Readers of text files: documents as bytes, in bounded memory.

**Formats**, by suffix: ``.txt``; ``.jsonl`` or ``.ndjson``, one object a line; ``.json``, one array of objects;
``.parquet``; all but the last also as ``.gz`` and ``.zst``. ``--format`` gives the format of files without a known
suffix. ``-`` is standard input. Standard input and named pipes are read alike: compression and format are detected from
the first bytes (`opened`). A folder means the files in it and in its sub-folders, in sorted order; files that are not
read are in ``TextReader.left_out``.

A ``.json`` file that begins with ``[`` and a ``.jsonl`` file that begins with ``[{`` are one array. In any other JSON
file each line is a row. A row is an object; a line that is a string is a bad row.

**Text is bytes.** Nothing is decoded, so invalid UTF-8, NUL and CRLF reach the tokenizer unchanged. There are two
exceptions: a UTF-8 byte order mark at the beginning of a file is removed, and text in another ``encoding`` is converted
to UTF-8. UTF-16 without that option and binary data are refused. In JSON a lone surrogate, which UTF-8 cannot encode,
becomes U+FFFD, as in ``Tokenizer.encode``.

**Memory.** Plain text is held a block at a time, for documents of any length. A JSON row of n bytes takes little more
than n from 4 MB on (`long_json`), and up to 9 n below that. Parquet is read by pages (`parquet_rows`).

**Line breaks at the separator of plain text.** If the separator is alone on its line, the line breaks before and after
it belong to the separator. Otherwise only the separator itself is removed. Hence

    one\\n<|endoftext|>\\ntwo      two documents, "one" and "two"
    one\\n\\n<|endoftext|>\\n two   two documents, "one\\n" and " two"
    one<|endoftext|>\\ntwo        two documents, "one" and "\\ntwo"

so documents that are each written with ``\\n<|endoftext|>\\n`` after them are read back the same, byte for byte.
A line break is ``\\n``, or ``\\r\\n`` if the separator's own line ends in ``\\r\\n`` or at the end of the file.
Text after the last separator is a document if it is not empty. A document never continues in the next file.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from groundup.config import END_OF_TEXT
from groundup.errors import DataError
from groundup.text.chat.conversations import FIELDS
from groundup.text.chat.reading import ConversationReader
from groundup.text.files import STANDARD_INPUT, Inputs, Kind, find_files, is_stream, left_out_line
from groundup.text.json_rows import (
    BrokenArray,
    OnBad,
    Row,
    array_elements,
    json_array_texts,
    json_line_texts,
    json_lines,
)
from groundup.text.opened import OpenedInput, open_input
from groundup.text.options import DEFAULT_FIELD, OnBadRow, ReadOptions, TextFormat, separator_bytes
from groundup.text.parquet_rows import parquet_objects, parquet_texts
from groundup.text.rows import Block

__all__ = [
    "STANDARD_INPUT",
    "Inputs",
    "Piece",
    "ReadOptions",
    "SkippedRow",
    "SkippedRows",
    "TextReader",
    "is_stream",
    "left_out_line",
    "read_documents",
    "split_documents",
]

_NOTES_SHOWN = _SKIPPED_SHOWN = 5
_LONGEST_PIECE = 4 << 20


class Piece(NamedTuple):
    """Part of a document: its bytes, and whether the document ends with them."""

    data: bytes
    ends_document: bool


class SkippedRow(NamedTuple):
    """A skipped row: its file, its place in the file, and the reason."""

    path: Path
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, {self.place}: {self.reason}"


@dataclass
class SkippedRows:
    """Rows skipped because of ``on_bad_row="skip"``."""

    count: int = 0
    first: list[SkippedRow] = field(default_factory=list)
    """The first few."""


class TextReader:
    """The documents of the inputs, in order, as pieces of at most about ``block_bytes``.

    At most one block of plain text is held, for documents of any length. A row is one piece, unless it is longer than
    about 4 MiB.

    Args:
        inputs: one or more paths; ``-`` for standard input; a folder for the files in it.
        separator: token between the documents of plain text; None: each file is one document.
        field: name of the JSON field, or parquet column, that holds the text.
        template, format, encoding, on_bad_row: see ``ReadOptions``. Options that do not apply to an input's format are
            ignored for that input.
        block_bytes: bytes of plain text that are read at a time.
        read: the same options as one object, instead. An option that applies to none of the inputs is refused.
        conversations: makes the documents of the format chat.

    Attributes:
        files: the files that are read, in order.
        left_out: files and folders inside input folders that are not read, each with the reason.
        notes: notes to the user on how inputs are read, one line each.
        current: the file of the last piece.
        skipped_rows: number of rows skipped so far (``count``), and the ``first`` few with the reason.
        separator: token between the documents of plain text.
        options: the options for reading.

    Raises:
        FileMissingError: an input does not exist.
        DataError: an input is empty, cannot be read, is not text, or has an unknown suffix; an option is invalid or
            does not apply. While reading: a damaged, truncated or changed file, a row without text, or no text in any
            input.
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
        conversations: ConversationReader | None = None,
    ):
        self._separator = None if separator is None else separator_bytes(separator)
        if block_bytes < 1:
            raise DataError(f"block_bytes = {block_bytes} must be at least 1; the default is {1 << 20}")
        self._given = read or ReadOptions()
        keywords = ReadOptions(template=template, format=format or "auto", encoding=encoding, on_bad_row=on_bad_row)
        self.options = (read or keywords).with_field(field)
        self._conversations = conversations
        if self.options.is_chat != (conversations is not None):
            raise DataError(
                "--format chat has conversations rendered by a template, which only `groundup encode` does; leave it "
                "out, and name the field with the text by --field"
            )
        self.files, self.left_out = find_files(inputs, any_suffix=self.options.format != "auto")
        self.separator = separator
        self.notes: list[str] = []
        self.current: Path | None = None
        self.skipped_rows = SkippedRows()
        self._block_bytes = block_bytes
        self._finished_bytes = 0
        self._position: Callable[[], int] = lambda: 0
        self._kinds: dict[Path, Kind] = {}
        self._plain: set[Path] = set()
        self._streams_read: set[Path] = set()
        for path in dict.fromkeys(self.files):
            if not is_stream(path):  # find errors before hours of work
                with open_input(path, self.options) as opened:
                    self._learn(path, opened)
        if not any(map(is_stream, self.files)):
            self._check_meaning()

    @property
    def bytes_total(self) -> int | None:
        """Size of all inputs on disk, compressed files as compressed; None if an input is a stream."""
        if not self.is_repeatable:
            return None
        return sum(path.stat().st_size for path in self.files)

    @property
    def is_repeatable(self) -> bool:
        """Whether the inputs can be read again with the same documents in the same order; False with streams."""
        return not any(map(is_stream, self.files))

    def is_plain(self, path: Path) -> bool:
        """Whether the bytes of a file are its text: uncompressed plain text in UTF-8."""
        return path in self._plain

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far, in the units of ``bytes_total``."""
        return self._finished_bytes + self._position()

    def __iter__(self) -> Generator[Piece, None, None]:
        self._finished_bytes, empty = 0, True
        self.skipped_rows = SkippedRows()
        for path in self.files:
            self.current = path
            for piece in self._pieces(path):
                empty = False
                yield piece
            self._finished_bytes, self._position = self.bytes_read, lambda: 0
        if empty:
            skipped = self.skipped_rows
            why = f"; {skipped.count} rows were skipped, the first: {skipped.first[0]}" if skipped.count else ""
            raise DataError(f"{_named(self.files)}: no text found; expected at least one document{why}")

    def documents(self) -> Generator[bytes, None, None]:
        """Whole documents. The longest must fit in memory; otherwise iterate over the pieces."""
        parts: list[bytes] = []
        for data, ends_document in self:
            parts.append(data)
            if ends_document:
                yield b"".join(parts)
                parts.clear()

    def say_left_out(self, say: Callable[[str], object]) -> None:
        """Call `say` with a line on the files in folders that are not read, if there are any."""
        if line := left_out_line(self.left_out):
            say(line)

    def say_how_read(self, say: Callable[[str], object]) -> None:
        """Call `say` with each line on how inputs were read and which rows were skipped; complete after reading."""
        lines = [f"note: {note}" for note in self.notes[:_NOTES_SHOWN]]
        if len(self.notes) > _NOTES_SHOWN:
            lines.append(f"note: and {len(self.notes) - _NOTES_SHOWN} more inputs with notes like these")
        if skipped := self.skipped_rows.count:
            first = "; ".join(map(str, self.skipped_rows.first))
            lines.append(f"skipped {skipped:,} row{'s' * (skipped > 1)} without text; first: {first}")
        for line in lines:
            say(" ".join(line.split()))

    def _pieces(self, path: Path) -> Iterator[Piece]:
        if path in self._streams_read:
            raise DataError(f"{path} is a stream that has been read; write it to a file to read it again")
        if is_stream(path):
            self._streams_read.add(path)
        with open_input(path, self.options) as opened:
            self._learn(path, opened)
            self._check_meaning()
            self._position = opened.position
            if self._conversations is not None:
                for document in self._conversations.documents(self._objects(path, opened), self._bad_row_of(path)):
                    yield Piece(document, True)
            elif opened.kind == "txt":
                yield from split_documents(opened.stream.read, self._separator, self._block_bytes)
            else:
                for blocks in self._rows(path, opened):
                    if len(blocks) == 1:
                        yield Piece(bytes(blocks[0]), True)
                    else:
                        yield from _pieces_of_row(blocks)
            end = path.stat().st_size if opened.kind == "parquet" and not is_stream(path) else opened.position()
            self._position = lambda: end

    def _objects(self, path: Path, opened: OpenedInput) -> Iterator[tuple[str, Row | dict[str, Any]]]:
        """The rows of a file, not yet read, with their places."""
        if opened.kind == "txt":
            raise DataError(f"{path} is plain text, which has no conversations; expected rows of JSON or parquet")
        if opened.kind == "parquet":
            for number, values in parquet_objects(path, opened.stream, FIELDS):
                yield f"row {number}", values
        elif opened.is_array:
            try:
                for number, element in enumerate(array_elements(opened.stream), 1):
                    yield f"element {number}", element
            except BrokenArray as error:
                raise DataError(f"{path}{error}") from None
        else:
            for number, line in json_lines(opened.stream):
                yield f"line {number}", line

    def _bad_row_of(self, path: Path) -> OnBad:
        return lambda place, reason: self._bad_row(path, place, reason)

    def _rows(self, path: Path, opened: OpenedInput) -> Iterator[list[Block]]:
        on_bad = self._bad_row_of(path)
        if opened.kind == "parquet":
            size = 0 if is_stream(path) else path.stat().st_size
            for done, blocks in parquet_texts(path, opened.stream, self.options, on_bad):
                if size:
                    self._position = partial(int, done * size)
                yield blocks
        elif opened.is_array:
            try:
                yield from json_array_texts(opened.stream, self.options, on_bad)
            except BrokenArray as error:
                raise DataError(f"{path}{error}") from None
        else:
            yield from json_line_texts(opened.stream, self.options, on_bad)

    def _bad_row(self, path: Path, place: str, reason: str) -> None:
        if self.options.on_bad_row == "error":
            raise DataError(f"{path}, {place}{reason}; fix or remove it, or skip such rows with --on-bad-row skip")
        self.skipped_rows.count += 1
        if len(self.skipped_rows.first) < _SKIPPED_SHOWN:
            self.skipped_rows.first.append(SkippedRow(path, place, reason.lstrip(": ")))

    def _learn(self, path: Path, opened: OpenedInput) -> None:
        self._kinds[path] = opened.kind
        self.notes += [note for note in opened.notes if note not in self.notes]
        if opened.is_plain:
            self._plain.add(path)

    def _check_meaning(self) -> None:
        """Raise DataError if a given option applies to none of the inputs."""
        if len(self._kinds) < len(set(self.files)):
            return  # the option may apply to a stream that is not read yet
        kinds = set(self._kinds.values())
        given = {
            "--field": self._given.field is not None,
            "--template": self._given.template is not None,
            "--on-bad-row skip": self._given.on_bad_row != "error",
        }
        without_meaning = [flag for flag, is_given in given.items() if is_given and kinds == {"txt"}]
        if not self._given.is_utf8 and kinds == {"parquet"}:
            without_meaning.append("--encoding")
        if without_meaning:
            what = "plain text, which has no fields and rows" if kinds == {"txt"} else "parquet, whose text is UTF-8"
            raise DataError(
                f"{' and '.join(without_meaning)} does not apply to {_named(self.files)}, which is read as {what}; "
                "leave the option out, or name the format of the input with --format"
            )


def _pieces_of_row(blocks: list[Block]) -> Iterator[Piece]:
    if sum(map(len, blocks)) <= _LONGEST_PIECE:
        yield Piece(b"".join(blocks), True)
        return
    rest = deque(blocks)  # so that each block is freed after its use
    blocks.clear()
    while rest:
        data = rest.popleft()
        yield Piece(bytes(data), not rest)


def read_documents(
    inputs: Inputs,
    *,
    separator: str | None = END_OF_TEXT,
    field: str = DEFAULT_FIELD,
    read: ReadOptions | None = None,
) -> Iterator[bytes]:
    """Whole documents of ``inputs``; arguments and errors as for ``TextReader``."""
    return TextReader(inputs, separator=separator, field=field, read=read).documents()


def split_documents(read: Callable[[int], bytes], separator: bytes | None, block_bytes: int) -> Iterator[Piece]:
    """Split plain text at ``separator`` by the rule in this module's docstring; reads may end anywhere.

    Args:
        read: returns at most the given number of bytes, and b"" only at the end.
        separator: None for one document.
        block_bytes: bytes of a read. A document shorter than this is always one piece.
    """
    buffer, start, searched = b"", 0, 0
    at_line_start = True  # at a line start, and no byte of this document is yielded yet
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
            # The buffer may end inside a separator.
            searched = max(searched, len(buffer) - len(separator or b"") + 1)
        # The last two bytes stay in the buffer: they may be the line break before the next separator.
        if searched - 2 - start >= block_bytes:
            yield Piece(buffer[start : searched - 2], False)
            start, at_line_start = searched - 2, False
    if start < len(buffer):
        yield Piece(buffer[start:], True)


def _whole_line(buffer: bytes, start: int, found: int, after: int, at_line_start: bool) -> tuple[int, int, bool]:
    """End of the document before the separator, start of the next, and whether the separator is alone on its line.

    ``buffer[found:after]`` is the separator; ``buffer[start:found]`` is the rest of the document before it.
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


def _named(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
