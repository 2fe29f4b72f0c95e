from typing import ClassVar

import pytest
import torch

from groundup.errors import ConfigError, TokenizerError
from groundup.generation import continue_text
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.normalization.characters import Characters

END = 0
TOKENS = [b"<|endoftext|>", *(bytes([b]) for b in "é🙂".encode()), b"a", b" b", "ü".encode() + b"\xe2\x82", b"\xac!"]


class FakeTokenizer:
    """Tokens that cut characters in pieces, as those of byte-level BPE do."""

    def __init__(self, *, with_end: bool = True):
        self.with_end = with_end

    def token_id(self, token):
        if token == "<|endoftext|>" and self.with_end:
            return END
        raise TokenizerError(f"{token!r} is not a token")

    def encode(self, text: str) -> list[int]:
        assert text == "a b"
        return [TOKENS.index(b"a"), TOKENS.index(b" b")]

    vocab: ClassVar = dict(enumerate(TOKENS))


class Scripted(torch.nn.Module):
    """A model that writes what it was told to, after a prompt of any length."""

    def __init__(self, script: list[int], vocab_size: int = len(TOKENS)):
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, 1
        self.script, self.seen = list(script), []
        self.token_embeddings = torch.nn.Embedding(1, 1)

    def new_caches(self, batch_size):
        raise AssertionError("a context of one token has no use for a cache")

    def forward(self, token_ids, caches=None):
        self.seen.append(token_ids.tolist())
        logits = torch.zeros(1, 1, self.vocab_size)
        logits[0, 0, self.script.pop(0)] = 1e4
        return logits


def ids(*pieces: bytes) -> list[int]:
    return [TOKENS.index(piece) for piece in pieces]


def written(script, prompt="a b", **options) -> list[str]:
    return list(continue_text(Scripted(script), FakeTokenizer(), prompt, len(script), **options))


def test_characters_come_whole_as_soon_as_they_are():
    letter, smile = ([bytes([b]) for b in character.encode()] for character in "é🙂")
    script = ids(*letter, b"a", *smile, "ü".encode() + b"\xe2\x82", b"\xac!")
    assert written(script) == ["é", "a", "🙂", "ü", "€!"]


def test_bytes_that_are_no_character_become_replacement_characters():
    smile = [bytes([b]) for b in "🙂".encode()]
    assert "".join(written(ids(smile[1], b"a", *smile[:2]))) == "\ufffda\ufffd"


def test_a_space_before_the_first_word_is_kept_although_decoding_would_remove_it():
    """The text goes on from the prompt, and is not the beginning of a document."""
    tokens = [b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), "▁".encode(), b"a", "▁a".encode()]
    merges = [("▁".encode(), b"a")]
    characters = Characters(prefix="always", strip=True)
    tokenizer = Tokenizer(dict(enumerate(tokens)), merges, ["</s>"], characters=characters)
    lm = Scripted([259, 259], vocab_size=len(tokens))
    assert tokenizer.decode([259, 259]) == "a a"
    assert "".join(continue_text(lm, tokenizer, "a a", 2)) == " a a"


def test_the_text_ends_before_the_end_of_text():
    assert "".join(written([*ids(b"a"), END, *ids(b" b")])) == "a"


def test_an_empty_prompt_begins_a_document_and_a_prompt_stands_at_the_beginning_of_one(monkeypatch):
    for prompt, expected in (("", [END]), ("a b", [END, *ids(b"a", b" b")])):
        lm = Scripted(ids(b"a"))
        lm.context_length = 10
        monkeypatch.setattr(lm, "new_caches", lambda batch_size: [type("Cache", (), {"length": 0})()])
        assert "".join(continue_text(lm, FakeTokenizer(), prompt, 1)) == "a"
        assert lm.seen == [[expected]]


def test_without_an_end_of_text_only_an_empty_prompt_is_refused():
    tokenizer = FakeTokenizer(with_end=False)
    assert "".join(continue_text(Scripted(ids(b" b")), tokenizer, "a b", 1)) == " b"
    with pytest.raises(ConfigError, match=r"prompt is empty.*<\|endoftext\|>"):
        list(continue_text(Scripted(ids(b"a")), tokenizer, "", 1))


def test_settings_without_a_meaning_are_refused_when_called_not_when_read():
    with pytest.raises(ConfigError, match="temperature = -1"):
        continue_text(Scripted(ids(b"a")), FakeTokenizer(), "a b", 1, temperature=-1.0)


def test_a_model_with_more_ids_than_the_tokenizer_writes_only_tokens_there_are():
    """Vocabularies are rounded up for speed, and recipes fix a size that a small text does not fill."""
    lm = Scripted([len(TOKENS) + 2, *ids(b"a")], vocab_size=len(TOKENS) + 5)
    text = "".join(continue_text(lm, FakeTokenizer(), "a b", 2))
    assert text.replace("\ufffd", "").strip("a") == ""


def test_the_seed_decides_what_is_written():
    class Undecided(Scripted):
        def forward(self, token_ids, caches=None):
            return torch.zeros(1, 1, self.vocab_size)

    def text(seed):
        return "".join(continue_text(Undecided([]), FakeTokenizer(), "a b", 40, 1.0, 1.0, seed=seed))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(5)}) > 1
