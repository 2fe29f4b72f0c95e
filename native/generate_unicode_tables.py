"""Write unicode_tables.hpp: which kind of character every code point is.

The `regex` package decides, because it is what the reference tokenizer splits with: \\p{L}, \\p{N} and so on as it
matches them, which for \\s is the property White_Space (U+0085 is in it, U+001C is not). Run it again when `regex`
moves to a new version of Unicode; tests/tokenizer/test_unicode_tables.py says when that is.

    python native/generate_unicode_tables.py
"""

from pathlib import Path

import regex

HEADER = Path(__file__).with_name("unicode_tables.hpp")
CODE_POINTS = 0x110000
BLOCK = 256
KINDS = [r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]", r"\p{M}", r"\p{N}", r"[\r\n]", r"[^\S\r\n]"]
"""The bit of `enum CharacterClass` is the place here; what no expression matches comes after the last."""


def character_classes() -> bytes:
    """The number of the class of each code point."""
    every_character = "".join(map(chr, range(CODE_POINTS)))
    classes = bytearray([len(KINDS)]) * CODE_POINTS
    for number, expression in enumerate(KINDS):
        for match in regex.finditer(expression, every_character):
            classes[match.start()] = number
    return bytes(classes)


def array(element_type: str, name: str, values: list[int] | bytes, columns: int) -> str:
    rows = [",".join(map(str, values[start : start + columns])) for start in range(0, len(values), columns)]
    body = ",\n".join(rows)
    return f"inline constexpr {element_type} {name}[{len(values)}] = {{\n{body}}};\n"


def main() -> None:
    classes = character_classes()
    blocks: dict[bytes, int] = {}
    block_of = [
        blocks.setdefault(classes[start : start + BLOCK], len(blocks)) for start in range(0, CODE_POINTS, BLOCK)
    ]
    HEADER.write_text(
        "// Written by generate_unicode_tables.py from what the Python package `regex` matches; do not edit.\n"
        "#pragma once\n\n#include <cstdint>\n\nnamespace groundup {\n\n"
        "// The class of code point c is kClassOfBlock[kBlockOfCodePoint[c >> 8] * 256 + (c & 255)].\n"
        + array("uint8_t", "kBlockOfCodePoint", block_of, 32)
        + "\n"
        + array("uint8_t", "kClassOfBlock", b"".join(blocks), 64)
        + "\n}  // namespace groundup\n",
        encoding="ascii",
    )
    print(f"{HEADER.name}: {len(blocks)} distinct blocks")


if __name__ == "__main__":
    main()
