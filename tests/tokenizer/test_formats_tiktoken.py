"""tiktoken's format, both ways, against tiktoken."""

import base64
import random

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from groundup.errors import FileMissingError, TokenizerError
from groundup.tokenizer import Tokenizer, reference, train_bpe_from_documents
from groundup.tokenizer.formats.merge_order import merges_of_ranks
from groundup.tokenizer.formats.tiktoken import ENCODINGS
from groundup.tokenizer.patterns import PATTERNS

BYTES = {byte: bytes([byte]) for byte in range(256)}
WORDS = [
    "The cat didn't",
    " HelloWorld's",
    "naïve 東京",
    " 1234567",
    "\r\n\n  ",
    " \u00a0🐈",
    "==//\n",
    "a" * 120,
    "<|end|>",
]
TEXTS = ["".join(random.Random(seed).choices(WORDS, k=10)) for seed in range(20)]


@pytest.fixture(autouse=True)
def read_files_anew(monkeypatch):
    """tiktoken would keep copies of files by their paths, which every test run uses again."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


def encoding_of(path, special_tokens, pattern):
    return tiktoken.Encoding(
        "test", pat_str=PATTERNS[pattern], mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens=special_tokens
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiktoken_gives_our_ids_with_every_pattern(pattern, tmp_path, own_sha256):
    vocab, merges = reference.train_bpe([text.encode() for text in TEXTS], 380, [], PATTERNS[pattern])
    ours = Tokenizer(vocab, merges, ["<|end|>", "naïve"], pattern=pattern)
    path = tmp_path / "new" / "ours.tiktoken"
    ours.save_tiktoken(path)
    special_ids = {name: ours.token_id(name) for name in ours.special_tokens}
    theirs = encoding_of(path, special_ids, pattern)
    for text in TEXTS:
        assert theirs.encode(text, allowed_special="all") == ours.encode(text)
    assert own_sha256(Tokenizer.from_tiktoken(path, pattern=pattern, special_tokens=special_ids)) == ours.sha256
    assert own_sha256(Tokenizer.load(path, pattern=pattern, special_tokens=["<|end|>", "naïve"])) == ours.sha256


def test_gpt2_goes_through_tiktoken(gpt2_files, tmp_path, own_sha256):
    gpt2 = Tokenizer.load(gpt2_files[0].parent)
    gpt2.save_tiktoken(tmp_path / "r50k_base.tiktoken")
    ranks = load_tiktoken_bpe(str(tmp_path / "r50k_base.tiktoken"))
    assert len(ranks) == 50_256
    assert all(gpt2.vocab[rank] == token for token, rank in ranks.items())
    loaded = Tokenizer.from_tiktoken(
        tmp_path / "r50k_base.tiktoken", pattern="gpt2", special_tokens={"<|endoftext|>": 50_256}
    )
    assert loaded.merges == gpt2.merges
    assert own_sha256(loaded) == gpt2.sha256


@given(texts=st.lists(st.text("ab -", min_size=1, max_size=150), min_size=1, max_size=4))
def test_merges_are_recovered_however_long_tokens_are(texts):
    """Above 48 bytes by another algorithm."""
    documents = [(text * 3).encode() for text in texts]
    vocab, merges = train_bpe_from_documents(documents, 330, [])
    ranks = {token: rank for rank, token in vocab.items()}
    assert merges_of_ranks(ranks) == (merges, [])


def test_merges_that_never_happen_do_not_matter(tmp_path):
    """Files made from ranks list every pair that makes a token; in a text only one of them ever meets."""
    tokens = [b"ab", b"bc", b"abc", b"abcd"]
    vocab = BYTES | dict(enumerate(tokens, start=256))
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b"d")]
    Tokenizer(vocab, merges).save_tiktoken(tmp_path / "t.tiktoken")
    loaded = Tokenizer.from_tiktoken(tmp_path / "t.tiktoken", pattern="gpt2")
    assert loaded.merges == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"abc", b"d")]
    text = "abcd bcd abc bc abab ac"
    assert loaded.encode(text) == Tokenizer(vocab, merges).encode(text)


def test_tokens_that_merges_do_not_make_are_found_as_whole_pretokens(tmp_path):
    """tiktoken looks a pretoken up before it merges."""
    (tmp_path / "t.tiktoken").write_text("\n".join(lines(b"ab", b" abcd", b"cdef", b"abc")))
    ours = Tokenizer.from_tiktoken(tmp_path / "t.tiktoken", pattern="gpt2", special_tokens={"<x>": 260})
    theirs = encoding_of(tmp_path / "t.tiktoken", {"<x>": 260}, "gpt2")
    assert ours.ignore_merges
    for text in ("abcd abcd", " abcd", "cdef cdef cdefab", "abc<x>cdef<x> abcd abc", "cdef", " cdef", "abcdef"):
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")
    assert ours.encode(" abcd cdef") == [257, 32, *b"cdef"]
    ours.save_tiktoken(tmp_path / "again.tiktoken")
    again = Tokenizer.from_tiktoken(tmp_path / "again.tiktoken", pattern="gpt2", special_tokens={"<x>": 260})
    assert again.sha256 == ours.sha256


words = st.text("abc", min_size=1, max_size=6)


@given(tokens=st.lists(st.text("abc", min_size=2, max_size=6), unique=True, max_size=12), text=st.lists(words))
def test_any_ranks_give_the_ids_of_tiktoken(tmp_path_factory, tokens, text):
    """Whatever the tokens are, in whatever order, made by merges or not."""
    path = tmp_path_factory.getbasetemp() / "any.tiktoken"
    path.write_text("\n".join(lines(*(token.encode() for token in tokens))))
    ours = Tokenizer.from_tiktoken(path, pattern="gpt2")
    ranks = {token: rank for rank, token in ours.vocab.items()}
    theirs = tiktoken.Encoding("any", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    for pretokens in (" ".join(text), *tokens):
        assert ours.encode(pretokens) == theirs.encode_ordinary(pretokens)
    ours.save_tiktoken(path)
    assert Tokenizer.from_tiktoken(path, pattern="gpt2").sha256 == ours.sha256


def test_a_special_token_that_the_file_lists_is_special(tmp_path):
    """Some files list their special tokens with the others; merges do not make them, and need not."""
    (tmp_path / "t.tiktoken").write_text("\n".join(lines(b"ab", b"<|end|>")))
    ours = Tokenizer.from_tiktoken(tmp_path / "t.tiktoken", pattern="gpt2", special_tokens=["<|end|>"])
    assert not ours.ignore_merges
    assert ours.encode("ab<|end|>") == [256, 257]


def test_a_special_token_may_be_an_ordinary_one(tmp_path, own_sha256):
    ours = Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], ["ab", "c", "<x>"])
    ours.save_tiktoken(tmp_path / "t.tiktoken")
    special_ids = {"ab": 256, "c": 99, "<x>": 257}
    theirs = encoding_of(tmp_path / "t.tiktoken", special_ids, "gpt2")
    assert theirs.encode("abc<x>xab", allowed_special="all") == ours.encode("abc<x>xab")
    loaded = Tokenizer.load(tmp_path / "t.tiktoken", pattern="gpt2", special_tokens=special_ids)
    assert own_sha256(loaded) == ours.sha256


def test_the_pattern_has_to_be_given(tmp_path):
    Tokenizer(BYTES, []).save_tiktoken(tmp_path / "t.tiktoken")
    with pytest.raises(TokenizerError, match=r"does not say how text is split.*pattern=.*--pattern"):
        Tokenizer.load(tmp_path / "t.tiktoken")
    with pytest.raises(TypeError, match="pattern"):
        Tokenizer.from_tiktoken(tmp_path / "t.tiktoken")
    (tmp_path / "t.tiktoken").rename(tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match=r"is a \.tiktoken file"):
        Tokenizer.load(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    ("vocab", "merges", "specials", "message"),
    [
        ({i + 1: t for i, t in BYTES.items()}, [], ["<x>"], "no token has the id 0"),
        (BYTES | {300: b"ab"}, [(b"a", b"b")], [], "no token has the id 256, and ranks have no holes"),
        ({i: BYTES[i] for i in range(255)}, [], [], "byte 0xff is not a token"),
        (BYTES | {256: b"ab"}, [], [], "token 256, b'ab', would be made of (b'a', b'b'), which is not a merge"),
        (BYTES | {256: b"abc"}, [], [], "token 256, b'abc', would be found as a whole pretoken, and merges end in"),
        (
            BYTES | {256: b"bc", 257: b"ab"},
            [(b"a", b"b"), (b"b", b"c")],
            [],
            "the merge of (b'a', b'b') comes before that of (b'b', b'c'), but its token has the larger id",
        ),
    ],
)
def test_what_their_format_cannot_say_is_refused_when_writing(tmp_path, vocab, merges, specials, message):
    with pytest.raises(TokenizerError, match=r"cannot be written as \.tiktoken") as error:
        Tokenizer(vocab, merges, specials).save_tiktoken(tmp_path / "t.tiktoken")
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def lines(*tokens):
    encoded = [base64.b64encode(token).decode() for token in [*BYTES.values(), *tokens]]
    return [f"{token} {rank}" for rank, token in enumerate(encoded)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("\n".join(lines()[:200]), "has 200 tokens and none for byte 0xc8: it is cut short"),
        ("\n".join([*lines(), "YWI"]), "line 257 is 'YWI'; expected a token in base64, one space and its rank"),
        ("\n".join([*lines(), "YW= 256"]), "line 257 is 'YW= 256'; expected a token in base64"),
        ("\n".join([*lines(), "YW Jj 256"]), "line 257 is 'YW Jj 256'"),
        ("\n".join([*lines(), "YWI= -1"]), "line 257 is 'YWI= -1'"),
        ("\n".join([*lines(), "YWI= 12345678901234567890"]), "line 257 is 'YWI= 12345678901234567890'"),
        ("\n".join([*lines(), "YWI= 999999999"]), "has 257 tokens and none of rank 256"),
        ("\n".join([*lines(), "YWI= 7"]), "line 257 has rank 7, as line 8; ranks are unique"),
        ("\n".join([*lines(), "YQ== 256"]), "line 257 has token b'a' again, of rank 97 before"),
        ("\n".join(lines(b"ab")[:256] + lines(b"ab", b"cd")[257:]), "has 257 tokens and none of rank 256"),
        ("\n".join([*lines(), "é 256"]), "line 257 is 'é 256'"),
        (b"\xff\xfe".decode("latin-1"), "line 1 is 'ÿþ'; expected a token in base64"),
    ],
)
def test_damaged_files_are_explained(tmp_path, content, message):
    path = tmp_path / "t.tiktoken"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(path, pattern="gpt2")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ({"<x>": 97}, "special token '<x>' cannot have the id 97, which is b'a' in"),
        ({"a": 300}, "special token 'a' has the id 97 in"),
        ({"<x>": 300, "<y>": 300}, "special token '<y>' cannot have the id 300, which is b'<x>'"),
        ({"<x>": "300"}, "special token '<x>' has the id '300'; ids are integers"),
        ({"<x>": -1}, "token b'<x>' has the id -1"),
        ({"<x>": 1 << 31}, "token b'<x>' has the id 2147483648"),
        ({"": 300}, "the empty string"),
        (["<x>", "<x>"], "special token '<x>' is given twice"),
        ("<x>", "special_tokens is the string '<x>'; give a list"),
    ],
)
def test_special_tokens_that_do_not_fit_are_refused(tmp_path, special_tokens, message):
    Tokenizer(BYTES, []).save_tiktoken(tmp_path / "t.tiktoken")
    with pytest.raises(TokenizerError) as error:
        Tokenizer.from_tiktoken(tmp_path / "t.tiktoken", pattern="gpt2", special_tokens=special_tokens)
    assert message in str(error.value)


def test_lines_may_end_in_cr_lf_and_ids_may_have_gaps_before_special_tokens(tmp_path):
    (tmp_path / "t.tiktoken").write_bytes("\r\n".join([*lines(b"ab"), "", ""]).encode())
    loaded = Tokenizer.from_tiktoken(tmp_path / "t.tiktoken", pattern="gpt2", special_tokens={"<x>": 500})
    assert loaded.encode("ab<x>") == [256, 500]


def test_paths_that_are_no_files_are_named(tmp_path):
    with pytest.raises(FileMissingError, match=r"nowhere\.tiktoken does not exist"):
        Tokenizer.from_tiktoken(tmp_path / "nowhere.tiktoken", pattern="gpt2")
    with pytest.raises(TokenizerError, match="cannot be read: Is a directory"):
        Tokenizer.from_tiktoken(tmp_path, pattern="gpt2")
    with pytest.raises(TokenizerError, match="is a folder; give the name of the file to write"):
        Tokenizer(BYTES, []).save_tiktoken(tmp_path)


def with_ranks(tokens):
    """The lines of a file whose ranks are given."""
    return "\n".join(f"{base64.b64encode(token).decode()} {rank}" for rank, token in tokens.items())


@pytest.mark.parametrize(
    ("tokens", "special_tokens"),
    [
        ({256: b"ab", 258: b"abc"}, {"<|x|>": 257}),
        ({257: b"ab", 260: b"abc"}, {"<|x|>": 256, "<|y|>": 258, "b<|": 259}),
        ({257: b"ab", 258: b"abc"}, {"<|x|>": 256, "<|end|>": 300}),
        ({256: b"ab", 258: b"xyz", 259: b"abc"}, {"<|x|>": 257}),  # one that merges do not make
    ],
)
def test_ranks_without_a_token_are_ids_of_special_tokens(tmp_path, tokens, special_tokens):
    path = tmp_path / "t.tiktoken"
    path.write_text(with_ranks(BYTES | tokens))
    theirs = encoding_of(path, special_tokens, "gpt2")
    ours = Tokenizer.load(path, pattern="gpt2", special_tokens=special_tokens)
    for text in ("abc<|x|>ab", "<|x|><|x|>abc xyz", "".join(special_tokens) + "abcabc", "ab|abc<|x"):
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
    ours.save_tiktoken(tmp_path / "again.tiktoken")
    assert load_tiktoken_bpe(str(tmp_path / "again.tiktoken")) == load_tiktoken_bpe(str(path))
    again = Tokenizer.load(tmp_path / "again.tiktoken", pattern="gpt2", special_tokens=special_tokens)
    assert again.sha256 == ours.sha256
    ours.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").encode("abc<|x|>ab") == ours.encode("abc<|x|>ab")


@pytest.mark.parametrize("special_tokens", [None, ["<|x|>"], {"<|x|>": 258}, {"<|x|>": 256, "<|y|>": 262}])
def test_a_rank_that_nothing_has_is_named(tmp_path, special_tokens):
    path = tmp_path / "p50k_base.tiktoken"
    path.write_text(with_ranks(BYTES | {257: b"ab", 260: b"abc"}))
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(path, pattern="gpt2", special_tokens=special_tokens)
    taken = set(special_tokens.values()) if isinstance(special_tokens, dict) else set()
    holes = str(error.value).split("none of rank ")[1].split(":")[0]
    assert holes == ", ".join(str(rank) for rank in (256, 258, 259) if rank not in taken)
    assert "special_tokens={" in str(error.value)
    assert 'pattern="p50k_base"' in str(error.value)


def test_encodings_that_tiktoken_knows_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    for name, encoding in ENCODINGS.items():
        published = openai_public.ENCODING_CONSTRUCTORS[name]()
        assert encoding.special_tokens == published["special_tokens"]
    path = tmp_path / "r50k_base.tiktoken"
    path.write_text(with_ranks(BYTES | {256: b"ab", 257: b"abc"}))
    ours = Tokenizer.load(path, pattern="r50k_base")
    assert ours.pattern == "gpt2"
    assert ours.encode("abc<|endoftext|>") == [257, 50256]
    named = Tokenizer.load(path, pattern="r50k_base", special_tokens={"<|x|>": 300})
    assert named.special_tokens == ["<|x|>"]
    with pytest.raises(TokenizerError, match='pattern="r50k_base"'):
        Tokenizer.load(path)
