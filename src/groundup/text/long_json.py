"""Parser of a long JSON row in little more memory than its size.

``json`` makes a str of the row, which takes up to four bytes a character, and then a str of the text. This parser works
on the bytes in place. Strings are checked and decoded a block at a time. Numbers, arrays and other fields are checked
and skipped. The requested text is written as UTF-8 over its own JSON string, which is never shorter. The parser accepts
the same JSON as ``json``, which decodes each block of a string.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence

from groundup.text.options import utf8
from groundup.text.rows import BadRow, LongText, object_of

_BLOCK_BYTES = 1 << 18
_LONGEST_KEY = 1 << 16
_MOST_OTHER_KEYS = 100

_SPACE = re.compile(rb"[ \t\n\r]*+")
_TRAILING_SPACE = re.compile(rb"\s*+")
_ATOM = rb"(?:true|false|null|NaN|-?Infinity|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+)"
_SCALAR = re.compile(_ATOM)
_SCALARS_AND_COMMAS = re.compile(rb"(?:[ \t\n\r]*+" + _ATOM + rb"[ \t\n\r]*+,)*+")
_PLAIN_STRING = re.compile(rb'[^"\\\x00-\x1f\x80-\xff]*+"')
_STRING = json.JSONDecoder()
_BACKSLASH = ord("\\")


def read_long_row(row: bytearray, fields: Sequence[str]) -> object:
    """The value of a row, in which only the strings named by ``fields`` are complete.

    The row is overwritten. Other values have the right type and no content; objects without requested fields have no
    keys.

    Raises:
        BadRow: the row is not JSON.
        RecursionError: it is nested too deeply.
    """
    reader = _Reader(row)
    value, position = reader.value(reader.space(0), list(fields))
    found = _TRAILING_SPACE.match(row, position)
    if found and found.end() < len(row):
        raise reader.error("Extra data", position)
    return value


def string_end(data: bytes | bytearray, position: int) -> int:
    """Position of the closing quote of a string, searched from a position inside it; -1 without one."""
    while (quote := data.find(b'"', position)) >= 0:
        run = quote
        while run and data[run - 1] == _BACKSLASH:
            run -= 1
        if (quote - run) % 2 == 0:
            return quote
        position = quote + 1
    return -1


class _Reader:
    def __init__(self, data: bytearray):
        self._data = data

    def error(self, message: str, position: int) -> BadRow:
        return BadRow(f" is not JSON ({message}, byte {position + 1})")

    def space(self, position: int) -> int:
        """The first position that is not white space."""
        found = _SPACE.match(self._data, position)
        return found.end() if found else position

    def value(self, position: int, wanted: list[str]) -> tuple[object, int]:
        """A value and the position of its end.

        Args:
            wanted: names of the requested fields inside it; "" for the value itself.
        """
        first = self._data[position : position + 1]
        if first == b'"':
            return self._string(position + 1, "" in wanted)
        if first == b"{":
            return self._object(position, wanted)
        if first == b"[":
            return [], self._array(position)
        found = _SCALAR.match(self._data, position)
        if not found:
            raise self.error("Expecting value", position)
        return {b"true": True, b"false": False, b"null": None}.get(found[0][:5], 0.0), found.end()

    def _object(self, position: int, wanted: list[str]) -> tuple[object, int]:
        pairs: list[tuple[str, object]] = []
        others = 0
        position = self.space(position + 1)
        if self._data[position : position + 1] == b"}":
            return {}, position + 1
        while True:
            if self._data[position : position + 1] != b'"':
                raise self.error("Expecting property name enclosed in double quotes", position)
            key, position = self._key(position + 1)
            position = self.space(position)
            if self._data[position : position + 1] != b":":
                raise self.error("Expecting ':' delimiter", position)
            inside = _names_inside(key, wanted) if key is not None else []
            value, position = self.value(self.space(position + 1), inside)
            others += not inside
            if key is not None and (inside or (wanted and others <= _MOST_OTHER_KEYS)):
                pairs.append((key, value))
            position = self.space(position)
            end = self._data[position : position + 1]
            if end == b"}":
                return object_of(pairs), position + 1
            if end != b",":
                raise self.error("Expecting ',' delimiter", position)
            position = self.space(position + 1)

    def _array(self, position: int) -> int:
        position = self.space(position + 1)
        if self._data[position : position + 1] == b"]":
            return position + 1
        while True:
            passed = _SCALARS_AND_COMMAS.match(self._data, position)
            position = self.space(passed.end() if passed else position)
            _, position = self.value(position, [])
            position = self.space(position)
            end = self._data[position : position + 1]
            if end == b"]":
                return position + 1
            if end != b",":
                raise self.error("Expecting ',' delimiter", position)
            position = self.space(position + 1)

    def _key(self, begin: int) -> tuple[str | None, int]:
        """A key and the position of its end; None for a key that is too long for a field name."""
        plain = _PLAIN_STRING.match(self._data, begin)
        end = plain.end() - 1 if plain else self._end_of_string(begin)
        if end - begin > _LONGEST_KEY:
            self._check_string(begin, end)
            return None, end + 1
        return "".join(self._decoded(begin, end)), end + 1

    def _string(self, begin: int, is_wanted: bool) -> tuple[object, int]:
        if not is_wanted and (plain := _PLAIN_STRING.match(self._data, begin)):
            return "", plain.end()
        end = self._end_of_string(begin)
        if not is_wanted:
            self._check_string(begin, end)
            return "", end + 1
        written = begin
        for block in self._blocks(begin, end):
            self._data[written : written + len(block)] = block
            written += len(block)
        return LongText(memoryview(self._data)[begin:written]), end + 1

    def _end_of_string(self, begin: int) -> int:
        end = string_end(self._data, begin)
        if end < 0:
            raise self.error("Unterminated string starting at", begin - 1)
        return end

    def _check_string(self, begin: int, end: int) -> None:
        for _ in self._decoded(begin, end):
            pass

    def _blocks(self, begin: int, end: int) -> Iterator[bytes]:
        """The string as UTF-8. The halves of a surrogate pair in two blocks are joined."""
        high = ""
        for text in self._decoded(begin, end):
            text = high + text
            high = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
            yield utf8(text.removesuffix(high))
        if high or begin == end:
            yield utf8(high)

    def _decoded(self, begin: int, end: int) -> Iterator[str]:
        """The string, a block at a time. No block begins or ends inside an escape sequence."""
        characters = codecs.getincrementaldecoder("utf-8")()
        while begin < end:
            cut = self._cut(begin, min(begin + _BLOCK_BYTES, end)) if end - begin > _BLOCK_BYTES else end
            held = len(characters.getstate()[0])
            try:
                text = characters.decode(self._data[begin:cut], final=cut == end)
            except UnicodeDecodeError as error:
                place = begin - held + error.start
                raise BadRow(f" is not UTF-8 (byte {self._data[place]:#04x}, column {place + 1})") from None
            try:
                yield _STRING.decode(f'"{text}"')
            except json.JSONDecodeError as error:
                raise self.error(f"{error.msg}, in the string around", begin) from None
            begin = cut

    def _cut(self, begin: int, cut: int) -> int:
        """End of a block: ``cut``, or the begin of an escape sequence that crosses it."""
        backslash = self._data.rfind(b"\\", max(begin, cut - 5), cut)
        if backslash < 0:
            return cut
        run = backslash
        while run > begin and self._data[run - 1] == _BACKSLASH:
            run -= 1
        begins_here = (backslash - run) % 2 == 0
        return backslash if begins_here and backslash > begin else cut


def _names_inside(key: str, wanted: Sequence[str]) -> list[str]:
    """Requested names inside the value of a key: ``["text"]`` in ``meta`` for ``meta.text``; ``[""]`` for all of it."""
    inside = []
    for name in wanted:
        if name == key:
            inside.append("")
        elif name.startswith(f"{key}."):
            inside.append(name[len(key) + 1 :])
    return inside
