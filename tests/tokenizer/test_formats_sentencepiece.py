"""Tokenizers on characters with byte fallback (Llama 2, Gemma, Mistral v1), against Hugging Face's own library."""

import copy
import json
import pickle
import random
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.formats.hugging_face_characters import content_of_sentencepiece

WORDS = [
    "the", " the", " cat", " sat", "there", " then", "ing", "\n", "\n\n", "  ", "    ", "\t", "1984", "Größe",
    " и кошка", "東京の猫", " it's", ">", " </", "</", "▁", "hello", " world", "aaaa", "====",
]  # fmt: skip
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPENDED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}
DECODER = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
ADDED = ["<unk>", "<s>", "</s>", "<h1>", "\n\n\n"]
TEXTS = [
    "", " ", "  ", "▁", "▁▁", " ▁a", "a", " a", "  a", "a ", "\n", " \n ", "<s>", " <s> ", "<s><s>a",
    "<s> a</s>b <h1>▁",
    "\n\n\n\n", "<0x41>", "<0x0A>\n", "\ud83d x", "\x00\x7f\u2028\ufeff", "👩‍👩‍👧 ខ្មែរ é é", "the▁cat sat",
    "the" * 300, " " * 100, "▁" * 70 + " " * 30, "日本語" * 40,
]  # fmt: skip


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def kind(normalizer=None, pre_tokenizer=None, *, strip):
    decoder = {"type": "Sequence", "decoders": [*DECODER, STRIP] if strip else DECODER}
    return {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}


SPLIT_OF_GEMMA = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
KINDS = {
    "llama 2": kind(PREPENDED, strip=True),
    "gemma": kind(SPACES, strip=False),
    "gemma 3": kind(SPACES, SPLIT_OF_GEMMA, strip=False),
} | {
    f"metaspace {scheme} {split}": kind(None, metaspace(scheme, split), strip=scheme != "never")
    for scheme in ("first", "always", "never")
    for split in (False, True)
}


def trained_model():
    """A model whose tokens reach over spaces, as tokenizers trains it on whole lines."""
    rng = random.Random(0)
    lines = ["".join(rng.choices(WORDS, k=12)).replace(" ", "▁") for _ in range(300)]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, fuse_unk=True))
    theirs.train_from_iterator(lines, tokenizers.trainers.BpeTrainer(vocab_size=420, show_progress=False))
    model = json.loads(theirs.to_str())["model"]
    trained = {text: token_id + 300 for text, token_id in model["vocab"].items()}
    first = {text: token_id for token_id, text in enumerate([*ADDED, *(f"<0x{byte:02X}>" for byte in range(256))])}
    del first["<0x09>"]  # as in Gemma's files, which have a tab
    return model | {"vocab": trained | first, "unk_token": "<unk>"}


MODEL = trained_model()


def file_of(name):
    added = [
        {"id": token_id, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": text not in ("<h1>", "\n\n\n")}
        for token_id, text in enumerate(ADDED)
    ]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None} | {
        **KINDS[name], "model": MODEL,
    }  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """Ours and theirs, from one file."""
    path = tmp_path_factory.mktemp("files") / "tokenizer.json"
    path.write_text(json.dumps(file_of(request.param)))
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


