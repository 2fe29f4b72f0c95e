"""Where in a text its tokens are."""

from typing import TYPE_CHECKING, Any

from groundup.text.encodings import utf8

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer


def offsets_of(text: "str | Buffer", byte_lengths: "NDArray[Any]") -> "NDArray[np.int64]":
    """Begin and end of each token, int64 (N, 2), from the bytes of each, (N,), which are together those of the text.

    In a str they count characters, and a token with a part of a character covers all of it. Lone surrogates are U+FFFD
    and pairs of them one character, as in encoding. In bytes they count bytes.
    """
    import numpy as np

    ends = np.cumsum(byte_lengths, dtype=np.int64)
    offsets = np.stack([ends - byte_lengths, ends], axis=1).astype(np.int64)
    if not isinstance(text, str) or text.isascii():
        return offsets
    data = np.frombuffer(utf8(text), dtype=np.uint8)
    # The number of the character that each byte belongs to.
    character = np.cumsum((data & 0xC0) != 0x80) - 1
    return np.stack([character[offsets[:, 0]], character[offsets[:, 1] - 1] + 1], axis=1)
