"""Character classes of the version of Unicode that a tokenizer's own engine knows."""

import json

import pytest
import regex
import tiktoken
import tokenizers

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer, _native
from groundup.tokenizer.patterns import (
    NEWEST,
    NUMERIC_IN_RUST,
    OF_ENGINE,
    PATTERNS,
    VERSIONS,
    as_in_version,
    newer_character_named,
    pretoken_ends,
)

# Every custom pattern warns that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:the pattern .* is not built in:UserWarning")

BYTES = {byte: bytes([byte]) for byte in range(256)}
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
OLDER, NEWER = (_native.character_classes(version) for version in VERSIONS)
FEWER = [c for i, c in enumerate(CHARACTERS) if i % 61 == 0 or (i % 3 == 0 and OLDER[ord(c)] != NEWER[ord(c)])]
"""Of those that the versions class differently one in three, of the others a few."""

which = pytest.mark.parametrize("characters", ["fewer", pytest.param("all", marks=pytest.mark.long)])
NEW_DIGIT = " \U00011de0 x"  # a digit of Unicode 17.0, without a class in 16.0


def pieces(ends, data):
    return [data[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)]


def their_matches(expression):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    return lambda text: [piece for piece, _ in split.pre_tokenize_str(text)]


@which
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_code_point_splits_as_in_tokenizers(pattern, characters):
    """Each character beside a letter, a digit and a symbol, in every built-in pattern."""
    expression = PATTERNS[pattern]
    written = expression.replace("++", "+").replace("*+", "*").replace("?+", "?").replace("{1,3}+", "{1,3}")
    if pattern == "cl100k":  # whose end of text Oniguruma takes for the end of a line
        written = PATTERNS["llama3"]
    theirs = their_matches(written)
    chosen = CHARACTERS if characters == "all" else FEWER
    for start in range(0, len(chosen), 1 << 12):
        text = "".join(f"a{c}{c}B1{c} {c}!{c}\n." for c in chosen[start : start + (1 << 12)])
        data = text.encode()
        found = [piece.decode() for piece in _native.pretokens(data, pattern, OF_ENGINE["tokenizers"])]
        assert found == theirs(text), hex(start)


@pytest.mark.parametrize(
    "expression", [r"\p{L}+", r"\p{N}", r"[\p{P}\p{S}]+", r"\p{Lu}\p{Ll}*", r"\p{M}+", r"\s+", r"\p{Han}+"]
)
@which
def test_regex_is_shown_the_older_version(expression, characters):
    text = "".join(CHARACTERS if characters == "all" else FEWER)
    found = pieces(pretoken_ends(text.encode(), expression, "16.0").tolist(), text.encode())
    assert found == their_matches(expression)(text)


@pytest.mark.parametrize(("step", "individual"), [("digit", True), ("digits", False)])
@which
def test_digits_are_those_of_rust(step, individual, characters):
    text = "".join(CHARACTERS if characters == "all" else [*FEWER, *map(chr, NUMERIC_IN_RUST)])
    found = pieces(pretoken_ends(text.encode(), (step,), "16.0").tolist(), text.encode())
    split = tokenizers.pre_tokenizers.Digits(individual_digits=individual)
    assert found == [piece for piece, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("members", "expression"), [("012", r"\p{L}"), ("4", r"\p{N}"), ("56", r"\s"), ("3", r"\p{M}")]
)
@which
def test_each_table_is_that_of_its_engines(members, expression, characters):
    chosen = CHARACTERS if characters == "all" else FEWER
    text = "".join(chosen)
    ranks = {token: byte for byte, token in BYTES.items()}
    encoding = tiktoken.Encoding("t", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    removed = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "removed")
    matched = {
        "regex": set(regex.findall(expression, text)),
        "tokenizers": set(chosen).difference(*(piece for piece, _ in removed.pre_tokenize_str(text))),
        # What no match covers, tiktoken drops.
        "tiktoken": set(encoding.decode(encoding.encode_ordinary(text))),
    }
    for engine, version in OF_ENGINE.items():
        classes = _native.character_classes(version)
        assert {c for c in chosen if str(classes[ord(c)]) in members} == matched[engine], engine


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        (r"[\u20a0-\u20cf]", "\u20c1"),
        ("[\u20a0-\u20cf]+", "\u20c1"),
        (r"[^\u20a0-\u20cf]+", "\u20c1"),
        (r"\U000020c1|.", "\u20c1"),
        ("a|\u20c1", "\u20c1"),
        (r"[\U00010000-\U0010ffff]", "\U000107bb"),
        (r"[\ufdd0-\ufdef]", "\u0558"),  # which has the stand-in of the others
        (r"[\u4e00-\u9fa5\u3040-\u30ff]+| ?[^\s\p{L}\p{N}]+", None),
        (r"[^\x00-\x7f]", None),
        (r"\p{L}+|\p{N}{1,3}", None),
    ],
)
def test_a_pattern_that_names_a_newer_character_is_refused(expression, named):
    """Its stand-in is not what is named, so that text with it would be split otherwise than by the engine."""
    assert newer_character_named(expression, "16.0") == named
    assert newer_character_named(expression, NEWEST) is None
    vocab = {byte: bytes([byte]) for byte in range(256)}
    if named is None:
        Tokenizer(vocab, [], pattern=expression, unicode_version="16.0")
        return
    with pytest.raises(TokenizerError, match=f"names U\\+{ord(named):04X}"):
        Tokenizer(vocab, [], pattern=expression, unicode_version="16.0")
    Tokenizer(vocab, [], pattern=expression)


