"""Batches of documents in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

BATCH_BYTES = 32 << 20
"""Bytes of documents that are held in memory at a time."""
DOCUMENT_OVERHEAD = 64
"""Bytes of memory that an empty document takes. It bounds a batch of empty documents."""

Document = TypeVar("Document", bound=Sized)


def batches_of(documents: Iterable[Document], size_of: Callable[[Document], int] = len) -> Iterator[list[Document]]:
    """The documents in lists of about BATCH_BYTES.

    Args:
        size_of: returns the size of a document in bytes.
    """
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += size_of(document) + DOCUMENT_OVERHEAD
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
