"""Streaming: encoding of text, and decoding of ids, that arrive in pieces."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from groundup.errors import TokenizerError
from groundup.tokenizer.arguments import checked_str

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

_PIECE_CHARACTERS = 1 << 16  # encode_pieces takes longer strings apart, to give their first ids early


class EncodeStream(Protocol):
    """Encoder of a text that arrives in pieces; made by `Tokenizer.stream`.

    The ids that `feed` and `finish` return are together those of the whole text, wherever it was cut: inside a
    character, a special token, or a run of white space. An error ends the text.
    """

    def feed(self, data: "str | Buffer", /) -> "NDArray[np.uint32]":
        """The ids, uint32 (N,), that no further text can change."""

    def finish(self) -> "NDArray[np.uint32]":
        """The ids of what was held back, uint32 (N,). The stream is then ready for another text."""


def encode_pieces(stream: EncodeStream, pieces: Iterable[str]) -> Iterator[int]:
    """The ids of the joined strings, one after the other.

    Raises:
        TokenizerError: one of them is not a str.
    """
    surrogate = ""  # the first half of a pair, whose second half the next string may begin with
    if isinstance(pieces, bytes | bytearray | memoryview) or not isinstance(pieces, Iterable):
        raise TokenizerError(
            f"the iterable is of type {type(pieces).__name__}; give strings, such as an open text file"
        )
    for number, text in enumerate(pieces):
        if not isinstance(text, str):
            checked_str(text, f"string {number} of the iterable")
        for start in range(0, len(text), _PIECE_CHARACTERS):
            piece = surrogate + text[start : start + _PIECE_CHARACTERS]
            surrogate = piece[-1] if "\ud800" <= piece[-1] <= "\udbff" else ""
            yield from stream.feed(piece.removesuffix(surrogate)).tolist()
    yield from stream.feed(surrogate).tolist()
    yield from stream.finish().tolist()


class DecodeStream:
    """Decoder of ids that arrive one by one or several at a time; made by `Tokenizer.decode_stream`.

    The strings that `feed` and `finish` return are together the text of all ids. A character whose bytes are not all
    there is held back, so no string has half of one; bytes that cannot become a character are U+FFFD at once.
    """

    def __init__(self, decode_bytes: "Callable[[Iterable[int] | NDArray[Any]], bytes]") -> None:
        self._decode_bytes = decode_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: "int | Iterable[int] | NDArray[Any]") -> str:
        """The characters that these ids complete.

        Args:
            ids: one id or several, as Python integers, NumPy's or a torch tensor.

        Raises:
            TokenizerError: an id is not in the vocabulary, or not an integer; the stream is as before.
        """
        if not isinstance(ids, int | list) and hasattr(ids, "tolist"):
            ids = ids.tolist()
        return self._utf8.decode(self._decode_bytes(ids if isinstance(ids, Iterable) else [ids]))

    def finish(self) -> str:
        """Return the bytes held back, as U+FFFD. The stream is then ready for another text."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
