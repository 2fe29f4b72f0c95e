"""A small tokenizer that every machine can make: trained in the test run, on text with all kinds of edges."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.tokenizer import Tokenizer, train_bpe

PROSE = """The cat sat on the mat, and it didn't move; they'll say it's lazy. In 1984 there were 365 cats.
\tIndented code: for (int i = 0; i < 10; ++i) { total += prices[i]; }\r\nWindows ends its lines so.\n\n\n
Größe, façade, naïve, Москва и кошка, 東京の猫は寝ている。 ½ of it… → “quoted” ‘text’ 🐈🐈‍⬛
100 % Ⅷ\u3000\u00a0\u0085 ok
aaaaaaaaaaaaaaaaaaaa bbb -------- ======== naïve naïve the the the theory then there these  those   them
"""
SPECIAL_TOKENS = ["<|endoftext|>", "<|endoftext|><|endoftext|>", "<|user|>"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few kilobytes: the words of PROSE in many orders, between special tokens."""
    rng = random.Random(0)
    words = PROSE.split(" ")
    documents = [" ".join(rng.choices(words, k=60)) for _ in range(20)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_bytes("<|endoftext|>".join([PROSE, *documents]).encode())
    return path


@pytest.fixture(scope="session")
def small(corpus: Path) -> Tokenizer:
    """450 tokens with three special ones, two of which overlap."""
    return Tokenizer(*train_bpe(corpus, 450, SPECIAL_TOKENS), SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def own_sha256() -> Callable[[Tokenizer], str]:
    """The hash that a tokenizer has if it came back from a format which does not say the version of Unicode.

    Such files have the character classes of the engine that they are made for.
    """

    def sha256(tokenizer: Tokenizer) -> str:
        assert tokenizer.unicode_version == "16.0"
        assert not tokenizer.ignore_merges
        same = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=tokenizer.pattern)
        assert same.unicode_version == "18.0"
        assert same.sha256 != tokenizer.sha256
        return same.sha256

    return sha256
