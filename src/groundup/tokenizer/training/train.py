"""Learning a vocabulary from text with byte-pair encoding."""

import os
from collections.abc import Iterable

from groundup.tokenizer.training.counts import PretokenCounts
from groundup.tokenizer.training.merges import LearningOptions, Merges, Progress, TieRule, Vocabulary
from groundup.tokenizer.training.texts import Document


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
    """Learns a vocabulary from a text file with byte-pair encoding on bytes (Sennrich et al. 2016).

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
        FileMissingError: there is no such file.
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
    """`train_bpe` on documents from anywhere. The end of a document is a boundary, as a special token is.

    Memory is bounded by `training_texts.BATCH_BYTES`, the longest document and the distinct pretokens.

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
