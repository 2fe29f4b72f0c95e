"""Our own single file."""

import json

import pytest

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import PATTERNS

TEXT = "The cat didn't <|endoftext|>\n\nsit; naïve 東京  <|endoftext|><|endoftext|> 1234\r\n"


def test_a_tokenizer_in_one_file_loads_as_it_was(small, tmp_path):
    small.save(tmp_path / "new" / "folder" / "small.json")
    loaded = Tokenizer.load(tmp_path / "new" / "folder" / "small.json")
    assert loaded.vocab == small.vocab
    assert loaded.merges == small.merges
    assert loaded.special_tokens == small.special_tokens
    assert loaded.pattern == small.pattern
    assert loaded.sha256 == small.sha256
    assert loaded.encode(TEXT) == small.encode(TEXT)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["small.json"]


def test_the_file_can_be_read_by_eye(tmp_path):
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b" t", 257: "é".encode(), 300: b"\x00\xff"}
    Tokenizer(vocab, [(b" ", b"t"), (b"\xc3", b"\xa9")], ["東京", "a"], pattern="llama3").save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (content["format"], content["format_version"]) == ("groundup-tokenizer", 1)
    assert content["pattern"] == {"name": "llama3", "regex": PATTERNS["llama3"]}
    assert content["special_tokens"] == {"東京": 301, "a": 97}
    assert content["merges"] == ["Ġ t", "Ã ©"]
    assert {"Ġt": 256, "Ã©": 257, "Āÿ": 300}.items() <= content["vocab"].items()
    lines = (tmp_path / "t.json").read_text(encoding="utf-8").splitlines()
    assert '"Ġt": 256,' in lines
    assert '"Ã ©"' in lines


def test_ignore_merges_is_written_where_it_is_set(tmp_path):
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"abc"}
    whole, plain = Tokenizer(vocab, [], ignore_merges=True), Tokenizer(vocab, [])
    assert whole.sha256 != plain.sha256
    for name in ("t.json", "folder"):
        for tokenizer in (whole, plain):
            tokenizer.save(tmp_path / name)
            loaded = Tokenizer.load(tmp_path / name)
            assert loaded.sha256 == tokenizer.sha256
            assert loaded.ignore_merges is tokenizer.ignore_merges
            assert loaded.encode("abc") == ([256] if tokenizer.ignore_merges else [*b"abc"])
            file = tmp_path / name / "meta.json" if name == "folder" else tmp_path / name
            assert ("ignore_merges" in file.read_text(encoding="utf-8")) is tokenizer.ignore_merges


def test_a_pattern_of_ones_own_and_no_tokens_at_all(tmp_path):
    for tokenizer in (Tokenizer({}, []), Tokenizer({0: b"a"}, [], pattern=r"[^\W\d]+|\s|(?<=\d)x*")):
        tokenizer.save(tmp_path / "t.json")
        loaded = Tokenizer.load(tmp_path / "t.json")
        assert (loaded.vocab, loaded.pattern, loaded.sha256) == (tokenizer.vocab, tokenizer.pattern, tokenizer.sha256)