def test_newer_characters_are_hidden_from_regex():
    assert as_in_version("é\U00011de0", VERSIONS[-1]) == "é\U00011de0"
    assert not regex.search(r"\p{N}", as_in_version("é\U00011de0", "16.0"))
    assert regex.search(r"\p{N}", as_in_version("\U00011de0", "16.0", shown=NUMERIC_IN_RUST))


@pytest.fixture
def llama(tmp_path):
    """A vocabulary in which the splits show, written by hand in both formats."""
    vocab = BYTES | {256: NEW_DIGIT[:2].encode(), 257: b" x"}
    digit = NEW_DIGIT[1].encode()
    merges = [(bytes([a]), bytes([b])) for a, b in ((digit[0], digit[1]), (digit[2], digit[3]))]
    tokens = BYTES | {256: digit[:2], 257: digit[2:], 258: digit, 259: b" " + digit}
    merges += [(digit[:2], digit[2:]), (b" ", digit)]
    return Tokenizer(tokens, merges, pattern="llama3"), vocab


@pytest.mark.parametrize("pattern", PATTERNS)
def test_files_of_an_engine_have_its_classes(llama, tmp_path, pattern):
    own = Tokenizer(llama[0].vocab, llama[0].merges, pattern=pattern)
    own.save_hugging_face(tmp_path / "t.json")
    own.save_tiktoken(tmp_path / "t.tiktoken")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    ranks = {token: rank for rank, token in own.vocab.items()}
    encoding = tiktoken.Encoding("t", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    for loaded in (Tokenizer.load(tmp_path / "t.json"), Tokenizer.load(tmp_path / "t.tiktoken", pattern=pattern)):
        assert loaded.unicode_version == "16.0"
        for text in (NEW_DIGIT, "a\U00011db0b", "1\U00011de0\U00011de1", "x\U0003d000 y"):
            assert loaded.encode(text) == theirs.encode(text).ids == encoding.encode_ordinary(text)
            assert loaded.encode_to_numpy(text * 100_000, num_threads=2).tolist() == loaded.encode(text * 100_000)
            assert list(loaded.encode_iterable(text)) == loaded.encode(text)


def test_our_own_files_say_the_version_and_those_without_keep_the_newest(llama, tmp_path):
    own = llama[0]
    older = Tokenizer(own.vocab, own.merges, pattern="llama3", unicode_version="16.0")
    assert own.sha256 != older.sha256
    assert own.encode(NEW_DIGIT) != older.encode(NEW_DIGIT)
    for tokenizer in (own, older):
        for name in ("t.json", "folder"):
            tokenizer.save(tmp_path / name)
            loaded = Tokenizer.load(tmp_path / name)
            assert (loaded.unicode_version, loaded.sha256) == (tokenizer.unicode_version, tokenizer.sha256)
            file = tmp_path / name / "meta.json" if name == "folder" else tmp_path / name
            content = json.loads(file.read_text(encoding="utf-8"))
            assert content["unicode_version"] == tokenizer.unicode_version
            # Files from before the key was written.
            del content["unicode_version"]
            file.write_text(json.dumps(content))
            if tokenizer is own:
                assert Tokenizer.load(tmp_path / name).encode(NEW_DIGIT) == own.encode(NEW_DIGIT)
            else:  # ignoring it is noticed
                with pytest.raises(TokenizerError, match="SHA-256"):
                    Tokenizer.load(tmp_path / name)
            content["unicode_version"] = "19.0"
            file.write_text(json.dumps(content))
            with pytest.raises(TokenizerError, match=r"'19\.0'.*16\.0, 18\.0"):
                Tokenizer.load(tmp_path / name)
