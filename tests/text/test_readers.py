import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from groundup.errors import DataError, FileMissingError, MissingExtraError
from groundup.text.files import find_files
from groundup.text.readers import TextReader, read_documents, split_documents

SEPARATOR = b"<|endoftext|>"


def split(text: bytes, block_bytes: int = 1 << 20, separator: bytes | None = SEPARATOR) -> list[bytes]:
    documents, parts = [], []
    for data, ends_document in split_documents(io.BytesIO(text).read, separator, block_bytes):
        parts.append(data)
        if ends_document:
            documents.append(b"".join(parts))
            parts = []
    assert not parts, "the last document was never ended"
    return documents


# Everything that a separator can stand beside, in few bytes, so that the cases meet often.
awkward_bytes = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\x00", b"\xff", b"<", b"<|endof"]), max_size=8).map(
    b"".join
)
awkward_text = st.lists(st.one_of(awkward_bytes, st.just(SEPARATOR)), max_size=10).map(b"".join)


class TestSeparator:
    @given(documents=st.lists(awkward_bytes, max_size=6), block_bytes=st.integers(1, 40))
    def test_documents_each_followed_by_a_separator_line_come_back_byte_for_byte(self, documents, block_bytes):
        text = b"".join(document + b"\n" + SEPARATOR + b"\n" for document in documents)
        assert split(text, block_bytes) == documents

    @given(text=awkward_text, block_bytes=st.integers(1, 40))
    @example(text=b"a\r\n" + SEPARATOR + b"\r\nb", block_bytes=1)
    def test_where_reads_end_makes_no_difference(self, text, block_bytes):
        assert split(text, block_bytes) == split(text)

    @given(text=awkward_text)
    def test_no_byte_is_lost_but_the_line_breaks_of_separator_lines(self, text):
        parts = text.split(SEPARATOR)
        documents = [*split(text), b""][: len(parts)]
        for part, document in zip(parts, documents, strict=True):
            assert document in part
            assert document.strip(b"\r\n") == part.strip(b"\r\n")
            assert len(part) - len(document) <= len(b"\r\n\r\n")

    @given(text=awkward_text.map(lambda text: b"x" + text.replace(b"\n", b" ") + b"x"))
    def test_within_a_line_only_the_separator_is_taken(self, text):
        assert split(text) == text.split(SEPARATOR)

    @pytest.mark.parametrize(
        ("text", "documents"),
        [
            (b"one\n<|endoftext|>\ntwo\n", [b"one", b"two\n"]),
            (b"one\n<|endoftext|>\ntwo\n<|endoftext|>", [b"one", b"two"]),
            (b"one\n\n<|endoftext|>\n\ntwo", [b"one\n", b"\ntwo"]),
            (b"one<|endoftext|>two", [b"one", b"two"]),
            (b"one<|endoftext|>\ntwo", [b"one", b"\ntwo"]),
            (b"one\n<|endoftext|> two", [b"one\n", b" two"]),
            (b"one\r\n<|endoftext|>\r\ntwo\r\n<|endoftext|>", [b"one", b"two"]),
            (b"one\r\n<|endoftext|>\ntwo", [b"one\r", b"two"]),
            (b"<|endoftext|>\none\n<|endoftext|>\n", [b"", b"one"]),
            (b"one\n<|endoftext|>\n<|endoftext|>\ntwo", [b"one", b"", b"two"]),
            (b"one\n<|endoftext|>\n\n<|endoftext|>\ntwo", [b"one", b"", b"two"]),
            (b"one\n<|endoftext|>\n\n", [b"one", b"\n"]),
        ],
    )
    def test_which_line_break_belongs_to_it(self, text, documents):
        assert split(text) == documents

    def test_none_makes_each_file_one_document(self):
        text = b"one\n<|endoftext|>\ntwo\n"
        assert split(text, 4, separator=None) == [text]

    def test_a_document_shorter_than_a_block_is_one_piece(self):
        text = b"\n<|endoftext|>\n".join([b"x" * 99] * 50)
        pieces = list(split_documents(io.BytesIO(text).read, SEPARATOR, 100))
        assert [len(data) for data, _ in pieces] == [99] * 50

    def test_memory_is_bounded_where_the_document_is_not(self, tmp_path):
        path = tmp_path / "long.txt"
        path.write_bytes(b"no separator here\n" * 2_000_000)
        reader = TextReader(path, block_bytes=1 << 16)
        tracemalloc.start()
        try:
            total = sum(len(piece.data) for piece in reader)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert total == path.stat().st_size == 36_000_000
        assert peak < 1_000_000


