"""Versions of Unicode: which one each engine's character classes are of, and how `regex` is given an older one.

The classes of a pattern are part of a tokenizer. A character that is a letter in Unicode 18.0 is not assigned in 16.0,
where it is neither letter nor number nor white space, so the two split text with it differently. `Tokenizer` therefore
records its version. The C++ core has a table for each (native/generate_unicode_tables.py).
"""

import functools
import re
from typing import Any

from groundup.errors import TokenizerError

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
    import regex  # type: ignore[import-untyped]

    ranges = [entry.partition("-") for entry in _ASSIGNED_AFTER_16.split()]
    members = [rf"\U{int(first, 16):08X}-\U{int(last or first, 16):08X}" for first, _, last in ranges]
    return regex.compile(f"[{''.join(members)}{''.join(map(chr, _CHANGED_AFTER_16))}]")
