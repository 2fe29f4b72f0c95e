"""Tokenizers that normalize text to form C, against `tokenizers`."""

import functools
import json
import pickle
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.formats.gpt2 import BYTE_TO_CHARACTER, printable
from groundup.tokenizer.formats.hugging_face import content_of_hugging_face
from groundup.tokenizer.normalization import nfc

TOKENS = ["é", " é", "ẹ́", "가", "각", "à", "Å", "ei", "  ", "́"]
SPECIAL = ["<|x|>", "K;", "é!", "<|x|>y"]
IN_NORMAL_TEXT = ["ñ~", "   "]


@functools.cache
def file_of(pattern: str = "gpt2") -> str:
    """A tokenizer.json with the normalizer NFC."""
    vocab = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
    merges = []
    for token in TOKENS:
        data = token.encode()
        for end in range(2, len(data) + 1):
            if printable(data[:end]) not in vocab:
                vocab[printable(data[:end])] = len(vocab)
                merges.append([printable(data[: end - 1]), printable(data[end - 1 : end])])
    added = [
        {"id": len(vocab) + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": name in IN_NORMAL_TEXT, "special": name in SPECIAL}
        for i, name in enumerate(SPECIAL + IN_NORMAL_TEXT)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": model,
        }
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("nfc") / "tokenizer.json"
    path.write_text(file_of(), encoding="utf-8")
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def theirs() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(file_of())


COMBINING = [chr(c) for c in range(0x300, 0x370)] + list("\u0334\u0345\u05b4\u093c\u09be\u0bd7\u1161\u11a8\u3099\u20d0")
LATER = list("\u07fd\u0898\u08d3\u1abf\u1df6\U00011938\U00011935\U00011930\U0001e130\U00016d67\U0001e6e3")
SINGLE = list("\u0340\u0344\u037e\u0958\u1fef\u2000\u2126\u212a\u212b\uf900\ufb1d\U0001d15e\U0002f800\u0cc6\u0cd5")
STARTERS = list("aeEnñoxé가ᄀ<=>!~ K;\u09c7\u0bc6\u1025\u0915\n\u00a0")
characters = st.sampled_from(COMBINING + LATER + SINGLE + STARTERS)
texts = st.lists(
    characters
    | st.sampled_from(SPECIAL + IN_NORMAL_TEXT + ["<|x", "e\u0301", "n\u0303~"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=14,
).map("".join)


@given(text=texts)
def test_ids_and_offsets_are_those_of_tokenizers(ours, theirs, text):
    expected = theirs.encode(text)
    assert ours.encode(text) == expected.ids
    ids, offsets = ours.encode_with_offsets(text)
    assert ids.tolist() == expected.ids
    assert [tuple(span) for span in offsets.tolist()] == expected.offsets


@given(text=texts, cuts=st.lists(st.integers(0, 200), max_size=6))
def test_streams_give_the_ids_of_the_whole_text(ours, text, cuts):
    data = text.encode()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    stream = ours.stream()
    ids = [token for a, b in pairwise(places) for token in stream.feed(data[a:b]).tolist()]
    assert ids + stream.finish().tolist() == ours.encode(text)
    assert list(ours.encode_iterable(text)) == ours.encode(text)


@pytest.mark.parametrize("added", [[], [("ñ~", True)], [(" ", False)]])
def test_streams_without_a_long_token_that_is_looked_for_first(added):
    file = json.loads(file_of())
    names = {name for name, _ in added}
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in names]
    for token in file["added_tokens"]:
        token["id"] = len(file["model"]["vocab"])
    ours = content_tokenizer(file)
    for text in ("hello", "e\u0301 n\u0303~x", "é"):
        assert list(ours.encode_iterable([text[:2], "", text[2:], ""])) == ours.encode(text)
        stream = ours.stream()
        ids = [token for byte in text.encode() for token in stream.feed(bytes([byte])).tolist()]
        assert ids + stream.feed(b"").tolist() + stream.finish().tolist() == ours.encode(text)


def content_tokenizer(file: dict) -> Tokenizer:
    return Tokenizer.from_content(content_of_hugging_face(Path("tokenizer.json"), file))


@given(many=st.lists(texts, max_size=5))
def test_every_way_to_encode_gives_the_same_ids(ours, many):
    expected = [ours.encode(text) for text in many]
    assert ours.encode_batch(many) == expected
    ids, ends = ours.encode_batch_to_numpy([text.encode() for text in many], append=7)
    assert ids.tolist() == [token for text in expected for token in [*text, 7]]
    assert ends.tolist() == np.cumsum([len(text) + 1 for text in expected]).tolist()
    for text, its_ids in zip(many, expected, strict=True):
        assert ours.encode_to_numpy(text.encode(), num_threads=2).tolist() == its_ids
        assert ours.count(text) == len(its_ids)
        assert pickle.loads(pickle.dumps(ours)).encode(text) == its_ids


def test_a_run_of_combining_characters_fed_byte_by_byte(ours):
    text = "e" + "\u0301" * 2000 + "\u0323" + "<|x|>"
    stream = ours.stream()
    ids = [token for byte in text.encode() for token in stream.feed(bytes([byte])).tolist()]
    assert ids + stream.finish().tolist() == ours.encode(text)


def test_a_stream_gives_ids_early(ours):
    stream = ours.stream()
    ids = stream.feed("one e\u0301 two three").tolist()
    assert ours.decode(ids).startswith("one é two")


def test_bytes_that_are_not_utf8_stay_and_the_rest_is_normalized(ours):
    data = b"\xff" + "e\u0301".encode() + b"\xcc" + "\u0301".encode() + b"a\xed\xa0\x80"
    expected = b"\xff" + "é".encode() + b"\xcc" + "\u0301".encode() + b"a\xed\xa0\x80"
    assert ours.decode_bytes(ours.encode_bytes(data)) == expected
    ids, offsets = ours.encode_with_offsets(data)
    assert (offsets[0].tolist(), offsets[-1, 1]) == ([0, 1], len(data))
    assert ids.tolist() == ours.encode_bytes(data).tolist()
    # A pair of surrogates is a character: U+1D15E decomposes, U+D834 and U+DD5E do not.
    assert ours.encode("\ud834\udd5e") == ours.encode("\U0001d15e")
    assert ours.encode("\ud834e\u0301") == ours.encode("\ufffdé")


def test_special_tokens_that_are_not_wanted_are_text(ours):
    assert ours.encode_ordinary("e\u0301<|x|>") == ours.encode_ordinary("é<|x|>")
    assert ours.token_id("<|x|>") not in ours.encode_ordinary("e\u0301<|x|>")
    assert ours.encode("e\u0301<|x|>ñ~", allowed_special=set())[-1] == ours.token_id("ñ~")  # which is text


@pytest.mark.parametrize("name", ["t.json", "folder"])
def test_our_own_files_carry_the_normalizer(ours, tmp_path, name):
    ours.save(tmp_path / name)
    loaded = Tokenizer.load(tmp_path / name)
    assert (loaded.sha256, loaded.normalizer) == (ours.sha256, ours.normalizer)
    assert loaded.encode("e\u0301 n\u0303~") == ours.encode("e\u0301 n\u0303~")
    plain = Tokenizer(ours.vocab, ours.merges, ours.special_tokens, unicode_version=ours.unicode_version)
    assert plain.sha256 != ours.sha256


def test_tokenizer_json_carries_the_normalizer(ours, theirs, tmp_path):
    ours.save_hugging_face(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").sha256 == ours.sha256
    text = "e\u0301<|x|>n\u0303~K;\u212a;"
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "t.json")).encode(text).ids == theirs.encode(text).ids


def test_tiktoken_has_no_normalizer(ours, tmp_path):
    with pytest.raises(TokenizerError, match="tiktoken does not normalize"):
        ours.save_tiktoken(tmp_path / "t.tiktoken")


def test_an_added_token_that_is_not_normal_itself_is_refused(tmp_path):
    file = json.loads(file_of())
    file["added_tokens"][-1]["content"] = "e\u0301e\u0301"
    (tmp_path / "t.json").write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match="is looked for as 'éé', its normal form"):
        Tokenizer.load(tmp_path / "t.json")


