"""The patterns that split text into pretokens. A tokenizer's files carry the pattern.

The built-in ones have names and are scanners in the C++ core (native/pretokenizer.hpp). Any other regular expression
of the `regex` package works too, tens of times more slowly, and so do several, each splitting the pieces of the one
before.

Letters, numbers, marks and white space are those of a version of Unicode, which a tokenizer records
(`unicode_versions`). \\s is the property White_Space. All built-in patterns are tested with every version there is a
table of: 18.0 against `regex`, 16.0 against tokenizers and tiktoken.
"""

import difflib
import functools
import re
from collections.abc import Sequence
from typing import Any, TypeAlias, overload

from groundup.errors import MissingExtraError, TokenizerError

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
"""Steps among several: runs of digits, and single ones, as Hugging Face's `Digits` has them (`regex_splitter`)."""


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
        import regex  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError(
            "a pattern that is not built in needs the package regex; install it with: pip install regex"
        ) from None
    try:
        return regex.compile(expression)
    except (regex.error, RecursionError) as error:
        why = "it nests too deeply" if isinstance(error, RecursionError) else error
        raise TokenizerError(f"pattern {expression!r} is not a regular expression: {why}; mend it") from None
