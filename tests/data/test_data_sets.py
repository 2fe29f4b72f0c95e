"""What a folder of token shards must survive: other processes, changed inputs, damage, and odd names."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from groundup.data import document_pass, shard_writer
from groundup.data.check import check_data_set
from groundup.data.describe import describe, read_document
from groundup.data.encode import encode_files
from groundup.data.shards import TokenShards
from groundup.errors import DataError, GroundupError
from groundup.system.files import read_json, write_json

pytest.importorskip("groundup.tokenizer._native", exc_type=ImportError)
from groundup.text.readers import TextReader
from groundup.tokenizer import Tokenizer

SEPARATOR, PAD = "<|endoftext|>", "<|pad|>"
OLD = Path(__file__).parent / "fixtures" / "version-0.1"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    merges = [(b"a", b"b"), (b"ab", b"1"), (b" ", b"a"), (b" a", b"b")]
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    return Tokenizer(dict(enumerate(tokens)), merges, [SEPARATOR, PAD])


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


DOCUMENTS = [b"document %d about a cab and %d crabs" % (i, i * 7919) for i in range(60)]


def write_text(path: Path, documents=DOCUMENTS) -> Path:
    path.write_bytes(b"".join(document + b"\n<|endoftext|>\n" for document in documents))
    return path


def write_rows(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def files_of(folder: Path, but: str = "") -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != but]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def documents_of(folder: Path) -> list[list[int]]:
    shards = TokenShards.open(folder, verify=True)
    return [shards.read(begin, end - begin).tolist() for begin, end in pairwise(shards.document_offsets.tolist())]


class StoppedError(Exception):
    """In place of a kill."""


def stop_after(monkeypatch, shards: int) -> None:
    """Let encoding fail, as a kill would stop it, once so many shards are finished."""
    from groundup.data import shard_writer

    save = shard_writer.ShardWriter._save_progress

    def save_or_stop(writer):
        save(writer)
        if len(writer._shards) == shards:
            raise StoppedError

    monkeypatch.setattr(shard_writer.ShardWriter, "_save_progress", save_or_stop)


def interrupted(monkeypatch, *arguments, shards: int = 2, **options) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, shards)
        patch.setattr(document_pass, "BATCH_BYTES", 500)
        with pytest.raises(StoppedError):
            encode_files(*arguments, **options)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


class TestNames:
    """D1: whatever is written into a record can be read back."""

    @pytest.mark.parametrize(
        "name", [b"caf\xe9.txt", b"two\nlines.txt", b'a "quoted" name.txt', b"\xf0\x9f\x92\xa9.txt"]
    )
    def test_a_data_set_from_any_file_name(self, tmp_path, tokenizer, monkeypatch, name):
        (tmp_path / "in").mkdir()
        path = write_text(tmp_path / "in" / os.fsdecode(name))
        interrupted(monkeypatch, tmp_path / "in", tokenizer, tmp_path / "out", shard_tokens=200)
        assert not encode_files(tmp_path / "in", tokenizer, tmp_path / "out", shard_tokens=200).already_complete
        assert encode_files(tmp_path / "in", tokenizer, tmp_path / "out", shard_tokens=200).already_complete
        assert TokenShards.open(tmp_path / "out").index["inputs"][0]["name"] == path.name
        encode_files(path, tokenizer, tmp_path / "out", overwrite=True)
        json.loads((tmp_path / "out" / "index.json").read_text(encoding="utf-8"))  # other programs read it as well

    def test_names_that_version_0_1_wrote_as_raw_bytes_are_read(self, tmp_path, tokenizer):
        shutil.copytree(OLD / "finished", tmp_path / "out")
        index = (tmp_path / "out" / "index.json").read_bytes()
        (tmp_path / "out" / "index.json").write_bytes(index.replace(b'"text.txt"', b'"caf\xe9.txt"'))
        assert TokenShards.open(tmp_path / "out").index["inputs"][0]["name"] == os.fsdecode(b"caf\xe9.txt")
        shutil.copy(OLD / "text.txt", tmp_path / os.fsdecode(b"caf\xe9.txt"))
        old = Tokenizer.load(OLD / "finished" / "tokenizer")
        source = tmp_path / os.fsdecode(b"caf\xe9.txt")
        assert encode_files(source, old, tmp_path / "out", shard_tokens=200).already_complete

    def test_json_gives_back_what_was_written(self, tmp_path):
        value = {os.fsdecode(b"\xff\xfe"): ["\u2028", "日本", "\\udce9", '"', 1.5, None]}
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value

    def test_deep_json_is_a_value_error(self, tmp_path):
        (tmp_path / "a.json").write_text("[" * 100_000)
        with pytest.raises(ValueError, match="deep"):
            read_json(tmp_path / "a.json")


ENCODER = """
import sys
from pathlib import Path
from groundup.cli.main import main
while not Path(sys.argv[-1]).exists():
    pass
