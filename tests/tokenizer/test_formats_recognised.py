"""What `Tokenizer.load` makes of a path: told by content."""

import shutil

import pytest

from groundup.errors import FileMissingError, TokenizerError
from groundup.tokenizer import Tokenizer


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "meta.json", "x.tiktoken", "x"])
def test_names_do_not_matter(small, tmp_path, name, own_sha256):
    small.save(tmp_path / "ours.json")
    (tmp_path / "a").mkdir()
    shutil.copy(tmp_path / "ours.json", tmp_path / "a" / name)
    assert Tokenizer.load(tmp_path / "a" / name).sha256 == small.sha256
    small.save_hugging_face(tmp_path / "a" / name)
    assert own_sha256(Tokenizer.load(tmp_path / "a" / name)) == small.sha256


def test_a_folder_with_only_tokenizer_json_loads(small, tmp_path, own_sha256):
    small.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).sha256 == small.sha256
    small.save_hugging_face(tmp_path / "tokenizer.json")
    assert own_sha256(Tokenizer.load(tmp_path)) == small.sha256


def test_tokenizer_json_says_more_than_the_two_files_beside_it(small, tmp_path, own_sha256):
    """Folders of Hugging Face have all three; the two would be read with GPT-2's pattern."""
    other = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern="qwen2")
    other.save(tmp_path)
    (tmp_path / "meta.json").unlink()
    assert Tokenizer.load(tmp_path).pattern == "gpt2"
    other.save_hugging_face(tmp_path / "tokenizer.json")
    assert own_sha256(Tokenizer.load(tmp_path)) == other.sha256
    small.save(tmp_path)  # and meta.json says all
    assert Tokenizer.load(tmp_path).sha256 == small.sha256


def test_the_two_files_take_a_pattern_and_special_tokens(small, tmp_path):
    other = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern="qwen2")
    other.save(tmp_path)
    (tmp_path / "meta.json").unlink()
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    for loaded in (
        Tokenizer.load(tmp_path, pattern="qwen2", special_tokens=small.special_tokens),
        Tokenizer.load(vocab, pattern="qwen2", special_tokens=small.special_tokens),
        Tokenizer.from_files(vocab, merges, small.special_tokens, pattern="qwen2"),
    ):
        assert loaded.sha256 == other.sha256
    ids = {name: small.vocab_size + 5 + i for i, name in enumerate(["<x>", "<y>"])}
    loaded = Tokenizer.from_files(vocab, merges, ids)
    assert {name: loaded.token_id(name) for name in loaded.special_tokens} == ids


def test_what_the_file_says_cannot_be_overruled(small, tmp_path):
    small.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json", pattern="gpt2").sha256 == small.sha256
    with pytest.raises(TokenizerError, match=r"says that its pattern is 'gpt2', and 'cl100k' is asked for"):
        Tokenizer.load(tmp_path / "t.json", pattern="cl100k")
    with pytest.raises(TokenizerError, match=r"says what its special tokens are \('<\|endoftext\|>', .*leave them out"):
        Tokenizer.load(tmp_path / "t.json", special_tokens=["<x>"])


def test_half_a_tokenizer_is_explained(small, tmp_path):
    small.save(tmp_path)
    (tmp_path / "meta.json").unlink()
    (tmp_path / "vocab.json").rename(tmp_path / "my-vocab.json")
    for name in ("my-vocab.json", "merges.txt"):
        with pytest.raises(FileMissingError, match=rf"{name} is only a part of a tokenizer; .* from_files|from_files"):
            Tokenizer.load(tmp_path / name)
    with pytest.raises(FileMissingError, match=r"no tokenizer in .* or tokenizer\.json"):
        Tokenizer.load(tmp_path)
    small.save(tmp_path)  # a folder with a whole one does not make it another
    with pytest.raises(FileMissingError, match=r"my-vocab\.json is only a part"):
        Tokenizer.load(tmp_path / "my-vocab.json")


def test_a_folder_with_another_kind_of_file_names_it(small, tmp_path):
    small.save_tiktoken(tmp_path / "o.tiktoken")
    with pytest.raises(FileMissingError, match=r"no tokenizer in .*; to load o\.tiktoken, name the file itself"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "file/x", "nul\0byte"])
def test_paths_to_nothing_are_named(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(FileMissingError, match="does not exist"):
        Tokenizer.load(tmp_path / path)


def test_paths_that_cannot_be_read_are_named(tmp_path, unreadable_file):
    with pytest.raises(TokenizerError, match=r"text\.txt cannot be read: Permission denied"):
        Tokenizer.load(unreadable_file)
    with pytest.raises(TokenizerError, match="cannot be read: File name too long"):
        Tokenizer.load("x" * 5000)


@pytest.mark.parametrize("name", ["taken", "taken/tokenizer"])
def test_saving_into_a_file_is_refused(small, tmp_path, name):
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(TokenizerError, match=r"taken.* is a file or lies in one; give a folder"):
        small.save(tmp_path / name)
    for save in (small.save, small.save_hugging_face, small.save_tiktoken):
        with pytest.raises(TokenizerError, match=r"would lie in a file; give a path in a folder"):
            save(tmp_path / name / "t.json")
    assert (tmp_path / "taken").read_text() == "precious"


def test_saving_to_a_folder_that_is_called_json(small, tmp_path):
    (tmp_path / "odd.json").mkdir()
    small.save(tmp_path / "odd.json")
    assert Tokenizer.load(tmp_path / "odd.json").sha256 == small.sha256
    with pytest.raises(TokenizerError, match="is a folder; give the name of the file to write"):
        small.save_hugging_face(tmp_path / "odd.json")
