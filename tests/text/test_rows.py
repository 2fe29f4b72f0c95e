import gzip
import json
import tracemalloc

import pytest

from groundup.errors import DataError
from groundup.text.readers import ReadOptions, TextReader, read_documents
from groundup.tokenizer import Tokenizer


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def write(path, *lines: str, end: str = "\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


ODD_LINES = {
    "not JSON": '{"text": "a"',
    "not an object": "3.5",
    "a bare string": '"a"',
    "no such field": '{"txt": "a"}',
    "null": '{"text": null}',
    "a list": '{"text": ["a"]}',
    "nested too deeply": '{"text": ' + "[" * 10_000,
    "the field twice": '{"text": "a", "text": "b"}',
    "the field twice, once in escapes": '{"text": "a", "\\u0074ext": "b"}',
}


class TestOddRows:
    def test_integers_of_any_length_are_passed_over(self, tmp_path):
        digits = "1" * 5000
        path = write(tmp_path / "a.jsonl", f'{{"text":"alpha","id":{digits}}}', f'{{"id":-{digits},"text":"beta"}}')
        assert list(read_documents(path)) == [b"alpha", b"beta"]

    @pytest.mark.parametrize("other", ['"a": NaN', '"a": -Infinity', '"a": 1e999', '"id": 1, "id": 2'])
    def test_what_other_fields_hold_does_not_matter(self, tmp_path, other):
        path = write(tmp_path / "a.jsonl", f'{{{other}, "text": "x"}}')
        assert list(read_documents(path)) == [b"x"]

    @pytest.mark.parametrize("line", ODD_LINES.values(), ids=ODD_LINES)
    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".ndjson"])
    def test_a_bad_row_is_an_error_or_counted(self, tmp_path, line, suffix):
        path = tmp_path / f"a{suffix}"
        data = f'{{"text": "first"}}\n{line}\n\n{{"text": "last"}}\n'.encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
        with pytest.raises(DataError) as error:
            list(read_documents(path))
        assert message(error).startswith(f"{path}, line 2")
        reader = TextReader(path, on_bad_row="skip")
        assert list(reader.documents()) == [b"first", b"last"]
        assert reader.skipped_rows.count == 1
        (row,) = reader.skipped_rows.first
        assert (row.path, row.place) == (path, "line 2")
        assert row.reason in message(error)

    def test_bytes_that_are_not_utf8(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "\xff"}\n{"text": "x"}\n')
        assert list(TextReader(path, on_bad_row="skip").documents()) == [b"x"]

    def test_only_bad_rows_are_no_text(self, tmp_path):
        path = write(tmp_path / "a.jsonl", *["[]", "{}", "7"] * 4)
        reader = TextReader(path, on_bad_row="skip")
        with pytest.raises(DataError, match=r"no text.*12 rows were skipped") as error:
            list(reader)
        message(error)
        assert reader.skipped_rows.count == 12
        assert len(reader.skipped_rows.first) < 12

    def test_every_pass_counts_again(self, tmp_path):
        reader = TextReader(write(tmp_path / "a.jsonl", "{}", '{"text": "x"}'), on_bad_row="skip")
        assert [list(reader.documents()), list(reader.documents())] == [[b"x"], [b"x"]]
        assert reader.skipped_rows.count == 1


class TestArrays:
    ROWS = ({"text": "one]"}, {"text": 'two, "three"\n', "more": [[1], {"a": "]"}]}, {"text": "é"})

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.json.gz"])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_a_file_that_is_one_array(self, tmp_path, name, indent):
        data = b"\xef\xbb\xbf \n" + json.dumps(self.ROWS, indent=indent).encode() + b"\n"
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        reader = TextReader(tmp_path / name)
        assert list(reader.documents()) == [row["text"].encode() for row in self.ROWS]

    def test_elements_can_be_bad_rows(self, tmp_path):
        path = write(tmp_path / "a.json", '[{"text": "a"}, 7, {"text": nul}, {"text": "b"}, "c"]')
        reader = TextReader(path, on_bad_row="skip")
        assert list(reader.documents()) == [b"a", b"b"]
        assert [row.place for row in reader.skipped_rows.first] == ["element 2", "element 3", "element 5"]

    @pytest.mark.parametrize("data", ['[{"text": "a"}', '[{"text": "a"}] x', '[{"text": "a"]}'])
    def test_a_broken_array_is_an_error_even_where_rows_are_skipped(self, tmp_path, data):
        path = write(tmp_path / "a.json", data)
        with pytest.raises(DataError) as error:
            list(TextReader(path, on_bad_row="skip"))
        assert message(error).startswith(str(path))

    def test_lines_under_the_name_json(self, tmp_path):
        assert list(read_documents(write(tmp_path / "a.json", '{"text": "a"}', '{"text": "b"}'))) == [b"a", b"b"]


