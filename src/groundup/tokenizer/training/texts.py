"""The texts that training counts, in batches of bounded size: documents from anywhere, and files mapped into memory."""

import itertools
import mmap
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from groundup.errors import DataError, FileMissingError
from groundup.text import batches
from groundup.text.options import separator_bytes

Document: TypeAlias = str | bytes | bytearray | memoryview
Text: TypeAlias = Document | mmap.mmap


def document_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in batches of bounded memory.

    Raises:
        DataError: they are a single document, or one of them is neither str nor contiguous bytes.
    """
    if isinstance(documents, str | bytes | bytearray | memoryview | os.PathLike):
        raise DataError(
            f"documents is a single {type(documents).__name__}; give a list or an iterator of documents: [document]"
        )
    numbers = itertools.count()
    return batches.batches_of(documents, lambda document: _memory(document, next(numbers)))


def mapped(path: Path) -> mmap.mmap:
    """A text file as bytes that are read when they are looked at.

    Raises:
        FileMissingError: the file does not exist.
        DataError: it is a folder, not a regular file, unreadable, or empty.
    """
    try:
        if "\0" in str(path):
            raise FileNotFoundError
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder; give a text file")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file; read it yourself and use train_bpe_from_documents")
        if status.st_size == 0:
            raise DataError(f"{path} is empty; give a file with text to train on")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise FileMissingError(f"{path} does not exist; give the path of a text file") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied; change its mode or owner") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be mapped into memory: {error.strerror or error}; copy it to a local disk"
        ) from None


def mapped_batches(text: mmap.mmap, separator: str) -> Iterator[list[memoryview]]:
    """The documents of a mapped file, some at a time, divided as `groundup.text.readers` does and not copied.

    When a batch is done with, its pages no longer count as memory of this process.

    Raises:
        DataError: the separator is empty, or no text has it.
    """
    looked_for = separator_bytes(separator)
    view = memoryview(text)
    batch: list[memoryview] = []
    batch_begin = 0
    for begin, end in document_spans(text, looked_for):
        batch.append(view[begin:end])
        if end - batch_begin + batches.DOCUMENT_OVERHEAD * len(batch) >= batches.BATCH_BYTES:
            yield batch
            batch = []
            _give_back(text, batch_begin, end)
            batch_begin = end
    if batch:
        yield batch


def while_unchanged(path: Path, text: mmap.mmap, parts: Iterable[Sequence[Text]]) -> Iterator[Sequence[Text]]:
    """The batches of a mapped file, as long as the file has the size it was mapped with.

    Raises:
        DataError: it has another size, or was cut off in between.
    """
    from groundup.tokenizer._native import CutGuard  # not above: a tokenizer loads and decodes without the core

    guard = CutGuard(text)

    def check() -> None:
        if text.size() != len(text) or guard.was_cut:
            raise DataError(
                f"{path} changed while it was read ({len(text):,} bytes before, {text.size():,} after); "
                "wait until it is complete, or read a copy of it"
            )

    try:
        for batch in parts:
            check()
            yield batch
        check()
    finally:
        guard.release()


def document_spans(text: mmap.mmap, separator: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of each document; the rule is at the head of `groundup.text.readers`."""
    begin = 0
    at_line_start = True
    while (found := _find(text, separator, begin)) >= 0:
        end, after = found, found + len(separator)
        line_break = _line_break_at(text, after)
        if line_break is None or (found > begin and text[found - 1] != 0x0A) or (found == begin and not at_line_start):
            at_line_start = False
        else:  # the separator stands alone on its line
            at_line_start = True
            after += len(line_break)
            if found > begin:
                with_return = line_break != b"\n" and text[max(begin, found - 2) : found] == b"\r\n"
                end -= 2 if with_return else 1
        yield begin, end
        begin = after
    if begin < len(text):
        yield begin, len(text)


def _line_break_at(text: mmap.mmap, position: int) -> bytes | None:
    """The line break there; the end of the text is an empty one."""
    following = text[position : position + 2]
    if following == b"\r\n" or not following:
        return following
    return b"\n" if following[:1] == b"\n" else None


def _find(text: mmap.mmap, separator: bytes, begin: int) -> int:
    # In stretches, between which Ctrl-C is answered and what was read is given back.
    while True:
        found = text.find(separator, begin, begin + batches.BATCH_BYTES + len(separator) - 1)
        if found >= 0 or begin + batches.BATCH_BYTES >= len(text):
            return found
        _give_back(text, begin, begin + batches.BATCH_BYTES)
        begin += batches.BATCH_BYTES


def _give_back(text: mmap.mmap, begin: int, end: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        begin -= begin % mmap.PAGESIZE
        text.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _memory(document: Document, number: int) -> int:
    if isinstance(document, str):
        return sys.getsizeof(document)
    try:
        with memoryview(document) as view:
            if view.c_contiguous:
                return view.nbytes
        expected = "contiguous bytes"
    except TypeError:
        expected = "str or bytes (for weights call add_documents once for each weight)"
    raise DataError(f"document {number} (counted from 0) is of type {type(document).__name__}; give {expected}")
