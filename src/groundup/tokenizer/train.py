"""Learning a vocabulary from text with byte-pair encoding."""

import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.tokenizer.core import load_core
from groundup.tokenizer.special_tokens import checked_special_tokens
from groundup.tokenizer.tokenizer import LARGEST_ID

Progress = Callable[[str, int, int | None], None]
"""Called a few times a second with the phase ("counting" bytes, then "merging"), the work done and the work in all.

The work in all is None where it is not known beforehand. An exception it raises stops the training.
"""
Text = bytes | bytearray | memoryview | mmap.mmap

MOST_THREADS = 256
CHUNK_BYTES = 1 << 20
"""What a thread takes at a time. The result does not depend on it."""
BATCH_BYTES = 32 << 20
"""How much of a stream of documents is held in memory."""
_DOCUMENT_OVERHEAD = 64  # bytes that even an empty document takes, so that a stream of those is bounded too


def train_bpe(
    input_path: str | os.PathLike[str],
    vocab_size: int,
    special_tokens: list[str],
    *,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Learns a vocabulary from a text file with byte-pair encoding on bytes (Sennrich et al. 2016).

    The text is split on the special tokens, longest first, and the pieces with the GPT-2 pattern into pretokens.
    Then, until the vocabulary is full or no pretoken has two tokens left, the most frequent pair of neighbouring
    tokens becomes a token; of equally frequent pairs the greatest pair of byte strings. The file is read as bytes:
    CR LF stays, and bytes that are not UTF-8 are learned from like any others. The result is the same for any number
    of threads.

    Args:
        input_path: the text; it is mapped into memory, not read into it.
        vocab_size: greatest number of tokens, with the 256 bytes and the special tokens.
        special_tokens: text that always is one token. Each is a boundary, and counts for nothing in the merges.
        num_threads: threads that count pretokens; None for as many as this process may use cores.
        progress: see `Progress`.

    Returns:
        vocab: ids 0..255 the bytes, then one token for each merge, then the special tokens. A special token of a
            single byte keeps the id of the byte.
        merges: the pairs that were merged, in order. No two of them make the same bytes (docs/tokenizer.md).

    Raises:
        FileMissingError: there is no such file.
        DataError: it is a folder, not a regular file, unreadable, or empty.
        TokenizerError: `vocab_size` has no room for bytes and special tokens, or a special token is impossible.
    """
    with _mapped(Path(input_path)) as text:
        return _train([[text]], vocab_size, special_tokens, num_threads, progress, total_bytes=len(text))


def train_bpe_from_documents(
    documents: Iterable[bytes],
    vocab_size: int,
    special_tokens: list[str],
    *,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """`train_bpe` on documents from anywhere. The end of a document is a boundary, as a special token is.

    Memory is bounded by `BATCH_BYTES`, the longest document and the distinct pretokens.

    Raises:
        DataError: there is no document, or all are empty.
        TokenizerError: as `train_bpe`.
    """
    return _train(_batches(documents), vocab_size, special_tokens, num_threads, progress, total_bytes=None)


def _train(
    batches: Iterable[Sequence[Text]],
    vocab_size: int,
    special_tokens: list[str],
    num_threads: int | None,
    progress: Progress | None,
    *,
    total_bytes: int | None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    specials = checked_special_tokens(special_tokens)
    new_specials = [token for token in specials if len(token) > 1]
    merge_limit = _merge_limit(vocab_size, len(new_specials))
    threads = _thread_count(num_threads)

    def counted(done: int) -> None:
        if progress is not None:
            progress("counting", done, total_bytes)

    def merged(done: int) -> None:
        if progress is not None:
            progress("merging", done, merge_limit)

    trainer = load_core().Trainer(specials, threads, chunk_bytes)
    for batch in batches:
        trainer.count(list(batch), counted)
    if trainer.bytes_counted == 0:
        raise DataError("there is no text to train on: no document has a single byte; check the input")
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in trainer.learn(merge_limit, merged):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return dict(enumerate(tokens + new_specials)), merges


def _merge_limit(vocab_size: int, new_special_count: int) -> int:
    minimum = 256 + new_special_count
    if vocab_size < minimum:
        raise TokenizerError(
            f"vocab_size = {vocab_size} has no room for the 256 bytes and {new_special_count} special tokens; "
            f"give at least {minimum}"
        )
    if vocab_size > LARGEST_ID + 1:
        raise TokenizerError(f"vocab_size = {vocab_size}; ids end at {LARGEST_ID}, give at most {LARGEST_ID + 1}")
    return vocab_size - minimum


def _thread_count(num_threads: int | None) -> int:
    if num_threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= num_threads <= MOST_THREADS:
        raise TokenizerError(
            f"num_threads = {num_threads}; give 1 to {MOST_THREADS}, or nothing for as many as there are cores"
        )
    return num_threads


def _mapped(path: Path) -> mmap.mmap:
    try:
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


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
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
