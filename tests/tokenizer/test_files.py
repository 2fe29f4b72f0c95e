import json
import os
import shutil
import sys

import pytest

from groundup.errors import FileMissingError, MissingExtraError, TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.formats import gpt2 as files
from groundup.tokenizer.patterns import compiled_pattern

TEXT = "The cat didn't <|endoftext|>\n\nsit; naïve 東京  <|endoftext|><|endoftext|> # #version x\r\n"


def test_a_saved_tokenizer_loads_as_it_was(small, tmp_path):
    small.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert loaded.vocab == small.vocab
    assert loaded.merges == small.merges
    assert loaded.special_tokens == small.special_tokens
    assert loaded.sha256 == small.sha256
    assert loaded.encode(TEXT) == small.encode(TEXT)


def test_every_file_of_the_folder_names_the_tokenizer(small, tmp_path):
    small.save(tmp_path)
    for name in ("vocab.json", "merges.txt", "meta.json"):
        assert Tokenizer.load(tmp_path / name).sha256 == small.sha256


def test_special_tokens_of_any_characters_survive(tmp_path):
    names = ["é", "<|end of text|>", "\n\n", "東京", "Ġ", " "]
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], names)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.special_tokens == names
    assert loaded.encode("".join(names)) == tokenizer.encode("".join(names)) == [256, 257, 258, 259, 260, 32]


@pytest.mark.parametrize("name", ["folder", "t.json"])
def test_a_pattern_of_ones_own_is_read_back(small, tmp_path, name):
    expression = r"[a-z]+|(?<=é)\n|\s"
    own = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern=expression)
    own.save(tmp_path / name)
    loaded = Tokenizer.load(tmp_path / name)
    assert (loaded.pattern, loaded.sha256) == (expression, own.sha256)
    assert Tokenizer.load(tmp_path / name, pattern=expression).sha256 == own.sha256
    with pytest.warns(UserWarning, match="is not built in"):
        ids = own.encode(TEXT)
    with pytest.warns(UserWarning, match="is not built in"):
        assert loaded.encode(TEXT) == ids
    with pytest.raises(TokenizerError, match=r"says that its pattern is .*, and 'gpt2' is asked for"):
        Tokenizer.load(tmp_path / name, pattern="gpt2")


@pytest.mark.parametrize("name", ["folder", "t.json"])
def test_a_pattern_of_ones_own_needs_the_regex_package_and_says_so(small, tmp_path, monkeypatch, name):
    Tokenizer(small.vocab, small.merges, pattern=r"\w+?x|\W").save(tmp_path / name)
    compiled_pattern.cache_clear()
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(MissingExtraError, match=r"needs the package regex; install it with: pip install"):
        Tokenizer.load(tmp_path / name)


def test_a_pattern_in_the_folder_that_is_none_is_explained(small, tmp_path):
    small.save(tmp_path)
    meta = (tmp_path / "meta.json").read_text(encoding="utf-8")
    for pattern, message in (("(a", "'(a' is not a regular expression"), ("gpt5", "pattern 'gpt5' is not known")):
        (tmp_path / "meta.json").write_text(meta.replace('"gpt2"', json.dumps(pattern)), encoding="utf-8")
        with pytest.raises(TokenizerError) as error:
            Tokenizer.load(tmp_path)
        assert str(error.value).startswith(f"{tmp_path}: ")
        assert message in str(error.value)


def test_saving_replaces_what_was_there_and_leaves_nothing_else(small, tmp_path):
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(tmp_path)
    small.save(tmp_path)
    assert Tokenizer.load(tmp_path).sha256 == small.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "meta.json", "vocab.json"]


@pytest.mark.parametrize("written", [1, 2])
def test_a_save_that_was_cut_short_is_noticed(small, tmp_path, monkeypatch, written):
    """The process dies after one or two of the three files, into an empty folder and over another tokenizer."""
    replace, folders = os.replace, [tmp_path / "empty", tmp_path / "other"]
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(folders[1])
    for folder in folders:
        done = []

        def die_later(source, target, done=done):
            if len(done) == written:
                raise KeyboardInterrupt
            done.append(replace(source, target))

        monkeypatch.setattr(os, "replace", die_later)
        with pytest.raises(KeyboardInterrupt):
            small.save(folder)
        monkeypatch.undo()
        with pytest.raises((TokenizerError, FileMissingError)):
            Tokenizer.load(folder)


def test_from_files_reads_what_save_writes(small, tmp_path):
    small.save(tmp_path)
    loaded = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", small.special_tokens)
    assert loaded.encode(TEXT) == small.encode(TEXT)
    assert Tokenizer.from_files(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).special_tokens == []


def test_gpt2_files_load_whole(gpt2_files, tmp_path):
    encoder, merges = gpt2_files
    tokenizer = Tokenizer.load(encoder.parent)
    assert len(tokenizer.merges) == 50_000  # the header is none of them
    assert tokenizer.merges[0] == (b" ", b"t")
    assert tokenizer.token_id("<|endoftext|>") == tokenizer.vocab_size - 1 == 50_256
    assert tokenizer.special_tokens == ["<|endoftext|>"]
    shutil.copy(encoder, tmp_path / "vocab.json")
    shutil.copy(merges, tmp_path / "merges.txt")
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256


