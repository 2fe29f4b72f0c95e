"""Added tokens with the bytes of an ordinary token, such as runs of spaces beside "ĠĠ" (GPT-NeoX)."""

import json
import pickle

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.data.encode import encode_files
from groundup.data.shards import TokenShards
from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.formats.gpt2 import BYTE_TO_CHARACTER

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def file_of(*added, normalizer=None, ignore_merges=False, special=False):
    vocab = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
    merges = ["Ġ Ġ", "ĠĠ ĠĠ", "æ Ĺ", "æĹ ¥", "Ġ a", "a b"]
    vocab |= {"".join(merge.split()): 256 + i for i, merge in enumerate(merges)}
    tokens = [{"id": number, "content": name, "normalized": True, "special": special} for name, number in added]
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
    "special": file_of(*SPACES, special=True),
}
texts = st.lists(st.sampled_from(["a", "b", " ", "  ", "   ", " " * 30, "日", "é", "\n", "ab"]), max_size=12).map(
    "".join
)


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "tokenizer.json"
    path.write_text(json.dumps(CASES[request.param]))
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_beside_an_ordinary_one_of_the_same_bytes(tmp_path, special):
    (tmp_path / "t.json").write_text(json.dumps(file_of(("  ", 500), special=special)))
    ours = Tokenizer.load(tmp_path / "t.json")
    assert ours.encode("A  B") == [65, 500, 66]
    assert ours.encode_ordinary("A  B") == ([65, 32, 32, 66] if special else [65, 500, 66])
    assert ours.encode_ordinary("A   B") == ([65, 256, 32, 66] if special else [65, 500, 32, 66])
    assert (ours.special_tokens, ours.added_tokens) == ((["  "], []) if special else ([], ["  "]))
    assert ours.token_lengths()[500] == (0 if special else 2)
    assert ours.decode([256, 500]) == "    "
    assert ours.token_id("  ") == 500


def test_added_tokens_that_are_text_are_found_in_rows_of_json(tmp_path):
    """There the names of special tokens are text, and these are text already."""
    file = file_of(*SPACES)
    end = file["added_tokens"][0] | {"id": 600, "content": "<end>", "normalized": False, "special": True}
    file["added_tokens"].append(end)
    file["model"]["vocab"]["<end>"] = 600
    (tmp_path / "t.json").write_text(json.dumps(file))
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a  b   ab"}) + "\n")
    ours, theirs = Tokenizer.load(tmp_path / "t.json"), tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    for mode in ("text", "encode", "error"):
        encode_files(tmp_path / "x.jsonl", ours, tmp_path / mode, separator="<end>", special_tokens=mode)
        store = TokenShards.open(tmp_path / mode)
        assert store.read(0, len(store)).tolist() == theirs.encode("a  b   ab<end>").ids
        assert store.total_bytes == len("a  b   ab")
        assert store.token_lengths[store.read(0, len(store))].sum() == store.total_bytes


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
        ({"<x>": 300}, "neither in special_tokens nor in added_tokens"),
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
