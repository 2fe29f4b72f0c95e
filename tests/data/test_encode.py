import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data import document_pass
from groundup.data.encode import encode_files
from groundup.data.shards import TokenShards
from groundup.errors import DataError, TokenizerError
from groundup.text.readers import TextReader
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.normalization.characters import Characters

SEPARATOR = "<|endoftext|>"


@pytest.fixture(autouse=True, params=[1, document_pass.BATCH_BYTES])
def batch_bytes(request, monkeypatch):
    """Documents one by one, and together."""
    monkeypatch.setattr(document_pass, "BATCH_BYTES", request.param)


class ByteTokenizer:
    """Id = byte, 256 = the separator, 257 = one pair of bytes: the least in which cutting a document can go wrong."""

    special_tokens = (SEPARATOR, "<|other|>")
    vocab_size = 258
    prefix_length = 0

    def __init__(self, pair: bytes = b"ab"):
        self.words = {SEPARATOR.encode(): 256, pair: 257}
        self.sha256 = pair.hex()
        self.documents_until_death = -1

    def encode_bytes(self, data: bytes, allowed_special: str = "all") -> np.ndarray:
        self.documents_until_death -= 1
        if self.documents_until_death == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        words = {word: id_ for word, id_ in self.words.items() if id_ != 256 or allowed_special == "all"}
        parts = re.split(b"(" + b"|".join(map(re.escape, words)) + b")", data)
        ids = [id_ for part in parts for id_ in ([words[part]] if part in words else part)]
        return np.array(ids, np.uint32)

    def encode_batch_to_numpy(
        self, texts: list[bytes], *, allowed_special: str, append: int | None, num_threads: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        encoded = [np.append(self.encode_bytes(text, allowed_special), np.uint32(append)) for text in texts]
        return np.concatenate(encoded), np.cumsum([len(ids) for ids in encoded], dtype=np.uint64)

    def stream(self, *, allowed_special: str) -> "ByteStream":
        return ByteStream(self, allowed_special)

    def token_id(self, token: str) -> int:
        if token.encode() not in self.words:
            raise TokenizerError(f"{token!r} is not a token")
        return self.words[token.encode()]

    def token_lengths(self) -> np.ndarray:
        return np.array([1] * 256 + [0, 2], np.uint32)

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "pair").write_text(self.sha256)


class ByteStream:
    def __init__(self, tokenizer: ByteTokenizer, allowed_special: str):
        self.tokenizer, self.allowed_special, self.pending = tokenizer, allowed_special, b""

    def feed(self, data: bytes) -> np.ndarray:
        data = self.pending + data
        cut = len(data)
        while any(word.startswith(data[cut - 1 :]) for word in self.tokenizer.words) and cut:
            cut -= 1
        self.pending = data[cut:]
        return self.tokenizer.encode_bytes(data[:cut], self.allowed_special)

    def finish(self) -> np.ndarray:
        return self.tokenizer.encode_bytes(self.pending, self.allowed_special)


def pack(documents) -> bytes:
    return b"".join(document + b"\n<|endoftext|>\n" for document in documents)


def unpack(shards: TokenShards, pair: bytes = b"ab") -> list[bytes]:
    """The documents of a data set, by the table of ``ByteTokenizer``."""
    table = [bytes([byte]) for byte in range(256)] + [None, pair]
    documents, offsets = [], shards.document_offsets.tolist()
    for start, end in pairwise(offsets):
        ids = shards.read(start, end - start).tolist()
        assert ids.pop() == 256
        documents.append(b"".join(SEPARATOR.encode() if token == 256 else table[token] for token in ids))
    return documents


def files_of(folder: Path) -> dict[str, bytes]:
    """All but the lock, which a process that was killed leaves behind."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


FRAGMENTS = [b"a", b"b", b"\n", b"\xff\x00", b"<|endof"]
DOCUMENTS = [b"ab%d " % i * (i * 7 % 40 + 1) for i in range(40)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A power cut, which is what fsync is for, no test can make; and there are thousands of them here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(pack(DOCUMENTS))
    return path


@contextmanager
def reading_blocks_of(block_bytes: int):
    """Makes even a short document come in many pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groundup.data.encode.TextReader", partial(TextReader, block_bytes=block_bytes))
        yield


