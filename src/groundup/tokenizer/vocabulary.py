"""Checks of a vocabulary and its merges, before anything is built on them.

A vocabulary has up to hundreds of thousands of tokens, so each check is of all of them at once; one by one they are
looked at only to say which is at fault.
"""

import operator
from array import array
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from groundup.errors import TokenizerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_ID = (1 << 24) - 1
"""Arrays are as long as the largest id, and a stray huge one must not take all memory."""

Pair = tuple[bytes, bytes]


class Rules(NamedTuple):
    """Merges as ids, in order: arrays of unsigned 32-bit integers, one entry a merge."""

    left: "array[int]"
    right: "array[int]"
    product: "array[int]"


def rule_array(rules: Rules) -> "NDArray[np.uint32]":
    """The rules as the C++ core takes them, uint32 (merges, 3)."""
    import numpy as np

    return np.stack([np.frombuffer(ids, dtype=np.uint32) if ids else np.empty(0, np.uint32) for ids in rules], 1)


def checked_special_ids(special_ids: Mapping[str, int], names: Collection[bytes]) -> dict[bytes, int]:
    """The ids by token bytes of special and added tokens that have the bytes of an ordinary token.

    Raises:
        TokenizerError: one of them is not among the names, or an id is not one, or given twice.
    """
    for name, token_id in special_ids.items():
        if name.encode("utf-8", "replace") not in names:
            raise TokenizerError(
                f"special_ids has {name!r}, which is neither in special_tokens nor in added_tokens; add it"
            )
        if type(token_id) is not int or not 0 <= token_id <= LARGEST_ID:
            raise TokenizerError(f"special token {name!r} has the id {token_id!r}; ids are integers up to {LARGEST_ID}")
    ids = {name.encode(): token_id for name, token_id in special_ids.items()}
    if len(set(ids.values())) < len(ids):
        raise TokenizerError(f"special_ids {dict(special_ids)!r} gives an id twice; ids are unique")
    return ids


def checked_vocab(
    vocab: Mapping[int, bytes], special_ids: Mapping[bytes, int] | None = None
) -> tuple[dict[int, bytes], dict[bytes, int]]:
    """Token bytes by id, and ids by token bytes.

    Args:
        vocab: token bytes by id.
        special_ids: ids of special tokens that have the bytes of another token, whose id the second result has.

    Raises:
        TokenizerError: an id is not one, or a token is empty, not bytes, or there twice; or the two were exchanged.
    """
    if not isinstance(vocab, Mapping):
        raise TokenizerError(f"vocab is of type {type(vocab).__name__}; give a mapping from id to token bytes")
    if special_ids:
        return _checked_beside(vocab, special_ids)
    tokens = dict(vocab)
    if set(map(type, tokens)) <= {int} and set(map(type, tokens.values())) <= {bytes}:
        ids = dict(zip(tokens.values(), tokens, strict=True))
        in_range = not tokens or (min(tokens) >= 0 and max(tokens) <= LARGEST_ID)
        if in_range and len(ids) == len(tokens) and b"" not in ids:
            return tokens, ids
    raise _fault_of_vocab(tokens)


def _checked_beside(
    vocab: Mapping[int, bytes], special_ids: Mapping[bytes, int]
) -> tuple[dict[int, bytes], dict[bytes, int]]:
    tokens, id_of = checked_vocab({i: token for i, token in vocab.items() if i not in set(special_ids.values())})
    for name, token_id in special_ids.items():
        if name not in id_of or vocab.get(token_id, name) != name:
            raise TokenizerError(
                f"special token {name.decode()!r} has its own id {token_id}, which is for tokens whose bytes "
                f"another token has too; {token_id} is {vocab.get(token_id)!r} in vocab"
            )
        tokens[token_id] = name
    return tokens, id_of


def checked_merges(merges: Iterable[Pair]) -> list[Pair]:
    """The merges as a list.

    Raises:
        TokenizerError: one of them is not a pair of bytes, or is listed twice.
    """
    try:
        pairs: list[Any] = list(map(tuple, merges))
    except TypeError:
        raise TokenizerError("merges are not pairs; give a list of pairs of bytes") from None
    sized = set(map(len, pairs)) <= {2}
    if not sized or not set(map(type, chain.from_iterable(pairs))) <= {bytes}:
        number, pair = next((i, p) for i, p in enumerate(pairs) if [type(token) for token in p] != [bytes, bytes])
        raise TokenizerError(f"merge {number} is {pair!r}; a merge is a pair of bytes")
    if len(set(pairs)) < len(pairs):
        first = dict(reversed([(pair, number) for number, pair in enumerate(pairs)]))
        number, pair = next((number, pair) for number, pair in enumerate(pairs) if first[pair] < number)
        raise TokenizerError(f"merge {number} of {pair[0]!r} and {pair[1]!r} is listed before; a pair merges once")
    return pairs


def checked_rules(merges: list[Pair], id_of: Mapping[bytes, int]) -> Rules:
    """Each merge as ids.

    Raises:
        TokenizerError: a token of a merge is not in the vocabulary.
    """
    left, right = zip(*merges, strict=True) if merges else ((), ())
    try:
        return Rules(
            array("I", map(id_of.__getitem__, left)),
            array("I", map(id_of.__getitem__, right)),
            array("I", map(id_of.__getitem__, map(operator.add, left, right))),
        )
    except KeyError:
        number, missing = next(
            (number, token)
            for number, pair in enumerate(merges)
            for token in (*pair, b"".join(pair))
            if token not in id_of
        )
        raise TokenizerError(
            f"merge {number} of {merges[number][0]!r} and {merges[number][1]!r}: {missing!r} is not in the vocabulary; "
            "vocabulary and merges must come from the same training"
        ) from None


def _fault_of_vocab(vocab: Mapping[int, bytes]) -> TokenizerError:
    ids: dict[bytes, int] = {}
    for token_id, token in vocab.items():
        if type(token) is not bytes:
            return TokenizerError(f"token {token_id!r} is {token!r} of type {type(token).__name__}; tokens are bytes")
        if type(token_id) is not int or not 0 <= token_id <= LARGEST_ID:
            return TokenizerError(f"token {token!r} has the id {token_id!r}; ids are integers from 0 to {LARGEST_ID}")
        if not token:
            return TokenizerError(f"token {token_id} is empty; every token has at least one byte")
        if token in ids:
            return TokenizerError(f"ids {ids[token]} and {token_id} are the same bytes {token!r}; keep one of them")
        ids[token] = token_id
    raise AssertionError("a vocabulary without fault was refused")
