"""Checks of a vocabulary and its merges, before anything is built on them."""

from collections.abc import Mapping

from groundup.errors import TokenizerError

LARGEST_ID = (1 << 24) - 1
"""Arrays are as long as the largest id, and a stray huge one must not take all memory."""

Pair = tuple[bytes, bytes]


def checked_vocab(vocab: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[bytes, int]]:
    """Token bytes by id, and ids by token bytes.

    Raises:
        TokenizerError: an id is not one, or a token is empty, not bytes, or there twice.
    """
    tokens: dict[int, bytes] = {}
    ids: dict[bytes, int] = {}
    for token_id, token in vocab.items():
        if not isinstance(token, bytes):
            raise TokenizerError(f"token {token_id!r} is {token!r} of type {type(token).__name__}; tokens are bytes")
        if not isinstance(token_id, int) or not 0 <= token_id <= LARGEST_ID:
            raise TokenizerError(f"token {token!r} has the id {token_id!r}; ids are integers from 0 to {LARGEST_ID}")
        if not token:
            raise TokenizerError(f"token {token_id} is empty; every token has at least one byte")
        if token in ids:
            raise TokenizerError(f"ids {ids[token]} and {token_id} are the same bytes {token!r}; keep one of them")
        tokens[token_id] = token
        ids[token] = token_id
    return tokens, ids


def checked_rules(merges: list[Pair], id_of: Mapping[bytes, int]) -> list[tuple[int, int, int]]:
    """Each merge as ids: left, right, product.

    Raises:
        TokenizerError: a merge is listed twice, or one of its tokens is not in the vocabulary.
    """
    rules = []
    for number, (left, right) in enumerate(merges):
        try:
            rules.append((id_of[left], id_of[right], id_of[left + right]))
        except KeyError as error:
            raise TokenizerError(
                f"merge {number} of {left!r} and {right!r}: {error.args[0]!r} is not in the vocabulary; "
                "vocabulary and merges must come from the same training"
            ) from None
    if len(set(merges)) < len(merges):
        first = dict(reversed([(pair, number) for number, pair in enumerate(merges)]))
        number, pair = next((number, pair) for number, pair in enumerate(merges) if first[pair] < number)
        raise TokenizerError(f"merge {number} of {pair[0]!r} and {pair[1]!r} is listed before; a pair merges once")
    return rules
