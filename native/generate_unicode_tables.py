"""Write unicode_tables.hpp: the character class of every code point, in each supported version of Unicode.

The classes are those of two regex engines that tokenizers split with: \\p{L}, \\p{N} and so on as they match them.
\\s is the property White_Space in both (with U+0085, without U+001C).

* The newest version is that of the `regex` package, which defines groundup's own tokenizers.
* 16.0 is that of Oniguruma in `tokenizers` 0.23 and of fancy-regex in tiktoken 0.14.

Tokenizers record their version. When an engine moves to a new version, add a table here and keep the others
(tests/tokenizer/test_unicode_tables.py fails then).

    python native/generate_unicode_tables.py
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import regex
import tokenizers

HEADER = Path(__file__).with_name("unicode_tables.hpp")
CODE_POINTS = 0x110000
BLOCK = 256
KINDS = [r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]", r"\p{M}", r"\p{N}", r"[\r\n]", r"[^\S\r\n]"]
"""Expressions in the order of the bits of CharacterSet. Characters that none of them matches get the next bit."""


def matched_by_regex(expression: str, text: str) -> Iterable[int]:
    """Indices of the characters that the package `regex` matches."""
    return (match.start() for match in regex.finditer(expression, text))


def matched_by_tokenizers(expression: str, text: str) -> Iterable[int]:
    """Indices of the characters that Hugging Face's Split matches."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "removed")
    left = [span for _, span in split.pre_tokenize_str(text)]
    return set(range(len(text))).difference(*(range(begin, end) for begin, end in left))


VERSIONS: dict[str, Callable[[str, str], Iterable[int]]] = {"16.0": matched_by_tokenizers, "18.0": matched_by_regex}
"""Matchers by version, the newest last."""


def character_classes(matched: Callable[[str, str], Iterable[int]]) -> bytes:
    """Number of the class of each code point."""
    classes = bytearray([len(KINDS)]) * CODE_POINTS
    for start in range(0, CODE_POINTS, BLOCK):
        if 0xD800 <= start < 0xE000:  # no characters
            continue
        characters = "".join(map(chr, range(start, start + BLOCK)))
        for number, expression in enumerate(KINDS):
            for place in matched(expression, characters):
                classes[start + place] = number
    return bytes(classes)


def rows(values: list[int] | bytes, columns: int) -> str:
    """The numbers as C++ source, `columns` a line."""
    lines = [",".join(map(str, values[start : start + columns])) for start in range(0, len(values), columns)]
    return ",\n".join(lines)


def main() -> None:
    """Write unicode_tables.hpp."""
    blocks: dict[bytes, int] = {}
    tables = []
    for matched in VERSIONS.values():
        classes = character_classes(matched)
        starts = range(0, CODE_POINTS, BLOCK)
        tables.append([blocks.setdefault(classes[start : start + BLOCK], len(blocks)) for start in starts])
    names = ", ".join(f'"{version}"' for version in VERSIONS)
    block_count = CODE_POINTS // BLOCK
    HEADER.write_text(
        "// Written by generate_unicode_tables.py from what the Python packages `regex` and `tokenizers` match; do not "
        "edit.\n"
        "#pragma once\n\n#include <array>\n#include <cstdint>\n#include <string_view>\n\nnamespace groundup {\n\n"
        "// The newest last.\n"
        f"inline constexpr std::array<std::string_view, {len(VERSIONS)}> kUnicodeVersions = {{{names}}};\n\n"
        "// The class of code point c in version v is kClassOfBlock[kBlockOfCodePoint[v][c >> 8] * 256 + (c & 255)].\n"
        f"inline constexpr uint8_t kBlockOfCodePoint[{len(VERSIONS)}][{block_count}] = {{\n"
        + ",\n".join(f"{{{rows(table, 32)}}}" for table in tables)
        + f"}};\n\ninline constexpr uint8_t kClassOfBlock[{len(blocks) * BLOCK}] = {{\n"
        + rows(b"".join(blocks), 64)
        + "};\n\n}  // namespace groundup\n",
        encoding="ascii",
    )
    print(f"{HEADER.name}: {len(blocks)} distinct blocks")


if __name__ == "__main__":
    main()
