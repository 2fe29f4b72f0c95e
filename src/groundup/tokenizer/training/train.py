"""Training of a byte-pair encoding (BPE) vocabulary: on a file, on documents, on inputs of any format."""

import itertools
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from groundup.config import END_OF_TEXT
from groundup.display.progress import Silent
from groundup.display.units import size_text
from groundup.errors import DataError, TokenizerError
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader
from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.special_tokens import SpecialTokenMode, refuse_names
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.training.counts import PretokenCounts, SlowPatternWarning, slow_pattern_note
from groundup.tokenizer.training.merges import LearningOptions, Merges, Progress, TieRule, Vocabulary
from groundup.tokenizer.training.texts import Document

if TYPE_CHECKING:
    from groundup.display.progress import Progress as ShownProgress


def train_bpe(
    input_path: str | os.PathLike[str],
    vocab_size: int,
    special_tokens: list[str],
    *,
    pattern: str = "gpt2",
    tie_rule: TieRule = "bytes",
    min_frequency: int = 1,
    max_token_length: int | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Vocabulary, Merges]:
    """Train a vocabulary on a text file with byte-pair encoding on bytes (Sennrich et al. 2016).

    The text is split on the special tokens, longest first, and the pieces with the pattern into pretokens. Then, until
    the vocabulary is full or no pretoken has two tokens left, the most frequent pair of neighbouring tokens becomes a
    token; of equally frequent pairs the greatest pair of byte strings, or that of the other `TieRule`. The file is
    read as bytes: CR LF stays, and bytes that are not UTF-8 are learned from like any others. The result is the same
    for any number of threads.

    Text from elsewhere: `train_bpe_from_documents`. Several inputs, weights, counts that are kept: `PretokenCounts`.

    Args:
        input_path: the text; it is mapped into memory, not read into it.
        vocab_size: greatest number of tokens, with the 256 bytes and the special tokens.
        special_tokens: text that always is one token. Each is a boundary, and counts for nothing in the merges.
        pattern: name of a built-in pattern (`groundup.tokenizer.patterns`), or a regular expression of the `regex`
            package, which is slower by a factor of about a hundred and holds the text in memory. Give the tokenizer
            the same.
        tie_rule: "bytes" or "huggingface"; see `TieRule`.
        min_frequency: pairs that occur less often do not merge.
        max_token_length: pairs that would make a token of more bytes do not merge; None for no limit.
        num_threads: threads that count pretokens; None for as many as this process may use cores.
        progress: see `Progress`.

    Returns:
        vocab: ids 0..255 the bytes, then one token for each merge, then the special tokens. A special token of a
            single byte keeps the id of the byte.
        merges: the pairs that were merged, in order. No two of them make the same bytes (docs/tokenizer.md).

    Raises:
        FileMissingError: the file does not exist.
        DataError: it is a folder, not a regular file, unreadable, or empty.
        TokenizerError: `vocab_size` has no room for bytes and special tokens; a special token, the pattern or another
            option is impossible.
        MissingExtraError: the pattern is a regular expression and `regex` is not installed.
    """
    options = LearningOptions(vocab_size, tie_rule, min_frequency, max_token_length)
    counts = _counts_for(options, pattern, special_tokens, num_threads)
    counts.add_file(input_path, progress=progress)
    return counts.train_and_empty(options, progress)


def train_bpe_from_documents(
    documents: Iterable[Document],
    vocab_size: int,
    special_tokens: list[str],
    *,
    pattern: str = "gpt2",
    tie_rule: TieRule = "bytes",
    min_frequency: int = 1,
    max_token_length: int | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Vocabulary, Merges]:
    """`train_bpe` on documents from any source. The end of a document is a boundary, as a special token is.

    Memory is bounded by `text.batches.BATCH_BYTES`, the longest document and the distinct pretokens.

    Args:
        documents: str, or anything with contiguous bytes. Lone surrogates become U+FFFD, as in encoding.

    Raises:
        DataError: there is no document, all are empty, or one is of another type.
        TokenizerError, MissingExtraError: as `train_bpe`.
    """
    options = LearningOptions(vocab_size, tie_rule, min_frequency, max_token_length)
    counts = _counts_for(options, pattern, special_tokens, num_threads)
    counts.add_documents(documents, progress=progress)
    return counts.train_and_empty(options, progress)


def _counts_for(
    options: LearningOptions, pattern: str, special_tokens: list[str], num_threads: int | None
) -> PretokenCounts:
    counts = PretokenCounts(pattern=pattern, special_tokens=special_tokens, num_threads=num_threads)
    counts.check_room(options)  # before hours of counting
    return counts


class Trained(NamedTuple):
    """A tokenizer, and how many bytes of text it was trained on."""

    tokenizer: Tokenizer
    bytes_counted: int

    def summary(self, vocab_size: int, seconds: float) -> str:
        """One line on the result; `vocab_size` is the size that was asked for."""
        count = len(self.tokenizer.vocab)
        short = "" if count == vocab_size else f" (no pair was left to merge before {vocab_size:,})"
        return f"{count:,} tokens{short} from {size_text(self.bytes_counted)}, {seconds:.1f} s"


