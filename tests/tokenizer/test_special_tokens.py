"""Which special tokens become ids, against tiktoken, whose rules these are but for the defaults."""

from itertools import chain, combinations

import pytest
import tiktoken

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import GPT2

NAMES = ["<|a|>", "<|b|>", "é\n"]
TEXTS = [
    "",
    "plain text",
    "<|a|>",
    "x<|a|> y<|b|>",
    "<|b|><|a|><|b|>é\n",
    "<|a<|a|>|> <|b|",
    "the é\n\n end é <|c|>",
]
BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.fixture(scope="module")
def tokenizer(small):
    return Tokenizer(dict(list(small.vocab.items())[:447]), small.merges, NAMES)


@pytest.fixture(scope="module")
def theirs(tokenizer):
    special_ids = {name: tokenizer.token_id(name) for name in NAMES}
    ranks = {token: token_id for token_id, token in tokenizer.vocab.items() if token_id not in special_ids.values()}
    return tiktoken.Encoding("t", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=special_ids)


SUBSETS = [set(some) for some in chain.from_iterable(combinations(NAMES, size) for size in range(len(NAMES) + 1))]


def in_order(choice: object) -> str:
    """A name that does not change from run to run, as the order of a set does."""
    return choice if isinstance(choice, str) else repr(sorted(choice))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("disallowed", ["all", *SUBSETS], ids=in_order)
@pytest.mark.parametrize("allowed", ["all", *SUBSETS], ids=in_order)
def test_every_choice_means_what_it_means_to_tiktoken(tokenizer, theirs, allowed, disallowed, text):
    options = {"allowed_special": allowed, "disallowed_special": disallowed}
    try:
        expected = theirs.encode(text, **options)
    except ValueError:
        for refuse in (tokenizer.encode, tokenizer.encode_to_numpy, tokenizer.count, tokenizer.encode_with_offsets):
            with pytest.raises(TokenizerError, match=r"has the special token .* which is disallowed"):
                refuse(text, **options)
        return
    assert tokenizer.encode(text, **options) == expected
    assert tokenizer.encode_to_numpy(text, **options).tolist() == expected
    assert tokenizer.encode_to_numpy(text.encode(), **options).tolist() == expected
    assert tokenizer.encode_batch([text], **options) == [expected]
    assert tokenizer.encode_batch_to_numpy([text], **options)[0].tolist() == expected
    assert tokenizer.encode_with_offsets(text, **options)[0].tolist() == expected
    assert tokenizer.count(text, **options) == len(expected)


@pytest.mark.parametrize("text", TEXTS)
def test_by_default_all_are_allowed_and_encode_ordinary_takes_none(tokenizer, theirs, text):
    assert tokenizer.encode(text) == theirs.encode(text, allowed_special="all")
    assert tokenizer.encode_ordinary(text) == theirs.encode_ordinary(text)
    assert tokenizer.encode(text, allowed_special="none") == theirs.encode_ordinary(text)
    assert tokenizer.encode(text, allowed_special=[]) == theirs.encode_ordinary(text)


def test_the_error_says_what_is_where_and_what_to_do(tokenizer):
    with pytest.raises(TokenizerError) as error:
        tokenizer.encode("né <|b|>", allowed_special={"<|a|>"}, disallowed_special="all")
    assert str(error.value) == (
        "the text has the special token '<|b|>' at byte 4, which is disallowed; remove it, or allow it in "
        "allowed_special, or leave it out of disallowed_special to encode it as text"
    )
    with pytest.raises(TokenizerError, match="text 2 of 3 has the special token '<|a|>' at byte 1".replace("|", r"\|")):
        tokenizer.encode_batch(["", "x", "x<|a|>"], allowed_special="none", disallowed_special="all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"allowed_special": {"<|c|>"}},
            "allowed_special: '<|c|>' is not a special token; this tokenizer has: '<|a|>'",
        ),
        ({"disallowed_special": ["\ud800"]}, "disallowed_special: '?' is not a special token"),
        (
            {"allowed_special": "<|a|>"},
            """allowed_special is '<|a|>'; expected "all", "none" or a collection: ['<|a|>']""",
        ),
        ({"disallowed_special": "any"}, "disallowed_special is 'any'; expected"),
        ({"allowed_special": [b"<|a|>"]}, "allowed_special has b'<|a|>' of type bytes; special tokens are str"),
        ({"allowed_special": None}, "allowed_special is None; expected"),
        ({"disallowed_special": 5}, "disallowed_special is 5; expected"),
    ],
)
def test_choices_that_mean_nothing_are_refused(tokenizer, options, message):
    with pytest.raises(TokenizerError) as error:
        tokenizer.encode("text", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_more_choices_than_are_remembered_still_hold():
    names = [f"<{i}>" for i in range(9)]
    tokenizer = Tokenizer(BYTES, [], names)
    text = "".join(names)
    for chosen in range(1 << len(names)):
        allowed = {name for i, name in enumerate(names) if chosen >> i & 1}
        ids = tokenizer.encode(text, allowed_special=allowed)
        assert {tokenizer.vocab[i].decode() for i in ids if i > 255} == allowed


def test_special_tokens_that_overlap_and_some_of_which_are_text():
    tokenizer = Tokenizer(BYTES, [], ["<|a|>", "<|a|><|b|>"])
    single, double = 256, 257
    assert tokenizer.encode("<|a|><|b|>") == [double]
    assert tokenizer.encode("<|a|><|b|>", allowed_special={"<|a|>"}) == [single, *b"<|b|>"]
    assert tokenizer.encode("<|a|><|b|>", allowed_special={"<|a|><|b|>"}) == [double]
    assert tokenizer.encode("<|a|><|b|", allowed_special={"<|a|><|b|>"}) == [*b"<|a|><|b|"]
    with pytest.raises(TokenizerError, match="disallowed"):
        tokenizer.encode("<|a|><|b|>", allowed_special={"<|a|><|b|>"}, disallowed_special={"<|a|>"})


def test_a_special_token_is_no_whole_pretoken():
    """With ignore_merges as without, what is not allowed is text."""
    tokenizer = Tokenizer(BYTES | {256: b"abc"}, [], ["xyz"], ignore_merges=True)
    assert tokenizer.encode("abc xyz", allowed_special="none") == [256, *b" xyz"]
    assert tokenizer.encode_ordinary("xyz") == [*b"xyz"]


def test_special_tokens_as_they_should_not_be_given():
    for given, message in (
        ({"<x>": 300}, "special_tokens is a mapping"),
        ("<x>", r"is the string '<x>'; give a list"),
        (5, "special_tokens is 5; give a list"),
        ([5], "special token 5 is of type int"),
        (["\ud800"], "has a lone surrogate"),
    ):
        with pytest.raises(TokenizerError, match=message):
            Tokenizer(BYTES, [], given)
    with pytest.raises(TokenizerError, match="special tokens would get ids up to 16777216"):
        Tokenizer(BYTES | {(1 << 24) - 1: b"ab"}, [], ["<x>"])
