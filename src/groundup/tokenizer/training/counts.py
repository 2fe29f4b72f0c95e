"""Counts of the pretokens of text, which are all that training needs."""

import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from groundup.errors import DataError, TokenizerError
from groundup.system.threads import available_cores
from groundup.text.options import utf8
from groundup.tokenizer.encoders import load_core
from groundup.tokenizer.patterns import PATTERNS, Pattern, checked_pattern, pretoken_ends
from groundup.tokenizer.special_tokens import SpecialNames, checked_special_tokens, set_aside
from groundup.tokenizer.training.merges import (
    LearningOptions,
    Merges,
    Progress,
    TieRule,
    Vocabulary,
    learn_vocabulary,
    tokens_beside_bytes,
    whole_number,
)
from groundup.tokenizer.training.texts import Document, Text, document_batches, mapped, mapped_batches, while_unchanged

if TYPE_CHECKING:
    from groundup.tokenizer import _native
    from groundup.tokenizer.training.counts_file import CountedPretokens

MOST_THREADS = 256
CHUNK_BYTES = 1 << 20
"""What a thread takes at a time. The counts do not depend on it."""
MOST_WEIGHTED_BYTES = 1 << 62
"""Counts are 64-bit, and no pair can occur more often than there are bytes."""
MOST_WEIGHT = 1_000_000
_PROGRESS_SECONDS = 0.1


class SlowPatternWarning(UserWarning):
    """A pattern is not built in, so that text is split about a hundred times more slowly."""