def train_tokenizer(
    inputs: Sequence[Path],
    options: LearningOptions,
    *,
    special_tokens: Sequence[str] | None = None,
    pattern: str | None = None,
    counts: Sequence[Path] = (),
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    special_tokens_inside: SpecialTokenMode = "text",
    num_threads: int | None = None,
    progress: "ShownProgress | None" = None,
) -> Trained:
    """Train a tokenizer on inputs of any format that `TextReader` reads, and on saved `PretokenCounts`.

    Args:
        inputs: files, folders or ``-``.
        options: vocabulary size and what else decides the merges.
        special_tokens: as for `train_bpe`; None for those of the counts, or else <|endoftext|>.
        pattern: as for `train_bpe`; None for that of the counts, or else gpt2.
        counts: files of counts, which are added to those of the inputs.
        separator, read: how the inputs are read; see `TextReader`.
        special_tokens_inside: meaning of a special token's name inside a document.
        num_threads: threads that count; None for all cores. The result is the same.
        progress: shows the phases, and receives notes on the inputs.

    Raises:
        FileMissingError, DataError, MissingExtraError: from the readers; counts that do not add up; no text.
        TokenizerError: as `train_bpe`.
    """
    progress = progress or Silent()
    total = _sum_of_counts(counts, pattern, special_tokens, num_threads)
    total.check_room(options)
    if inputs:
        count_inputs(
            total, inputs, separator=separator, read=read, special_tokens_inside=special_tokens_inside,
            progress=progress,
        )  # fmt: skip
    bytes_counted = total.bytes_counted
    began = time.perf_counter()

    def show(phase: str, done: int, limit: int | None) -> None:
        seconds = max(time.perf_counter() - began, 1e-3)
        progress("merging pairs", done, limit, f"{done / seconds:,.0f}/s")

    vocab, merges = total.train_and_empty(options, show)
    return Trained(Tokenizer(vocab, merges, total.special_tokens, pattern=total.pattern), bytes_counted)


def count_inputs(
    counts: PretokenCounts,
    inputs: Sequence[Path],
    *,
    weight: int = 1,
    separator: str = END_OF_TEXT,
    read: ReadOptions | None = None,
    special_tokens_inside: SpecialTokenMode = "text",
    progress: "ShownProgress | None" = None,
) -> None:
    """Count the documents of inputs. Plain text is mapped into memory; all other formats go through the reader.

    Raises:
        FileMissingError, DataError, MissingExtraError: as `TextReader`.
    """
    progress = progress or Silent()
    if counts.pattern not in PATTERNS:
        progress.note(f"note: {slow_pattern_note(counts.pattern)}")
    everything = TextReader(list(inputs), separator=separator, read=read)
    everything.say_left_out(progress.note)
    is_error = special_tokens_inside == "error"  # to find which document it is, all go through the reader
    plain = [path for path in everything.files if everything.is_plain(path) and not is_error]
    others = [path for path in everything.files if path not in plain]
    reader = TextReader(others, separator=separator, read=read) if others else None
    inside: Literal["text", "encode"] = "text" if special_tokens_inside == "text" else "encode"
    of_reader = reader.bytes_total if reader else 0
    total = None if of_reader is None else sum(path.stat().st_size for path in plain) + of_reader
    finished, began = 0, time.perf_counter()

    def show(phase: str, done: int, limit: int | None) -> None:
        seconds = max(time.perf_counter() - began, 1e-3)
        read_now = finished + (reader.bytes_read if reader and reader.current else done)
        progress("counting pretokens", read_now, total, f"{size_text(read_now / seconds)}/s")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPatternWarning)
        for path in plain:
            counts.add_file(path, weight, separator=separator, special_tokens=inside, progress=show)
            finished += path.stat().st_size
        if reader:
            documents = refuse_names(reader, counts.special_tokens) if is_error else reader.documents()
            counts.add_documents(documents, weight, special_tokens=inside, progress=show)
            reader.say_how_read(progress.note)
    if counts.special_tokens_met:
        met = ", ".join(f"{name} × {count:,}" for name, count in sorted(counts.special_tokens_met.items()))
        progress.note(f"names of special tokens in documents were taken as text: {met}")


def _sum_of_counts(
    paths: Sequence[Path], pattern: str | None, special_tokens: Sequence[str] | None, num_threads: int | None
) -> PretokenCounts:
    """Sum of the counts in files, or empty counts; with the pattern and special tokens asked for, which must be theirs.

    Raises:
        DataError: a file has counts with another pattern or other special tokens.
    """
    parts = ((path, PretokenCounts.load(path, num_threads=num_threads)) for path in paths)
    first = next(parts, None)
    if special_tokens is None:
        special_tokens = first[1].special_tokens if first else [END_OF_TEXT]
    total = PretokenCounts(
        pattern=pattern if pattern is not None else first[1].pattern if first else "gpt2",
        special_tokens=special_tokens,
        num_threads=num_threads,
    )
    for path, part in itertools.chain([first] if first else [], parts):
        try:
            total.merge(part)
        except TokenizerError as error:
            raise DataError(f"{path}: {error}") from None
    return total
