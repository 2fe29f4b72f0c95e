import io
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.errors import DataError
from groundup.text import parquet_rows
from groundup.text.readers import ReadOptions, TextReader, read_documents

pyarrow = pytest.importorskip("pyarrow")
write_table = pytest.importorskip("pyarrow.parquet").write_table


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def table(path: Path, columns: dict[str, object], **options) -> Path:
    write_table(pyarrow.table(columns), path, **options)
    return path


def test_two_columns_of_one_name(tmp_path):
    names = ["text", "id", "text", "body", "id"]
    columns = [pyarrow.array([f"{name}{i}"]) for i, name in enumerate(names)]
    write_table(pyarrow.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'text' 2 times, as columns 1 and 3") as error:
        list(TextReader(tmp_path))
    message(error)
    assert list(read_documents(tmp_path, field="body")) == [b"body3"]


def test_null_rows_are_errors_or_counted(tmp_path):
    table(tmp_path / "a.parquet", {"text": ["a", None, "", None], "title": [None, "t", "t", "t"]})
    with pytest.raises(DataError, match="row 2: the column 'text' is null") as error:
        list(TextReader(tmp_path))
    message(error)
    reader = TextReader(tmp_path, on_bad_row="skip")
    assert list(reader.documents()) == [b"a", b""]
    assert [row.place for row in reader.skipped_rows.first] == ["row 2", "row 4"]
    reader = TextReader(tmp_path, template=r"{title}:\n{text}", on_bad_row="skip")
    assert list(reader.documents()) == [b"t:\n"]
    assert reader.skipped_rows.count == 3


def test_fields_of_structs(tmp_path):
    meta = pyarrow.array(
        [{"text": "a", "more": {"x": "1"}}, None, {"text": None, "more": None}, {"text": "d", "more": {"x": "4"}}]
    )
    table(tmp_path / "a.parquet", {"id": [1, 2, 3, 4], "meta": meta})
    reader = TextReader(tmp_path, read=ReadOptions(field="meta.text", on_bad_row="skip"))
    assert list(reader.documents()) == [b"a", b"d"]
    assert [row.place for row in reader.skipped_rows.first] == ["row 2", "row 3"]
    reader = TextReader(tmp_path, read=ReadOptions(template="{meta.text}{meta.more.x}", on_bad_row="skip"))
    assert list(reader.documents()) == [b"a1", b"d4"]
    with pytest.raises(DataError, match="holds struct"):
        list(read_documents(tmp_path, field="meta"))
    with pytest.raises(DataError, match=r"no column 'meta\.body'; it has 'id', 'meta'"):
        list(read_documents(tmp_path, field="meta.body"))


def test_a_column_whose_name_has_the_dot_goes_first(tmp_path):
    table(tmp_path / "a.parquet", {"meta": pyarrow.array([{"text": "inner"}]), "meta.text": ["literal"]})
    assert list(read_documents(tmp_path, field="meta.text")) == [b"literal"]


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        *([pyarrow.string_view(), pyarrow.binary_view()] if hasattr(pyarrow, "string_view") else []),
    ],
    ids=str,
)
@pytest.mark.parametrize("long_batch", [1, 1 << 30])
def test_every_type_of_text_in_blocks_or_whole(tmp_path, monkeypatch, kind, long_batch):
    monkeypatch.setattr(parquet_rows, "_LONG_BATCH_BYTES", long_batch)
    monkeypatch.setattr(parquet_rows, "_BLOCK_BYTES", 7)
    words = ["one", "", "three is longer than a block 文字"] * 500
    table(tmp_path / "a.parquet", {"text": pyarrow.array(words).cast(kind)}, row_group_size=100)
    assert list(read_documents(tmp_path)) == [word.encode() for word in words]


def test_values_of_a_fixed_size_are_text(tmp_path):
    table(tmp_path / "a.parquet", {"text": pyarrow.array([b"abc", b"def"], pyarrow.binary(3))})
    assert list(read_documents(tmp_path)) == [b"abc", b"def"]


def test_any_damage_is_one_line(tmp_path):
    """Whatever byte is wrong: the text, or a DataError."""
    file = io.BytesIO()
    write_table(pyarrow.table({"text": ["some text", "more text"] * 5}), file, compression="none")
    data, path = file.getvalue(), tmp_path / "a.parquet"
    errors = []
    for position in range(4, len(data), 13):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            list(read_documents(path))
        except DataError as error:
            errors.append(str(error))
    assert errors
    assert not [error for error in errors if "\n" in error or str(path) not in error]


@pytest.mark.long
@pytest.mark.parametrize("group_rows", [1000, 1 << 30])
def test_memory_does_not_grow_with_the_file(tmp_path, group_rows):
    """Peak memory of reading 25 MB and 250 MB of text; the whole process stays below 300 MB."""
    script = (
        "import sys; from groundup.text.readers import TextReader\n"
        "size = sum(len(piece.data) for piece in TextReader(sys.argv[1]))\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(size, int(status['VmHWM'].split()[0]) * 1024)"
    )
    peaks = []
    for megabytes in (25, 250):
        texts = [f"{i} " + f"word{i * 7919} " * 500 for i in range(megabytes * 160)]
        path = table(tmp_path / "a.parquet", {"text": texts}, row_group_size=group_rows)
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        size, peak = map(int, done.stdout.split())
        assert size == sum(map(len, texts))
        peaks.append(peak)
    assert peaks[1] < 300e6
    assert peaks[1] - peaks[0] < 50e6
