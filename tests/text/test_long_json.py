"""Long rows of JSON against ``json``, whose blocks are made so short here that every construct meets a border."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from groundup.text import json_rows, long_json
from groundup.text.json_rows import BrokenArray, JsonText, array_elements
from groundup.text.long_json import read_long_row
from groundup.text.options import ReadOptions, utf8
from groundup.text.rows import BadRow, text_blocks

# Characters of one to four bytes, what JSON escapes, and halves of surrogate pairs.
characters = st.sampled_from([*'ab"\\/\b\n\t{}[]:,é文\x7f🌟\ud83d\udf1f\udc00', "u0041", "\\u", "  "])
strings = st.lists(characters, max_size=12).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 10**20) | st.floats() | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings | st.sampled_from(["text", "meta"]), inner),
    max_leaves=8,
)
rows = st.builds(
    lambda text, more, first: {"text": text} | more if first else more | {"text": text},
    strings,
    st.dictionaries(strings, values, max_size=4),
    st.booleans(),
)


@pytest.fixture(autouse=True, scope="module")
def short_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_BLOCK_BYTES", 7)
        yield


def long_text(row: bytes, field: str = "text") -> bytes:
    return b"".join(text_blocks(read_long_row(bytearray(row), [field]), [field]))


def is_json(row: bytes) -> bool:
    try:
        json.loads(row.decode())
    except ValueError:
        return False
    return True


@given(row=rows, escaped=st.booleans(), space=st.sampled_from(["", " ", "\r\n\t "]))
def test_the_text_is_that_of_json(row, escaped, space):
    # A lone surrogate can only be written as an escape.
    escaped = escaped or any("\ud800" <= character <= "\udfff" for character in json.dumps(row, ensure_ascii=False))
    data = json.dumps(row, ensure_ascii=escaped, separators=(f"{space},{space}", f"{space}:{space}")).encode()
    assert long_text(space.encode() + data + space.encode()) == utf8(json.loads(data)["text"])


@given(
    row=rows,
    position=st.integers(0, 200),
    byte=st.sampled_from(list(b'"\\,:{}[]u0dD\x00\x1f\n\xff\xc3-.e ')),
    cut=st.booleans(),
)
@example(row={"text": "a"}, position=2, byte=ord("\\"), cut=False)
def test_what_is_json_and_what_is_not_is_as_in_json(row, position, byte, cut):
    data = bytearray(json.dumps(row).encode())
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] = byte
    data = bytes(data).strip()
    if is_json(data):
        parsed = json.loads(data, object_pairs_hook=list)
        if isinstance(parsed, list) and sum(key == "text" for key, _ in parsed) == 1:
            text = dict(parsed)["text"]
            if isinstance(text, str):
                assert long_text(data) == utf8(text)
    else:
        with pytest.raises((BadRow, RecursionError)):
            long_text(data)


@pytest.mark.parametrize("number", ["0", "-0.5e-7", "1E+400", "1" * 5000, "NaN", "-Infinity", "true", "null"])
def test_numbers_are_passed_over_whatever_they_are(number):
    assert long_text(f'{{"n": {number}, "a": [{number}, {number}], "text": "x"}}'.encode()) == b"x"


@pytest.mark.parametrize(
    "row", ["01", "+1", "1.", ".5", "nul", "[1,]", '{"a":1,}', '{"a" 1}', "[1 2]", '"a', "{}x", ""]
)
def test_broken_rows(row):
    assert not is_json(row.encode())
    with pytest.raises(BadRow, match="is not JSON"):
        read_long_row(bytearray(row.encode()), ["text"])


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(
    ("row", "field", "found"),
    [
        ('{"meta": {"text": "inner"}}', "meta.text", "inner"),
        ('{"meta": {"text": "inner"}, "meta.text": "literal"}', "meta.text", "literal"),
        ('{"a": {"b.c": "1", "b": {"c": "2"}}}', "a.b.c", "1"),
        ('{"a.b": {"c": "1"}, "a": {"b": {"c": "2"}}}', "a.b.c", "1"),
        ('{"a.b": 5, "a": {"b": {"c": "2"}}}', "a.b.c", "2"),
        ('{"other": {"text": "no", "text": "no"}, "text": "yes"}', "text", "yes"),
        ('{"text": {"text": "no"}, "x": "yes"}', "x", "yes"),
        ('{"t\\u0065xt": "yes"}', "text", "yes"),
        ('{"text": "a", "text": "b"}', "text", None),
        ('{"text": "a", "t\\u0065xt": "b"}', "text", None),
        ('{"meta": {"text": "a", "text": "b"}}', "meta.text", None),
        ('{"meta": {"text": "a"}, "meta": {"text": "b"}}', "meta.text", None),
        ('{"meta": "text"}', "meta.text", None),
        ('{"text": ["a"]}', "text", None),
    ],
)
def test_which_field_is_meant(monkeypatch, is_long, row, field, found):
    monkeypatch.setattr(json_rows, "LONG_ROW", 1 if is_long else 1 << 20)
    read = JsonText(ReadOptions(field=field)).blocks
    if found is None:
        with pytest.raises(BadRow):
            read(bytearray(row.encode()))
    else:
        assert b"".join(read(bytearray(row.encode()))) == found.encode()


class Blocks:
    """A stream that gives a few bytes at a time, whatever is asked for."""

    def __init__(self, data: bytes, size: int):
        self.parts = [data[begin : begin + size] for begin in range(0, len(data), size)]

    def read(self, size: int) -> bytes:
        return self.parts.pop(0) if self.parts else b""


@given(
    elements=st.lists(values, max_size=5),
    size=st.integers(1, 40),
    long_row=st.integers(1, 60),
    space=st.sampled_from(["", " ", "\n"]),
)
def test_elements_of_an_array(elements, size, long_row, space):
    data = (space + "[" + f"{space},{space}".join(map(json.dumps, elements)) + space + "]" + space).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "LONG_ROW", long_row)
        if not data[:size].strip():
            size += 1  # the reader hands over only arrays, whose bracket is in the first block
        found = [bytes(element).decode().strip() for element in array_elements(Blocks(data, size))]
    assert found == list(map(json.dumps, elements))


@pytest.mark.parametrize("data", ["[1", '["a', "[1]x", "[{]", "[1,2}", '[{"a":[1}]', "["])
@pytest.mark.parametrize("size", [1, 100])
def test_broken_arrays(data, size):
    with pytest.raises(BrokenArray):
        list(array_elements(Blocks(data.encode(), size)))
