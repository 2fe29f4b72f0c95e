"""Text from token ids as they come: never half a character, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


class TextPieces:
    """The text of one generation, token by token.

    Args:
        stop: the text ends before the first of these strings.

    Attributes:
        stopped: whether a stop string was found; no more text comes.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; what could become a stop string is held back."""
        return self._shown(self._decoder.decode(bytes_of(token_id, self._tokenizer)))

    def finish(self) -> str:
        """Return what is still held back: the text has ended, so it is no stop string."""
        shown = self._shown(self._decoder.decode(b"", final=True))
        if not self.stopped:
            shown, self._held = shown + self._held, ""
        return shown

    def _shown(self, new: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return new
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that the stop string begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def bytes_of(token_id: int, tokenizer: Tokenizer) -> bytes:
    """The bytes of a token, as it continues a text."""
    # A model's vocabulary may be larger than the tokenizer's, rounded up for speed: such an id is shown as U+FFFD.
    try:
        return tokenizer.vocab[token_id]  # not decoded: a space at the beginning belongs to what is continued
    except KeyError:
        return b"\xff"
