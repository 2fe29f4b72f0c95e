"""Text of a JSON row: from a field, or from several by a template; and the errors of bad rows."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from groundup.text.options import utf8

_MOST_NAMES = 20
_LONGEST_NAME = 60


class BadRow(Exception):  # noqa: N818 - internal; the reader turns it into a DataError, or counts it
    """A row without the requested text. The message continues the place of the row: " is not JSON"."""


_BLOCK_BYTES = 1 << 20

Block: TypeAlias = bytes | memoryview


class LongText:
    """Text of a string that is too long to copy: UTF-8 in the memory of its row, in blocks."""

    def __init__(self, data: memoryview):
        self.blocks = [data[begin : begin + _BLOCK_BYTES] for begin in range(0, max(len(data), 1), _BLOCK_BYTES)]


class RepeatedKeys(dict[str, object]):
    """A JSON object with repeated keys; the last value of a key counts, as in ``json``."""

    def __init__(self, pairs: Sequence[tuple[str, object]]):
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = {key for key, count in counts.items() if count > 1}


def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The JSON object of these pairs; RepeatedKeys if a key repeats."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(pairs)


def text_blocks(row: object, parts: Sequence[bytes | str]) -> list[Block]:
    """The text of a row, as consecutive blocks.

    Args:
        parts: literal bytes and field names, as in ``ReadOptions.parts``.

    Raises:
        BadRow: the row is not an object, lacks a field, or the field is not a string.
    """
    blocks: list[Block] = []
    for part in parts:
        if isinstance(part, bytes):
            blocks.append(part)
            continue
        value = _field(row, part)
        if isinstance(value, str):
            blocks.append(utf8(value))
        elif isinstance(value, LongText):
            blocks += value.blocks
        else:
            raise BadRow(f": the field {part!r} holds {type_name(value)}; expected a string")
    return blocks


def _field(row: object, name: str) -> object:
    if not isinstance(row, dict):
        raise BadRow(f" holds {type_name(row)}; expected an object with the field {name!r}")
    if name in row:  # the common case
        return _value(row, name)
    found = _inner(row, name)
    if not found:
        names = [key if len(key) <= _LONGEST_NAME else f"{key[:_LONGEST_NAME]}…" for key in list(row)[:_MOST_NAMES]]
        more = f" and {len(row) - len(names)} more" if len(row) > len(names) else ""
        listed = ", ".join(map(repr, names)) or "no field at all"
        mend = "name the field with the text"
        if {"messages", "conversations"} & row.keys():
            mend += ", or encode conversations with --format chat"
        raise BadRow(f" has no field {name!r}; it has {listed}{more}; {mend}")
    return found[0]


def _inner(row: dict[str, object], name: str) -> list[object]:
    """The value of a nested field such as ``meta.text``, in a list; empty without one. The longest key wins."""
    if name in row:
        return [_value(row, name)]
    dot = len(name)
    while (dot := name.rfind(".", 0, dot)) >= 0:
        inner = row.get(name[:dot])
        if isinstance(inner, dict) and (found := _inner(inner, name[dot + 1 :])):
            _value(row, name[:dot])
            return found
    return []


def _value(row: dict[str, object], name: str) -> object:
    if isinstance(row, RepeatedKeys) and name in row.repeated:
        raise BadRow(f" has the field {name!r} more than once; expected it once")
    return row[name]


def type_name(value: object) -> str:
    """JSON name of the type of a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    if isinstance(value, LongText):
        return "a string"
    return names.get(dict if isinstance(value, dict) else type(value), "a number")
