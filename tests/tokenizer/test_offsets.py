"""Where tokens are in a text, against Hugging Face's tokenizers and against decoding."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.tokenizer import Tokenizer, train_bpe_from_documents

EDGES = ["the", " cat", "é", "東京", "🐈", "e\u0301", "  ", "\n\n", "<|x|>", "'s", "½", "\u3000", "12", "\x00"]
texts = st.lists(st.sampled_from(EDGES) | st.text(st.characters(codec="utf-8"), max_size=3), max_size=15).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    documents = ["".join(EDGES[i:] + EDGES[:i]).encode() for i in range(len(EDGES))]
    return Tokenizer(*train_bpe_from_documents(documents, 300, []), ["<|x|>", "x東"])


@pytest.fixture(scope="module")
def theirs(tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_hugging_face(Path(folder) / "t.json")
        return tokenizers.Tokenizer.from_file(str(Path(folder) / "t.json"))


@given(text=texts)
def test_in_a_str_they_are_those_of_tokenizers(tokenizer, theirs, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    expected = theirs.encode(text)
    assert ids.tolist() == expected.ids
    assert [tuple(pair) for pair in offsets.tolist()] == expected.offsets
    assert (ids.dtype, offsets.dtype, offsets.shape) == (np.uint32, np.int64, (len(ids), 2))


@given(data=texts.map(str.encode) | st.binary(max_size=12))
def test_in_bytes_they_are_where_the_bytes_of_each_token_are(tokenizer, data):
    ids, offsets = tokenizer.encode_with_offsets(data)
    assert [data[begin:end] for begin, end in offsets.tolist()] == [tokenizer.vocab[i] for i in ids.tolist()]
    assert offsets[1:, 0].tolist() == offsets[:-1, 1].tolist()


def test_surrogates_count_as_the_characters_they_are_encoded_as(tokenizer):
    ids, offsets = tokenizer.encode_with_offsets("\ud83d\ude43x\ud800y")
    same, same_offsets = tokenizer.encode_with_offsets("🙃x\ufffdy")
    assert ids.tolist() == same.tolist()
    assert offsets.tolist() == same_offsets.tolist()


def test_special_tokens_may_be_left_as_text(tokenizer):
    text = "é<|x|>é"
    ids, offsets = tokenizer.encode_with_offsets(text, allowed_special="none")
    assert tokenizer.token_id("<|x|>") not in ids.tolist()
    assert offsets[-1].tolist() == [len(text) - 1, len(text)]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert offsets.tolist()[-2] == [1, 6]


def test_nothing_has_no_offsets(tokenizer):
    for nothing in ("", b""):
        ids, offsets = tokenizer.encode_with_offsets(nothing)
        assert (ids.shape, offsets.shape) == ((0,), (0, 2))
