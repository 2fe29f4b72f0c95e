"""The scanners of the built-in patterns against the regular expressions: `regex`, tiktoken and Hugging Face's."""

import functools
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from groundup.tokenizer import _native, reference
from groundup.tokenizer.patterns import PATTERNS

CONTRACTIONS = [
    *"'s 'S 'd 'D 'm 'M 't 'T 'l 'll 'Ll 'lL 'LL 'v 've 'Ve 'vE 'VE 'r 're 'Re 'rE 'RE".split(),
    *"'ſ 'ſſ x'ſt ’s ’ll ' '' ''s 's's x's's's X'S'llb 'é 'sx 'llX I'm he'd've WE'LL'RE".split(),
]
SPACES = [
    *(" ", "  ", "   ", "\t", "\v", "\f", "\x85", "\xa0", "\u1680", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"),
    *map(chr, range(0x2000, 0x200B)),
    *("\x1c", "\x1f", "\u180e", "\u200b", "\ufeff"),  # these are no white space
]
LINES = [
    *("\n", "\r", "\r\n", "\n\r", "\n\n", "\r\n\r\n", "\n \n", " \n", "  \n", "\n  ", "\n\t\n  ", "\n\u2028", "\xa0\n"),
    *("!\n", "!\n\n", "!\r\nx", "! \n", "/", "//", "/\n", "!/\n", "!\n/", "!\n/\n/!", "\n/", "\r\n//\r/"),
    *("!\n/x", "!\n /"),
]
WORDS = [
    *"a b aB Ab AB ABc aBC abCd HTTPServer ß É Éa éÉ ЖжЖ ΑΒγΔ ǅ ǅa aǅ Aǅ ʰ Aʰ aʰ ʰA ʰa Aʰa ªA".split(),
    *"日 日本 日A A日 A日B 日a a日".split(),
    *"日A日AB की हिन्दी שָׁ ก็ 한국 𐐀𐐨 𐐀𐐀 𝐀 ⅷ Ⓐ ⓐ".split(),
    *("\u0301", "\u0301\u0301", "e\u0301", "E\u0301x", "\u0301e", "\u0301E", " \u0301", " \u0301a"),
    *("!\u0301", "!\u0301a"),
    *("\n\u0301", "1\u0301", "\u0301!", "A\u0301B", "\u0301'", "\u0301's", "a\u20e3", "\u0300A\u0300'll"),
]
OTHERS = [
    *"0 9 12 123 1234 1234567 ½ Ⅷ ٣ १२३४ 𝟘𝟙𝟚𝟛 3.14 x1 1x ! !! ... = == _ - < <| # @x (x) ~ € ← … “x” 👩‍👩‍👧 🇩🇪".split(),
    *"☺️ 🐈x".split(),
    *("\x00", "\x7f", "\\n", '"', "!a", "!!a", "!1", " !", "  !", " 1", "  1", " a", "  a", "\ta", "\u3000a", "\xa0!"),
]
EDGES = [*CONTRACTIONS, *SPACES, *LINES, *WORDS, *OTHERS]
NOT_UTF8 = [
    *(b"\x80", b"\xbf", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xe3\x80", b"\xed\xa0\x80", b"\xf0\x9f\x90", b"\xf4\x90"),
    *(b"\xf5", b"\xff", b"'\xc5", b" \xe3\x80", b"\xc3 ", b"a\xcc", b"\xe6\x97a"),
]

# A window of the scanners is 64 bytes: runs bring what follows them to its end.
runs = st.builds(lambda unit, count: unit * count, st.sampled_from("aA \n0!é日'/"), st.integers(0, 70))
edges = st.sampled_from(EDGES)
texts = st.lists(edges | runs | st.text(max_size=3), max_size=16).map("".join)
texts_as_bytes = st.lists(
    (edges | runs).map(str.encode) | st.sampled_from(NOT_UTF8) | st.binary(max_size=3), max_size=16
).map(b"".join)
patterns = pytest.mark.parametrize("pattern", PATTERNS)


def native_pretokens(text: str, pattern: str) -> list[str]:
    return [pretoken.decode() for pretoken in _native.pretokens(text.encode(), pattern)]


@patterns
@given(data=texts_as_bytes)
def test_pretokens_are_the_matches_of_the_expression(pattern, data):
    found = _native.pretokens(data, pattern)
    assert found == reference.pretokens(data, PATTERNS[pattern])
    assert b"".join(found) == data


@patterns
@pytest.mark.parametrize("filler", ["a", "A", " ", "!", "\n"])
def test_every_edge_at_every_place_around_the_end_of_a_window(pattern, filler):
    expression = regex.compile(PATTERNS[pattern])
    for offset in range(55, 71):
        for edge in EDGES:
            text = filler * offset + edge + "'s 1"
            assert native_pretokens(text, pattern) == expression.findall(text)


@patterns
@pytest.mark.parametrize("name", ["multilingual/multilingual", "webtext/valid"])
def test_real_text_splits_as_the_expression_splits_it(data_dir: Path, name: str, pattern: str):
    zstandard = pytest.importorskip("zstandard")
    path = data_dir / f"{name}.txt.zst"
    if not path.is_file():
        pytest.skip(f"no {name} in {data_dir}")
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read(6_000_000)
    for start in range(0, len(text), 500_000):  # one stretch of each language
        stretch = text[start : start + 60_000]
        assert _native.pretokens(stretch, pattern) == reference.pretokens(stretch, PATTERNS[pattern])


# The other packages know other versions of Unicode: what is not of one kind in an old and a new one is left out.
def _kind(category: str) -> str:
    return category if category in ("Lu", "Ll", "Lt") else category[0]


@functools.cache
def is_settled(character: str) -> bool:
    old = unicodedata.category(character)
    return old not in ("Cn", "Cs") and regex.match(rf"\p{{{_kind(old)}}}", character) is not None


settled_texts = texts.filter(lambda text: all(map(is_settled, text)))


@functools.cache
def learned(pattern: str) -> list[tuple[int, int]]:
    """Merges under the pattern, of text in which edges of all kinds stand beside each other."""
    rng = random.Random(0)
    documents = ["".join(rng.choices(EDGES, k=3)).encode() for _ in range(3000)]
    counts = _native.PretokenCounts(pattern, [], 1, 1 << 20)
    counts.count(documents, 1, False, None)
    return counts.learn(400, "bytes", 2, None, None)


@functools.cache
def native_ids(pattern: str) -> Callable[[str], list[int]]:
    rules = np.array([(*pair, 256 + rank) for rank, pair in enumerate(learned(pattern))], dtype=np.uint32)
    encoder = _native.Encoder(list(range(256)), rules, [], pattern)
    none = _native.SpecialTokens([])
    return lambda text: encoder.encode_to_list(text, none)


def published_expression(pattern: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pattern as the package tiktoken has it, without the vocabulary that it would download."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
    names = {"gpt2": "gpt2", "cl100k": "cl100k_base", "o200k": "o200k_base"}
    return openai_public.ENCODING_CONSTRUCTORS[names[pattern]]()["pat_str"]


@functools.cache
def tiktoken_encoding(pattern: str, expression: str) -> tiktoken.Encoding:
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in learned(pattern):
        tokens.append(tokens[left] + tokens[right])
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding(pattern, pat_str=expression, mergeable_ranks=ranks, special_tokens={})


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_ids_are_those_of_tiktoken_with_the_pattern_it_publishes(pattern):
    with pytest.MonkeyPatch.context() as monkeypatch:
        encoding = tiktoken_encoding(pattern, published_expression(pattern, monkeypatch))

    @given(text=settled_texts)
    def same_ids(text: str) -> None:
        assert native_ids(pattern)(text) == encoding.encode_ordinary(text)

    same_ids()


@pytest.mark.parametrize("pattern", ["llama3", "qwen2"])
@given(text=settled_texts)
def test_pretokens_are_those_of_hugging_faces_split(pattern, text):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")
    assert native_pretokens(text, pattern) == [piece for piece, _ in split.pre_tokenize_str(text)]
