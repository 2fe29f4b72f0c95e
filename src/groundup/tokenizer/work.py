"""Many texts and several threads: what is asked for, checked."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from groundup.errors import TokenizerError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOST_THREADS = 256
BATCH_BYTES = 32 << 20
"""How much of a stream of documents is held in memory."""
_DOCUMENT_OVERHEAD = 64  # bytes that even an empty document takes, so that a stream of those is bounded too


def checked_thread_count(num_threads: int | None) -> int:
    """The number of threads; for None as many as this process may use cores.

    Raises:
        TokenizerError: it is none, or absurdly many.
    """
    if num_threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= num_threads <= MOST_THREADS:
        raise TokenizerError(
            f"num_threads = {num_threads}; give 1 to {MOST_THREADS}, or nothing for as many as there are cores"
        )
    return num_threads


def checked_texts(texts: "Iterable[str | Buffer]") -> "list[str | Buffer]":
    """The texts as a list.

    Raises:
        TokenizerError: a single text was given, whose characters would each be a text.
    """
    if isinstance(texts, str | bytes):
        raise TokenizerError(f"texts is a single {type(texts).__name__}; give a list of texts, or use encode")
    return list(texts)


def batches_of_bytes(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in lists of about BATCH_BYTES."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document) + _DOCUMENT_OVERHEAD
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
