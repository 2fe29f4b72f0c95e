"""Generator of a large text file from a small one: its documents repeated, each time shuffled and with new words.

    python benchmarks/make_corpus.py webtext.txt big.txt --bytes 10e9 --seed 0

Repeated text has no new words, which is too easy for code that counts or caches words. In real text the number of
distinct words grows with a power of its length (Heaps' law). So the first pass over the documents is unchanged, and
later passes change single letters and digits at the rate at which new words appear by that law: D(n) = 3.45 n^0.62 for
n bytes, as measured on web text (1.3 million in 1 GB, 5.5 million in 10 GB). A changed letter is replaced by another
letter of its case, swapped with the next one, or preceded by an inserted letter; a changed digit becomes another digit.
Everything else is kept, so UTF-8 stays valid and separators stay.

The same input, size and seed give the same bytes. Memory does not grow with the output; the input is mapped.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from side_by_side import SEPARATOR

HEAPS_FACTOR, HEAPS_EXPONENT = 3.45, 0.62
NEW_PER_CHANGE = 0.6
"""Share of the changes that make a new pretoken; measured on web text, 250 to 450 MB."""
BLOCK_BYTES = 16 << 20

_LOWER = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
_KIND = np.zeros(256, np.uint8)  # 1 lower-case letter, 2 upper-case letter, 3 digit, 0 never changed
_KIND[_LOWER], _KIND[_LOWER - 32], _KIND[ord("0") : ord("9") + 1] = 1, 2, 3


def main() -> None:
    """Write the file, through OUT.part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="text file")
    parser.add_argument("out", type=Path, help="output file; an existing file is replaced")
    parser.add_argument("--bytes", type=float, required=True, help="size of the result, such as 10e9")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--separator", default=SEPARATOR, help="separator of documents; never changed")
    options = parser.parse_args()
    if options.bytes < 1:
        parser.error(f"--bytes {options.bytes} must be at least 1")
    if options.seed < 0:
        parser.error(f"--seed {options.seed} must not be negative")
    if not options.separator:
        parser.error("--separator is empty; give the text between documents")
    if not options.input.is_file() or options.input.stat().st_size == 0:
        parser.error(f"{options.input} is not a file with text; give a text file")
    if options.out.exists() and options.out.samefile(options.input):
        parser.error(f"{options.out} is the input itself; choose another name")
    partial = options.out.with_name(options.out.name + ".part")
    began = time.perf_counter()
    try:
        with options.input.open("rb") as file, partial.open("wb") as out:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            written = write_corpus(text, out, int(options.bytes), options.seed, options.separator.encode())
        partial.replace(options.out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"make_corpus: cannot write {options.out}: {error.strerror}; free space or choose another disk")
    seconds = time.perf_counter() - began
    print(f"{options.out.name}: {written:,} bytes in {seconds:.1f} s ({written / 1e6 / seconds:.0f} MB/s)")


def write_corpus(text: bytes | mmap.mmap, out: BinaryIO, size: int, seed: int, separator: bytes) -> int:
    """Write ``size`` bytes, or up to three fewer to end at a whole character; return the number."""
    written = 0
    for block in blocks(text, separator, np.random.default_rng(seed)):
        if written + len(block) >= size:
            block = whole_characters(block[: size - written])
            out.write(block)
            return written + len(block)
        out.write(block)
        written += len(block)
    raise AssertionError("blocks never end")


def blocks(text: bytes | mmap.mmap, separator: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield the unchanged text, then endlessly its shuffled documents with changes; 16 to 32 MiB at a time."""
    documents = document_spans(text, separator)
    for start in range(0, len(text), BLOCK_BYTES):
        yield text[start : start + BLOCK_BYTES]
    if text[-len(separator) :] != separator:
        yield separator
    written = len(text)
    while True:
        parts: list[bytes] = []
        size = 0
        for start, end in documents[rng.permutation(len(documents))].tolist():
            # A document of any length is yielded in pieces.
            for piece in range(start, end, BLOCK_BYTES):
                parts.append(text[piece : min(end, piece + BLOCK_BYTES)])
                size += len(parts[-1])
                if size >= BLOCK_BYTES:
                    yield changed(b"".join(parts), changes_per_byte(written), separator, rng)
                    written += size
                    parts, size = [], 0
            parts.append(separator)
            size += len(separator)
        yield changed(b"".join(parts), changes_per_byte(written), separator, rng)
        written += size


def document_spans(text: bytes | mmap.mmap, separator: bytes) -> NDArray[np.int64]:
    """Start and end of each document: int64 (documents, 2). Empty documents are left out; a text has at least one."""
    spans = []
    start = 0
    while start < len(text):
        end = text.find(separator, start)
        end = len(text) if end < 0 else end
        if end > start:
            spans.append((start, end))
        start = end + len(separator)
    return np.array(spans or [(0, len(text))], np.int64)


def changes_per_byte(position: int) -> float:
    """Changes per byte at a position of the output that give the number of new words of Heaps' law."""
    return HEAPS_FACTOR * HEAPS_EXPONENT * position ** (HEAPS_EXPONENT - 1) / NEW_PER_CHANGE


def changed(data: bytes, rate: float, separator: bytes, rng: np.random.Generator) -> bytes:
    """The data with about ``rate`` changes per byte, at ASCII letters and digits."""
    # Positions are drawn among all bytes, and those without a letter or digit are dropped, so more are drawn.
    kinds = _KIND[np.frombuffer(data, np.uint8)[::64]]
    share = max(float((kinds > 0).mean()), 0.01)
    places = np.unique(rng.integers(0, len(data) - 1, int(len(data) * min(rate / share, 0.5)))) if len(data) > 1 else []
    text = np.frombuffer(data, np.uint8).copy()
    places = np.array([place for place in places if not _touches(data, int(place), separator)], np.int64)
    places = places[_KIND[text[places]] > 0]
    kind = _KIND[text[places]]

    digits = places[kind == 3]
    text[digits] = ord("0") + (text[digits] - ord("0") + rng.integers(1, 10, len(digits), np.uint8)) % 10

    letters = places[kind < 3]
    what = rng.integers(0, 3, len(letters))
    other = _LOWER[rng.integers(0, 26, len(letters))] - np.where(_KIND[text[letters]] == 2, 32, 0).astype(np.uint8)
    text[letters[what == 0]] = other[what == 0]
    swap = letters[(what == 1) & np.isin(_KIND[text[letters + 1]], (1, 2))]
    text[swap], text[swap + 1] = text[swap + 1], text[swap]
    return _inserted(text.tobytes(), letters[what == 2], other[what == 2])


def _touches(data: bytes, place: int, separator: bytes) -> bool:
    """Whether the byte at a position or the next one is part of a separator."""
    return separator in data[max(0, place - len(separator) + 1) : place + 1 + len(separator)]


def _inserted(data: bytes, places: NDArray[np.int64], letters: NDArray[np.uint8]) -> bytes:
    parts: list[bytes] = []
    start = 0
    for place, letter in zip(places.tolist(), letters.tolist(), strict=True):
        parts += (data[start:place], bytes((letter,)))
        start = place
    return b"".join([*parts, data[start:]])


def whole_characters(data: bytes) -> bytes:
    """The data without an incomplete UTF-8 character at its end."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if length > back else data
        if byte < 0x80:
            break
    return data


if __name__ == "__main__":
    main()