def test_hugging_face_tokenizers_reads_our_files(small, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    small.save(tmp_path)
    theirs = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(small.special_tokens)
    assert theirs.encode(TEXT).ids == small.encode(TEXT)
    assert theirs.decode(small.encode("naïve 東京")) == "naïve 東京"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["#version: 0.2", None])
def test_merges_may_begin_with_a_number_sign_and_lines_may_end_in_cr_lf(tmp_path, end, header):
    path = tmp_path / "merges.txt"
    lines = ["# #", "## Ġ", "#version x"]
    path.write_bytes(end.join([*([header] if header else []), *lines, ""]).encode())
    assert files.read_merges(path) == [(b"#", b"#"), (b"##", b" "), (b"#version", b"x")]


def test_the_byte_alphabet_is_printable_and_that_of_gpt2():
    alphabet = files.BYTE_TO_CHARACTER
    assert len(set(alphabet.values())) == 256
    assert all(character.isprintable() and not character.isspace() for character in alphabet.values())
    assert files.printable(b" \n\x00\xad\xffa") == "ĠĊĀŃÿa"


def test_a_changed_file_is_noticed(small, tmp_path):
    small.save(tmp_path)
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    merges[1], merges[2] = merges[2], merges[1]
    (tmp_path / "merges.txt").write_text("".join(merges), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"the tokenizer has SHA-256 .*, and meta\.json says "):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "meta.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.97])
def test_a_truncated_file_is_noticed(small, tmp_path, name, kept):
    small.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_are_named(small, tmp_path):
    with pytest.raises(FileMissingError, match="nowhere does not exist"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(FileMissingError, match=r"no tokenizer in .* expected vocab\.json and merges\.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileMissingError, match=r"vocab\.json does not exist"):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    small.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileMissingError, match=r"merges\.txt does not exist"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[1, 2]", "holds a JSON list; expected an object"),
        ("vocab.json", '{"a": 0, "b": 0}', "id 0 is given to 'b' and to another token"),
        ("vocab.json", '{"a": 0, "a": 1}', "a key is given twice"),
        ("vocab.json", '{"a": "0"}', "token 'a' has the id '0'; ids are integers"),
        ("vocab.json", '{"a": true}', "token 'a' has the id True; ids are integers"),
        ("vocab.json", '{"東": 0, "æĿ±": 1}', "'東' and 'æĿ±' are the same bytes"),
        ("vocab.json", '{"\\ud800": 0}', "token '\\ud800' has a lone surrogate"),
        ("vocab.json", "", "is empty"),
        ("vocab.json", "[" * 100_000, "nests JSON too deeply"),
        ("merges.txt", "#version: 0.2\na b\na b c\n", "line 3 is 'a b c'; expected two tokens"),
        ("merges.txt", "", "is empty"),
        ("merges.txt", "a b\nb c\n\na b\n", "line 4 is 'a b', as line 1; a pair merges once"),
        ("merges.txt", "a \n", "line 1 is 'a '; expected two tokens"),
        ("merges.txt", "abc\n", "line 1 is 'abc'; expected two tokens"),
        ("merges.txt", "東 京\n", "line 1 is '東 京'; expected two tokens in GPT-2's byte alphabet"),
        ("meta.json", json.dumps({"format_version": 2}), "format_version is 2, and this groundup reads 1"),
        ("meta.json", json.dumps({"format_version": 1}), "pattern is None, expected a str"),
        (
            "meta.json",
            '{"format_version": 1, "pattern": "gpt2", "special_tokens": [], "sha256": "", "ignore_merges": 1}',
            "ignore_merges is 1, expected true or false",
        ),
    ],
)
def test_damaged_files_are_explained(small, tmp_path, name, content, message):
    small.save(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(tmp_path)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ('{"a": 0, "b": 1}', "a b\n", "merge 0 of b'a' and b'b': b'ab' is not in the vocabulary"),
        ('{"a": 0, "ab": 1}', "a b\n", "merge 0 of b'a' and b'b': b'b' is not in the vocabulary"),
        ('{"a": -1}', "#version: 0.2\n", "token b'a' has the id -1; ids are integers from 0 to"),
        ('{"a": 99999999}', "#version: 0.2\n", "token b'a' has the id 99999999; ids are integers from 0 to"),
        ('{"": 0}', "#version: 0.2\n", "token 0 is empty"),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path, vocab, merges, message):
    (tmp_path / "vocab.json").write_text(vocab, encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    for load in (
        lambda: Tokenizer.load(tmp_path),
        lambda: Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt"),
    ):
        with pytest.raises(TokenizerError) as error:
            load()
        assert message in str(error.value)
        assert str(error.value).startswith(f"{tmp_path / 'vocab.json'} and merges.txt: ")