def repaired(text):
    """The text without lone surrogates, which their library does not take."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def texts():
    known = st.sampled_from([*WORDS, *ADDED, " ", "▁", "<0x41>", "é", "👩‍👩‍👧"])
    return st.lists(known | st.characters(), max_size=20).map("".join)


def assert_same(ours, theirs, text):
    expected = theirs.encode(repaired(text), add_special_tokens=False)
    ids, offsets = ours.encode_with_offsets(text)
    assert ids.tolist() == expected.ids == ours.encode(text) == ours.encode_to_numpy(text).tolist()
    assert [tuple(pair) for pair in offsets.tolist()] == expected.offsets
    assert ours.count(text) == len(expected.ids)
    decoded = theirs.decode(expected.ids, skip_special_tokens=False)
    assert ours.decode(expected.ids) == decoded
    assert ours.decode_bytes(expected.ids) == decoded.encode()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_ids_offsets_and_text_are_theirs(both, text):
    assert_same(*both, text)


@given(text=texts())
def test_ids_offsets_and_text_of_any_text_are_theirs(both, text):
    assert_same(*both, text)


def test_the_merges_of_this_test_reach_over_spaces():
    assert any("▁" in token.lstrip("▁") for token in MODEL["vocab"])


@given(text=texts(), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_a_text_in_pieces_has_the_ids_of_the_whole(both, text, cuts):
    ours, _ = both
    data = text.encode("utf-8", "replace")
    expected = ours.encode_to_numpy(data).tolist()
    stream = ours.stream()
    borders = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[begin:end] for begin, end in pairwise(borders)]
    for _ in range(2):  # a finished stream is ready for another text
        assert np.concatenate([*map(stream.feed, pieces), stream.finish()]).tolist() == expected
    assert list(ours.encode_iterable(repaired(text))) == ours.encode(repaired(text))


def test_threads_cut_a_long_text_where_no_id_changes(both):
    ours, theirs = both
    rng = random.Random(1)
    text = "".join(rng.choices([*WORDS, "<s>", "<h1>"], k=330_000))
    ids = ours.encode_to_numpy(text, num_threads=1)
    assert len(text.encode()) > 1 << 20
    assert np.array_equal(ours.encode_to_numpy(text, num_threads=3), ids)
    assert ours.encode(text[:20_000]) == theirs.encode(text[:20_000], add_special_tokens=False).ids
    batch = [text[i : i + 100] for i in range(0, 50_000, 100)]
    assert ours.encode_batch(batch) == [
        encoding.ids for encoding in theirs.encode_batch(batch, add_special_tokens=False)
    ]


@pytest.mark.parametrize("text", ["a" * 1_000_000, "the" * 100_000, "กa" * 100_000], ids=["a", "the", "bytes"])
def test_a_word_of_a_megabyte(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(file_of("llama 2")))
    ours = Tokenizer.load(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_text_are_kept(both, data):
    ours, _ = both
    plain = data.replace(b" ", b"_").replace("▁".encode(), b"_").replace(b"\t", b"_")
    decoded = ours.decode_bytes(ours.encode_bytes(plain))
    assert decoded == plain or (not ours.characters.strip and decoded == b" " + plain)


@given(ids=st.lists(st.integers(0, len(ADDED) + 260) | st.integers(300, 420), max_size=12), size=st.integers(1, 4))
def test_any_ids_are_decoded_as_theirs(both, ids, size):
    """Runs of bytes that are no text among them."""
    ours, theirs = both
    ids = [token_id for token_id in ids if token_id in ours.vocab]
    text = theirs.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids) == text
    stream = ours.decode_stream()
    pieces = [stream.feed(ids[i : i + size]) for i in range(0, len(ids), size)]
    assert "".join([*pieces, stream.finish()]) == text


def test_ids_that_come_one_by_one_are_shown_as_soon_as_they_are_certain(both):
    ours, theirs = both
    ids = ours.encode("<s>the é 👩 ខ cat")
    stream, other = ours.decode_stream(), tokenizers.decoders.DecodeStream(skip_special_tokens=False)
    shown = [(stream.feed(token_id), other.step(theirs, token_id) or "") for token_id in ids]
    assert "".join(piece for piece, _ in shown) + stream.finish() == "".join(piece for _, piece in shown)
    assert sum(bool(piece) for piece, _ in shown) > len("<s>the cat") / 4


def test_special_tokens_as_text_and_added_tokens_always(both):
    ours, theirs = both
    text = "the<s> <h1>cat</s>\n\n\n"
    theirs = tokenizers.Tokenizer.from_str(theirs.to_str())
    theirs.encode_special_tokens = True
    assert ours.encode_ordinary(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.special_tokens == ["<unk>", "<s>", "</s>"]
    assert ours.added_tokens == ["<h1>", "\n\n\n"]
    with pytest.raises(TokenizerError, match="'<s>' at byte 3, which is disallowed"):
        ours.encode(text, allowed_special="none", disallowed_special="all")


def test_lengths_are_those_of_the_text(both):
    """A space that is put before the text counts as one byte, and is the only thing that does not stand in it."""
    ours, _ = both
    lengths = ours.token_lengths()
    for text in ("the cat\n\n\n sat <h1>é 👩‍👩‍👧", "a", "日本語 кошка"):
        ids = ours.encode(text)
        prefixed = sum(text.count(name) for name in ours.added_tokens) + 1 if ours.characters.prefix != "never" else 0
        extra = int(lengths[ids].sum()) - len(text.encode())
        assert 0 <= extra <= prefixed
        assert (extra > 0) == (ours.characters.prefix != "never")
    assert lengths[ours.token_id("<s>")] == 0
    assert lengths[ours.token_id("<h1>")] == 4
    assert lengths[ours.token_id(b"\xff")] == 1
    assert ours.vocab[ours.token_id(" the")] == b" the"


def test_what_was_written_loads_as_it_was(both, tmp_path):
    ours, theirs = both
    ours.save(tmp_path / "folder")
    ours.save(tmp_path / "one.json")
    ours.save_hugging_face(tmp_path / "hf" / "tokenizer.json")
    for path in ("folder", "one.json", "hf", "hf/tokenizer.json"):
        loaded = Tokenizer.load(tmp_path / path)
        assert loaded.sha256 == ours.sha256
        assert loaded.characters == ours.characters
        assert (loaded.special_tokens, loaded.added_tokens) == (ours.special_tokens, ours.added_tokens)
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    for text in TEXTS:
        ids = written.encode(repaired(text), add_special_tokens=False).ids
        assert ids == ours.encode(text)
        assert written.decode(ids) == theirs.decode(ids)
    again = pickle.loads(pickle.dumps(ours))
    assert again.encode("the cat") == ours.encode("the cat")


def test_formats_of_bytes_are_refused(both, tmp_path):
    ours, _ = both
    with pytest.raises(TokenizerError, match="characters"):
        ours.save_tiktoken(tmp_path / "x.tiktoken")
    ours.save(tmp_path)
    assert not (tmp_path / "vocab.json").exists()


def changed(path, value):
    file = copy.deepcopy(file_of("llama 2"))
    *parents, last = path
    part = file
    for key in parents:
        part = part[key]
    part[last] = value
    return file


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["normalizer"], {"type": "NFKC"}, "its normalizer .* does other things than put '▁' for spaces"),
        (["normalizer", "normalizers", 0], {"type": "Lowercase"}, "does other things"),
        (["normalizer"], {"type": "Prepend", "prepend": "▁"}, "does other things"),
        (["normalizer", "normalizers", 0, "prepend"], "_", "does other things"),
        (["normalizer"], None, "expected Replace in the normalizer"),
        (["pre_tokenizer"], metaspace("first", False), "expected Replace in the normalizer"),
        (["pre_tokenizer"], {"type": "Whitespace"}, "its pre_tokenizer is"),
        (["decoder"], None, "its decoder is None"),
        (["decoder", "decoders", 3, "stop"], 1, "its decoder is"),
        (["model", "ignore_merges"], True, "ignore_merges"),
        (["model", "dropout"], 0.1, "dropout"),
        (
            ["model", "vocab"],
            {text: i for text, i in MODEL["vocab"].items() if text != "<0xC3>"},
            "lacks the token <0xC3>",
        ),
        (["added_tokens", 1, "normalized"], True, "'<s>' is looked for after the text is normalized"),
        (["added_tokens", 1, "rstrip"], True, "matches only under conditions"),
        (["added_tokens", 1, "id"], 7, "would use 1"),
        (["model", "merges", 0], ["<0x41>", "a"], "is not in the vocabulary"),
    ],
)
def test_what_would_give_other_ids_or_text_is_refused(path, value, message, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(file)


def test_a_damaged_setting_in_our_file_is_refused(both, tmp_path):
    ours, _ = both
    ours.save(tmp_path / "one.json")
    saved = json.loads((tmp_path / "one.json").read_text())
    for wrong in ({"prefix": "often"}, {"strip": 1}, {"other": True}, {}):
        (tmp_path / "two.json").write_text(json.dumps(saved | {"characters": wrong}))
        if wrong == {} and ours.characters == type(ours.characters)():
            continue
        with pytest.raises(TokenizerError, match=r"characters|SHA-256"):
            Tokenizer.load(tmp_path / "two.json")


def test_the_reader_says_what_it_leaves_out(tmp_path):
    file = file_of("gemma") | {"post_processor": {"type": "TemplateProcessing"}, "truncation": {}}
    assert content_of_sentencepiece(tmp_path, file).left_out == ("truncation", "post_processor TemplateProcessing")