main(sys.argv[1:-1])
"""


def encode_together(tmp_path: Path, arguments: list[str], count: int = 2) -> list[subprocess.CompletedProcess]:
    """Processes that wait for each other, and then encode into one folder."""
    signal = tmp_path / "go"
    signal.unlink(missing_ok=True)
    command = [sys.executable, "-c", ENCODER, "encode", *arguments, str(signal)]
    running = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    signal.touch()
    return [(process.communicate(), process.returncode, process.pid) for process in running]


def check_pairs(tmp_path: Path, tokenizer: Tokenizer, pairs: int) -> int:
    text = write_text(tmp_path / "text.txt", DOCUMENTS * 40)
    tokenizer.save(tmp_path / "tokenizer")
    encode_files(text, tokenizer, tmp_path / "alone", shard_tokens=5000)
    alone, refused = files_of(tmp_path / "alone"), 0
    for number in range(pairs):
        out = tmp_path / f"out{number}"
        overwrite = ["--overwrite"] * (number % 2)
        arguments = [str(text), "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(out), "--shard-tokens", "5000"]
        results = encode_together(tmp_path, arguments + overwrite)
        assert 0 in [code for _, code, _ in results]
        for (_, error), code, pid in results:
            if code:
                other = next(p for *_, p in results if p != pid)
                assert code == 2, error
                assert error.count("\n") == 1
                assert f"{out} is being written by" in error
                assert f"process {other}" in error or "another process" in error
                refused += 1
        assert files_of(out) == alone
    return refused


class TestTwoProcesses:
    """D2: one process at a time owns a folder."""

    def test_pairs_started_together_make_one_sound_data_set(self, tmp_path, tokenizer):
        check_pairs(tmp_path, tokenizer, 3)

    @pytest.mark.long
    def test_many_pairs(self, tmp_path, tokenizer):
        assert check_pairs(tmp_path, tokenizer, 40) > 0

    def test_the_second_is_told_which_process_holds_the_folder(self, tmp_path, tokenizer):
        text, seen = write_text(tmp_path / "text.txt"), []

        def meanwhile(*_):
            for overwrite in (False, True):
                with pytest.raises(DataError) as error:
                    encode_files(text, tokenizer, tmp_path / "out", overwrite=overwrite)
                seen.append(one_line(error))
            with pytest.raises(DataError, match=r"no index\.json"):
                TokenShards.open(tmp_path / "out")

        encode_files(text, tokenizer, tmp_path / "out", progress=meanwhile)
        assert len(seen) >= 2
        assert all(f"out is being written by process {os.getpid()}" in line for line in seen)
        assert not (tmp_path / "out" / ".lock").exists()
        assert check_data_set(tmp_path / "out") == []

    def test_a_lock_that_a_kill_left_is_no_obstacle_and_nothing_foreign(self, tmp_path, tokenizer):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".lock").write_text("1\n")
        encode_files(write_text(tmp_path / "text.txt"), tokenizer, tmp_path / "out")
        assert check_data_set(tmp_path / "out") == []

    def test_a_folder_of_other_things_gets_no_lock(self, tmp_path, tokenizer):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        with pytest.raises(DataError, match="contains no token shards"):
            encode_files(write_text(tmp_path / "text.txt"), tokenizer, tmp_path / "thesis")
        assert files_of(tmp_path / "thesis") == {"chapter.txt": b"years of work"}


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


class TestRepair:
    """D3: what is finished is what has been checked."""

    @pytest.mark.parametrize("batch", [1, 1 << 20])
    @pytest.mark.parametrize("damage", [remove, cut])
    @pytest.mark.parametrize(
        "names",
        [
            ["shard-00002.bin"],
            ["shard-00000.bin", "shard-00001.bin", "shard-00004.bin"],
            ["documents.bin"],
            ["documents.bin", "shard-00003.bin"],
            ["token_lengths.npy"],
            ["tokenizer/vocab.json"],
            ["tokenizer/meta.json", "token_lengths.npy", "shard-00001.bin"],
        ],
    )
    def test_files_gone_or_cut_off_are_made_again(self, tmp_path, tokenizer, monkeypatch, names, damage, batch):
        monkeypatch.setattr(document_pass, "BATCH_BYTES", batch)
        text = write_text(tmp_path / "text.txt")
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        before = files_of(tmp_path / "out")
        for name in names:
            damage(tmp_path / "out" / name)
        assert check_data_set(tmp_path / "out")
        stats = encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        assert set(stats.repaired) == {name.split("/")[0] for name in names}
        assert files_of(tmp_path / "out") == before
        assert encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300).repaired == ()

    def test_a_long_document_across_shards_is_made_again(self, tmp_path, tokenizer, monkeypatch):
        from functools import partial

        from groundup.text.readers import TextReader

        monkeypatch.setattr("groundup.data.encode.TextReader", partial(TextReader, block_bytes=50))
        text = write_text(
            tmp_path / "text.txt", [b"short", b"a long one about a cab " * 100, b"short again", b"b" * 900]
        )
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        before = files_of(tmp_path / "out")
        for name in ("shard-00001.bin", "shard-00004.bin"):
            remove(tmp_path / "out" / name)
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        assert files_of(tmp_path / "out") == before

    def test_the_whole_tokenizer_is_written_again(self, tmp_path, tokenizer):
        text = write_text(tmp_path / "text.txt")
        encode_files(text, tokenizer, tmp_path / "out")
        before = files_of(tmp_path / "out")
        remove(tmp_path / "out" / "tokenizer")
        assert encode_files(text, tokenizer, tmp_path / "out").repaired == ("tokenizer",)
        assert files_of(tmp_path / "out") == before

    def test_where_the_text_is_another_one_nothing_is_touched(self, tmp_path, tokenizer):
        text = write_text(tmp_path / "text.txt", DOCUMENTS * 60)  # the change lies in neither of the 64 KiB at the ends
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=30_000)
        remove(tmp_path / "out" / "shard-00003.bin")
        before = files_of(tmp_path / "out")
        status, content = text.stat(), bytearray(text.read_bytes())
        content[100_000:100_004] = b"XXXX"
        text.write_bytes(content)
        os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(DataError, match=r"shard-00003\.bin is damaged or missing"):
            encode_files(text, tokenizer, tmp_path / "out", shard_tokens=30_000)
        assert files_of(tmp_path / "out") == before

    def test_a_changed_byte_is_found_by_the_check(self, tmp_path, tokenizer):
        text = write_text(tmp_path / "text.txt")
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        for name in ("shard-00001.bin", "documents.bin"):
            content = bytearray((tmp_path / "out" / name).read_bytes())
            content[40] ^= 1
            (tmp_path / "out" / name).write_bytes(content)
        faults = check_data_set(tmp_path / "out")
        assert {fault.file for fault in faults} == {"shard-00001.bin", "documents.bin"}
        assert all("SHA-256" in fault.reason and "\n" not in fault.reason for fault in faults)

    def test_the_check_compares_documents_with_separators_and_the_tokenizer_with_the_ids(self, tmp_path, tokenizer):
        text = write_text(tmp_path / "text.txt")
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=300)
        index = read_json(tmp_path / "out" / "index.json")
        del index["content_sha256"], index["tokenizer_files"]
        offsets = np.fromfile(tmp_path / "out" / "documents.bin", "<u8")
        offsets[7] += 1
        offsets.tofile(tmp_path / "out" / "documents.bin")
        index["documents_file"]["sha256"] = hashlib.sha256(offsets.tobytes()).hexdigest()
        write_json(tmp_path / "out" / "index.json", index)
        Tokenizer(tokenizer.vocab, tokenizer.merges[:2], [SEPARATOR, PAD]).save(tmp_path / "out" / "tokenizer")
        reasons = [fault.reason for fault in check_data_set(tmp_path / "out")]
        assert any("document 6 ends in the id" in reason for reason in reasons)
        assert any("but the data set was encoded with" in reason for reason in reasons)


class TestInputs:
    """D4: inputs are known by what was read of them."""

    def change(self, path: Path) -> None:
        """Eight bytes in the middle: the size and both ends stay."""
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 8] = b"XXXXXXXX"
        path.write_bytes(content)

    @pytest.fixture
    def long_text(self, tmp_path) -> Path:
        path = tmp_path / "text.txt"
        path.write_bytes(b"".join(b"w%07d \n" % i for i in range(40000)))
        return path

    def test_a_change_in_the_middle_is_seen_afterwards(self, tmp_path, tokenizer, long_text):
        encode_files(long_text, tokenizer, tmp_path / "out")
        before = files_of(tmp_path / "out")
        self.change(long_text)
        with pytest.raises(DataError, match="has changed since") as error:
            encode_files(long_text, tokenizer, tmp_path / "out")
        assert str(long_text) in one_line(error)
        assert "--overwrite" in one_line(error)
        assert files_of(tmp_path / "out") == before

    def test_untouched_inputs_are_not_read_again_and_touched_ones_are(self, tmp_path, tokenizer, monkeypatch):
        text = write_text(tmp_path / "text.txt")
        encode_files(text, tokenizer, tmp_path / "out")
        index, reads = (tmp_path / "out" / "index.json").read_bytes(), []
        run = document_pass.DocumentPass.run

        def counted(self, *arguments):
            reads.append(1)
            run(self, *arguments)

        monkeypatch.setattr(document_pass.DocumentPass, "run", counted)
        for touched, expected in [(False, 0), (True, 1), (False, 1)]:
            if touched:
                os.utime(text)
            assert encode_files(text, tokenizer, tmp_path / "out").already_complete
            assert len(reads) == expected
        (tmp_path / "out" / "inputs.json").write_bytes(b"\xff\x00")
        assert encode_files(text, tokenizer, tmp_path / "out").already_complete
        assert len(reads) == 2
        assert (tmp_path / "out" / "index.json").read_bytes() == index

    @pytest.mark.parametrize(("batch", "block"), [(500, 1 << 20), (1 << 20, 1 << 20), (1 << 20, 64)])
    def test_two_texts_are_not_spliced(self, tmp_path, tokenizer, monkeypatch, batch, block):
        from functools import partial

        from groundup.text.readers import TextReader

        monkeypatch.setattr("groundup.data.encode.TextReader", partial(TextReader, block_bytes=block))
        text = write_text(tmp_path / "text.txt", DOCUMENTS * 100)
        interrupted(monkeypatch, text, tokenizer, tmp_path / "out", shard_tokens=80_000)
        monkeypatch.setattr(document_pass, "BATCH_BYTES", batch)
        content = text.read_bytes()
        assert len(content) > 3 * (1 << 16)  # the change lies in neither of the 64 KiB at the ends
        place = content.find(b"document 5 about", 100_000)
        text.write_bytes(content[:place] + b"DOCUMENT" + content[place + 8 :])
        before = files_of(tmp_path / "out")
        with pytest.raises(DataError, match="before the interruption has changed") as error:
            encode_files(text, tokenizer, tmp_path / "out", shard_tokens=80_000)
        assert str(text) in one_line(error)
        assert files_of(tmp_path / "out").keys() >= {"progress.json", "shard-00000.bin", "shard-00001.bin"}
        assert {n: b for n, b in files_of(tmp_path / "out").items() if n in before} == before
        assert not (tmp_path / "out" / "index.json").exists()

    def test_nor_within_one_document(self, tmp_path, tokenizer, monkeypatch, long_text):
        from functools import partial

        from groundup.text.readers import TextReader

        monkeypatch.setattr("groundup.data.encode.TextReader", partial(TextReader, block_bytes=4096))
        interrupted(monkeypatch, long_text, tokenizer, tmp_path / "out", shard_tokens=100_000)
        content = bytearray(long_text.read_bytes())
        content[100_000:100_008] = b"XXXXXXXX"
        long_text.write_bytes(content)
        with pytest.raises(DataError, match="the text of the documents encoded before the interruption has changed"):
            encode_files(long_text, tokenizer, tmp_path / "out", shard_tokens=100_000)

    def test_a_text_that_changed_only_where_it_was_not_read_yet_gives_the_new_text(
        self, tmp_path, tokenizer, monkeypatch
    ):
        documents = DOCUMENTS * 100
        text = write_text(tmp_path / "text.txt", documents)
        interrupted(monkeypatch, text, tokenizer, tmp_path / "out", shard_tokens=1000)
        write_text(text, [*documents[:3000], documents[3000].replace(b"about", b"ABOUT"), *documents[3001:]])
        encode_files(text, tokenizer, tmp_path / "out", shard_tokens=1000)
        encode_files(text, tokenizer, tmp_path / "fresh", shard_tokens=1000)
        assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")

    def test_which_documents_and_where_they_end_both_count(self, tmp_path, tokenizer):
        hashes = set()
        for number, texts in enumerate([("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", "")]):
            path = write_rows(tmp_path / f"{number}.jsonl", *texts)
            encode_files(path, tokenizer, tmp_path / f"out{number}")
            hashes.add(TokenShards.open(tmp_path / f"out{number}").index["inputs"][0]["text_sha256"])
        assert len(hashes) == 3  # an empty document is none

    def test_the_hash_is_that_of_the_text_of_each_input(self, tmp_path, tokenizer):
        paths = [write_rows(tmp_path / "a.jsonl", "ab", "c"), write_text(tmp_path / "b.txt", [b"x" * 3000, b"y"])]
        encode_files(paths, tokenizer, tmp_path / "out")

        def expected(*documents: bytes) -> str:
            text = hashlib.sha256(b"".join(document + b"\0" for document in documents)).digest()
            ends = hashlib.sha256(np.array([len(document) for document in documents], "<u8").tobytes()).digest()
            return hashlib.sha256(text + ends).hexdigest()

        inputs = TokenShards.open(tmp_path / "out").index["inputs"]
        assert [source["text_sha256"] for source in inputs] == [expected(b"ab", b"c"), expected(b"x" * 3000, b"y")]
        assert [(source["documents"], source["text_bytes"]) for source in inputs] == [(2, 3), (2, 3001)]

    def test_a_file_that_changes_while_it_is_read_is_an_error(self, tmp_path, tokenizer):
        text = write_text(tmp_path / "text.txt", DOCUMENTS * 2000)

        def change(what, done, total, extra):
            with text.open("r+b") as file:
                file.write(b"DOCUMENT")

        with pytest.raises(DataError, match=r"text\.txt (was )?changed while it was read") as error:
            encode_files(text, tokenizer, tmp_path / "out", progress=change)
        one_line(error)
        assert not (tmp_path / "out" / "index.json").exists()


class TestSpecialTokens:
    """D5: the name of a special token inside a document is text, unless the user says otherwise."""

    TEXTS = ("How to use <|endoftext|> in GPT-2", "b <|pad|><|pad|>")

    def test_by_default_it_is_text_counted_and_recorded(self, tmp_path, tokenizer):
        path = write_rows(tmp_path / "a.jsonl", *self.TEXTS)
        stats = encode_files(path, tokenizer, tmp_path / "out")
        end = tokenizer.token_id(SEPARATOR)
        assert documents_of(tmp_path / "out") == [[*tokenizer.encode_ordinary(text), end] for text in self.TEXTS]
        assert stats.special_tokens_met == {SEPARATOR: 1, PAD: 2}
        index = TokenShards.open(tmp_path / "out").index
        assert (index["special_tokens"], index["special_tokens_met"]) == ("text", {SEPARATOR: 1, PAD: 2})
        assert stats.bytes == sum(map(len, self.TEXTS))

    def test_encode_makes_it_the_token(self, tmp_path, tokenizer):
        path = write_rows(tmp_path / "a.jsonl", *self.TEXTS)
        stats = encode_files(path, tokenizer, tmp_path / "out", special_tokens="encode")
        end = tokenizer.token_id(SEPARATOR)
        assert documents_of(tmp_path / "out") == [[*tokenizer.encode(text), end] for text in self.TEXTS]
        assert stats.special_tokens_met == {SEPARATOR: 1, PAD: 2}

    def test_error_names_file_document_and_token(self, tmp_path, tokenizer):
        path = write_rows(tmp_path / "a.jsonl", "fine", "", *self.TEXTS)
        with pytest.raises(DataError) as error:
            encode_files(path, tokenizer, tmp_path / "out", special_tokens="error")
        assert one_line(error).startswith(f"{path}, document 3 has the special token '<|endoftext|>'")
        write_rows(path, "fine", "<|endoftex|>")
        assert encode_files(path, tokenizer, tmp_path / "out", special_tokens="error").documents == 2

    def test_in_plain_text_the_separator_separates_and_the_others_are_text(self, tmp_path, tokenizer):
        path = write_text(tmp_path / "a.txt", [b"one <|pad|>", b"two"])
        stats = encode_files(path, tokenizer, tmp_path / "out")
        end = tokenizer.token_id(SEPARATOR)
        assert documents_of(tmp_path / "out") == [
            [*tokenizer.encode_ordinary(text), end] for text in ("one <|pad|>", "two")
        ]
        assert stats.special_tokens_met == {PAD: 1}

    @pytest.mark.parametrize("mode", ["text", "encode", "error"])
    @pytest.mark.parametrize("block", [3, 11, 1 << 20])
    def test_in_a_document_that_comes_in_pieces(self, tmp_path, tokenizer, monkeypatch, mode, block):
        from functools import partial

        from groundup.text.readers import TextReader

        monkeypatch.setattr("groundup.data.encode.TextReader", partial(TextReader, block_bytes=block))
        document = "a cab <|pad|><|pad|> <|pa <|pad|> " * 20 + "<|pad"
        path = write_text(tmp_path / "a.txt", [b"first", document.encode()])
        if mode == "error":
            with pytest.raises(DataError, match=r"document 2 has the special token '<\|pad\|>'"):
                encode_files(path, tokenizer, tmp_path / "out", special_tokens=mode)
            return
        stats = encode_files(path, tokenizer, tmp_path / "out", special_tokens=mode)
        encode = tokenizer.encode if mode == "encode" else tokenizer.encode_ordinary
        assert documents_of(tmp_path / "out")[1][:-1] == encode(document)
        assert stats.special_tokens_met == {PAD: 60}

    def test_names_do_not_reach_from_one_document_into_the_next(self, tmp_path, tokenizer):
        path = write_rows(tmp_path / "a.jsonl", "<|pa", "d|>", "<|pad|", ">")
        assert encode_files(path, tokenizer, tmp_path / "out").special_tokens_met == {}

    def test_the_counts_do_not_depend_on_interruptions(self, tmp_path, tokenizer, monkeypatch):
        path = write_rows(tmp_path / "a.jsonl", *self.TEXTS * 50)
        encode_files(path, tokenizer, tmp_path / "whole", shard_tokens=200)
        interrupted(monkeypatch, path, tokenizer, tmp_path / "out", shard_tokens=200)
        encode_files(path, tokenizer, tmp_path / "out", shard_tokens=200)
        assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")

    def test_another_handling_is_another_data_set(self, tmp_path, tokenizer):
        path = write_rows(tmp_path / "a.jsonl", *self.TEXTS)
        encode_files(path, tokenizer, tmp_path / "out")
        with pytest.raises(DataError, match="the handling of special tokens differ"):
            encode_files(path, tokenizer, tmp_path / "out", special_tokens="encode")
        with pytest.raises(DataError, match="expected 'text', 'encode' or 'error'"):
            encode_files(path, tokenizer, tmp_path / "out", special_tokens="all")


class TestOldFolders:
    """Folders that version 0.1 wrote."""

    @pytest.fixture
    def old(self, tmp_path) -> tuple[Path, Tokenizer]:
        shutil.copytree(OLD, tmp_path / "old")
        return tmp_path / "old", Tokenizer.load(OLD / "finished" / "tokenizer")

    def test_a_finished_one_is_sound_and_says_how_it_was_made(self, old):
        folder, tokenizer = old
        before = files_of(folder)
        assert check_data_set(folder / "finished") == []
        stats = encode_files(folder / "text.txt", tokenizer, folder / "finished", shard_tokens=200)
        assert stats.already_complete
        assert (stats.special_tokens, stats.special_tokens_met) == ("encode", None)
        assert files_of(folder) == before
        found = describe(folder / "finished")
        assert found["groundup"] is None
        assert len(found["notes"]) == 2
        with pytest.raises(DataError, match="the handling of special tokens differ"):
            encode_files(folder / "text.txt", tokenizer, folder / "finished", shard_tokens=200, special_tokens="text")

    def test_an_interrupted_one_is_continued_as_it_was_begun(self, old):
        folder, tokenizer = old
        assert describe(folder / "unfinished")["state"] == "unfinished"
        stats = encode_files(folder / "text.txt", tokenizer, folder / "unfinished", shard_tokens=200)
        assert stats.tokens_kept == 400
        for name in ("shard-00000.bin", "shard-00001.bin", "shard-00002.bin", "documents.bin", "token_lengths.npy"):
            assert (folder / "unfinished" / name).read_bytes() == (folder / "finished" / name).read_bytes()
        assert check_data_set(folder / "unfinished") == []

    def test_a_damaged_one_is_repaired(self, old):
        folder, tokenizer = old
        before = files_of(folder)
        remove(folder / "finished" / "shard-00001.bin")
        remove(folder / "finished" / "tokenizer")
        stats = encode_files(folder / "text.txt", tokenizer, folder / "finished", shard_tokens=200)
        assert set(stats.repaired) == {"shard-00001.bin", "tokenizer"}
        after = files_of(folder)
        # The tokenizer's file says more than version 0.1 wrote, but it is the same tokenizer.
        meta = "finished/tokenizer/meta.json"
        assert json.loads(before.pop(meta)).items() <= json.loads(after.pop(meta)).items()
        assert after == before


def refusal(call) -> str:
    """What an error of ours says; nothing where there is none."""
    try:
        call()
    except GroundupError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def sets(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda descriptor: None)
    for name, documents in (("a", DOCUMENTS[:12]), ("b", DOCUMENTS[20:35])):
        write_text(folder / f"{name}.txt", documents)
        encode_files(folder / f"{name}.txt", tokenizer, folder / name, shard_tokens=100)
        interrupted(patch, folder / f"{name}.txt", tokenizer, folder / f"{name}-begun", shard_tokens=100)
    patch.undo()
    return folder


class TestInside:
    """A data set in the folder that it is made from."""

    def test_a_set_and_a_tokenizer_in_the_inputs_are_no_text(self, tmp_path, tokenizer):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").write_text("one two three\n" * 50)
        encode_files(tmp_path / "in", tokenizer, tmp_path / "in" / "out", shard_tokens=100)
        index = (tmp_path / "in" / "out" / "index.json").read_bytes()
        assert encode_files(tmp_path / "in", tokenizer, tmp_path / "in" / "out", shard_tokens=100).tokens_kept > 0
        assert (tmp_path / "in" / "out" / "index.json").read_bytes() == index
        tokenizer.save(tmp_path / "in" / "tok")
        reader = TextReader(tmp_path / "in")
        assert reader.files == [tmp_path / "in" / "a.txt"]
        assert {path.name: why for path, why in reader.left_out} == {"out": "a token data set", "tok": "a tokenizer"}

    def test_interrupted_it_becomes_the_same_set(self, tmp_path, tokenizer, monkeypatch):
        for place in ("whole", "cut"):
            (tmp_path / place).mkdir()
            (tmp_path / place / "a.txt").write_text("".join(f"number {i}<|endoftext|>" for i in range(300)))
        encode_files(tmp_path / "whole", tokenizer, tmp_path / "whole" / "out", shard_tokens=100)
        save = shard_writer.write_record
        count = iter(range(5))

        def fail(*arguments):
            if next(count, None) is None:
                raise KeyboardInterrupt
            save(*arguments)

        monkeypatch.setattr(shard_writer, "write_record", fail)
        with pytest.raises(KeyboardInterrupt):
            encode_files(tmp_path / "cut", tokenizer, tmp_path / "cut" / "out", shard_tokens=100)
        monkeypatch.undo()
        encode_files(tmp_path / "cut", tokenizer, tmp_path / "cut" / "out", shard_tokens=100)
        assert files_of(tmp_path / "cut" / "out", "inputs.json") == files_of(tmp_path / "whole" / "out", "inputs.json")


class TestRepairedWhole:
    def test_shards_of_another_set_of_the_same_sizes_are_found_while_one_is_repaired(self, tmp_path, tokenizer):
        for name in "ab":
            (tmp_path / f"{name}.txt").write_text(name * 4000)
            encode_files(tmp_path / f"{name}.txt", tokenizer, tmp_path / name, shard_tokens=100)
        right = files_of(tmp_path / "a")
        for path in (tmp_path / "b").glob("shard-*"):
            shutil.copy(path, tmp_path / "a" / path.name)
        (tmp_path / "a" / "documents.bin").write_bytes(b"")
        repaired = encode_files(tmp_path / "a.txt", tokenizer, tmp_path / "a", shard_tokens=100).repaired
        assert len(set(repaired)) == len(repaired)
        assert files_of(tmp_path / "a") == right


class TestDamage:
    """Whatever happened to the files, the outcome is the right data or one line."""

    NAMES = ("index.json", "progress.json", "documents.bin", "token_lengths.npy", "shard-00000.bin", "inputs.json")

    def outcomes(self, tmp_path: Path, tokenizer: Tokenizer, sets: Path, name: str, content: bytes | None) -> None:
        """Every reader of a folder with one file damaged, or a FIFO in its place."""
        begun = name == "progress.json"
        folder, right = tmp_path / "set", sets / "a"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sets / ("a-begun" if begun else "a"), folder)
        if content is None:
            (folder / name).unlink()
            os.mkfifo(folder / name)
        else:
            (folder / name).write_bytes(content)
        for call in (
            lambda: TokenShards.open(folder),
            lambda: TokenShards.open(folder, verify=True),
            lambda: TokenShards.open(folder).document_offsets,
            lambda: TokenShards.open(folder).token_lengths,
            lambda: check_data_set(folder),
            lambda: describe(folder),
            lambda: read_document(folder, 3),
        ):
            assert "\n" not in refusal(call)
        if not refusal(lambda: encode_files(sets / "a.txt", tokenizer, folder, shard_tokens=100)):
            faults = check_data_set(folder)
            assert all("SHA-256" in fault.reason for fault in faults)  # of these only the check knows
            if not faults:
                assert documents_of(folder) == documents_of(right)

    def damaged(self, content: bytes, other: bytes, cases: int):
        chance = random.Random(1)
        yield from (b"", other, content + b"x", other[: len(content) // 2] + content[len(content) // 2 :])
        for _ in range(cases):
            yield content[: chance.randrange(len(content))]
            place = chance.randrange(len(content))
            yield content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
            yield content[:place] + chance.randbytes(8) + content[place + 8 :]

    def fuzz(self, tmp_path, tokenizer, sets, name, cases):
        folder = "-begun" if name == "progress.json" else ""
        content, other = ((sets / f"{which}{folder}" / name).read_bytes() for which in "ab")
        for damaged in self.damaged(content, other, cases):
            self.outcomes(tmp_path, tokenizer, sets, name, damaged)

    @pytest.mark.parametrize("name", NAMES)
    def test_damaged_at_some_places(self, tmp_path, tokenizer, sets, name):
        self.fuzz(tmp_path, tokenizer, sets, name, 3)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_fifo_in_its_place(self, tmp_path, tokenizer, sets, name):
        self.outcomes(tmp_path, tokenizer, sets, name, None)

    @pytest.mark.parametrize("entry", [[], 3, None, "shard", {}])
    @pytest.mark.parametrize("key", ["shards", "inputs", "documents_file", "tokenizer_files"])
    def test_entries_of_another_type(self, tmp_path, tokenizer, sets, key, entry):
        index = json.loads((sets / "a" / "index.json").read_bytes())
        index[key] = entry if key == "documents_file" else [entry, *index.get(key, ())]
        self.outcomes(tmp_path, tokenizer, sets, "index.json", json.dumps(index).encode())

    @pytest.mark.long
    @pytest.mark.parametrize("name", NAMES)
    def test_damaged_at_many_places(self, tmp_path, tokenizer, sets, name):
        self.fuzz(tmp_path, tokenizer, sets, name, 300)

    def test_any_changed_byte_of_a_record_is_noticed_or_changes_nothing(self, tmp_path, tokenizer, sets):
        content = (sets / "a" / "index.json").read_bytes()
        meant = json.loads(content)
        shutil.copytree(sets / "a", tmp_path / "set")
        for place in range(0, len(content), 7):
            changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
            (tmp_path / "set" / "index.json").write_bytes(changed)
            try:
                index = TokenShards.open(tmp_path / "set").index
            except DataError:
                continue
            index.pop("content_sha256", None)
            differing = {key for key in meant.keys() | index.keys() if meant.get(key) != index.get(key)}
            assert len(differing - {"content_sha256"}) <= 1  # the key of the hash itself
