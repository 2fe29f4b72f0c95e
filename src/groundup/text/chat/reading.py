"""Rows of conversations as documents: each rendered, in segments, as canonical JSON.

The bytes of such a document stand for all that decides its tokens, so that data sets recognise their text by them as
they do with plain text.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from groundup.text.chat.conversations import Conversation, conversation_of
from groundup.text.chat.rendering import Loss, Renderer, Segment
from groundup.text.json_rows import OnBad, Row
from groundup.text.rows import BadRow, object_of

LONGEST_ROW = 16 << 20
"""A longer row is a bad one: a conversation is held whole, several times."""
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 1 << 20

Place: TypeAlias = str
"""Where a row is: "line 3"."""

_DECODER = json.JSONDecoder(object_pairs_hook=object_of)


class ConversationReader:
    """Rows to documents.

    Args:
        loss: which tokens count for it.
        refuses_names: a row that has the name of a special token is a bad one.
    """

    def __init__(self, renderer: Renderer, loss: Loss = "assistant", *, refuses_names: bool = False):
        self.renderer, self.loss, self._refuses_names = renderer, loss, refuses_names

    def documents(self, rows: Iterable[tuple[Place, Row | dict[str, Any]]], on_bad: OnBad) -> Iterator[bytes]:
        """The document of each row, by the place of which `on_bad` is called if it has none."""
        batch: list[tuple[Place, Row | dict[str, Any]]] = []
        size = 0
        for place, row in rows:
            batch.append((place, row))
            size += len(row) if isinstance(row, bytes | bytearray) else 1
            if len(batch) == _ROWS_AT_ONCE or size > _BYTES_AT_ONCE:
                yield from self._documents(batch, on_bad)
                batch, size = [], 0
        yield from self._documents(batch, on_bad)

    def _documents(self, batch: list[tuple[Place, Row | dict[str, Any]]], on_bad: OnBad) -> Iterator[bytes]:
        read = [(place, _conversation(row)) for place, row in batch]
        conversations = [found for _, found in read if isinstance(found, Conversation)]
        rendered = iter(self.renderer.render(conversations, loss=self.loss, refuses_names=self._refuses_names))
        for place, found in read:
            segments = next(rendered) if isinstance(found, Conversation) else found
            if isinstance(segments, BadRow):
                on_bad(place, str(segments))
            else:
                yield document_of(segments)


def document_of(segments: Iterable[Segment]) -> bytes:
    """Segments as the bytes of a document."""
    rows = [[text, int(is_special), int(counts)] for text, is_special, counts in segments]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()


def segments_of(document: bytes) -> list[Segment]:
    """The segments in the bytes of a document."""
    return [Segment(text, bool(is_special), bool(counts)) for text, is_special, counts in json.loads(document)]


def _conversation(row: Row | dict[str, Any]) -> Conversation | BadRow:
    try:
        return conversation_of(row if isinstance(row, dict) else _parsed(row))
    except BadRow as bad:
        return bad
    except RecursionError:
        return BadRow(" is nested too deeply to be read")


def _parsed(row: Row) -> object:
    if len(row) > LONGEST_ROW:
        raise BadRow(f" has {len(row):,} bytes; expected a conversation of at most {LONGEST_ROW >> 20} MiB")
    try:
        return _DECODER.decode(row.decode().rstrip())
    except json.JSONDecodeError as error:
        raise BadRow(f" is not JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise BadRow(f" is not UTF-8 (byte {error.object[error.start]:#04x}, column {error.start + 1})") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadRow(f" cannot be read ({error})") from None
