"""Byte-pair encoding in plain Python: what the C++ core computes, written to be read.

Nothing here is fast. The tests hold the fast code against this page, and this page against tiktoken.

Text is bytes. Most of it is UTF-8, but nothing has to be: Python's "surrogateescape" gives each byte that is not part
of valid UTF-8 a separate character, neither letter nor number nor white space, and takes it back afterwards.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import regex

from groundup.tokenizer.formats.gpt2 import BYTE_TO_CHARACTER
from groundup.tokenizer.patterns import GPT2

Pair = tuple[bytes, bytes]


def split_on_special_tokens(data: bytes, special_tokens: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The text cut at its special tokens: (piece, is it a special token).

    From the left; where several special tokens begin at the same place, the longest is taken.
    """
    longest_first = sorted(special_tokens, key=len, reverse=True)
    start = position = 0
    while position < len(data):
        special = next((token for token in longest_first if data.startswith(token, position)), None)
        if special is None:
            position += 1
            continue
        yield data[start:position], False
        yield special, True
        start = position = position + len(special)
    yield data[start:], False


def pretokens(data: bytes, pattern: str = GPT2) -> list[bytes]:
    """The pretokens of a text without special tokens: the matches of the pattern, and what lies between them.

    Joined they are the text again.
    """
    text = data.decode("utf-8", "surrogateescape")
    pieces: list[str] = []
    position = 0
    for match in regex.finditer(pattern, text):
        pieces += [text[position : match.start()], match.group()]
        position = match.end()
    pieces.append(text[position:])
    return [piece.encode("utf-8", "surrogateescape") for piece in pieces if piece]


def merge_pair(tokens: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """The tokens with every occurrence of the pair merged; of overlapping ones the leftmost: a a a -> aa a."""
    merged: list[bytes] = []
    i = 0
    while i < len(tokens):
        if tokens[i : i + 2] == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return tuple(merged)


def greatest_bytes(pair: Pair, tokens: list[bytes]) -> object:
    """Tie rule: of equally frequent pairs the greatest pair of byte strings merges first."""
    return pair


def least_ids(pair: Pair, tokens: list[bytes]) -> object:
    """Tie rule of Hugging Face's trainer: of equally frequent pairs the one with the smallest ids merges first.

    Its bytes are numbered in the order of the characters that GPT-2 writes for them.
    """
    left, right = (
        (ord(BYTE_TO_CHARACTER[token[0]]) if len(token) == 1 else 512 + tokens.index(token)) for token in pair
    )
    return -left, -right


def learn_merges(
    word_counts: Counter[tuple[bytes, ...]],
    max_merges: int,
    tie_rule: Callable[[Pair, list[bytes]], Any] = greatest_bytes,
    min_frequency: int = 1,
    max_token_length: int | None = None,
) -> list[Pair]:
    """The merges, in order, that byte-pair encoding learns from counted words (Sennrich et al. 2016, algorithm 1).

    Again and again the most frequent pair of neighbours merges into one token, until no word has two tokens left, or
    what is left is rarer than `min_frequency` or would make tokens of more than `max_token_length` bytes.
    """
    merges: list[Pair] = []
    tokens: list[bytes] = []
    while len(merges) < max_merges:
        pair_counts: Counter[Pair] = Counter()
        for word, count in word_counts.items():
            for pair in pairwise(word):
                if max_token_length is None or len(pair[0]) + len(pair[1]) <= max_token_length:
                    pair_counts[pair] += count
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], tie_rule(pair, tokens)), default=None)
        if best is None or pair_counts[best] < min_frequency:
            break
        merges.append(best)
        tokens.append(best[0] + best[1])
        merged_counts: Counter[tuple[bytes, ...]] = Counter()
        for word, count in word_counts.items():
            merged_counts[merge_pair(word, best)] += count
        word_counts = merged_counts
    return merges


def train_bpe(
    documents: Iterable[bytes], vocab_size: int, special_tokens: list[bytes], pattern: str = GPT2, **options: Any
) -> tuple[dict[int, bytes], list[Pair]]:
    """Vocabulary and merges from documents: the 256 bytes, then a token for each merge, then the special tokens.

    Special tokens and the ends of documents are boundaries that no pretoken crosses, and count for nothing else. A
    special token that is a single byte is in the vocabulary already and takes no second id. The options are those of
    `learn_merges`.
    """
    word_counts: Counter[tuple[bytes, ...]] = Counter()
    for document in documents:
        for piece, is_special in split_on_special_tokens(document, special_tokens):
            if not is_special:
                word_counts.update(tuple(byte_tokens(word)) for word in pretokens(piece, pattern))
    new_specials = [token for token in special_tokens if len(token) > 1]
    merges = learn_merges(word_counts, vocab_size - 256 - len(new_specials), **options)
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges] + new_specials
    return dict(enumerate(tokens)), merges


def byte_tokens(data: bytes) -> list[bytes]:
    """The bytes, each as a token."""
    return [bytes([byte]) for byte in data]


def merge_pretoken(pretoken: bytes, ranks: dict[Pair, int]) -> list[bytes]:
    """The tokens of one pretoken: while any pair is a merge, the one learned first merges, leftmost first."""
    tokens = byte_tokens(pretoken)
    while True:
        candidates = [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]
        if not candidates:
            return tokens
        _, i = min(candidates)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def encode(
    data: bytes, vocab: dict[int, bytes], merges: list[Pair], special_tokens: list[bytes], pattern: str = GPT2
) -> list[int]:
    """The ids of a text. `vocab` has to hold the single bytes of the text, all merges and all special tokens."""
    id_of = {token: token_id for token_id, token in vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids: list[int] = []
    for piece, is_special in split_on_special_tokens(data, special_tokens):
        if is_special:
            ids.append(id_of[piece])
        else:
            ids += [id_of[token] for word in pretokens(piece, pattern) for token in merge_pretoken(word, ranks)]
    return ids


def decode(ids: Iterable[int], vocab: dict[int, bytes]) -> str:
    """The text of ids. Bytes that are not UTF-8, as in half a character, become U+FFFD."""
    return b"".join(vocab[token_id] for token_id in ids).decode("utf-8", "replace")
