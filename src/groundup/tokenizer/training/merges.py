"""From counted pretokens to a vocabulary: the second half of training."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from groundup.errors import DataError, TokenizerError
from groundup.tokenizer.vocabulary import LARGEST_ID

if TYPE_CHECKING:
    from groundup.tokenizer import _native

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called a few times a second with the phase ("counting" bytes, then "merging"), the work done and the work in all.

The work in all is None where it is not known beforehand. An exception it raises stops the training.
"""
TieRule: TypeAlias = Literal["bytes", "huggingface"]
"""Which of two equally frequent pairs merges first.

* "bytes": the greater pair of byte strings.
* "huggingface": the pair with the smaller ids, bytes being numbered in the order of GPT-2's characters for them: the
  rule of `tokenizers.trainers.BpeTrainer` with the alphabet `ByteLevel.alphabet()`.
"""
_MOST = (1 << 63) - 1
Vocabulary: TypeAlias = dict[int, bytes]
Merges: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class LearningOptions:
    """Options that decide, with the counts, which merges are learned.

    Raises:
        TokenizerError: a number is not a whole number or out of its range, or the tie rule is not known.
    """

    vocab_size: int
    """Most tokens: 256 bytes, merges and special tokens."""
    tie_rule: TieRule = "bytes"
    min_frequency: int = 1
    """Pairs that occur less often do not merge."""
    max_token_length: int | None = None
    """Pairs that would make a token of more bytes do not merge; None for no limit.

    That of `tokenizers` 0.23 stops one byte short: 17 there is 16 here.
    """

    def __post_init__(self) -> None:
        whole_number("vocab_size", self.vocab_size, 256)
        if self.vocab_size > LARGEST_ID + 1:
            raise TokenizerError(
                f"vocab_size = {self.vocab_size}; ids end at {LARGEST_ID}, give at most {LARGEST_ID + 1}"
            )
        if self.tie_rule not in get_args(TieRule):
            raise TokenizerError(
                f"tie_rule = {self.tie_rule!r} is not known; give one of {', '.join(get_args(TieRule))}"
            )
        whole_number("min_frequency", self.min_frequency, 1, _MOST)
        if self.max_token_length is not None:
            whole_number("max_token_length", self.max_token_length, 1, _MOST)

    def merge_limit(self, new_special_tokens: int) -> int:
        """Number of merges that fit beside the bytes and the special tokens.

        Raises:
            TokenizerError: not even those fit.
        """
        minimum = 256 + new_special_tokens
        if self.vocab_size < minimum:
            raise TokenizerError(
                f"vocab_size = {self.vocab_size} has no room for the 256 bytes and {new_special_tokens} special tokens"
                f"; give at least {minimum}"
            )
        return int(self.vocab_size) - minimum


def tokens_beside_bytes(special_tokens: list[bytes]) -> list[bytes]:
    """The special tokens that take ids of their own. One of a single byte keeps the id of the byte."""
    return [token for token in special_tokens if len(token) > 1]


def learn_vocabulary(
    counts: "_native.PretokenCounts", special_tokens: list[bytes], options: LearningOptions, progress: Progress | None
) -> tuple[Vocabulary, Merges]:
    """Vocabulary and merges from counts in the C++ core, which are empty afterwards.

    Raises:
        TokenizerError: there is no room for the special tokens, or the bytes of one were learned as well.
        DataError: there is more distinct text than the core can hold.
    """
    new_specials = tokens_beside_bytes(special_tokens)
    limit = options.merge_limit(len(new_specials))

    def merged(done: int) -> None:
        if progress is not None:
            progress("merging", done, limit)

    longest = None if options.max_token_length is None else int(options.max_token_length)
    try:
        learned = counts.learn(limit, options.tie_rule, int(options.min_frequency), longest, merged)
    except ValueError as error:
        if "distinct pretokens" not in str(error):
            raise
        raise DataError(
            f"{error}, the most that training can hold; train on less, or split with another pattern"
        ) from None
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in learned:
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    if both := set(tokens) & set(new_specials):
        raise TokenizerError(
            f"the special token {min(both).decode()!r} was learned as an ordinary token too, since its name is in "
            "documents, where it counts as text; count it as the token (--special-tokens-inside encode), or choose a "
            "name that is in no text"
        )
    return dict(enumerate(tokens + new_specials)), merges


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int.

    Raises:
        TokenizerError: it is not a whole number, or out of range.
    """
    expected = (
        f"a whole number of at least {least}" if most in (None, _MOST) else f"a whole number from {least} to {most}"
    )
    try:
        number = operator.index(value)
    except TypeError:
        raise TokenizerError(f"{name} = {value!r} is of type {type(value).__name__}; give {expected}") from None
    if number < least or (most is not None and number > most):
        raise TokenizerError(f"{name} = {value}; give {expected}")
    return number