class TestFieldsAndTemplates:
    def test_a_template_joins_fields(self, tmp_path):
        path = write(tmp_path / "a.jsonl", '{"title": "T", "meta": {"body": "B\\ud83d"}}', '{"title": "T"}')
        reader = TextReader(path, template=r"# {title}\n\n{{{meta.body}}}\\n\t{title}", on_bad_row="skip")
        assert list(reader.documents()) == ["# T\n\n{B\ufffd}\\n\tT".encode()]
        assert "meta.body" in reader.skipped_rows.first[0].reason

    @pytest.mark.parametrize(
        "options",
        [
            {"template": "no field"},
            {"template": "{"},
            {"template": "{a}}"},
            {"template": "{}"},
            {"template": "{a}", "field": "b"},
            {"field": ""},
            {"format": "csv"},
            {"on_bad_row": "ignore"},
            {"encoding": "utf-99"},
            {"encoding": "base64"},
            {"encoding": "a\0b"},
        ],
    )
    def test_impossible_options(self, options):
        with pytest.raises(DataError) as error:
            ReadOptions(**options)
        message(error)

    def test_a_field_given_twice(self, tmp_path):
        path = write(tmp_path / "a.jsonl", '{"body": "B"}')
        assert list(read_documents(path, field="body", read=ReadOptions(field="body"))) == [b"B"]
        with pytest.raises(DataError, match="two fields are given"):
            read_documents(path, field="body", read=ReadOptions(field="other"))

    def test_the_record_has_what_is_not_the_default(self):
        assert ReadOptions(field="body").record() == {}
        assert ReadOptions(template="{a}", on_bad_row="skip").record() == {"template": "{a}", "on_bad_row": "skip"}


class TestLongRows:
    SIZE = 9_000_000

    @pytest.fixture(params=["line", "escaped line", "array"])
    def long_row(self, request, tmp_path):
        """A row of 9 MB, and what is in it."""
        text = 'words of two scripts: 文字 "é"\n' * (self.SIZE // 40)
        row = json.dumps({"id": 1, "text": text, "more": [1, 2]}, ensure_ascii="escaped" in request.param)
        path = tmp_path / ("a.json" if request.param == "array" else "a.jsonl")
        path.write_text(f"[{row}]" if request.param == "array" else row + "\n", encoding="utf-8")
        return path, text.encode()

    def test_a_row_takes_at_most_three_times_its_size(self, long_row):
        path, text = long_row
        position = 0
        reader = TextReader(path)
        tracemalloc.start()
        try:
            for data, ends_document in reader:
                assert text.startswith(data, position)
                position += len(data)
                assert ends_document == (position == len(text))
                assert len(data) < 2 << 20
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert position == len(text)
        assert peak < 3 * path.stat().st_size

    def test_a_bad_long_row_gives_nothing_away(self, tmp_path):
        good = json.dumps({"text": "x" * self.SIZE})
        path = write(tmp_path / "a.jsonl", good[:-1], good, good.replace("x", "\\q", 1))
        reader = TextReader(path, on_bad_row="skip")
        assert [len(document) for document in reader.documents()] == [self.SIZE]
        assert [row.place for row in reader.skipped_rows.first] == ["line 1", "line 3"]
        with pytest.raises(DataError, match="line 1 is not JSON") as error:
            list(TextReader(path))
        message(error)


def test_a_lone_surrogate_means_the_same_everywhere(tmp_path, gpt2_files):
    tokenizer = Tokenizer.load(gpt2_files[0].parent)
    text = "x\ud83dy"
    expected = tokenizer.encode(text)
    assert expected == [87, 4210, 88]  # as tiktoken
    path = write(tmp_path / "a.jsonl", json.dumps({"text": text}))
    for read in (ReadOptions(), ReadOptions(template="{text}")):
        assert [ids.tolist() for ids in tokenizer.encode_files(path, read=read)] == [expected]
    assert list(tokenizer.encode_iterable(["x\ud83d", "y"])) == expected
