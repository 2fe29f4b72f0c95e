"""JSON rows, one a line or the elements of one array; each row gives its text as UTF-8."""

import json
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from groundup.text.long_json import read_long_row, string_end
from groundup.text.options import ReadOptions
from groundup.text.rows import BadRow, Block, object_of, text_blocks

LONG_ROW = 4 << 20
"""Bytes from which a row is parsed by `long_json`, in less than twice its size of memory, instead of by ``json``."""
_BLOCK_BYTES = 1 << 20


class BrokenArray(Exception):  # noqa: N818 - internal; the reader turns it into a DataError
    """The brackets or commas of an array are wrong. The message continues the file name: " is truncated"."""


OnBad = Callable[[str, str], None]
"""Callback with the place of a bad row and the reason."""

Row = bytes | bytearray

_DECODER = json.JSONDecoder()
_CAREFUL = json.JSONDecoder(parse_int=len, object_pairs_hook=object_of)
"""Decoder that detects repeated keys and accepts integers of any length, whose value is not needed here."""


class JsonText:
    """Extractor of the text of JSON rows.

    Args:
        options: the fields of the text.
    """

    def __init__(self, options: ReadOptions):
        self._parts, self._fields = options.parts, options.fields
        simple = all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in self._fields)
        self._quoted = [f'"{name}"'.encode() for name in self._fields] if simple else None

    def blocks(self, row: Row) -> list[Block]:
        """The text of a row, as UTF-8 in blocks.

        Raises:
            BadRow: it is not JSON, or lacks the fields.
        """
        try:
            if isinstance(row, bytearray) and len(row) >= LONG_ROW:
                found = read_long_row(row, self._fields)
            else:
                found = self._read(row)
        except json.JSONDecodeError as error:
            raise BadRow(f" is not JSON ({error.msg}, column {error.colno})") from None
        except UnicodeDecodeError as error:
            place = f"byte {error.object[error.start]:#04x}, column {error.start + 1}"
            raise BadRow(f" is not UTF-8 ({place})") from None
        except RecursionError:
            raise BadRow(" is nested too deeply to be read") from None
        return text_blocks(found, self._parts)

    def _read(self, row: Row) -> object:
        text = row.decode().rstrip()
        if not self._may_repeat(row):
            try:
                return _DECODER.decode(text)
            except json.JSONDecodeError:
                raise
            except ValueError:
                pass  # an integer of more digits than int() accepts
        return _CAREFUL.decode(text)

    def _may_repeat(self, row: Row) -> bool:
        """Whether a field may occur twice: a cheap test, because the decoder that detects it is slower."""
        # The only other spelling of a name in letters, digits, _ and - is with escapes \\u00XX.
        if self._quoted is None or b"\\u00" in row:
            return True
        for quoted in self._quoted:  # noqa: SIM110 - any() with a generator doubles the time of this method
            if row.count(quoted) > 1:
                return True
        return False


def json_line_texts(lines: BinaryIO, options: ReadOptions, on_bad: OnBad) -> Iterator[list[Block]]:
    """The text of each line, as UTF-8 in blocks. Blank lines are skipped."""
    text = JsonText(options)
    for number, line in json_lines(lines):
        try:
            blocks = text.blocks(line)
        except BadRow as bad:
            on_bad(f"line {number}", str(bad))
        else:
            del line
            yield blocks


def json_lines(lines: BinaryIO) -> Iterator[tuple[int, Row]]:
    """The lines that are not blank, with their numbers from 1. One is held at a time."""
    number = 0
    line: Row
    while line := lines.readline(LONG_ROW):
        number += 1
        if len(line) == LONG_ROW:
            line = _with_rest(line, lines)
        if not line.isspace():
            yield number, line
        del line


def _with_rest(line: bytes, lines: BinaryIO) -> bytearray:
    # A bytearray grows in place. readline() joins its parts and so holds the line twice.
    whole = bytearray(line)
    while not whole.endswith(b"\n") and (part := lines.readline(_BLOCK_BYTES)):
        whole += part
    return whole


def json_array_texts(stream: BinaryIO, options: ReadOptions, on_bad: OnBad) -> Iterator[list[Block]]:
    """The text of each element of an array, as UTF-8 in blocks.

    Raises:
        BrokenArray: the array is truncated, its brackets do not match, or there is content after it.
    """
    text = JsonText(options)
    for number, element in enumerate(array_elements(stream), 1):
        try:
            blocks = text.blocks(element)
        except BadRow as bad:
            on_bad(f"element {number}", str(bad))
        else:
            del element
            yield blocks


_BREAK = re.compile(rb'["\[\]{},]')
_CLOSING = {0x5D: 0x5B, 0x7D: 0x7B}


def array_elements(stream: BinaryIO) -> Iterator[Row]:
    """The bytes of each element of an array in a stream, one at a time. Elements need not be valid JSON.

    Raises:
        BrokenArray: as for `json_array_texts`.
    """
    splitter = _ArraySplitter()
    while block := stream.read(_BLOCK_BYTES):
        yield from splitter.feed(block)
    splitter.finish()


class _ArraySplitter:
    """Splitter of an array into its elements, in blocks that may end anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0  # the buffer is searched up to here
        self._opened: list[int] = []  # open brackets at the position, the array's own first
        self._in_string = False
        self._ended = False
        self._count = 0

    def feed(self, block: bytes) -> Iterator[Row]:
        """The elements that end in this block."""
        self._buffer += block
        start = 0
        if not self._opened and not self._ended:
            start = self._begin()
        while not self._ended and (end := self._next_end()) >= 0:
            self._count += 1
            if end - start >= LONG_ROW:  # copy the short rest, not the long element
                element, self._buffer = self._buffer, self._buffer[end + 1 :]
                del element[end:], element[:start]
                self._position -= end + 1
                start = 0
            else:
                element = self._buffer[start:end]
                start = end + 1
            if self._ended and self._count == 1 and (not element or element.isspace()):
                break
            yield element
            del element
        if self._ended and self._buffer[start:].strip():
            raise BrokenArray(" has content after the end of its array; expected one array of objects, or JSON lines")
        del self._buffer[:start]
        self._position -= start

    def finish(self) -> None:
        """Raise BrokenArray if the array has not ended."""
        if not self._ended:
            raise BrokenArray(" is truncated: it ends in the middle of its array; copy it again")

    def _begin(self) -> int:
        self._position = len(self._buffer) - len(self._buffer.lstrip()) + 1
        self._opened.append(0x5B)
        return self._position

    def _next_end(self) -> int:
        """Position of the end of the current element; -1 if it is not in the buffer."""
        buffer, opened = self._buffer, self._opened
        while True:
            if self._in_string:
                quote = string_end(buffer, self._position)
                if quote < 0:
                    self._position = len(buffer)
                    return -1
                self._position, self._in_string = quote + 1, False
            found = _BREAK.search(buffer, self._position)
            if found is None:
                self._position = len(buffer)
                return -1
            self._position = found.end()
            byte = buffer[found.start()]
            if byte == 0x22:
                self._in_string = True
            elif byte == 0x2C:
                if len(opened) == 1:
                    return found.start()
            elif byte in _CLOSING:
                if opened.pop() != _CLOSING[byte]:
                    raise BrokenArray(f" is not JSON: element {self._count + 1} has a bracket that does not match")
                if not opened:
                    self._ended = True
                    return found.start()
            else:
                opened.append(byte)
