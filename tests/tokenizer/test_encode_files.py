"""Documents of files, one after the other."""

import gzip
import json

import numpy as np
import pytest

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.text import batches
from groundup.tokenizer import Tokenizer

DOCUMENTS = ["The cat sat.\n", "naïve 東京 <|user|>", "", " it's\r\n\r\n", "x" * 3000, "end"]


@pytest.fixture
def folder(tmp_path):
    """The documents as plain text, as JSONL, and compressed."""
    plain = "<|endoftext|>".join(DOCUMENTS).encode()
    lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in DOCUMENTS).encode()
    (tmp_path / "a.txt").write_bytes(plain)
    (tmp_path / "b.jsonl").write_bytes(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    return tmp_path


def texts_of(tokenizer, inputs, **options):
    encoded = list(tokenizer.encode_files(inputs, **options))
    assert all(ids.dtype == np.uint32 and ids.ndim == 1 for ids in encoded)
    return encoded


def with_ids(tokenizer, texts):
    return [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("num_threads", [None, 1, 3])
@pytest.mark.parametrize("name", ["a.txt", "b.jsonl", "c.jsonl.gz"])
def test_each_document_has_the_ids_of_its_text(small, folder, name, num_threads):
    encoded = [ids.tolist() for ids in texts_of(small, folder / name, num_threads=num_threads)]
    # How empty documents of plain text count is the readers' business.
    assert [ids for ids in encoded if ids] == with_ids(small, [text for text in DOCUMENTS if text])


def test_zstandard(small, folder):
    zstandard = pytest.importorskip("zstandard")
    (folder / "d.txt.zst").write_bytes(zstandard.ZstdCompressor().compress((folder / "a.txt").read_bytes()))
    ours, plain = (texts_of(small, folder / name) for name in ("d.txt.zst", "a.txt"))
    assert [ids.tolist() for ids in ours] == [ids.tolist() for ids in plain]


def test_several_files_in_order_and_other_names(small, folder):
    (folder / "e.jsonl").write_text('{"story": "the cat"}\n{"story": " sat"}\n')
    encoded = texts_of(small, [folder / "e.jsonl"], field="story")
    assert [ids.tolist() for ids in encoded] == with_ids(small, ["the cat", " sat"])
    (folder / "f.txt").write_text("the cat--- sat")
    encoded = texts_of(small, folder / "f.txt", separator="---")
    assert [ids.tolist() for ids in encoded] == with_ids(small, ["the cat", " sat"])
    two = texts_of(small, [folder / "b.jsonl", folder / "c.jsonl.gz"])
    once = [ids.tolist() for ids in texts_of(small, folder / "b.jsonl")]
    assert [ids.tolist() for ids in two] == once * 2


def test_documents_are_read_as_they_are_asked_for(small, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_BYTES", 1000)
    with (tmp_path / "t.jsonl").open("w") as file:
        for i in range(200):
            file.write(json.dumps({"text": f"the cat {i}"}) + "\n")
        file.write("{broken\n")
    documents = small.encode_files(tmp_path / "t.jsonl")
    assert next(documents).tolist() == small.encode("the cat 0")
    with pytest.raises(DataError, match=r"t\.jsonl"):
        list(documents)


def test_a_byte_that_the_vocabulary_lacks_is_named_with_its_document(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_BYTES", 300)
    tokenizer = Tokenizer({ord(letter): letter.encode() for letter in "abc "}, [])
    (tmp_path / "t.jsonl").write_text('{"text": "ab c"}\n' * 41 + '{"text": "abd"}\n')
    with pytest.raises(TokenizerError, match=r"^document 41 \(from 0\): the text has the byte 0x64, which the vocabul"):
        list(tokenizer.encode_files(tmp_path / "t.jsonl"))


def test_missing_files_are_named(small, tmp_path):
    with pytest.raises(FileMissingError, match=r"nowhere\.txt"):
        list(small.encode_files(tmp_path / "nowhere.txt"))
