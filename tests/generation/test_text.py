"""Text as it comes: stop strings across tokens, and no half of one shown before."""

import codecs
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.generation.text import TextPieces


class Letters:
    """Each token is a piece of text."""

    vocab: ClassVar[dict[int, bytes]] = {}

    def __init__(self, tokens: list[bytes]):
        self.vocab = dict(enumerate(tokens))  # type: ignore[misc]


def shown(tokens: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    pieces = TextPieces(Letters(tokens), stop)  # type: ignore[arg-type]
    found = []
    for i in range(len(tokens)):
        found.append(pieces.push(i))
        if pieces.stopped:
            break
    found.append(pieces.finish())
    return found, pieces.stopped


def by_definition(tokens: list[bytes], stop: list[str]) -> tuple[str, bool]:
    """The text so far is searched anew after each token."""
    text = ""
    for n in range(len(tokens) + 1):
        text = codecs.getincrementaldecoder("utf-8")().decode(b"".join(tokens[:n]))
        places = [place for s in stop if (place := text.find(s)) >= 0]
        if places:
            return text[: min(places)], True
    return text, False


TEXTS, STOPS = st.text("ab\né", max_size=14), st.text("ab\né", min_size=1, max_size=4)


@given(text=TEXTS, sizes=st.lists(st.integers(1, 3), min_size=12), stop=st.lists(STOPS, max_size=3))
def test_the_text_ends_before_the_first_stop_string_wherever_tokens_are_cut(text, sizes, stop):
    data, tokens = text.encode(), []
    for size in sizes:
        tokens.append(data[:size])
        data = data[size:]
    tokens = [token for token in (*tokens, data) if token]
    found, stopped = shown(tokens, stop)
    assert ("".join(found), stopped) == by_definition(tokens, stop)


def test_no_half_of_a_stop_string_is_shown():
    found, stopped = shown([b"one ", b"<", b"en", b"d", b"> two"], ["<end>"])
    assert (found, stopped) == (["one ", "", "", "", "", ""], True)


def test_what_only_looked_like_a_stop_string_is_shown_as_soon_as_that_is_clear():
    found, stopped = shown([b"a<", b"e", b"x", b"<"], ["<end>"])
    assert (found, stopped) == (["a", "", "<ex", "", "<"], False)


@pytest.mark.parametrize("stop", [["bc", "abcd"], ["abcd", "bc"]])
def test_of_overlapping_stop_strings_the_one_that_begins_first_counts(stop):
    assert shown([b"xabcd"], stop) == (["x", ""], True)
