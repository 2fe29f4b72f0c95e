import hashlib
import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.shard_writer import ShardPlan, ShardWriter
from groundup.data.shards import TokenShards
from groundup.errors import DataError, FileMissingError

SEPARATOR_ID = 0


def write(folder, documents, *, vocab_size=300, shard_tokens=10, lengths=None):
    """A data set of these documents, each a list of ids, which stand for one byte each unless ``lengths`` is given."""
    plan = ShardPlan(
        vocab_size=vocab_size,
        tokenizer_sha256="f" * 64,
        separator="<|end|>",
        separator_id=SEPARATOR_ID,
        shard_tokens=shard_tokens,
        inputs=[{"name": "made in a test"}],
    )
    if lengths is None:
        lengths = np.ones(vocab_size, np.uint32)
        lengths[SEPARATOR_ID] = 0
    with ShardWriter(folder, plan, lengths) as writer:
        for ids in documents:
            writer.add(np.array(ids, np.int64))
            writer.end_document()
        return writer.finish(lambda tokenizer_folder: tokenizer_folder.mkdir())


def flat(documents) -> list[int]:
    return [token for ids in documents for token in [*ids, SEPARATOR_ID]]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A power cut, which is what fsync is for, no test can make; and there are thousands of them here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path):
    """Ten shards of ten tokens: the ids are 1, 2, 3 … and every fifth token is a separator."""
    path = tmp_path / "tokens"
    write(path, [range(start, start + 4) for start in range(1, 81, 4)])
    return path


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


some_documents = st.lists(st.lists(st.integers(1, 299), min_size=1, max_size=30), min_size=1, max_size=12)


