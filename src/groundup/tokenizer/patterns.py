"""The patterns that split text into pretokens. A tokenizer's files carry the pattern.

The built-in ones have names and are scanners in the C++ core (native/pretokenizer.hpp). Any other regular expression
of the `regex` package works too, tens of times more slowly, and so do several, each splitting the pieces of the one
before.

Letters, numbers, marks and white space are those of a version of Unicode, which a tokenizer records, since its classes
decide how text is split: a character that is a letter in Unicode 18.0 is not assigned in 16.0, where it is neither
letter nor number nor white space. The C++ core has a table for each version (native/generate_unicode_tables.py), and
`regex` gets text with stand-ins (`as_in_version`). \\s is the property White_Space. All built-in patterns are tested
with every version that has a table: 18.0 against `regex`, 16.0 against tokenizers and tiktoken.
"""

import difflib
import functools
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from groundup.errors import MissingExtraError, TokenizerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

NEWEST = "18.0"
"""The version of groundup's own tokenizers, and of files that do not name one. It is that of `regex` 2026.11."""

VERSIONS = ("16.0", NEWEST)

OF_ENGINE = {"regex": "18.0", "tokenizers": "16.0", "tiktoken": "16.0"}
"""The version of each engine that tokenizers are made for: `regex` 2026.11, tokenizers 0.23, tiktoken 0.14."""

NUMERIC_IN_RUST = (*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7))
"""Numbers to Rust's `char::is_numeric`, with which `tokenizers` splits digits, but not assigned in 16.0."""

_ASSIGNED_AFTER_16 = """
    0558 058B-058C 05C8-05C9 088F 0B53-0B54 0C5C 0CDC 1ACF-1AF0 208F 209D-209F 20C1-20C4 2B96 2E60-2E63 A7CE-A7CF
    A7D2 A7D4 A7DD A7E2 A7F1 AB6C-AB6D FBC3-FBD2 FD90-FD91 FDC8-FDCE 107BB-107BF 10940-10959 10EC5-10EC7
    10EC9-10EEE 10EF0-10EFB 11B0A 11B60-11B67 11DB0-11DDB 11DE0-11DE9 11DF0-11DF1 1246F 12475-1247F 12550-12686
    16EA0-16EB8 16EBB-16ED3 16FF2-16FF6 187F8-187FF 18CD6-18CDA 18D09-18D20 18D80-18DF2 18E00-19191 191A0-191D2
    1B123-1B128 1B168 1CCFA-1CCFC 1CEBA-1CED0 1CED2-1CED4 1CEDD-1CEFD 1D127-1D128 1D1EB-1D1FF 1D250-1D281 1D6A6
    1DB00-1DB1C 1DF1F-1DF24 1DF2B-1DF81 1DF90-1DF96 1DFCD-1DFFF 1E6C0-1E6DE 1E6E0-1E6F5 1E6FE-1E6FF 1F1AE
    1F6D8-1F6D9 1F777-1F77A 1F7DA-1F7DB 1F7F1-1F7FF 1F8D0-1F8D8 1FA54-1FA57 1FA8A-1FA8E 1FAC8 1FACC-1FACD 1FADD
    1FAEA-1FAEB 1FAEF 1FAF9-1FAFA 1FBFA 2B73A-2B73F 2B81E 2CEA2-2CEAD 323B0-33479 3D000-3FC3F
"""
_CHARACTER = re.compile(
    r"(?s)\\(?:x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]+)\}|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))|\\(?P<escaped>.)|(?P<plain>.)"
)
_UNASSIGNED = 0xFDD0  # a noncharacter: in no version is it of any class
_CHANGED_AFTER_16 = {0x295: 0x2AD}  # U+0295 was a small letter and became a letter without case; U+02AD is a small one

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Words, numbers and runs of other characters, each with the space before it (Radford et al. 2019)."""

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
"""GPT-4: a word takes any one character before it, numbers come in threes, line ends stay with what they end."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3: as GPT-4, but white space at the end of the text is divided after its last line end like any other."""

QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen 2 and 3: as Llama 3, with single digits."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""GPT-4o: words end where a capital follows a small letter, keep their 's, and marks belong to words."""

TEKKEN = O200K.replace(_SUFFIX, "").replace(r"\p{N}{1,3}", r"\p{N}")
"""Mistral's Tekken: as GPT-4o, but a word does not keep its 's, and with single digits."""

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "llama3": LLAMA3, "qwen2": QWEN2, "o200k": O200K, "tekken": TEKKEN}
_NAME_OF = {expression: name for name, expression in PATTERNS.items()}

Pattern: TypeAlias = str | tuple[str, ...]
"""A name or a regular expression; or several, of which each splits the pieces of the one before."""

DIGITS = {"digits": r"\p{N}+", "digit": r"\p{N}"}
"""Steps among several: runs of digits, and single ones, as Hugging Face's `Digits` has them."""


def pattern_named(name: str) -> str:
    """The regular expression called `name`.

    Raises:
        TokenizerError: there is no pattern of that name.
    """
    try:
        return PATTERNS[name]
    except KeyError:
        close = difflib.get_close_matches(name, PATTERNS, n=1)
        meant = f"did you mean {close[0]}? known" if close else "known"
        raise TokenizerError(f"pattern {name!r} is not known; {meant}: {', '.join(PATTERNS)}") from None