def test_form_c_of_every_character_is_that_of_tokenizers():
    normalizer = tokenizers.normalizers.NFC()
    relevant = regex.compile(r"[^\p{ccc=0}]|\p{dt=canonical}|\p{NFC_QC=M}")
    for code in (c for c in range(0x110000) if relevant.match(chr(c)) and not 0xAC00 <= c < 0xD7A4):
        character = chr(code)
        for text in (
            f"x{character}\u0334",
            f"x\u0345{character}",
            f"a{character}\u0301",
            unicodedata.normalize("NFD", character),
        ):
            assert nfc.nfc(text) == normalizer.normalize_str(text), hex(code)
            assert nfc.nfc_spans(text)[0] == nfc.nfc(text), hex(code)


def test_text_may_be_cut_before_every_character_that_begins_anew():
    parts = [unicodedata.decomposition(chr(c)).split() for c in range(0x110000)]
    second = {chr(int(part[1], 16)) for part in parts if len(part) == 2 and not part[0].startswith("<")}
    assert not any(map(nfc.begins_anew, second & set(map(chr, range(0x2FA20)))))
    for code in range(0x110000):
        if nfc.begins_anew(chr(code)):
            assert unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0]) == 0, hex(code)
            assert unicodedata.normalize("NFD", chr(code))[0] not in second, hex(code)
