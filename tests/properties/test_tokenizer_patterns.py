"""Encoding with every built-in pattern, for any bytes, cut and thread count: the C++ core against plain Python."""

import functools
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.tokenizer import _native, reference
from groundup.tokenizer.patterns import PATTERNS

SPECIAL_TOKENS = ["<|a|>", "<|a|>b", "<|a|><|a|>", " x ", "é", "\n\n"]
EDGES = [
    *"a A ab AB aB Ab the The HTTPServer é É ǅ ʰ 日 日A 日本 की न 0 12 1234 ½ ' 's 'S 'll 'LL 'ſ ’s x's's I'm".split(),
    *"! .. = / // <| <|a <|a|> <|a|>b <|a|><|a|> ← € 🐈 👩‍👩‍👧".split(),
    *(" ", "  ", "\t", "\n", "\r\n", "\n\n", "\n \n", " \n", "!\n", "!\n/", "/\n", "\x1c", "\x85", "\u2003", "\u3000"),
    *("\u0301", "e\u0301", " \u0301", "!\u0301", "the ", " the", " x", " x ", "\x00", "\ufeff"),
]
NOT_UTF8 = [b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x90", b"\xf4\x90\x80\x80", b"\xff"]

runs = st.builds(lambda unit, count: unit * count, st.sampled_from("aA \n0!é日"), st.integers(0, 70))
texts = st.lists(
    (st.sampled_from(EDGES) | runs).map(str.encode) | st.sampled_from(NOT_UTF8) | st.binary(max_size=3), max_size=20
).map(b"".join)
cuts = st.lists(st.integers(0, 2000), max_size=8)
patterns = pytest.mark.parametrize("pattern", PATTERNS)


@functools.cache
def learned(pattern: str) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """A vocabulary in which edges of all kinds have merged, as far as the pattern allows."""
    rng = random.Random(0)
    documents = ["".join(rng.choices(EDGES, k=3)).encode() for _ in range(2000)] + NOT_UTF8 * 20
    counts = _native.PretokenCounts(pattern, [], 1, 1 << 20)
    counts.count(documents, 1, False, None)
    vocab = {byte: bytes([byte]) for byte in range(256)}
    merges = []
    for left, right in counts.learn(300, "bytes", 2, None, None):
        merges.append((vocab[left], vocab[right]))
        vocab[len(vocab)] = vocab[left] + vocab[right]
    return vocab | {len(vocab) + i: special.encode() for i, special in enumerate(SPECIAL_TOKENS)}, merges


@functools.cache
def special_tokens(pattern: str) -> _native.SpecialTokens:
    id_of = {token: token_id for token_id, token in learned(pattern)[0].items()}
    return _native.SpecialTokens([(special.encode(), id_of[special.encode()]) for special in SPECIAL_TOKENS])


@functools.cache
def encoder(pattern: str) -> _native.Encoder:
    vocab, merges = learned(pattern)
    id_of = {token: token_id for token_id, token in vocab.items()}
    rules = np.array([(id_of[left], id_of[right], id_of[left + right]) for left, right in merges], dtype=np.uint32)
    return _native.Encoder(list(range(256)), rules, [], pattern)


def encode(pattern: str, text: bytes) -> list[int]:
    return encoder(pattern).encode_to_list(text, special_tokens(pattern))


def stream_ids(pattern: str, pieces: list[bytes]) -> list[int]:
    stream = encoder(pattern).stream(special_tokens(pattern))
    return [token_id for piece in pieces for token_id in stream.feed(piece).tolist()] + stream.finish().tolist()


def cut(text: bytes, positions: list[int]) -> list[bytes]:
    """The text in pieces, some of them empty."""
    ends = [0, *sorted(position % (len(text) + 1) for position in positions), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def large_text(seed: int, least_bytes: int) -> bytes:
    """More than one thread's share, of edges and, now and then, a word so long that no chunk can be cut in it."""
    rng = random.Random(seed)
    parts = [rng.choice(EDGES) * rng.choice([1, 1, 1, 2, 5]) for _ in range(100_000)] + ["a" * 300_000]
    rng.shuffle(parts)
    text = b"".join(part.encode() for part in parts)
    return text * (least_bytes // len(text) + 1)


@patterns
@given(text=texts)
def test_ids_are_those_of_the_reference(pattern, text):
    specials = [special.encode() for special in SPECIAL_TOKENS]
    assert encode(pattern, text) == reference.encode(text, *learned(pattern), specials, PATTERNS[pattern])


@patterns
@given(text=texts, cuts=cuts)
def test_streaming_gives_the_ids_of_the_whole_for_every_cut(pattern, text, cuts):
    assert stream_ids(pattern, cut(text, cuts)) == encode(pattern, text)


@patterns
@given(text=texts)
def test_streaming_byte_by_byte_gives_the_ids_of_the_whole(pattern, text):
    assert stream_ids(pattern, [bytes([byte]) for byte in text]) == encode(pattern, text)


@patterns
@given(text=texts, ending=texts)
def test_what_a_stream_gave_is_final_whatever_follows(pattern, text, ending):
    given_so_far = encoder(pattern).stream(special_tokens(pattern)).feed(text).tolist()
    assert encode(pattern, text + ending)[: len(given_so_far)] == given_so_far


@patterns
@given(documents=st.lists(texts, max_size=5))
def test_a_batch_gives_each_text_the_ids_it_has_alone(pattern, documents):
    one_by_one = [encode(pattern, text) for text in documents]
    assert encoder(pattern).encode_batch_to_lists(documents, special_tokens(pattern)) == one_by_one
    ids, ends = encoder(pattern).encode_batch_to_arrays(documents, special_tokens(pattern))
    assert [ids[start:end].tolist() for start, end in pairwise([0, *ends.tolist()])] == one_by_one


@patterns
@given(text=texts)
def test_the_count_is_the_number_of_ids(pattern, text):
    assert encoder(pattern).count(text, special_tokens(pattern)) == len(encode(pattern, text))


@patterns
def test_threads_change_nothing(pattern):
    text = large_text(0, 2_000_000)
    batch = [text, b"", text[:1_200_000], b"the end"]
    specials = special_tokens(pattern)
    alone = encoder(pattern).encode_to_array(text, specials, 1)
    ids, ends = encoder(pattern).encode_batch_to_arrays(batch, specials, 1)
    assert encoder(pattern).count(text, specials) == len(alone)
    for threads in (2, 3, 4):
        np.testing.assert_array_equal(encoder(pattern).encode_to_array(text, specials, threads), alone)
        threaded_ids, threaded_ends = encoder(pattern).encode_batch_to_arrays(batch, specials, threads)
        np.testing.assert_array_equal(threaded_ids, ids)
        np.testing.assert_array_equal(threaded_ends, ends)


@patterns
def test_large_pieces_stream_as_the_whole(pattern):
    text = large_text(1, 1_500_000)
    pieces = [text[start : start + 65_536] for start in range(0, len(text), 65_536)]
    assert stream_ids(pattern, pieces) == encode(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "unit"),
    [("gpt2", "a"), ("llama3", "\n "), ("o200k", "日A"), ("o200k", "!\n/")],
)
def test_a_word_of_300_kb_that_arrives_byte_by_byte_is_read_once(pattern, unit):
    # Were every byte to be looked at again with each that follows, this would take hours.
    text = (unit * 300_000).encode()[:300_000]
    stream = encoder(pattern).stream(special_tokens(pattern))
    ids = [stream.feed(text[i : i + 1]) for i in range(len(text))]
    assert np.concatenate([*ids, stream.finish()]).tolist() == encode(pattern, text)
