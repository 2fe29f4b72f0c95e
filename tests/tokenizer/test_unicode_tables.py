"""The C++ scanner against the `regex` package, which it stands in for."""

import pytest
import regex

from groundup.tokenizer import _native, reference
from groundup.tokenizer.patterns import PATTERNS

CLASSES = [r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]", r"\p{M}", r"\p{N}", r"[\r\n]", r"[^\S\r\n]"]


def test_every_code_point_has_the_class_that_regex_gives_it():
    every_character = "".join(map(chr, range(0x110000)))
    expected = bytearray([len(CLASSES)]) * 0x110000
    for number, expression in enumerate(CLASSES):
        for match in regex.finditer(expression, every_character):
            expected[match.start()] = number
    differing = [
        f"U+{i:04X}" for i, (a, b) in enumerate(zip(_native.character_classes(), expected, strict=True)) if a != b
    ]
    assert differing == [], "run native/generate_unicode_tables.py and build again"


def test_white_space_is_unicodes_and_not_that_of_str_isspace():
    # U+001C is white space to str.isspace and an ordinary control character to Unicode; U+0085 is a line end to both.
    assert _native.pretokens(b"a\x1cb", "gpt2") == [b"a", b"\x1c", b"b"]
    assert _native.pretokens("a\x85\x85b".encode(), "gpt2") == [b"a", b"\xc2\x85", b"\xc2\x85", b"b"]
    assert _native.pretokens(b" \x1c", "gpt2") == [b" \x1c"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_lead_and_second_byte_splits_as_pythons_decoder_splits_it(pattern):
    # All two-byte beginnings, complete and cut off, beside a letter and white space: 4 * 65,536 short texts.
    for tail in (b"", b"\x80", b"\x80\x80", b"\xbfz "):
        for first in range(256):
            text = b"a\n".join(b"x" + bytes([first, second]) + tail for second in range(256))
            assert _native.pretokens(text, pattern) == reference.pretokens(text, PATTERNS[pattern])