class TestResult:
    @settings(max_examples=50, deadline=None)
    @given(
        documents=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join), max_size=8),
        shard_tokens=st.integers(20, 100),
        block_bytes=st.integers(1, 50),
    )
    def test_any_documents_come_back(self, tmp_path_factory, documents, shard_tokens, block_bytes):
        folder = tmp_path_factory.mktemp("encode")
        (folder / "text.txt").write_bytes(pack([b"first", *documents]))
        with reading_blocks_of(block_bytes):
            stats = encode_files(folder / "text.txt", ByteTokenizer(), folder / "tokens", shard_tokens=shard_tokens)
        shards = TokenShards.open(folder / "tokens", verify=True)
        expected = [b"first", *filter(None, documents)]
        assert unpack(shards) == expected
        assert (stats.documents, stats.empty_documents) == (len(expected), len(documents) + 1 - len(expected))
        assert stats.bytes == shards.total_bytes == sum(map(len, expected))
        assert stats.tokens == len(shards)

    def test_the_index_says_what_made_it(self, text, tmp_path):
        encode_files(text, ByteTokenizer(), tmp_path / "tokens", shard_tokens=100)
        shards = TokenShards.open(tmp_path / "tokens")
        assert shards.tokenizer_sha256 == ByteTokenizer().sha256
        assert shards.index["separator"] == {"token": SEPARATOR, "id": 256}
        assert shards.index["inputs"][0]["name"] == "text.txt"
        assert (tmp_path / "tokens" / "tokenizer" / "pair").read_text() == b"ab".hex()
        assert [shard["tokens"] for shard in shards.index["shards"][:-1]] == [100] * (len(shards.index["shards"]) - 1)
        # Neither paths nor times may be in it: the same text gives the same data set on every machine.
        assert str(tmp_path) not in (tmp_path / "tokens" / "index.json").read_text()

    def test_a_separator_inside_a_text_is_one_token_and_no_text(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"text": "a<|endoftext|>b"}\n{"text": "c"}\n')
        stats = encode_files(path, ByteTokenizer(), tmp_path / "tokens", special_tokens="encode")
        shards = TokenShards.open(tmp_path / "tokens", verify=True)
        assert unpack(shards) == [b"a<|endoftext|>b", b"c"]
        assert (stats.tokens, stats.bytes, stats.documents) == (6, 3, 2)

    def test_progress_ends_at_the_total(self, text, tmp_path):
        calls = []
        stats = encode_files(text, ByteTokenizer(), tmp_path / "tokens", progress=lambda *call: calls.append(call))
        size = text.stat().st_size
        assert calls[-1] == ("encoding", size, size, f"{stats.tokens:,} tokens")


