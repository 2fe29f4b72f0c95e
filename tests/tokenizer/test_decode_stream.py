"""Ids to text: all at once, many, and as they come."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer

TOKENS = {byte: bytes([byte]) for byte in range(256)} | {
    300: "é".encode(),
    301: "東京".encode(),
    302: "東京".encode()[:4],
    303: b"\x90\x88",
    304: b"\xf0\x9f",
    305: b" the",
    306: b"\xff\xfe",
    307: b"a\xe2\x82",
}
tokenizer = Tokenizer(TOKENS, [], ["<|end|>"])
known_ids = st.sampled_from([*range(0x7E, 0x100), *range(300, 309)]) | st.integers(0, 255)


@given(groups=st.lists(known_ids | st.lists(known_ids, max_size=4), max_size=30))
def test_what_a_stream_shows_is_the_text_and_no_half_character(groups):
    stream = tokenizer.decode_stream()
    shown, fed = "", []
    for group in groups:
        shown += stream.feed(group)
        fed += group if isinstance(group, list) else [group]
        whole = tokenizer.decode(fed)
        # All that is shown stays; what is held back is at most one character that is not complete.
        assert whole.startswith(shown)
        held = tokenizer.decode_bytes(fed)[len(shown.encode()) :] if "\ufffd" not in shown else b""
        assert len(held) < 4
        assert len(whole) - len(shown) <= 1
    assert shown + stream.finish() == tokenizer.decode(fed)
    assert stream.feed([300]) == "é"  # ready for another text


def test_a_character_is_shown_with_its_last_byte():
    stream = tokenizer.decode_stream()
    assert [stream.feed(i) for i in "aé🐈".encode()] == ["a", "", "é", "", "", "", "🐈"]
    assert stream.feed(304) == ""
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


@pytest.mark.parametrize("unknown", [299, -1, 10**30, 5.0, "a", None, True, [97, 299], [300, 1.5]])
def test_what_cannot_be_fed_leaves_the_stream_as_it_was(unknown):
    stream = tokenizer.decode_stream()
    assert stream.feed(304) == ""
    with pytest.raises(TokenizerError):
        stream.feed(unknown)
    assert stream.feed(303) == "🐈"


@pytest.mark.parametrize(
    "one",
    [
        300,
        np.int64(300),
        np.uint16(300),
        np.array(300),
        torch.tensor(300),
        np.array([300]),
        torch.tensor([300]),
        (300,),
    ],
    ids=lambda one: f"{type(one).__name__} {getattr(one, 'shape', '')}",
)
def test_one_id_in_every_form(one):
    stream = tokenizer.decode_stream()
    assert stream.feed(one) == "é"


@pytest.mark.parametrize(
    "ids",
    [
        [np.int64(300), 97],
        [torch.tensor(300), torch.tensor(97)],
        np.array([300, 97], np.uint32),
        torch.tensor([300, 97]),
        iter([300, 97]),
        {300: None, 97: None},
        range(300, 96, -203),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_sequences_of_every_kind(ids):
    assert tokenizer.decode(ids) == "éa"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (5, "ids are 5 of type int; give a sequence of integers"),
        (np.int64(5), "give a sequence of integers"),
        (torch.tensor(5), "give a sequence of integers"),
        (None, "ids are None of type NoneType"),
        ("97", "ids are a str; give a sequence of integers"),
        (b"97", "ids are a bytes; give a sequence of integers"),
        ([97.0], "id 97.0 is of type float; ids are integers"),
        ([97, True], "id True is of type bool; ids are integers"),
        (["97"], "id '97' is of type str; ids are integers"),
        ([None], "id None is of type NoneType; ids are integers"),
        (np.array([97.0]), "id 97.0 is of type float"),
        (np.array([True]), "id True is of type bool"),
        ([np.float32(97)], "ids are integers"),
        ([np.bool_(True)], "ids are integers"),
        ([torch.tensor(97.0)], "ids are integers"),
        ([torch.tensor(True)], "ids are integers"),
        ([[97]], "ids have more than one dimension"),
        (np.zeros((2, 2), dtype=int), "ids have more than one dimension"),
        ([torch.tensor([97])], "ids have more than one dimension"),
        ([97, 299], "id 299 is not in the vocabulary, which has 265 tokens and largest id 308; use the tokenizer"),
        ([-1], "id -1 is not in the vocabulary"),
        ([2**64], "id 18446744073709551616 is not in the vocabulary"),
    ],
)
def test_what_are_no_ids_is_explained(ids, message):
    for decode in (tokenizer.decode, tokenizer.decode_bytes, lambda ids: tokenizer.decode_batch([[97], ids])):
        with pytest.raises(TokenizerError) as error:
            decode(ids)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_nothing_decodes_to_nothing():
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.array([], np.uint32)) == ""
    assert tokenizer.decode_batch([]) == []
    assert tokenizer.decode_stream().feed([]) == ""


def test_errors_are_those_of_bytes_decode():
    ids = [97, 0xE2, 0x82, 300, 0xFF, 308]
    data = tokenizer.decode_bytes(ids)
    assert data == b"a\xe2\x82\xc3\xa9\xff<|end|>"
    for errors in ("replace", "ignore", "backslashreplace", "surrogateescape"):
        assert tokenizer.decode(ids, errors) == data.decode("utf-8", errors)
        assert tokenizer.decode_batch([ids, [97]], errors=errors) == [data.decode("utf-8", errors), "a"]
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids, errors="strict")
    with pytest.raises(TokenizerError, match="errors is 'forgive'"):
        tokenizer.decode(ids, errors="forgive")
