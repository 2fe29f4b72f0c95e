"""Pretokens by a regular expression that is not built in, for training and encoding alike."""

from itertools import pairwise
from typing import TYPE_CHECKING

from groundup.tokenizer.patterns import compiled_pattern, expression_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer


def pretoken_ends(data: "Buffer", pattern: str) -> "NDArray[np.uint64]":
    """Where the pretokens of a text without special tokens end, in bytes; the first begins at 0.

    Each match is a pretoken, and so is what lies between two matches, so that nothing is lost: as `tokenizers` does
    with its Split "isolated", while tiktoken drops what no match covers. A match of nothing only divides. A byte that
    is not part of valid UTF-8 is a character that is neither letter nor number nor white space.

    Args:
        data: the text; it is decoded whole.
        pattern: a built-in name or a regular expression (`patterns.checked_pattern`).

    Returns:
        uint64 (pretokens,), ascending; the last is the size of the text. Empty for the empty text.

    Raises:
        MissingExtraError: the package `regex` is not installed.
        TokenizerError: the expression does not compile.
    """
    import numpy as np

    text = str(data, "utf-8", "surrogateescape")
    borders = [0]
    for match in compiled_pattern(expression_of(pattern)).finditer(text):
        for border in match.span():
            if border > borders[-1]:
                borders.append(border)
    if borders[-1] < len(text):
        borders.append(len(text))
    if text.isascii():
        return np.array(borders[1:], np.uint64)
    sizes = (len(text[begin:end].encode("utf-8", "surrogateescape")) for begin, end in pairwise(borders))
    return np.cumsum(np.fromiter(sizes, np.uint64, len(borders) - 1), dtype=np.uint64)