class PretokenCounts:
    """Counts of pretokens from any number of texts, to train on once or several times.

    Text is split on the special tokens, longest first, and what lies between with the pattern. Many machines can each
    count a part, `save`, and one `load` and `merge` them: training on the sum is training on everything at once. Only
    one thread at a time may use the object; its methods use several of their own.

        counts = PretokenCounts(special_tokens=["<|endoftext|>"])
        counts.add_file("books.txt")
        counts.add_documents(conversations, weight=3)       # as if each were there three times
        vocab, merges = counts.train(vocab_size=32_000)

    Args:
        pattern: name of a built-in pattern, or a regular expression of the `regex` package, or several, slower by about
            a factor of a hundred and says so by a `SlowPatternWarning`. It holds a stretch of text without special
            tokens whole, several times over, since such an expression may look anywhere.
        special_tokens: text that always is one token. Each is a boundary, and counts for nothing in the merges.
        num_threads: threads that count; None for as many as this process may use cores. A regular expression uses one.
        chunk_bytes: what a thread takes at a time; neither it nor the threads change the counts.

    Attributes:
        special_tokens_met: how often special tokens were in documents in which they are text.

    Raises:
        TokenizerError: the pattern, a special token or a number is impossible, or the C++ core is not built.
        MissingExtraError: the pattern is a regular expression and `regex` is not installed.
    """

    def __init__(
        self,
        *,
        pattern: str | Sequence[str] = "gpt2",
        special_tokens: Sequence[str] = (),
        num_threads: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._specials = checked_special_tokens(special_tokens)
        self._pattern = checked_pattern(pattern)
        self._threads = thread_count(num_threads)
        self._chunk_bytes = whole_number("chunk_bytes", chunk_bytes, 1)
        self._is_built_in = self._pattern in PATTERNS
        self._finder = load_core().SpecialTokens([(token, i) for i, token in enumerate(self._specials)])
        self._core = self._empty_core()
        self._bytes_counted = 0
        self._weighted_bytes = 0
        self._in_use = threading.Lock()
        self._is_incomplete = False
        self._has_warned = False
        self.special_tokens_met: Counter[str] = Counter()

    @property
    def pattern(self) -> Pattern:
        """Name of the built-in pattern, or the regular expression, or several of them."""
        return self._pattern

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens, in the order given."""
        return [token.decode() for token in self._specials]

    @property
    def bytes_counted(self) -> int:
        """Bytes of all texts counted, special tokens included, whatever their weight."""
        return self._bytes_counted

    def __len__(self) -> int:
        """Number of distinct pretokens."""
        with self._using():
            return len(self._core)

    def __repr__(self) -> str:
        return (
            f"<PretokenCounts of {self._bytes_counted} bytes, pattern {self._pattern!r}, "
            f"special tokens {self.special_tokens!r}>"
        )

    def add_file(
        self,
        path: str | os.PathLike[str],
        weight: int = 1,
        *,
        separator: str | None = None,
        special_tokens: Literal["text", "encode"] = "encode",
        progress: Progress | None = None,
    ) -> None:
        """Count a text file. It is read as bytes, mapped into memory, and unmapped as it is counted.

        Args:
            path: a regular file of any encoding; a compressed one would be counted as the bytes it is.
            weight: number of times that each pretoken counts.
            separator: token between the documents; the line breaks around one that stands alone on its line are part
                of it, as in `groundup.text.readers`. None: the file is one document, divided by special tokens alone.
            special_tokens: a special token's name inside a document is a boundary ("encode"), or text like any.
            progress: see `Progress`.

        Raises:
            FileMissingError: the file does not exist.
            DataError: it is a folder, not a regular file, unreadable, or empty; or the separator is; or it changed.
            TokenizerError: the weight is impossible.
        """
        text = mapped(Path(path))
        batches = [[text]] if separator is None else mapped_batches(text, separator)
        as_text = special_tokens == "text" and self.special_tokens != [separator]
        whole = while_unchanged(Path(path), text, batches)
        self._count(whole, weight, progress, mapped_bytes=len(text), names_as_text=as_text)

    def add_documents(
        self,
        documents: Iterable[Document],
        weight: int = 1,
        *,
        special_tokens: Literal["text", "encode"] = "encode",
        progress: Progress | None = None,
    ) -> None:
        """Count documents from any source. The end of a document is a boundary, as a special token is.

        Memory is bounded by `text.batches.BATCH_BYTES`, the longest document and the distinct pretokens.

        Args:
            documents: str, or anything with contiguous bytes. Lone surrogates become U+FFFD, as in encoding.
            weight: number of times that each pretoken counts.
            special_tokens: as for `add_file`.
            progress: see `Progress`; the work in all is not known.

        Raises:
            DataError: a document is of another type.
            TokenizerError: the weight is impossible.
        """
        self._count(document_batches(documents), weight, progress, names_as_text=special_tokens == "text")

    def merge(self, other: "PretokenCounts") -> None:
        """Add the counts of other texts to these.

        Raises:
            TokenizerError: the others were made with another pattern or other special tokens.
        """
        self._check_mergeable(other)
        self._add_counted(other._counted())

    def __add__(self, other: "PretokenCounts") -> "PretokenCounts":
        """The counts of both; neither changes. Raises as `merge`."""
        if not isinstance(other, PretokenCounts):
            return NotImplemented
        self._check_mergeable(other)
        total = self._like_this()
        total._add_counted(self._counted())
        total._add_counted(other._counted())
        return total

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Each distinct pretoken and how often it occurs, in the order of the bytes."""
        counted = self._counted()
        data, begin = counted.data.tobytes(), 0
        for end, count in zip(counted.ends.tolist(), counted.counts.tolist(), strict=True):
            yield data[begin:end], count
            begin = end

    def train(
        self,
        vocab_size: int,
        *,
        tie_rule: TieRule = "bytes",
        min_frequency: int = 1,
        max_token_length: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Vocabulary, Merges]:
        """Vocabulary and merges, as `train_bpe` has them from the same texts. The counts stay.

        Raises:
            DataError: nothing was counted.
            TokenizerError: as `train_bpe`.
        """
        options = LearningOptions(vocab_size, tie_rule, min_frequency, max_token_length)
        self.check_room(options)
        copy = self._like_this()
        copy._add_counted(self._counted())
        return copy.train_and_empty(options, progress)

    def check_room(self, options: LearningOptions) -> None:
        """Raise TokenizerError if the vocabulary has no room for bytes and special tokens."""
        options.merge_limit(len(tokens_beside_bytes(self._specials)))

    def train_and_empty(self, options: LearningOptions, progress: Progress | None) -> tuple[Vocabulary, Merges]:
        """`train` without the copy of the counts that keeps them. Raises as `train`."""
        if self._bytes_counted == 0:
            raise DataError("there is no text to train on: no document has a single byte; check the input")
        with self._using():
            self._bytes_counted = self._weighted_bytes = 0
            return learn_vocabulary(self._core, self._specials, options, progress)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the counts to a file atomically: a NumPy .npz without pickles (`counts_file`)."""
        from groundup.tokenizer.training.counts_file import write_counts

        write_counts(Path(path), self._counted())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, num_threads: int | None = None) -> "PretokenCounts":
        """The counts that `save` wrote.

        Raises:
            FileMissingError: the file does not exist.
            DataError: it is another kind of file, truncated, or damaged.
            TokenizerError: `num_threads` is impossible.
        """
        from groundup.tokenizer.training.counts_file import read_counts

        counted = read_counts(Path(path))
        counts = cls(pattern=counted.pattern, special_tokens=counted.special_tokens, num_threads=num_threads)
        counts._add_counted(counted)
        return counts

    def _empty_core(self) -> "_native.PretokenCounts":
        pattern = str(self._pattern) if self._is_built_in else "gpt2"
        core: _native.PretokenCounts = load_core().PretokenCounts(
            pattern, self._specials, self._threads, self._chunk_bytes
        )
        return core

    def _like_this(self, special_tokens: Sequence[str] | None = None) -> "PretokenCounts":
        return PretokenCounts(
            pattern=self._pattern,
            special_tokens=self.special_tokens if special_tokens is None else special_tokens,
            num_threads=self._threads,
            chunk_bytes=self._chunk_bytes,
        )

    def _check_mergeable(self, other: "PretokenCounts") -> None:
        if self._pattern != other._pattern:
            raise TokenizerError(
                f"counts with pattern {self._pattern!r} and with {other._pattern!r} do not add up; count again with one"
            )
        if self._specials != other._specials:
            raise TokenizerError(
                f"counts with special tokens {self.special_tokens} and with {other.special_tokens} do not add up; "
                "count again with the same in the same order"
            )

    def _counted(self) -> "CountedPretokens":
        from groundup.tokenizer.training.counts_file import CountedPretokens

        with self._using():
            return CountedPretokens(
                self._pattern, self.special_tokens, self._bytes_counted, self._weighted_bytes, *self._core.arrays()
            )

    def _add_counted(self, counted: "CountedPretokens") -> None:
        with self._using():
            self._check_weighted_bytes(self._weighted_bytes + counted.weighted_bytes)
            self._core.add_counts(counted.data.data, counted.ends, counted.counts)
            self._bytes_counted += counted.bytes_counted
            self._weighted_bytes += counted.weighted_bytes

    @contextmanager
    def _using(self) -> Iterator[None]:
        # The core may be at work without the GIL: two at once would damage its tables.
        if not self._in_use.acquire(blocking=False):
            raise TokenizerError("these counts are in use already; give each thread its own, and merge them at the end")
        try:
            if self._is_incomplete:
                raise TokenizerError("these counts lack part of a text whose counting was stopped; count again")
            yield
        finally:
            self._in_use.release()

    def _count(
        self,
        batches: Iterable[Sequence[Text]],
        weight: int,
        progress: Progress | None,
        *,
        mapped_bytes: int | None = None,
        names_as_text: bool = False,
    ) -> None:
        weight = whole_number("weight", weight, 1, MOST_WEIGHT)
        # Documents with names of special tokens are few; where these are text they are counted by themselves.
        aside = self._like_this([]) if names_as_text else None
        if aside is not None:
            take = partial(aside.add_documents, weight=weight)
            batches = set_aside(batches, SpecialNames(self.special_tokens), self.special_tokens_met, take)
        with self._using():
            before = self._bytes_counted

            def show(bytes_counted: int) -> None:
                if progress is not None:
                    progress("counting", bytes_counted - before, mapped_bytes)

            for batch in batches:
                self._is_incomplete = True
                count = self._count_natively if self._is_built_in else self._count_matches
                size = count(batch, weight, mapped_bytes is not None, show)
                self._bytes_counted += size
                self._weighted_bytes += size * weight
                self._check_weighted_bytes(self._weighted_bytes)
            self._is_incomplete = False
            if mapped_bytes is not None:
                show(before + mapped_bytes)
        if aside is not None:
            self._add_counted(aside._counted())

    def _count_natively(self, batch: Sequence[Text], weight: int, mapped: bool, show: Callable[[int], None]) -> int:
        offset = self._bytes_counted - self._core.bytes_counted
        before = self._core.bytes_counted
        self._core.count(list(batch), weight, mapped, lambda done: show(done + offset))
        return self._core.bytes_counted - before

    def _count_matches(self, batch: Sequence[Text], weight: int, mapped: bool, show: Callable[[int], None]) -> int:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(slow_pattern_note(self._pattern), SlowPatternWarning, stacklevel=4)
        size, shown = 0, time.monotonic()
        for document in batch:
            text = utf8(document) if isinstance(document, str) else document
            begin = 0
            while begin < len(text):
                special = self._finder.find(text, begin)
                end, following = special[:2] if special else (len(text), len(text))
                piece = bytes(text[begin:end])
                self._core.add_pretokens(piece, pretoken_ends(piece, self._pattern), weight)
                begin = following
                if time.monotonic() - shown >= _PROGRESS_SECONDS:
                    show(self._bytes_counted + size + begin)
                    shown = time.monotonic()
            size += len(text)
        show(self._bytes_counted + size)
        return size

    def _check_weighted_bytes(self, count: int) -> None:
        if count > MOST_WEIGHTED_BYTES:
            raise TokenizerError(
                f"the texts are {count} bytes by their weights, which may overflow 64-bit counts; "
                f"give smaller weights, {MOST_WEIGHTED_BYTES} bytes at most"
            )


def slow_pattern_note(pattern: Pattern) -> str:
    """Warning for a pattern that is not built in."""
    return (
        f"the pattern {pattern!r} is not built in: text is split by the regex package, about a hundred times more "
        f"slowly and on one thread; built in are {', '.join(PATTERNS)}"
    )


def thread_count(num_threads: int | None) -> int:
    """The number of threads asked for; for None as many as this process may use cores."""
    if num_threads is None:
        return available_cores()
    try:
        return whole_number("num_threads", num_threads, 1, MOST_THREADS)
    except TokenizerError as error:
        raise TokenizerError(f"{error}, or nothing for as many as there are cores") from None
