"""What an input is told to be by its first bytes, and what is refused."""

import gzip
import io
import json
import os
import random
import sys
import threading

import pytest

from groundup.errors import DataError
from groundup.text.readers import ReadOptions, TextReader, read_documents

TEXT = "héllo wörld, as text of some length\r\n文字 🌟\n"
ROWS = [{"body": "one\n"}, {"body": "two <|endoftext|>"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def parquet(rows: list[dict[str, str]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
    @pytest.mark.parametrize("text", ["hello world\r\n", "Grüße, Zoë! " * 5000])
    @pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
    def test_utf16_and_utf32_are_refused_with_the_fix_that_reads_them(self, tmp_path, encoding, text, suffix):
        data = (json.dumps({"text": text}) if "json" in suffix else text).encode(encoding)
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
        with pytest.raises(DataError, match=f"--encoding {encoding[:6]}") as error:
            TextReader(path)
        assert message(error).startswith(str(path))
        suggested = message(error).split("--encoding ")[1].split(",")[0]
        assert list(read_documents(path, read=ReadOptions(encoding=suggested))) == [text.encode()]

    @pytest.mark.parametrize(
        "encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "gb18030", "shift_jis", "utf-8-sig"]
    )
    def test_any_codec_is_read_in_blocks(self, tmp_path, encoding):
        text = ("wörd 文字 \ufffe\n" * 30_000).encode(encoding, "ignore").decode(encoding)
        path = tmp_path / "a.txt"
        path.write_bytes(text.encode(encoding))
        pieces = list(TextReader(path, encoding=encoding))
        assert b"".join(piece.data for piece in pieces) == text.encode()

    @pytest.mark.parametrize(
        ("encoding", "before", "broken"),
        [
            ("utf-16-le", 100_000, b"\x00\xdc"),
            ("utf-16", 100_001, b"\xd8"),
            ("ascii", 70_000, b"\xe9"),
            ("utf-8-sig", 65_535, b"\xff"),
            ("shift_jis", 65_536, b"\x85\xff"),
        ],
    )
    def test_bytes_that_are_not_of_the_encoding_are_named(self, tmp_path, encoding, before, broken):
        start = ("a" * (before // len("a".encode(encoding.removesuffix("-sig"))))).encode(encoding)
        path = tmp_path / "a.txt"
        path.write_bytes(start + broken + (b"" if encoding == "utf-16" else "b".encode(encoding)))
        with pytest.raises(DataError, match=f"is not {encoding} at byte {len(start)} ") as error:
            list(TextReader(path, encoding=encoding))
        message(error)

    def test_ascii_is_not_taken_for_utf16(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"plain ascii text of even length.")
        with pytest.raises(DataError, match="leave out --encoding"):
            TextReader(tmp_path / "a.txt", encoding="UTF_16")

    @pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl"])
    def test_a_byte_order_mark_is_no_text_and_told_of(self, tmp_path, suffix):
        data = b"\xef\xbb\xbf" + (b'{"text": "hello"}' if "json" in suffix else b"hello")
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
        reader = TextReader(path)
        assert list(reader.documents()) == [b"hello"]
        assert "byte order mark" in reader.notes[0]
        assert not reader.is_plain(path)

    def test_nuls_in_utf8_stay(self, tmp_path):
        data = b"".join(b"field %d\0" % i for i in range(5000))
        (tmp_path / "a.txt").write_bytes(data)
        assert list(read_documents(tmp_path)) == [data]


BINARY = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "jpeg": b"\xff\xd8\xff\xe0JFIF",
    "zip": b"PK\x03\x04" + b"x" * 100,
    "pdf": b"%PDF-1.7\nhello",
    "sqlite": b"SQLite format 3\x00",
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<u2'",
    "elf": b"\x7fELF\x02\x01",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\x00",
    "random": random.Random(0).randbytes(50_000),
    "zeros": bytes(1000),
}


class TestBinary:
    @pytest.mark.parametrize("data", BINARY.values(), ids=BINARY)
    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "-"])
    def test_binary_input_is_refused(self, tmp_path, monkeypatch, data, name):
        path = name
        if name == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        else:
            path = tmp_path / name
            path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        with pytest.raises(DataError, match="not text") as error:
            list(TextReader(path))
        assert message(error).startswith(str(path))

    def test_unless_it_is_called_text(self, tmp_path):
        (tmp_path / "a.bin").write_bytes(BINARY["random"])
        assert list(read_documents(tmp_path / "a.bin", read=ReadOptions(format="txt"))) == [BINARY["random"]]

    def test_latin_1_is_text(self, tmp_path):
        data = "ÄÖÜ äöü ß\r\n\f".encode("latin-1") * 500
        (tmp_path / "a.txt").write_bytes(data)
        assert list(read_documents(tmp_path)) == [data]


class TestLyingNames:
    @pytest.mark.parametrize("pack", [gzip.compress, zstd])
    @pytest.mark.parametrize(("name", "field"), [("a.txt", None), ("a.jsonl", "body")])
    def test_compressed_bytes_are_never_text(self, tmp_path, pack, name, field):
        path = tmp_path / name
        path.write_bytes(pack(LINES))
        reader = TextReader(path, field=field or "text", separator=None)
        assert list(reader.documents()) == ([row["body"].encode() for row in ROWS] if field else [LINES])
        assert "is compressed" in reader.notes[0]
        assert not reader.is_plain(path)

    def test_compressed_twice(self, tmp_path):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(gzip.compress(b"text")))
        with pytest.raises(DataError, match="compressed twice"):
            TextReader(tmp_path)

    def test_parquet_under_another_name(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(parquet(ROWS))
        with pytest.raises(DataError, match="is parquet data under another name"):
            TextReader(tmp_path)
        read = ReadOptions(format="parquet", field="body")
        assert list(read_documents(tmp_path / "a.jsonl", read=read)) == [row["body"].encode() for row in ROWS]

    @pytest.mark.parametrize("name", ["rows", "rows.log", "rows.txt"])
    def test_a_format_that_is_named_goes_before_the_suffix(self, tmp_path, name):
        (tmp_path / name).write_bytes(gzip.compress(LINES))
        read = ReadOptions(format="jsonl", field="body")
        assert list(read_documents(tmp_path / name, read=read)) == [row["body"].encode() for row in ROWS]


STREAMS = {
    "lines": (LINES, True),
    "lines after a blank line": (b"\n  \n" + LINES, True),
    "one line without a break": (LINES.splitlines()[1], True),
    "an array": (json.dumps(ROWS, indent=1).encode(), True),
    "a long first line": (json.dumps({"x": "y" * 200_000, "body": "one"}).encode() + b"\n", True),
    "a file of code": (b"{\n  int a;\n}\n", False),
    "a list in text": (b"[1] a reference\n", False),
    "a number": (b"12\n", False),
    "a first line of braces": (b"{hello} world\n", False),
    "text": (TEXT.encode(), False),
}


class TestStandardInput:
    @pytest.mark.parametrize(("data", "has_rows"), STREAMS.values(), ids=STREAMS)
    @pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
    def test_what_it_is(self, monkeypatch, data, has_rows, pack):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pack(data))))
        reader = TextReader("-", field="body")
        documents = list(reader.documents())
        if has_rows:
            assert documents[-1:] in ([b"two <|endoftext|>"], [b"one"])
            assert "--format txt" in reader.notes[0]
        else:
            assert documents == [data]
            assert reader.notes == []
        assert not reader.is_repeatable

    def test_parquet(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(parquet(ROWS))))
        assert list(TextReader("-", field="body").documents()) == [row["body"].encode() for row in ROWS]

    def test_the_format_can_be_said(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINES))))
        assert list(TextReader("-", format="txt", separator=None).documents()) == [LINES]

    def test_closed_or_read_before(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        with pytest.raises(DataError, match="standard input is closed"):
            list(TextReader("-"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
        reader = TextReader("-")
        assert list(reader.documents()) == [b"text"]
        with pytest.raises(DataError, match="is a stream"):
            list(reader)

    @pytest.mark.parametrize("name", ["pipe", "pipe.jsonl", "pipe.jsonl.gz"])
    def test_a_named_pipe_is_read_once_as_a_stream(self, tmp_path, name):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        data = gzip.compress(LINES) if name.endswith(".gz") else LINES
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        reader = TextReader(pipe, field="body")
        assert reader.bytes_total is None
        assert list(reader.documents()) == [row["body"].encode() for row in ROWS]
        writer.join()
        with pytest.raises(DataError, match="has been read"):
            list(reader)


class TestOptionsWithoutMeaning:
    @pytest.mark.parametrize("options", [{"field": "body"}, {"template": "{a}"}, {"on_bad_row": "skip"}])
    def test_for_plain_text(self, tmp_path, monkeypatch, options):
        (tmp_path / "a.txt").write_bytes(b"text")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
        flag = "--" + next(iter(options)).replace("_", "-")
        for inputs in (tmp_path, "-", [tmp_path, "-"]):
            with pytest.raises(DataError, match=f"{flag}.* does not apply"):
                list(TextReader(inputs, read=ReadOptions(**options)))

    def test_an_encoding_for_parquet(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(parquet(ROWS))
        with pytest.raises(DataError, match="--encoding does not apply"):
            TextReader(tmp_path, read=ReadOptions(encoding="utf-16"))

    def test_among_other_inputs_it_has_one(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"text")
        (tmp_path / "b.jsonl").write_bytes(LINES)
        documents = list(TextReader(tmp_path, read=ReadOptions(field="body")).documents())
        assert documents == [b"text", *(row["body"].encode() for row in ROWS)]


class TestChanges:
    @pytest.mark.parametrize("change", ["longer", "shorter", "other"])
    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
    def test_a_file_that_changes_while_it_is_read(self, tmp_path, change, name):
        path = tmp_path / name
        path.write_bytes(LINES * 50_000)
        pieces = iter(TextReader(path, field="body"))
        next(pieces)
        if change == "shorter":
            os.truncate(path, 1_000_000)
        else:
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END if change == "longer" else os.SEEK_SET)
                file.write(b" " if change == "other" else LINES)
        with pytest.raises(DataError, match=r"changed while it was read|is not JSON") as error:
            list(pieces)
        message(error)
