"""Patterns that are not built in: the same ids, by the `regex` package."""

import pickle
import random
import warnings

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer, reference
from groundup.tokenizer.patterns import PATTERNS

# Every custom pattern warns that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:the pattern .* is not built in:UserWarning")

SPECIAL_TOKENS = ["<|endoftext|>", "<|endoftext|><|endoftext|>", "<|user|>"]
PIECES = ["the", " cat", "'s", "'LL", "HTTPServer", "é", "e\u0301", "東京", "🐈", "12345", "½", " ", "  ", "\n", "\r\n"]
PIECES += ["\t", "\u3000", "\x00", "..", "//\n", "<|endoftext|>", "<|endof", "<|user|>", "text|>"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


def with_pattern(tokenizer, pattern):
    return Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=pattern)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_built_in_pattern_written_differently_gives_the_same_ids(small, name):
    built_in, other = with_pattern(small, name), with_pattern(small, f"(?:{PATTERNS[name]})")
    assert (built_in.pattern, other.pattern) == (name, f"(?:{PATTERNS[name]})")
    assert built_in.sha256 != other.sha256
    rng = random.Random(0)
    many = ["".join(rng.choices(PIECES, k=15)) for _ in range(60)]
    expected = [built_in.encode(text) for text in many]
    assert [other.encode(text) for text in many] == expected
    assert [other.encode_ordinary(text) for text in many] == [built_in.encode_ordinary(text) for text in many]
    assert other.encode_batch(many, num_threads=2) == expected
    for ours, theirs in zip(other.encode_batch_to_numpy(many), built_in.encode_batch_to_numpy(many), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    whole = "".join(many)
    data = whole.encode() + b"\xff\xe2\x82 \xf0"
    assert np.array_equal(other.encode_to_numpy(data), built_in.encode_to_numpy(data))
    assert other.count(data) == built_in.count(data) == len(built_in.encode_bytes(data))
    assert list(other.encode_iterable(whole)) == built_in.encode(whole)
    for ours, theirs in zip(other.encode_with_offsets(whole), built_in.encode_with_offsets(whole), strict=True):
        assert np.array_equal(ours, theirs)
    some = {"allowed_special": {"<|user|>"}}
    assert other.encode(whole, **some) == built_in.encode(whole, **some)


def split_with_gaps(data, expression):
    """What is between matches is a pretoken, too."""
    text, pretokens, begin = data.decode("utf-8", "surrogateescape"), [], 0
    for match in regex.finditer(expression, text):
        pretokens += [text[begin : match.start()], match.group()]
        begin = match.end()
    pretokens.append(text[begin:])
    return [piece.encode("utf-8", "surrogateescape") for piece in pretokens if piece]


@pytest.mark.parametrize(
    "expression", [r"\w+(?=\W)", r"[aeiou]+|\n", r"\b", r"(?s).{1,5}", r"(?!)", r" ?\p{L}+|\p{N}{2}", r"x*"]
)
@given(text=texts | st.binary(max_size=30))
def test_what_no_match_covers_is_kept(small, expression, text):
    tokenizer = with_pattern(small, expression)
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    id_of = {token: token_id for token_id, token in small.vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(small.merges)}
    expected = []
    for piece, is_special in reference.split_on_special_tokens(data, [name.encode() for name in SPECIAL_TOKENS]):
        if is_special:
            expected.append(id_of[piece])
            continue
        for pretoken in split_with_gaps(piece, expression):
            expected += [id_of[token] for token in reference.merge_pretoken(pretoken, ranks)]
    assert tokenizer.encode_bytes(data).tolist() == expected
    assert tokenizer.decode_bytes(expected) == data


def test_a_pattern_that_covers_the_text_gives_the_ids_of_the_reference(small):
    expression = r" ?[^\W\d_]+|\d|\s+|[^\w\s]+|_"
    tokenizer = with_pattern(small, expression)
    rng = random.Random(3)
    for _ in range(50):
        text = "".join(rng.choices(PIECES, k=10)).encode()
        specials = [name.encode() for name in SPECIAL_TOKENS]
        expected = reference.encode(text, dict(small.vocab), small.merges, specials, expression)
        assert tokenizer.encode_bytes(text).tolist() == expected


@given(text=texts, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_streams_give_the_ids_of_the_whole(small, text, cuts):
    tokenizer = with_pattern(small, r"\p{L}+(?= \p{L}|$)|\s+")
    data = text.encode("utf-8", "replace")
    stream = tokenizer.stream()
    ids, begin = [], 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        ids += stream.feed(data[begin:end]).tolist()
        begin = end
    assert ids + stream.finish().tolist() == tokenizer.encode_bytes(data).tolist()
    assert stream.finish().tolist() == []


def test_a_stream_takes_only_text(small):
    stream = with_pattern(small, r"\w+x?").stream()
    stream.feed("the ")
    for no_text in (5, None, [97], np.array([1, 2])):
        with pytest.raises(TokenizerError, match=r"^text is "):
            stream.feed(no_text)
    stream.feed(b"cat")
    assert stream.finish().tolist() == with_pattern(small, r"\w+x?").encode("the cat")


def test_it_says_once_that_it_is_slow_and_where(small):
    tokenizer = with_pattern(small, r"\w+|\W")
    with pytest.warns(UserWarning, match="not built in") as warned:
        tokenizer.encode("the cat")
    assert [str(warning.message) for warning in warned] == [
        "the pattern '\\\\w+|\\\\W' is not built in, so the regex package splits the text, on one thread and tens of "
        "times more slowly; built in are: gpt2, cl100k, llama3, qwen2, o200k, tekken"
    ]
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode("the cat")
        assert tokenizer.decode([97]) == "a"
        with_pattern(small, "gpt2").encode("the cat")


def test_it_can_be_pickled(small):
    tokenizer = with_pattern(small, r"\w+|\W")
    tokenizer.encode("the cat")
    assert pickle.loads(pickle.dumps(tokenizer)).encode("the cat sat") == tokenizer.encode("the cat sat")


def test_whole_pretokens_are_tokens_here_too():
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"abc"}
    tokenizer = Tokenizer(vocab, [], ["<x>"], pattern=r"[a-z]{3}|[^a-z]", ignore_merges=True)
    assert tokenizer.encode("abcabc<x>ab abc") == [256, 256, 257, 97, 98, 32, 256]


def test_a_byte_that_the_vocabulary_lacks_is_named():
    tokenizer = Tokenizer({ord(letter): letter.encode() for letter in "abc "}, [], pattern=r"\w+|\W")
    with pytest.raises(TokenizerError, match=r"^the text has the byte 0x64"):
        tokenizer.encode("abd")
    with pytest.raises(TokenizerError, match=r"^text 1: the text has the byte 0x64"):
        tokenizer.encode_batch(["ab", "abd"])


def test_expressions_that_do_not_compile_are_explained(small):
    with pytest.raises(TokenizerError, match="nested too deeply"):
        with_pattern(small, "(" * 10_000)
    with pytest.raises(TokenizerError, match=r"pattern '\(a' is not a regular expression: missing \) at position"):
        with_pattern(small, "(a")