class TestResume:
    @pytest.mark.parametrize("shard_tokens", [50, 500])
    @pytest.mark.parametrize("documents_until_death", [2, 17, 40])
    def test_killed_and_resumed_is_never_interrupted(self, text, tmp_path, shard_tokens, documents_until_death):
        encode_files(text, ByteTokenizer(), tmp_path / "whole", shard_tokens=shard_tokens)
        victim = [sys.executable, __file__, text, tmp_path / "killed", str(shard_tokens), str(documents_until_death)]
        assert subprocess.run(victim, check=False).returncode == -signal.SIGKILL
        with pytest.raises(DataError, match="index"):
            TokenShards.open(tmp_path / "killed")
        stats = encode_files(text, ByteTokenizer(), tmp_path / "killed", shard_tokens=shard_tokens)
        assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
        assert stats.tokens_kept % shard_tokens == 0
        assert (stats.tokens_kept > 0) == (documents_until_death > 2)

    @settings(max_examples=40, deadline=None)
    @given(
        failures=st.lists(st.integers(1, 60), max_size=4),
        shard_tokens=st.integers(40, 400),
        block_bytes=st.sampled_from([30, 1 << 20]),
    )
    def test_failing_again_and_again_changes_nothing(self, tmp_path_factory, failures, shard_tokens, block_bytes):
        folder = tmp_path_factory.mktemp("resume")
        (folder / "text.txt").write_bytes(pack([b"", b"ab" * 200, *DOCUMENTS[:20], b"", b"b" * 90]))

        class Fails(ByteTokenizer):
            calls_left = 0

            def encode_bytes(self, data, allowed_special="all"):
                self.calls_left -= 1
                if not self.calls_left:
                    raise InterruptedError
                return super().encode_bytes(data, allowed_special)

        with reading_blocks_of(block_bytes):
            for calls in [*failures, 0]:
                tokenizer = Fails()
                tokenizer.calls_left = calls
                with suppress(InterruptedError):
                    encode_files(folder / "text.txt", tokenizer, folder / "resumed", shard_tokens=shard_tokens)
        encode_files(folder / "text.txt", ByteTokenizer(), folder / "whole", shard_tokens=shard_tokens)
        assert files_of(folder / "resumed") == files_of(folder / "whole")

    def test_finished_shards_are_not_encoded_again(self, text, tmp_path):
        victim = [sys.executable, __file__, text, tmp_path / "tokens", "50", "30"]
        subprocess.run(victim, check=False)
        tokenizer = ByteTokenizer()
        encode_files(text, tokenizer, tmp_path / "tokens", shard_tokens=50)
        assert -tokenizer.documents_until_death - 1 <= 40 - 28

    @pytest.mark.parametrize("name", ["shard-00000.bin", "documents.bin"])
    @pytest.mark.parametrize("content", [bytes(8), None])
    def test_a_file_that_was_changed_meanwhile_is_noticed(self, text, tmp_path, name, content):
        subprocess.run([sys.executable, __file__, text, tmp_path / "tokens", "50", "30"], check=False)
        if content is None:
            (tmp_path / "tokens" / name).unlink()
        else:
            (tmp_path / "tokens" / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} has changed since the interruption"):
            encode_files(text, ByteTokenizer(), tmp_path / "tokens", shard_tokens=50)

    def test_a_file_that_another_program_changes_while_it_is_written_is_noticed(self, text, tmp_path):
        class Meddles(ByteTokenizer):
            def save(self, folder):
                (tmp_path / "tokens" / "documents.bin").write_bytes(bytes(8))
                return super().save(folder)

        with pytest.raises(DataError, match=r"documents\.bin was changed by another program"):
            encode_files(text, Meddles(), tmp_path / "tokens", shard_tokens=50)

    @pytest.mark.parametrize(
        ("changes", "different"),
        [
            ({"tokenizer": ByteTokenizer(b"ba")}, "the tokenizer"),
            ({"shard_tokens": 60}, "the shard size"),
            ({"inputs": "other.txt"}, "the inputs"),
            ({"inputs": "other.txt", "shard_tokens": 60}, "the shard size and the inputs"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_another_call_in_the_same_folder_is_told_what_differs(self, text, tmp_path, finished, changes, different):
        (tmp_path / "other.txt").write_bytes(pack(DOCUMENTS).replace(b"3", b"4"))
        subprocess.run(
            [sys.executable, __file__, text, tmp_path / "tokens", "50", "0" if finished else "9"], check=False
        )
        call = {"inputs": "text.txt", "tokenizer": ByteTokenizer(), "shard_tokens": 50} | changes
        call["inputs"] = tmp_path / call["inputs"]
        before = files_of(tmp_path / "tokens")
        with pytest.raises(DataError, match=f"{different} differ") as error:
            encode_files(out_dir=tmp_path / "tokens", **call)
        assert "overwrite" in message(error)
        assert files_of(tmp_path / "tokens") == before
        encode_files(out_dir=tmp_path / "tokens", overwrite=True, **call)
        encode_files(out_dir=tmp_path / "fresh", **call)
        assert files_of(tmp_path / "tokens") == files_of(tmp_path / "fresh")

    def test_a_finished_data_set_is_left_as_it_is(self, text, tmp_path):
        first = encode_files(text, ByteTokenizer(), tmp_path / "tokens")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")}
        second = encode_files(text, ByteTokenizer(), tmp_path / "tokens")
        assert (first.already_complete, second.already_complete) == (False, True)
        assert (second.tokens, second.bytes, second.documents) == (first.tokens, first.bytes, first.documents)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")} == before

    def test_moved_inputs_are_the_same_inputs(self, text, tmp_path):
        subprocess.run([sys.executable, __file__, text, tmp_path / "tokens", "50", "20"], check=False)
        (tmp_path / "moved").mkdir()
        text.rename(tmp_path / "moved" / "text.txt")
        stats = encode_files(tmp_path / "moved" / "text.txt", ByteTokenizer(), tmp_path / "tokens", shard_tokens=50)
        assert stats.tokens_kept > 0


def test_text_and_tokens_need_no_torch():
    modules = "groundup.text.readers groundup.text.stories groundup.data.shards groundup.data.encode"
    script = (
        f"import sys, importlib; list(map(importlib.import_module, {modules.split()})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class TestErrors:
    def test_a_tokenizer_without_the_separator(self, text, tmp_path):
        with pytest.raises(TokenizerError) as error:
            encode_files(text, ByteTokenizer(), tmp_path / "tokens", separator="<|end|>")
        assert message(error).startswith(
            "the tokenizer has no special token '<|end|>'; its special tokens: '<|endoftext|>', '<|other|>';"
        )
        assert not (tmp_path / "tokens").exists()

    def test_only_empty_documents(self, tmp_path):
        (tmp_path / "text.txt").write_bytes(pack([b"", b""]))
        with pytest.raises(DataError, match="no text, only empty documents"):
            encode_files(tmp_path / "text.txt", ByteTokenizer(), tmp_path / "tokens")
        assert not (tmp_path / "tokens").exists()

    def test_folders_with_other_things_are_not_touched_even_to_overwrite(self, text, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(DataError, match="thesis is not empty and contains no token shards"):
                encode_files(text, ByteTokenizer(), tmp_path / "thesis", overwrite=overwrite)
        with pytest.raises(DataError, match=r"text\.txt is a file; expected a folder"):
            encode_files(text, ByteTokenizer(), text)
        assert files_of(tmp_path / "thesis") == {"chapter.txt": b"years of work"}

    def test_what_a_kill_leaves_before_the_first_entry_is_no_obstacle(self, text, tmp_path):
        (tmp_path / "tokens").mkdir()
        for name in ("documents.bin", "shard-00000.bin.part", ".progress.json.77.tmp"):
            (tmp_path / "tokens" / name).write_bytes(b"half")
        encode_files(text, ByteTokenizer(), tmp_path / "tokens")
        encode_files(text, ByteTokenizer(), tmp_path / "fresh")
        assert files_of(tmp_path / "tokens") == files_of(tmp_path / "fresh")

    def test_a_foreign_index_is_not_overwritten(self, text, tmp_path):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "index.json").write_text("{}")
        for overwrite in (False, True):
            with pytest.raises(DataError, match="has the format None"):
                encode_files(text, ByteTokenizer(), tmp_path / "site", overwrite=overwrite)
        assert files_of(tmp_path / "site") == {"index.json": b"{}"}

    def test_overwriting_removes_only_files_of_the_data_set(self, text, tmp_path):
        encode_files(text, ByteTokenizer(), tmp_path / "tokens", shard_tokens=50)
        (tmp_path / "tokens" / "notes.md").write_text("mine")
        encode_files(text, ByteTokenizer(), tmp_path / "tokens", shard_tokens=5000, overwrite=True)
        assert (tmp_path / "tokens" / "notes.md").read_text() == "mine"
        assert not (tmp_path / "tokens" / "shard-00001.bin").exists()

    def test_standard_input_cannot_be_resumed(self, text, tmp_path):
        command = [sys.executable, __file__, "-", tmp_path / "tokens", "50", "9"]
        subprocess.run(command, input=text.read_bytes(), check=False)
        with pytest.raises(DataError, match="standard input cannot be resumed; start over with --overwrite"):
            encode_files("-", ByteTokenizer(), tmp_path / "tokens", shard_tokens=50)

    def test_a_shard_of_no_tokens(self, text, tmp_path):
        with pytest.raises(DataError, match="shard_tokens = 0 must be at least 1"):
            encode_files(text, ByteTokenizer(), tmp_path / "tokens", shard_tokens=0)


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("groundup.tokenizer._native", exc_type=ImportError)
    from groundup.tokenizer import Tokenizer

    merges = [(b"a", b"b"), (b"ab", b"1"), (b" ", b"a"), (b" a", b"b")]
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    return Tokenizer(dict(enumerate(tokens)), merges, [SEPARATOR])


class TestRealTokenizer:
    @pytest.mark.parametrize("block_bytes", [7, 1 << 20])
    def test_the_ids_are_those_of_each_document_and_decode_to_it(self, text, tmp_path, tokenizer, block_bytes):
        with reading_blocks_of(block_bytes):
            encode_files(text, tokenizer, tmp_path / "tokens", shard_tokens=70)
        shards = TokenShards.open(tmp_path / "tokens", verify=True)
        separator_id = tokenizer.token_id(SEPARATOR)
        ids = [token for document in DOCUMENTS for token in [*tokenizer.encode(document.decode()), separator_id]]
        assert shards.read(0, len(shards)).tolist() == ids
        assert shards.total_bytes == sum(map(len, DOCUMENTS))
        copy = shards.tokenizer()
        assert copy.sha256 == shards.tokenizer_sha256 == tokenizer.sha256
        start, end = shards.document_offsets[3:5].tolist()
        assert copy.decode(shards.read(start, end - start - 1)).encode() == DOCUMENTS[3]

    def test_gpt2_on_real_text_gives_what_tiktoken_gives(self, data_dir, gpt2_files, tmp_path, tokenizer):
        zstandard, tiktoken = pytest.importorskip("zstandard"), pytest.importorskip("tiktoken")
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks

        from groundup.tokenizer import Tokenizer

        source = data_dir / "tinystories" / "valid.txt.zst"
        encode_files(source, Tokenizer.load(gpt2_files[0].parent), tmp_path / "tokens", shard_tokens=10_000)
        shards = TokenShards.open(tmp_path / "tokens", verify=True)
        gpt2 = tiktoken.Encoding(
            "gpt2",
            pat_str=r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
            mergeable_ranks=data_gym_to_mergeable_bpe_ranks(str(gpt2_files[1]), str(gpt2_files[0])),
            special_tokens={SEPARATOR: 50256},
        )
        packed = zstandard.ZstdDecompressor().stream_reader(source.read_bytes()).read().decode()
        documents = packed.removesuffix("\n<|endoftext|>\n").split("\n<|endoftext|>\n")
        expected = [token for document in documents for token in [*gpt2.encode_ordinary(document), 50256]]
        assert shards.read(0, len(shards)).tolist() == expected
        assert shards.total_bytes == sum(len(document.encode()) for document in documents)

    def test_memory_does_not_grow_with_the_document(self, tmp_path, tokenizer):
        (tmp_path / "long.txt").write_bytes(b"about a cabbage and a crab, in one long document; " * 400_000)
        tracemalloc.start()
        try:
            stats = encode_files(tmp_path / "long.txt", tokenizer, tmp_path / "tokens")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert stats.bytes == 20_000_000
        assert stats.documents == 1
        assert peak < 48_000_000 < 4 * stats.tokens

    def test_a_tokenizer_without_the_separator_names_its_specials(self, text, tmp_path, tokenizer):
        with pytest.raises(
            TokenizerError, match=r"no special token '<\|end\|>'; its special tokens: '<\|endoftext\|>';"
        ):
            encode_files(text, tokenizer, tmp_path / "tokens", separator="<|end|>")


if __name__ == "__main__":
    inputs, out_dir, shard_tokens, documents_until_death = sys.argv[1:]
    os.fsync = lambda descriptor: None
    document_pass.BATCH_BYTES = 1
    tokenizer = ByteTokenizer()
    tokenizer.documents_until_death = int(documents_until_death)
    encode_files(inputs, tokenizer, out_dir, shard_tokens=int(shard_tokens))


def test_after_a_broken_input_the_mended_one_is_encoded_into_the_same_folder(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\n{"text": broken\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        encode_files(source, ByteTokenizer(), tmp_path / "tokens")
    source.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    assert encode_files(source, ByteTokenizer(), tmp_path / "tokens").documents == 2


def test_another_field_or_another_standard_input_is_not_taken_for_the_same(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one", "body": "two"}\n', encoding="utf-8")
    encode_files(source, ByteTokenizer(), tmp_path / "tokens")
    with pytest.raises(DataError, match="the field differ"):
        encode_files(source, ByteTokenizer(), tmp_path / "tokens", field="body")
    with pytest.raises(DataError, match="standard input cannot be compared"):
        encode_files("-", ByteTokenizer(), tmp_path / "tokens", field="text")


@pytest.mark.parametrize("prefix", ["never", "always"])
@pytest.mark.parametrize("shard_tokens", [1, 3, 1000])
def test_the_bytes_of_a_data_set_are_those_of_its_text_also_where_a_space_is_put_before_it(
    tmp_path, prefix, shard_tokens
):
    """SentencePiece's tokenizers begin a document with a space that is not in it, and have no byte for that."""
    written = [b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), "▁".encode(), b"a", "▁a".encode()]
    characters = Characters(prefix=prefix, strip=prefix != "never")
    tokenizer = Tokenizer(dict(enumerate(written)), [("▁".encode(), b"a")], ["</s>"], characters=characters)
    texts = ["a", " a", "é a</s>a", "▁ a  a"]
    source, out = tmp_path / "texts.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    encode_files(source, tokenizer, out, separator="</s>", shard_tokens=shard_tokens)
    data = TokenShards.open(out)
    expected = sum(len(text.replace("▁", " ").encode()) for text in texts)
    assert data.total_bytes == expected
    assert int(data.token_lengths[data.read(0, len(data))].sum()) == expected
    data.verify()
    assert data.tokenizer().sha256 == tokenizer.sha256
    (out / "token_lengths.npy").unlink()
    encode_files(source, tokenizer, out, separator="</s>", shard_tokens=shard_tokens)
    TokenShards.open(out).verify()
