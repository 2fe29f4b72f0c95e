"""For any vocabulary: every format gives back what was written, or says that something is wrong."""

import json
import shutil

import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from groundup.errors import FileMissingError, TokenizerError
from groundup.tokenizer import Tokenizer, reference
from groundup.tokenizer.patterns import PATTERNS

texts = st.text(st.sampled_from("ab é东'1\n \u0301🐈") | st.characters(codec="utf-8"), min_size=1, max_size=60)
names = st.text(st.sampled_from("<|x>é \nĠ") | st.characters(codec="utf-8"), min_size=1, max_size=5)
special_tokens = st.lists(names, max_size=3, unique=True)
patterns = st.sampled_from(sorted(PATTERNS))
FORMATS = ["folder", "groundup", "hugging-face", "tiktoken"]


@st.composite
def trained(draw):
    documents = [text.encode() for text in draw(st.lists(texts, min_size=1, max_size=3))]
    pattern = draw(patterns)
    vocab, merges = reference.train_bpe(documents, draw(st.integers(256, 290)), [], PATTERNS[pattern])
    ignore_merges = draw(st.booleans())  # as all tokens are made by merges, it changes no ids
    return Tokenizer(vocab, merges, draw(special_tokens), pattern=pattern, ignore_merges=ignore_merges)


def special_ids(tokenizer):
    return {name: tokenizer.token_id(name) for name in tokenizer.special_tokens}


def save(tokenizer, form, folder):
    """The path of the tokenizer, written in a format that may refuse it: then None."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = {"folder": folder, "groundup": folder / "t.json", "hugging-face": folder / "h.json"}
    path = paths.get(form, folder / "t.tiktoken")
    try:
        if form == "hugging-face":
            tokenizer.save_hugging_face(path)
        elif form == "tiktoken":
            tokenizer.save_tiktoken(path)
        else:
            tokenizer.save(path)
    except TokenizerError as error:
        refusal = str(error)
    else:
        return path
    # Only a special token with the name of another token has no place in tokenizer.json.
    assert form == "hugging-face", refusal
    assert any(why in refusal for why in ("would both be called", "is also an ordinary token", "is what the text"))
    return None


def load(path, form, tokenizer):
    if form == "tiktoken":
        return Tokenizer.load(path, pattern=tokenizer.pattern, special_tokens=special_ids(tokenizer))
    return Tokenizer.load(path)


def load_or_complaint(path, form, tokenizer):
    """The tokenizer, or the one line that says why there is none."""
    try:
        return load(path, form, tokenizer), ""
    except (TokenizerError, FileMissingError) as error:
        return None, str(error)


@pytest.mark.parametrize("form", FORMATS)
@given(tokenizer=trained(), text=texts)
def test_what_is_written_is_read(tmp_path_factory, own_sha256, form, tokenizer, text):
    path = save(tokenizer, form, tmp_path_factory.getbasetemp() / "survives")
    if path is None:
        return
    loaded = load(path, form, tokenizer)
    assert loaded.vocab == tokenizer.vocab
    assert loaded.merges == tokenizer.merges
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.pattern == tokenizer.pattern
    if form in ("folder", "groundup"):
        assert loaded.sha256 == tokenizer.sha256
    elif not loaded.ignore_merges:
        plain = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=tokenizer.pattern)
        assert own_sha256(loaded) == plain.sha256
    text = text.join(["", *tokenizer.special_tokens, ""])
    if form == "hugging-face":
        assert tokenizers.Tokenizer.from_file(str(path)).encode(text).ids == tokenizer.encode(text)


@given(tokenizer=trained(), text=texts)
def test_tiktoken_reads_what_is_written(tmp_path_factory, tokenizer, text):
    path = save(tokenizer, "tiktoken", tmp_path_factory.getbasetemp() / "tiktoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # it would keep copies by path
        ranks = load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding(
        "test", pat_str=PATTERNS[tokenizer.pattern], mergeable_ranks=ranks, special_tokens=special_ids(tokenizer)
    )
    text = text.join(["", *tokenizer.special_tokens, ""])
    # Of several special tokens at one place tiktoken takes any.
    if all(a == b or a not in b for a in tokenizer.special_tokens for b in tokenizer.special_tokens):
        assert theirs.encode(text, allowed_special="all") == tokenizer.encode(text)
    assert theirs.encode_ordinary(text) == Tokenizer.load(path, pattern=tokenizer.pattern).encode(text)


@pytest.mark.parametrize("form", FORMATS)
@given(tokenizer=trained(), data=st.data())
def test_a_damaged_file_is_noticed_or_means_the_same(tmp_path_factory, form, tokenizer, data):
    """A format that carries no hash may, damaged, be another tokenizer; it is never a crash."""
    path = save(tokenizer, form, tmp_path_factory.getbasetemp() / "damaged")
    if path is None:
        return
    damaged = data.draw(st.sampled_from(sorted(path.iterdir()))) if path.is_dir() else path
    content = damaged.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.sampled_from(b'"\\{}[],: \n\x00\xff019aA=/+') | st.integers(0, 255))
    if data.draw(st.booleans()):
        damaged.write_bytes(content[:at])
    else:
        damaged.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
    loaded, complaint = load_or_complaint(path, form, tokenizer)
    if loaded is None:
        assert "\n" not in complaint
        assert str(path) in complaint
    elif form in ("folder", "groundup"):
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.vocab == tokenizer.vocab
        assert loaded.merges == tokenizer.merges


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 25) | st.floats() | st.text(max_size=4),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("form", ["folder", "groundup", "hugging-face"])
@given(data=st.data())
def test_json_of_the_wrong_kind_anywhere_is_explained(tmp_path_factory, form, data):
    tokenizer = Tokenizer({b: bytes([b]) for b in range(256)} | {256: b"ab"}, [(b"a", b"b")], ["<x>"], pattern="qwen2")
    path = save(tokenizer, form, tmp_path_factory.getbasetemp() / "wrong")
    file = path / data.draw(st.sampled_from(["vocab.json", "meta.json"])) if path.is_dir() else path
    content = json.loads(file.read_text(encoding="utf-8"))
    _replace_somewhere(content, data)
    file.write_text(json.dumps(content))
    loaded, complaint = load_or_complaint(path, form, tokenizer)
    assert "\n" not in complaint
    assert (loaded is not None) or (str(path) in complaint)


def _replace_somewhere(content, data):
    """Puts any JSON value in place of one member, or takes the member away."""
    keys = sorted(content) if isinstance(content, dict) else range(len(content))
    key = data.draw(st.sampled_from(list(keys)))
    inside = content[key]
    if isinstance(inside, dict | list) and inside and data.draw(st.integers(0, 4)):
        _replace_somewhere(inside, data)
    elif isinstance(content, dict) and data.draw(st.booleans()):
        del content[key]
    else:
        content[key] = data.draw(json_values)
