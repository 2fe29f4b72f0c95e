"""A pattern of one's own goes to Hugging Face's engine only where it splits as `regex` does."""

import warnings

import pytest
import regex
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from groundup.tokenizer.formats.regex_dialects import difference

PARTS = [
    *r"\p{L} \p{N} \P{L} \p{^L} \p{Lu} \s \S \d \D \n \. \- \[ \/ \x41 \u0301".split(),
    *"ab' 1[]^$*+?(){}|.\\-&,~#é",
    *["[^", "{1,3}", "{2}", "{1,}", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "&&", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"],
]
TEXT = st.text(st.sampled_from("ab1 'SsTrevmld\n\r\t\x85\u3000é\u0301ſ½.-[]{}&|~^$/#\\🐈"), min_size=1, max_size=15)


def pieces(expression, text):
    """The matches, and what lies between them."""
    found, end = [], 0
    for match in expression.finditer(text):
        found += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*found, text[end:]] if piece]


@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), text=TEXT)
def test_what_is_said_to_be_the_same_splits_the_same(parts, text):
    expression = "".join(parts)
    assume(difference(expression) is None)
    try:
        with warnings.catch_warnings(action="ignore"):
            ours = regex.compile(expression)
        theirs = pre_tokenizers.Split(Regex(expression), "isolated")
    except Exception:  # an expression for one of the two only is an error there, not another split
        assume(False)
    assert [piece for piece, _ in theirs.pre_tokenize_str(text)] == pieces(ours, text)


@pytest.mark.parametrize(
    ("expression", "other"),
    [
        (r"\p{N}{1,3}+|\s", r"{1,3}+|\s"),
        (r"a{2}?", "{2}?"),
        (r"\s+$|.", "$|."),
        (r"^a", "^a"),
        (r"[[ab]c]", "[[ab]c]"),
        (r"[a&&b]", "[a&&b]"),
        (r"\w+", r"\w+"),
        (r"(?i:ss)", "(?i:ss)"),
        (r"a\Z", r"\Z"),
        (r"[\x80-\xff]", r"[\x80-\xff]"),
        (r"\p{Extended_Pictographic}", r"\p{Extended_Pictographic}"),
        (r"[\p{ExtPict}]", r"[\p{ExtPict}]"),
        (r"a\P{diacritic}", r"\P{diacritic}"),
        (r"\p{^PosixPunct}", r"\p{^PosixPunct}"),
        (r"\p{posix_punct}", r"\p{posix_punct}"),
        (r"(?:a|b?)", "a match of no characters"),
        (r"(?=a)|b{0,2}", "a match of no characters"),
        (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|(?:a|b)?.", None),
    ],
)
def test_what_may_differ_is_named(expression, other):
    assert difference(expression) == other