BYTES = b"caf\xe9 \x00\r\nline\n"  # not UTF-8, with NUL and CRLF
TEXT = BYTES + b"\n<|endoftext|>\nsecond\n<|endoftext|>\n"
ROWS = [{"text": "caf\u00e9 \x00\r\nline\n", "id": 1}, {"id": 2, "text": "\u2028 \ud83c\udf1f second"}]
ROW_BYTES = [row["text"].encode("utf-16", "surrogatepass").decode("utf-16").encode() for row in ROWS]


def jsonl(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    middle = len(data) // 2
    # Two frames: parallel compressors and `cat a.zst b.zst` write several.
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:middle], data[middle:]))


class TestFormats:
    @pytest.mark.parametrize(
        ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd), (".GZ", gzip.compress)]
    )
    def test_text_keeps_every_byte(self, tmp_path, suffix, pack):
        path = tmp_path / f"a.v1.txt{suffix}"
        path.write_bytes(pack(TEXT))
        assert list(read_documents(path)) == [BYTES, b"second"]

    @pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd)])
    def test_json_lines(self, tmp_path, suffix, pack):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(pack(b"\xef\xbb\xbf" + jsonl(ROWS) + b"\n  \r\n"))
        assert list(read_documents(str(path))) == ROW_BYTES

    def test_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        words = ["one", "two", "one"] * 200
        for name, kind in [("s", pyarrow.string()), ("l", pyarrow.large_string()), ("b", pyarrow.binary())]:
            parquet.write_table(pyarrow.table({"body": pyarrow.array(words, kind), "n": range(600)}), tmp_path / name)
            (tmp_path / name).rename(tmp_path / f"{name}.parquet")
        reader = TextReader(tmp_path, field="body")
        assert [path.name for path in reader.files] == ["b.parquet", "l.parquet", "s.parquet"]
        assert list(reader.documents()) == [word.encode() for word in words] * 3
        assert reader.bytes_read == reader.bytes_total

    def test_a_lone_surrogate_in_json_is_u_fffd_and_a_pair_a_character(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "x\\ud83dy"}\n{"text": "\\ud83c\\udf1f\\udf1f"}\n')
        assert [data.decode() for data in read_documents(path)] == ["x\ufffdy", "\U0001f31f\ufffd"]

    def test_standard_input(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
        reader = TextReader("-")
        assert list(reader.documents()) == [BYTES, b"second"]
        assert (reader.bytes_total, reader.bytes_read) == (None, len(TEXT))

    def test_a_folder_stands_for_its_files_in_sorted_order(self, tmp_path):
        (tmp_path / "b.txt").write_bytes(b"b")
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a"))
        (tmp_path / "c.jsonl").write_bytes(jsonl([{"text": "c"}]))
        for name in ("README.md", ".hidden.txt", "z.parquet.gz"):
            (tmp_path / name).write_bytes(b"not text to train on")
        (tmp_path / "empty.txt").touch()
        (tmp_path / "more.txt").mkdir()
        assert list(read_documents([tmp_path, tmp_path / "b.txt"])) == [b"a", b"b", b"c", b"b"]

    def test_a_file_never_joins_a_document_with_the_next_file(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"one")
        (tmp_path / "b.txt").write_bytes(b"two")
        assert list(read_documents(tmp_path)) == [b"one", b"two"]

    def test_progress_counts_the_bytes_on_disk(self, tmp_path):
        for name, data in [("a.txt", TEXT), ("b.txt.gz", gzip.compress(TEXT)), ("c.jsonl.zst", zstd(jsonl(ROWS)))]:
            (tmp_path / name).write_bytes(data)
        reader = TextReader(tmp_path)
        seen = [reader.bytes_read for _ in reader]
        assert seen == sorted(seen)
        assert reader.bytes_read == reader.bytes_total == sum(path.stat().st_size for path in tmp_path.iterdir())

    def test_real_text_has_the_documents_that_its_manifest_counts(self, data_dir):
        pytest.importorskip("zstandard")
        expected = json.loads((data_dir / "MANIFEST.json").read_text())["files"]["tinystories/valid.txt.zst"]
        documents = list(read_documents(data_dir / "tinystories" / "valid.txt.zst"))
        assert len(documents) == expected["uncompressed"]["documents"]
        packed = sum(len(document) + len("\n<|endoftext|>\n") for document in documents)
        assert packed == expected["uncompressed"]["bytes"]


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


class TestErrors:
    def test_missing(self, tmp_path):
        with pytest.raises(FileMissingError, match=r"nothing\.txt does not exist") as error:
            find_files(tmp_path / "nothing.txt")
        assert str(Path.cwd()) in message(error)

    def test_empty(self, tmp_path):
        (tmp_path / "a.txt").touch()
        with pytest.raises(DataError, match=r"a\.txt is empty"):
            TextReader(tmp_path / "a.txt")
        with pytest.raises(DataError, match="contains no text files; expected files ending in"):
            TextReader(tmp_path)
        with pytest.raises(DataError, match="no input"):
            TextReader([])

    def test_empty_once_it_is_decompressed(self, tmp_path):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b""))
        with pytest.raises(DataError, match=r"a\.txt\.gz: no text"):
            list(TextReader(tmp_path / "a.txt.gz"))

    def test_unreadable(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"a")
        with pytest.raises(DataError, match="cannot be read: Not a directory"):
            TextReader(tmp_path / "a.txt" / "b.txt")

    def test_without_permission(self, unreadable_file):
        with pytest.raises(DataError, match=r"text\.txt cannot be read: Permission denied"):
            list(TextReader(unreadable_file))

    @pytest.mark.parametrize(
        ("name", "suffix"), [("a.docx", ".docx"), ("a.gz", ".gz"), ("a", "(none)"), ("a.parquet.gz", ".parquet.gz")]
    )
    def test_unknown_suffix(self, tmp_path, name, suffix):
        (tmp_path / name).write_bytes(b"a")
        with pytest.raises(DataError) as error:
            TextReader(tmp_path / name)
        assert f"the suffix {suffix};" in message(error)
        assert ".jsonl" in message(error)

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            (b'{"text": "a"', "line 2 is not JSON (Expecting ',' delimiter, column 13)"),
            (b'{"text": "\xff"}', "line 2 is not UTF-8 (byte 0xff, column 11)"),
            (b'{"txt": "a", "id": 1}', "line 2 has no field 'text'; it has 'txt', 'id'"),
            (b"{}", "line 2 has no field 'text'; it has no field at all"),
            (b'{"text": null}', "line 2: the field 'text' holds null; expected a string"),
            (b'{"text": ["a"]}', "line 2: the field 'text' holds an array; expected a string"),
            (b"3.5", "line 2 holds a number; expected an object with the field 'text'"),
            (b"[" * 100_000, "line 2 is nested too deeply"),
        ],
    )
    def test_broken_json_lines(self, tmp_path, line, complaint):
        path = tmp_path / "a.jsonl"
        path.write_bytes(jsonl(ROWS[:1]) + line + b"\n")
        with pytest.raises(DataError) as error:
            list(read_documents(path))
        assert message(error).startswith(f"{path}, {complaint}")

    @pytest.mark.parametrize(("suffix", "pack", "kind"), [(".gz", gzip.compress, "gzip"), (".zst", zstd, "zstd")])
    def test_cut_off_or_foreign_compressed_files(self, tmp_path, suffix, pack, kind):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(pack(os.urandom(10_000))[:-100])
        with pytest.raises(DataError, match=f"truncated.*{kind}") as error:
            list(read_documents(path))
        assert message(error).startswith(str(path))
        path.write_bytes(b"plain text under a compressed name")
        with pytest.raises(DataError, match=f"is not a valid {kind} file") as error:
            list(read_documents(path))
        assert message(error).startswith(str(path))

    def test_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table({"text": ["a", None], "id": [1, 2]}), path)
        for field, complaint in [
            ("body", "has no column 'body'; it has 'text', 'id'"),
            ("id", "the column 'id' holds int64"),
            ("text", "row 2: the column 'text' is null"),
        ]:
            with pytest.raises(DataError, match=complaint) as error:
                list(read_documents(path, field=field))
            message(error)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(DataError, match="is not a valid parquet file") as error:
            list(read_documents(path))
        message(error)

    @pytest.mark.parametrize(
        ("name", "package", "extra"), [("a.txt.zst", "zstandard", "zstd"), ("a.parquet", "pyarrow", "parquet")]
    )
    def test_a_missing_extra_is_named(self, tmp_path, monkeypatch, name, package, extra):
        (tmp_path / name).write_bytes(b"a")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=f"reading {name} needs the package {package}.*{extra}"):
            list(read_documents(tmp_path / name))

    def test_separator_and_block_that_cannot_be(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"a")
        with pytest.raises(DataError, match="separator is empty"):
            TextReader(tmp_path / "a.txt", separator="")
        with pytest.raises(DataError, match="lone surrogate"):
            TextReader(tmp_path / "a.txt", separator="\ud800")
        with pytest.raises(DataError, match="block_bytes = 0"):
            TextReader(tmp_path / "a.txt", block_bytes=0)
        with pytest.raises(DataError, match=r"standard input .* more than once"):
            TextReader(["-", "-"])