@overload
def checked_pattern(pattern: str) -> str: ...
@overload
def checked_pattern(pattern: str | Sequence[str]) -> Pattern: ...
def checked_pattern(pattern: str | Sequence[str]) -> Pattern:
    """A pattern as a tokenizer keeps it: the name of a built-in one, or else the regular expression itself.

    A string of letters, digits, "-", "." and "_" is a name, and anything else a regular expression. One that is a
    built-in pattern to the letter becomes its name. Several become a tuple, in which `DIGITS` are names as well.

    Raises:
        TokenizerError: the name is not known, or the expression does not compile; or there are none.
        MissingExtraError: it is an expression, and the `regex` package is not installed.
    """
    if isinstance(pattern, str):
        return _checked_step(pattern)
    if not pattern or not all(isinstance(step, str) for step in pattern):
        raise TokenizerError(f"pattern is {pattern!r}; give a name, a regular expression, or several of them")
    steps = tuple(step if step in DIGITS else _checked_step(step) for step in pattern)
    for step in steps:
        compiled_pattern(DIGITS.get(step) or expression_of(step))
    return steps[0] if len(steps) == 1 and steps[0] not in DIGITS else steps


def _checked_step(pattern: str) -> str:
    if re.fullmatch(r"[\w.-]*", pattern):
        pattern_named(pattern)
        return pattern
    if pattern in _NAME_OF:
        return _NAME_OF[pattern]
    compiled_pattern(pattern)
    return pattern


@overload
def expression_of(pattern: str) -> str: ...
@overload
def expression_of(pattern: tuple[str, ...]) -> tuple[str, ...]: ...
def expression_of(pattern: Pattern) -> Pattern:
    """The regular expression of a checked pattern; of several each, and the names in `DIGITS` as they are."""
    if isinstance(pattern, str):
        return PATTERNS.get(pattern, pattern)
    return tuple(PATTERNS.get(step, step) for step in pattern)


@functools.lru_cache(maxsize=16)
def compiled_pattern(expression: str) -> Any:
    """The expression, compiled by the `regex` package. Raises as `checked_pattern` does."""
    try:
        import regex
    except ImportError:
        raise MissingExtraError(
            "a pattern that is not built in needs the package regex; install it with: pip install regex"
        ) from None
    try:
        return regex.compile(expression)
    except (regex.error, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise TokenizerError(f"pattern {expression!r} is not a regular expression: {why}; mend it") from None


def pretoken_ends(data: "Buffer", pattern: Pattern, unicode_version: str = NEWEST) -> "NDArray[np.uint64]":
    """End positions, in bytes, of the pretokens of a text without special tokens; the first begins at 0.

    Each match is a pretoken, and so is what lies between two matches, so that nothing is lost: as `tokenizers` does
    with its Split "isolated", while tiktoken drops what no match covers. A match of nothing only divides. A byte that
    is not part of valid UTF-8 is a character that is neither letter nor number nor white space.

    Args:
        data: the text; it is decoded whole.
        pattern: a built-in name or a regular expression, or several (`checked_pattern`): each splits the
            pieces of the one before, and sees no text but the piece.
        unicode_version: version of Unicode of the character classes, one of `VERSIONS`.

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


def checked_unicode_version(version: str) -> str:
    """The version, if its character classes are known.

    Raises:
        TokenizerError: they are not.
    """
    if version not in VERSIONS:
        raise TokenizerError(
            f"unicode_version is {version!r}, and this groundup knows {', '.join(VERSIONS)}; update groundup"
        )
    return version


def as_in_version(text: str, version: str, *, shown: tuple[int, ...] = ()) -> str:
    """The text with a stand-in for each character that is of another class in that version. Its length is the same.

    Args:
        text: what `regex`, which knows the newest version, will split.
        version: one of `VERSIONS`.
        shown: code points that stay as they are.
    """
    if version == NEWEST or text.isascii() or _newer_characters().search(text) is None:
        return text
    stand_ins = _stand_ins()
    return text.translate({code: stand_in for code, stand_in in stand_ins.items() if code not in shown})


def newer_character_named(expression: str, version: str) -> str | None:
    """A character that an expression names, alone or in a range, and that is of another class in that version.

    The text that is matched has a stand-in for it (:func:`as_in_version`), which is not what is named.
    """
    if version == NEWEST:
        return None
    for first, last in _named_characters(expression):
        for code, stand_in in _stand_ins().items():
            if (first <= code <= last) != (first <= stand_in <= last):
                return chr(code)
    return None


def _named_characters(expression: str) -> list[tuple[int, int]]:
    """First and last of the characters that stand in an expression, and of its ranges."""
    codes: list[int | None] = []
    for found in _CHARACTER.finditer(expression):
        digits = found[1] or found[2] or found[3] or found[4]
        character = found["plain"] or found["escaped"]
        if digits:
            codes.append(int(digits[-9:], 16))
        else:
            codes.append(None if found["escaped"] and character.isalnum() else ord(character))
    named = [(code, code) for code in codes if code is not None]
    for first, dash, last in zip(codes, codes[1:], codes[2:], strict=False):
        if first is not None and last is not None and dash == ord("-"):
            named.append((first, last))
    return named


@functools.cache
def _stand_ins() -> dict[int, int]:
    stand_ins = dict(_CHANGED_AFTER_16)
    for entry in _ASSIGNED_AFTER_16.split():
        first, _, last = entry.partition("-")
        stand_ins.update(dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), _UNASSIGNED))
    return stand_ins


@functools.cache
def _newer_characters() -> Any:
    import regex

    ranges = [entry.partition("-") for entry in _ASSIGNED_AFTER_16.split()]
    members = [rf"\U{int(first, 16):08X}-\U{int(last or first, 16):08X}" for first, _, last in ranges]
    return regex.compile(f"[{''.join(members)}{''.join(map(chr, _CHANGED_AFTER_16))}]")
