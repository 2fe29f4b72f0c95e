"""Pretokens by regular expressions that are not built in, for training and encoding alike."""

from itertools import pairwise
from typing import TYPE_CHECKING

from groundup.tokenizer.patterns import DIGITS, Pattern, compiled_pattern, expression_of
from groundup.tokenizer.unicode_versions import NEWEST, NUMERIC_IN_RUST, as_in_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer


def pretoken_ends(data: "Buffer", pattern: Pattern, unicode_version: str = NEWEST) -> "NDArray[np.uint64]":
    """Where the pretokens of a text without special tokens end, in bytes; the first begins at 0.

    Each match is a pretoken, and so is what lies between two matches, so that nothing is lost: as `tokenizers` does
    with its Split "isolated", while tiktoken drops what no match covers. A match of nothing only divides. A byte that
    is not part of valid UTF-8 is a character that is neither letter nor number nor white space.

    Args:
        data: the text; it is decoded whole.
        pattern: a built-in name or a regular expression, or several (`patterns.checked_pattern`): each splits the
            pieces of the one before, and sees no text but the piece.
        unicode_version: whose character classes count (`unicode_versions.VERSIONS`).

    Returns:
        uint64 (pretokens,), ascending; the last is the size of the text. Empty for the empty text.

    Raises:
        MissingExtraError: the package `regex` is not installed.
        TokenizerError: the expression does not compile.
    """
    import numpy as np

    text = str(data, "utf-8", "surrogateescape")
    borders = [0, len(text)] if text else [0]
    for step in (pattern,) if isinstance(pattern, str) else pattern:
        borders = _split(text, borders, step, unicode_version)
    if text.isascii():
        return np.array(borders[1:], np.uint64)
    sizes = (len(text[begin:end].encode("utf-8", "surrogateescape")) for begin, end in pairwise(borders))
    return np.cumsum(np.fromiter(sizes, np.uint64, len(borders) - 1), dtype=np.uint64)


def _split(text: str, borders: list[int], step: str, unicode_version: str) -> list[int]:
    """The borders with those that a step adds."""
    expression = compiled_pattern(DIGITS.get(step) or expression_of(step))
    text = as_in_version(text, unicode_version, shown=NUMERIC_IN_RUST if step in DIGITS else ())
    split = [0]
    for begin, end in pairwise(borders):
        for match in expression.finditer(text if end - begin == len(text) else text[begin:end]):
            for border in match.span():
                if begin + border > split[-1]:
                    split.append(begin + border)
        if end > split[-1]:
            split.append(end)
    return split
