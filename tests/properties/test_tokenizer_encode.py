"""Encoding, for any bytes, any cut and any vocabulary: the C++ core against plain Python, and against tiktoken."""

import functools
from itertools import pairwise

import pytest
import regex
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from groundup.tokenizer import Tokenizer, _native, reference, train_bpe_from_documents
from groundup.tokenizer.patterns import GPT2, PATTERNS

SPECIAL_TOKENS = ["<|a|>", "<|a|>b", "<|a|><|a|>", " x ", "é"]
EDGES = [
    *(
        "a",
        "b",
        "the",
        " the",
        "'",
        "'s",
        "'l",
        "'ll",
        "'re",
        "0",
        "12",
        "½",
        "é",
        "日本",
        "न",
        "\u0301",
        "🐈",
        "..",
        "=",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\n\n", "\x00", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028", "\u3000", "\ufeff"),
    *("<", "<|", "<|a", "<|a|>", "<|a|>b", "<|a|><|a|>", " x", " x "),
]
NOT_UTF8 = [b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x90", b"\xf4\x90\x80\x80", b"\xff"]

texts = st.lists(st.sampled_from(EDGES) | st.text(max_size=3), max_size=25).map("".join)
texts_as_bytes = st.lists(
    st.sampled_from([edge.encode() for edge in EDGES] + NOT_UTF8) | st.binary(max_size=3), max_size=25
).map(b"".join)


def cut(text, cuts):
    """The text in pieces, some of them empty."""
    positions = [0, *sorted(position % (len(text) + 1) for position in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(positions)]


@functools.cache
def learned() -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """A vocabulary in which many of the edges have merged across each other, as far as pretokens allow."""
    documents = [(first + second + third).encode() for first in EDGES for second in EDGES for third in ("", "the", " ")]
    return train_bpe_from_documents(documents + NOT_UTF8 * 40, 420, [])


@functools.cache
def tokenizer(pattern: str = "gpt2") -> Tokenizer:
    return Tokenizer(*learned(), SPECIAL_TOKENS, pattern=pattern)


every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


@functools.cache
def tiktoken_encoding() -> tiktoken.Encoding:
    vocab, _ = learned()
    return tiktoken.Encoding(
        "learned", pat_str=GPT2, mergeable_ranks={v: k for k, v in vocab.items()}, special_tokens={}
    )


@given(data=texts_as_bytes)
def test_pretokens_are_those_of_the_pattern(data):
    assert _native.pretokens(data, "gpt2") == reference.pretokens(data)


@every_pattern
@given(data=texts_as_bytes)
def test_ids_are_those_of_the_reference(pattern, data):
    ours = tokenizer(pattern)
    specials = [name.encode() for name in SPECIAL_TOKENS]
    expected = reference.encode(data, dict(ours.vocab), ours.merges, specials, PATTERNS[pattern])
    assert ours.encode_bytes(data).tolist() == expected
    assert ours.count(data) == len(expected)


@given(data=texts_as_bytes)
def test_no_byte_is_lost(data):
    assert tokenizer().decode_bytes(tokenizer().encode_bytes(data)) == data


@given(text=texts)
def test_text_comes_back(text):
    assert tokenizer().decode(tokenizer().encode(text)) == text


# Characters that this Python does not know may be letters to tiktoken's newer Unicode, or the other way round.
known_texts = texts.filter(lambda text: not regex.search(r"\p{Cn}", text))


@given(text=known_texts)
def test_ids_are_those_of_tiktoken(text):
    plain = Tokenizer(*learned())
    assert plain.encode(text) == tiktoken_encoding().encode_ordinary(text)


@every_pattern
@given(data=texts_as_bytes, cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_streaming_gives_the_ids_of_the_whole_for_every_cut_of_the_bytes(pattern, data, cuts):
    stream = tokenizer(pattern).stream()
    ids = [token_id for piece in cut(data, cuts) for token_id in stream.feed(piece).tolist()]
    assert ids + stream.finish().tolist() == tokenizer(pattern).encode_bytes(data).tolist()


@given(text=texts | st.text(st.characters(min_codepoint=0xD7FF, max_codepoint=0xE000), max_size=8))
def test_iterating_gives_the_ids_of_the_whole_character_by_character(text):
    assert list(tokenizer().encode_iterable(text)) == tokenizer().encode(text)


@every_pattern
@given(data=texts_as_bytes, cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_what_a_stream_gave_is_final_whatever_follows(pattern, data, cuts):
    pieces = cut(data, cuts)
    stream = tokenizer(pattern).stream()
    given_so_far = [token_id for piece in pieces for token_id in stream.feed(piece).tolist()]
    for ending in (b"", b"s", b" ", b"\n", b"|>", b"\x82\xac", b"<|a|>"):
        whole = tokenizer(pattern).encode_bytes(data + ending).tolist()
        assert whole[: len(given_so_far)] == given_so_far


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Merges of a few letters in any order, even before the tokens they need, with ids in any order and with gaps."""
    tokens = [b"a", b"b", b"c"]
    merges: list[tuple[bytes, bytes]] = []
    for _ in range(draw(st.integers(1, 12))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if (left, right) not in merges and len(left + right) < 9:
            merges.append((left, right))
            if left + right not in tokens:
                tokens.append(left + right)
    ids = draw(st.lists(st.integers(0, 500), min_size=len(tokens), max_size=len(tokens), unique=True))
    return dict(zip(ids, tokens, strict=True)), draw(st.permutations(merges))


@pytest.mark.parametrize("repeats", [1, 12])  # short pretokens are scanned for merges, long ones use a heap
@given(vocabulary=vocabularies(), word=st.text("abc", min_size=1, max_size=12))
def test_any_merges_apply_as_in_the_reference(repeats, vocabulary, word):
    vocab, merges = vocabulary
    data = (word * repeats).encode()
    assert Tokenizer(vocab, merges).encode_bytes(data).tolist() == reference.encode(data, vocab, merges, [])


@given(vocabulary=vocabularies(), words=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=6))
def test_a_pretoken_that_is_a_token_is_that_token_if_merges_are_ignored(vocabulary, words):
    vocab, merges = vocabulary
    vocab |= {900: b"\n"} | ({} if b"abcab" in vocab.values() else {901: b"abcab"})  # which no merge makes
    id_of = {token: token_id for token_id, token in vocab.items()}
    expected: list[int] = []
    for word in words:
        known = id_of.get(word.encode())
        expected += reference.encode(word.encode(), vocab, merges, []) if known is None else [known]
        expected.append(900)
    text = "".join(f"{word}\n" for word in words)
    assert Tokenizer(vocab, merges, ignore_merges=True).encode(text) == expected


@given(
    run=st.integers(20, 200),
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    letters=st.sampled_from(["a", "ab", "aab"]),
    sizes=st.lists(st.integers(1, 420), min_size=6, max_size=6),
    end=st.sampled_from(["", "a", "b", "ba"]),
)
# 64 and 112 letters are a token, and neither the first 64 letters nor the 112 tell by themselves.
@example(run=120, counts=[9, 2], letters="a", sizes=[176, 180, 240, 310], end="")
def test_long_runs_encode_as_in_the_reference(run, counts, letters, sizes, end):
    """Tokens of up to hundreds of bytes, as they come from text with rulers of one length, twice that, and so on."""
    documents = []
    for times, count in enumerate(counts, start=1):
        documents += [(letters * run * times)[: run * times].encode()] * count
    vocab, merges = train_bpe_from_documents(documents, 290, [])
    ids, ranks = {token: i for i, token in vocab.items()}, {pair: rank for rank, pair in enumerate(merges)}
    tokenizer = Tokenizer(vocab, merges)
    for size in sizes:
        word = ((letters * size)[:size] + end).encode()
        tokens = reference.merge_pretoken(word, ranks)
        assert tokenizer.encode_bytes(word).tolist() == [ids[token] for token in tokens]
