"""Added tokens with the bytes of an ordinary token, such as runs of spaces beside "ĠĠ" (GPT-NeoX)."""

import json
import pickle

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.files import BYTE_TO_CHARACTER

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def file_of(*added, normalizer=None, ignore_merges=False):
    vocab = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
    merges = ["Ġ Ġ", "ĠĠ ĠĠ", "æ Ĺ", "æĹ ¥", "Ġ a", "a b"]
    vocab |= {"".join(merge.split()): 256 + i for i, merge in enumerate(merges)}
    tokens = [{"id": number, "content": name, "normalized": True, "special": False} for name, number in added]
    conditions = {"single_word": False, "lstrip": False, "rstrip": False}
    model = {"type": "BPE", "vocab": vocab | dict(added), "merges": merges, "ignore_merges": ignore_merges}
    return {
        "version": "1.0",
        "added_tokens": [token | conditions for token in tokens],
        "normalizer": normalizer,
        "pre_tokenizer": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": model,
    }


SPACES = [(" " * count, 498 + count) for count in range(24, 1, -1)]
CASES = {
    "spaces": file_of(*SPACES),
    "spaces and NFC": file_of(*SPACES, normalizer={"type": "NFC"}),
    "whole pretokens": file_of(*SPACES, ignore_merges=True),
    "a character": file_of(("日", 600), ("    ", 601)),
}
texts = st.lists(st.sampled_from(["a", "b", " ", "  ", "   ", " " * 30, "日", "é", "\n", "ab"]), max_size=12).map(
    "".join
)


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "tokenizer.json"
    path.write_text(json.dumps(CASES[request.param]))
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


def test_an_added_token_beside_an_ordinary_one_of_the_same_bytes(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(file_of(("  ", 500))))
    ours = Tokenizer.load(tmp_path / "t.json")
    assert ours.encode("A  B") == [65, 500, 66]
    assert ours.encode_ordinary("A  B") == [65, 32, 32, 66]
    assert ours.encode_ordinary("A   B") == [65, 256, 32, 66]
    assert ours.decode([256, 500]) == "    "
    assert ours.token_id("  ") == 500


@given(text=texts)
def test_ids_are_those_of_tokenizers(both, text):
    ours, theirs = both
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode(text)) == text


def test_every_format_keeps_both(both, tmp_path):
    ours, theirs = both
    text = "a  b   日é" + " " * 30 + "ab"
    for name in ("own.json", "folder"):
        ours.save(tmp_path / name)
        loaded = Tokenizer.load(tmp_path / name)
        assert (loaded.sha256, loaded.vocab) == (ours.sha256, ours.vocab)
        assert loaded.encode(text) == ours.encode(text) == pickle.loads(pickle.dumps(loaded)).encode(text)
        assert loaded.encode_ordinary(text) == ours.encode_ordinary(text)
    ours.save_hugging_face(tmp_path / "t.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "t.json")).encode(text).ids == theirs.encode(text).ids
    assert Tokenizer.load(tmp_path / "t.json").sha256 == ours.sha256


@pytest.mark.parametrize(
    ("special_ids", "message"),
    [
        ({"<x>": 300}, "is not in special_tokens"),
        ({"  ": -1}, "has the id -1"),
        ({"  ": "300"}, "has the id '300'"),
        ({"  ": 97}, "97 is b'a' in vocab"),
    ],
)
def test_ids_that_do_not_fit_are_explained(special_ids, message):
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"  "}
    with pytest.raises(TokenizerError) as error:
        Tokenizer(vocab, [(b" ", b" ")], ["  "], special_ids=special_ids)
    assert message in str(error.value)
