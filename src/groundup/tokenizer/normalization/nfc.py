"""Unicode normalization form C (UAX #15) as in `tokenizers`, whose tables are those of Unicode 9.0.

Python's tables are newer. By Unicode's stability policy, characters that both versions assign normalize alike. In 9.0 a
character that was assigned later does not change, compose or reorder. So the text is split at such characters and the
parts are normalized. The characters that later versions treat differently are listed here.
"""

import re
import unicodedata
from collections.abc import Iterator

_LATER = re.compile(
    "(["
    "\u05c8\u05c9\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1af0\u1df6-\u1dfa\ua82c"
    "\U000105c9\U000105d2\U000105da\U000105e4\U00010d24-\U00010d27\U00010d69-\U00010d6d\U00010eab\U00010eac"
    "\U00010ecb-\U00010ecf\U00010ef0-\U00010efb\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011070"
    "\U0001133b\U00011383\U00011385\U0001138e\U00011391\U000113b8\U000113bb\U000113c2\U000113c5\U000113c7-\U000113c9"
    "\U000113ce-\U000113d0\U0001145e\U00011839\U0001183a\U00011930\U00011938\U0001193d\U0001193e\U00011943\U000119e0"
    "\U00011a34\U00011a47\U00011a99\U00011d42\U00011d44\U00011d45\U00011d97\U00011f41\U00011f42\U0001611e-\U00016129"
    "\U0001612f\U00016d67-\U00016d6a\U00016ff0\U00016ff1\U0001d127\U0001d128\U0001d250-\U0001d252\U0001d25b\U0001d25c"
    "\U0001d25f\U0001d280\U0001d281\U0001e08f\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef"
    "\U0001e5ee\U0001e5ef\U0001e6e3\U0001e6e6\U0001e6ee\U0001e6ef\U0001e6f5"
    "])"
)
"""Characters assigned after 9.0 that have a combining class or a decomposition, or are part of a composition."""

_HANGUL_VOWELS_AND_ENDS = re.compile("[\u1160-\u11ff]")


def is_nfc(text: str) -> bool:
    """Whether the text is in form C of 9.0. A text in form C of a later version also is in form C of 9.0."""
    return unicodedata.is_normalized("NFC", text) or nfc(text) == text


def nfc(text: str) -> str:
    """The text in form C."""
    if text.isascii():
        return text
    if _LATER.search(text) is None:
        return unicodedata.normalize("NFC", text)
    return "".join(unicodedata.normalize("NFC", part) for part in _LATER.split(text))


def begins_anew(character: str) -> bool:
    """Whether the text before the character and the text from it on normalize independently."""
    if character.isascii():
        return True
    return unicodedata.category(character)[0] != "M" and _HANGUL_VOWELS_AND_ENDS.match(character) is None


def nfc_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text in form C, and for each of its characters the span in the original text, as in `tokenizers`.

    The span of a composed character is that of its first part. The span of a character that a decomposition adds is the
    span of the one before. So the offsets of `encode_with_offsets` equal those of `tokenizers`.
    """
    normal: list[str] = []
    spans: list[tuple[int, int]] = []
    consumed = 0
    for character, added in _composed(_decomposed(text)):
        if added > 0:
            spans.append((consumed - 1, consumed) if consumed else (0, 0))
        else:
            spans.append((consumed, consumed + 1))
            consumed += 1 - added
        normal.append(character)
    return "".join(normal), spans


def _combining(character: str) -> int:
    return 0 if _LATER.match(character) else unicodedata.combining(character)


def _decomposed(text: str) -> list[tuple[int, str, int]]:
    """(combining class, character, 0 for the first part of an original character or 1), in canonical order."""
    parts: list[tuple[int, str, int]] = []
    ordered = 0  # parts before this index are in order
    for original in text:
        canonical = original if _LATER.match(original) else unicodedata.normalize("NFD", original)
        for number, character in enumerate(canonical):
            combining = _combining(character)
            if combining == 0:
                parts[ordered:] = sorted(parts[ordered:], key=lambda part: part[0])
                ordered = len(parts)
            parts.append((combining, character, int(number > 0)))
    parts[ordered:] = sorted(parts[ordered:], key=lambda part: part[0])
    return parts


def _composed(parts: list[tuple[int, str, int]]) -> Iterator[tuple[str, int]]:
    """The characters of form C, each with the number of characters it adds to the text (negative: removes)."""
    starter: tuple[str, int] | None = None
    behind: list[tuple[str, int]] = []  # combining characters that did not compose with the starter
    last_class = 0
    for combining, character, added in parts:
        if starter is None:
            if combining:
                yield character, added
            else:
                starter = character, added
            continue
        blocked = bool(behind) and last_class >= combining
        if not blocked and (both := _composition(starter[0], character)):
            starter = both, starter[1] + added - 1
        elif combining == 0:
            yield starter
            yield from behind
            starter, behind = (character, added), []
        else:
            behind.append((character, added))
            last_class = combining
    if starter is not None:
        yield starter
        yield from behind


def _composition(first: str, second: str) -> str | None:
    both = nfc(first + second)
    return both if len(both) == 1 else None