class TestReading:
    @settings(max_examples=50, deadline=None)
    @given(documents=some_documents, files=st.integers(1, 6), data=st.data())
    def test_any_window_of_any_shards_is_the_same_window_of_the_tokens(self, tmp_path_factory, documents, files, data):
        folder, tokens = tmp_path_factory.mktemp("tokens"), flat(documents)
        write(folder, documents, shard_tokens=-(-len(tokens) // files))
        shards = TokenShards.open(folder, verify=True)
        assert len(shards) == len(tokens)
        length = data.draw(st.integers(0, len(tokens)))
        starts = data.draw(st.lists(st.integers(0, len(tokens) - length), max_size=8))
        expected = [tokens[start : start + length] for start in starts]
        assert [shards.read(start, length).tolist() for start in starts] == expected
        windows = shards.gather(np.array(starts, np.int32), length)
        assert windows.tolist() == expected
        assert windows.shape == (len(starts), length)
        assert windows.dtype == shards.read(0, 0).dtype == np.int64

    @settings(max_examples=50, deadline=None)
    @given(documents=some_documents, files=st.integers(1, 6))
    def test_document_offsets_cut_the_tokens_into_the_documents(self, tmp_path_factory, documents, files):
        folder = tmp_path_factory.mktemp("tokens")
        write(folder, documents, shard_tokens=-(-len(flat(documents)) // files))
        shards = TokenShards.open(folder)
        offsets = shards.document_offsets.tolist()
        assert [offsets[0], offsets[-1]] == [0, len(shards)]
        cut = [shards.read(start, end - start).tolist() for start, end in pairwise(offsets)]
        assert cut == [[*ids, SEPARATOR_ID] for ids in documents]

    @pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
    def test_ids_are_stored_little_endian_in_the_narrowest_type(self, tmp_path, vocab_size, dtype):
        write(tmp_path, [[1, vocab_size - 1]], vocab_size=vocab_size)
        shards = TokenShards.open(tmp_path)
        assert (shards.dtype, shards.vocab_size) == (np.dtype(dtype), vocab_size)
        raw = (tmp_path / "shard-00000.bin").read_bytes()
        size = np.dtype(dtype).itemsize
        ids = [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]
        assert ids == [1, vocab_size - 1, SEPARATOR_ID] == shards.read(0, 3).tolist()

    def test_bytes_of_any_window_can_be_counted(self, tmp_path):
        lengths = np.array([0, 1, 2, 3, 50], np.uint32)
        documents = [[4, 1, 1], [2, 3]]
        write(tmp_path, documents, vocab_size=5, shard_tokens=2, lengths=lengths)
        shards = TokenShards.open(tmp_path, verify=True)
        assert shards.total_bytes == 50 + 1 + 1 + 2 + 3
        assert shards.bytes_per_token == shards.total_bytes / 7
        assert shards.token_lengths[shards.read(1, 4)].sum() == 1 + 1 + 0 + 2

    def test_windows_outside_are_refused(self, folder):
        shards = TokenShards.open(folder)
        for call in (
            lambda: shards.read(95, 6),
            lambda: shards.read(-1, 2),
            lambda: shards.gather(np.array([0, 95, 3]), 6),
            lambda: shards.gather(np.array([0, -1]), 6),
        ):
            with pytest.raises(DataError, match=r"no window of \d tokens at (95|-1); it has 100 tokens") as error:
                call()
            message(error)

    def test_identity_changes_with_the_data_and_not_with_the_place(self, tmp_path):
        for name, ids in [("a", [1, 2]), ("b", [1, 2]), ("c", [1, 3])]:
            write(tmp_path / name, [ids])
        a, b, c = (TokenShards.open(tmp_path / name) for name in "abc")
        assert a.sha256 == b.sha256 != c.sha256
        assert a.sha256 == hashlib.sha256((tmp_path / "a" / "index.json").read_bytes()).hexdigest()


class TestArrays:
    @pytest.mark.parametrize("dtype", ["<u2", ">u2", "<u4", "<i8", "<i4"])
    def test_a_npy_file_of_any_integers_is_a_data_set(self, tmp_path, dtype):
        np.save(tmp_path / "tokens.npy", np.arange(100, dtype=dtype))
        shards = TokenShards.open(tmp_path / "tokens.npy", verify=True)
        assert len(shards) == 100
        assert shards.read(90, 10).tolist() == list(range(90, 100))
        assert shards.gather(np.array([3, 50]), 2).tolist() == [[3, 4], [50, 51]]
        absent = (shards.token_lengths, shards.total_bytes, shards.bytes_per_token, shards.vocab_size)
        assert absent == (None, None, None, None)
        assert shards.document_offsets is None
        assert shards.sha256 == hashlib.sha256((tmp_path / "tokens.npy").read_bytes()).hexdigest()
        with pytest.raises(DataError, match="without a tokenizer"):
            shards.tokenizer()

    @pytest.mark.parametrize(
        ("array", "complaint"),
        [
            (np.zeros((2, 3), np.uint16), r"contains uint16 of shape \(2, 3\); expected integer token ids"),
            (np.zeros(3, np.float32), r"contains float32 of shape \(3,\)"),
            (np.zeros(3, bool), r"contains bool of shape \(3,\)"),
            (np.zeros(0, np.uint16), "contains no tokens"),
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path, array, complaint):
        np.save(tmp_path / "tokens.npy", array)
        with pytest.raises(DataError, match=complaint) as error:
            TokenShards.open(tmp_path / "tokens.npy")
        message(error)

    def test_what_is_no_npy_file_is_refused(self, tmp_path):
        path = tmp_path / "tokens.npy"
        np.save(path, np.array([{"a": 1}]), allow_pickle=True)
        pickled = path.read_bytes()
        np.save(path, np.arange(1000))
        cut_off = path.read_bytes()[:-8]
        for content in (pickled, cut_off, b"", b"\0\1\2\3"):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"is not a valid \.npy file") as error:
                TokenShards.open(path)
            message(error)
        path.write_bytes(b"text")
        with pytest.raises(DataError, match="is text, not tokens; run `groundup encode") as error:
            TokenShards.open(path)
        message(error)
        np.savez(tmp_path / "tokens.npz", np.arange(3))
        with pytest.raises(DataError, match=r"is an \.npz archive"):
            TokenShards.open(tmp_path / "tokens.npz")

    def test_ids_outside_a_vocabulary_are_found(self, tmp_path):
        np.save(tmp_path / "tokens.npy", np.array([5, 6, 7, -1, 9]))
        shards = TokenShards.open(tmp_path / "tokens.npy")
        with pytest.raises(DataError, match="token 2 has the id 7, but vocab_size is 7"):
            shards.check_ids(7)
        with pytest.raises(DataError, match="token 3 has the id -1"):
            TokenShards.open(tmp_path / "tokens.npy", verify=True)


def edit_index(folder, **changes) -> None:
    index = json.loads((folder / "index.json").read_text())
    del index["content_sha256"]  # as version 0.1 wrote it; with it, any edit at all is noticed
    (folder / "index.json").write_text(json.dumps(index | changes))


class TestDamage:
    def test_missing(self, tmp_path):
        with pytest.raises(FileMissingError, match="tokens does not exist"):
            TokenShards.open(tmp_path / "tokens")
        with pytest.raises(DataError, match=r"has no index\.json, so it is not a token data set"):
            TokenShards.open(tmp_path)

    def test_without_its_index_it_was_interrupted(self, folder):
        (folder / "index.json").unlink()
        with pytest.raises(DataError, match="interrupted; run the same encode command again"):
            TokenShards.open(folder)

    @pytest.mark.parametrize("name", ["shard-00003.bin", "documents.bin"])
    @pytest.mark.parametrize(("change", "state"), [(-2, "truncated"), (2, "too long")])
    def test_a_wrong_size_names_the_file_and_both_sizes(self, folder, name, change, state):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:change] if change < 0 else content + bytes(change))
        with pytest.raises(DataError) as error:
            TokenShards.open(folder)
        expected = f"{path} is {state}: {len(content) + change} bytes, expected {len(content)};"
        assert message(error).startswith(expected)

    @pytest.mark.parametrize("name", ["shard-00003.bin", "documents.bin"])
    def test_a_deleted_file_is_named(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(DataError, match=rf"{name} is missing, but index\.json names it"):
            TokenShards.open(folder)

    @pytest.mark.parametrize("name", ["shard-00009.bin", "documents.bin", "token_lengths.npy"])
    def test_one_changed_byte_is_found_by_verify(self, folder, name):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        TokenShards.open(folder)
        with pytest.raises(DataError, match=f"{name} has SHA-256 .* the file was changed") as error:
            TokenShards.open(folder, verify=True)
        message(error)

    def test_an_id_outside_the_vocabulary_is_found_by_verify_even_under_a_right_hash(self, folder):
        path = folder / "shard-00000.bin"
        path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
        index = json.loads((folder / "index.json").read_text())
        index["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_index(folder, shards=index["shards"])
        with pytest.raises(DataError, match="token 0 has the id 65535, but vocab_size is 300"):
            TokenShards.open(folder, verify=True)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"format": "someone else's"}, "has the format \"someone else's\"; expected 'groundup-token-shards'"),
            ({"version": 3}, "has format version 3, but this groundup reads 1 and 2"),
            ({"version": 2}, "its shards have 0 masks"),
            ({"counted": 5}, "its shards have 0 masks, which count 0 tokens, but it is of version 1 and says 5"),
            ({"dtype": "uint32"}, "dtype is uint32, but ids below vocab_size = 300 are stored as uint16"),
            ({"dtype": "float32"}, 'dtype is "float32", which is not valid'),
            ({"tokens": 99}, "its shards have 100 tokens together, but it says 99"),
            ({"bytes": 1}, "its shards have 80 bytes together, but it says 1"),
            ({"documents": "many"}, 'documents is "many", which is not valid'),
            ({"shards": [{"file": "../a.bin", "sha256": "", "tokens": 1, "bytes": 1}]}, "shards is "),
            ({"tokens": 0, "shards": []}, "tokens is 0, which is not valid"),
        ],
    )
    def test_an_index_that_contradicts_itself(self, folder, changes, complaint):
        edit_index(folder, **changes)
        with pytest.raises(DataError) as error:
            TokenShards.open(folder)
        assert complaint in message(error)

    @pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
    def test_an_index_that_is_not_one(self, folder, content):
        (folder / "index.json").write_text(content)
        with pytest.raises(DataError, match=r"index\.json (cannot be read as JSON|has the format 'list')") as error:
            TokenShards.open(folder)
        message(error)

    def test_an_index_without_a_field(self, folder):
        index = json.loads((folder / "index.json").read_text())
        del index["documents_file"]
        (folder / "index.json").write_text(json.dumps(index))
        with pytest.raises(DataError, match="documents_file is missing"):
            TokenShards.open(folder)


class TestWriting:
    def test_an_id_that_does_not_fit_the_vocabulary_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="gave the id 65537, but its vocab_size is 300"):
            write(tmp_path, [[1, 65_537]])
        with pytest.raises(DataError, match="gave the id -1"):
            write(tmp_path, [[1, -1]])

    def test_no_document_at_all_leaves_nothing_behind(self, tmp_path):
        with pytest.raises(DataError, match="no text, only empty documents"):
            write(tmp_path, [])
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_no_data_set_but_one_to_resume(self, tmp_path):
        # The limit on file sizes stands in for the end of the disk: the second write of a shard fails.
        script = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from test_shards import DataError, TokenShards, write
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    write(Path({str(tmp_path)!r}), [[1] * 300_000] * 3, shard_tokens=600_000)
except DataError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "shard-00000.bin cannot be written: File too large; free some space on the disk" in done.stdout
        with pytest.raises(DataError, match=r"no index\.json"):
            TokenShards.open(tmp_path)
        write(tmp_path, [[1] * 300_000] * 3, shard_tokens=600_000)
        assert len(TokenShards.open(tmp_path, verify=True)) == 900_003