def test_saving_over_a_file_that_cannot_be_replaced_keeps_it(small, tmp_path, monkeypatch):
    Tokenizer({0: b"a"}, []).save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small.save(tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def _set(*keys, to):
    def change(file):
        for key in keys[:-1]:
            file = file[key]
        file[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("format", to="gguf"),
            "is a JSON object with ['format', 'format_version', 'pattern', 'sha256', 'special_",
        ),
        (_set("format_version", to=2), "format_version is 2, and this groundup reads 1; update groundup"),
        (_set("format_version", to=True), "format_version is True"),
        (_set("sha256", to="0" * 64), "and t.json says 000000000000"),
        (_set("sha256", to=None), "sha256 is None, expected a JSON string"),
        (_set("ignore_merges", to=1), "ignore_merges is 1, expected a JSON true or false"),
        (_set("ignore_merges", to=True), "and t.json says"),
        (_set("comment", to="mine"), "has the key 'comment', which no groundup-tokenizer has"),
        (_set("vocab", to=["a"]), "vocab is ['a'], expected a JSON object"),
        (_set("merges", to={}), "merges is {}, expected a JSON array"),
        (_set("special_tokens", to=["<x>"]), "special_tokens is ['<x>'], expected a JSON object"),
        (_set("special_tokens", "<x>", to=7.5), "token '<x>' has the id 7.5; ids are integers"),
        (_set("special_tokens", "<x>", to=97), "id 97 is given to '<x>' and to another token"),
        (_set("special_tokens", "ab", to=400), "and t.json says"),  # one that shares its bytes
        (_set("special_tokens", "\ud800", to=400), "special token '\\ud800' has a lone surrogate"),
        (_set("vocab", "cd", to=-1), "token b'cd' has the id -1"),
        (_set("vocab", "cd", to=1 << 24), "token b'cd' has the id 16777216"),
        (_set("vocab", "cd", to=256), "id 256 is given to 'cd' and to another token"),
        (_set("vocab", "東", to=400), "token '東' has '東', which stands for no byte"),
        (_set("vocab", "", to=400), "token 400 is empty"),
        (_set("merges", to=["a b", "ab"]), "merge 1 is 'ab'; expected two tokens"),
        (_set("merges", to=["a b", ["a", "b"]]), "merge 1 is ['a', 'b']; expected two tokens"),
        (_set("merges", to=["a b", "a b"]), "merge 1 is 'a b', as merge 0"),
        (_set("merges", to=["a b", "ab "]), "merge 1 is 'ab '; expected two tokens"),
        (_set("merges", to=["a b", "a c"]), "merge 1 of b'a' and b'c': b'ac' is not in the vocabulary"),
        (_set("pattern", to={"name": "gpt2"}), "pattern is {'name': 'gpt2'}; expected"),
        (_set("pattern", "regex", to=r"\S+|\s+"), r"pattern 'gpt2' is '\\S+|\\s+' there and "),
        (_set("pattern", to={"name": None, "regex": "(a"}), "'(a' is not a regular expression"),
    ],
)
def test_damaged_files_are_explained(tmp_path, change, message):
    path = tmp_path / "t.json"
    Tokenizer({b: bytes([b]) for b in range(256)} | {256: b"ab"}, [(b"a", b"b")], ["<x>"]).save(path)
    file = json.loads(path.read_text(encoding="utf-8"))
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "is not valid JSON (line 1"),
        (b'{"a": 1, "a": 2}', "a key is given twice, 'a'"),
        (b'{"format": "\xff"}', "is not UTF-8 at byte 12"),
        (b'{"format": ' + b"[" * 100_000, "nests JSON too deeply"),
        (b'{"format": ' + b"9" * 5000 + b"}", "has a number of thousands of digits"),
        (b"[1, 2]", "is of no known format"),
        (b'"text"', "is of no known format"),
        (b"\xef\xbb\xbf{}", "begins with"),
        (b"\x1f\x8b\x08\x00", "is not UTF-8 at byte 1"),
        (b"{}", "is only a part of a tokenizer"),
    ],
)
def test_files_that_are_no_tokenizers_are_explained(tmp_path, content, message):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises((TokenizerError, FileNotFoundError)) as error:
        Tokenizer.load(tmp_path / "t.json")
    assert message in str(error.value)
    assert "t.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pattern_whose_name_a_later_version_gave_is_used_as_expression(tmp_path):
    tokenizer = Tokenizer({0: b"a"}, [], pattern="qwen2")
    tokenizer.save(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text(encoding="utf-8").replace('"qwen2"', '"qwen9"')
    (tmp_path / "t.json").write_text(text, encoding="utf-8")
    assert Tokenizer.load(tmp_path / "t.json").sha256 == tokenizer.sha256
