"""Mistral's tekken.json, against the tiktoken core, which mistral-common encodes with."""

import base64
import copy
import json
import random

import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer, reference
from groundup.tokenizer.patterns import PATTERNS

WORDS = [
    "The cat",
    " didn't",
    " IT'S",
    "HelloWorld",
    " 1984",
    "東京の猫",
    "\n\n",
    "  ",
    "\t",
    "a/b//\n",
    "naïve",
    "aaaa",
    "=",
]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "[INST]"]
SPECIAL_COUNT = 7
PATTERN = PATTERNS["tekken"]
UNREACHED = "zebra"


def made_ranks():
    """Bytes and merges in order of rank, and last a token that merges do not make."""
    documents = ["".join(random.Random(i).choices(WORDS, k=20)).encode() for i in range(8)]
    vocab, _ = reference.train_bpe(documents, 340, [], PATTERN)
    return [*(bytes([byte]) for byte in range(256)), *(vocab[i] for i in range(256, 340)), UNREACHED.encode()]


RANKS = made_ranks()


def made_file():
    """Two entries more than the vocabulary takes."""
    tokens = [*RANKS, b"beyond", b"the end"]
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(RANKS) + SPECIAL_COUNT,
            "default_num_special_tokens": SPECIAL_COUNT,
            "version": "v13",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(SPECIAL_TOKENS)
        ],
    }


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "any-name.json"
    path.write_text(json.dumps(made_file()))
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def theirs():
    ranks = {token: rank for rank, token in enumerate(RANKS)}
    return tiktoken.Encoding("made", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


@given(text=st.lists(st.sampled_from([*WORDS, *SPECIAL_TOKENS, UNREACHED]) | st.characters(), max_size=20).map("".join))
def test_ids_are_those_of_tiktoken_behind_the_special_ones(ours, theirs, text):
    expected = [rank + SPECIAL_COUNT for rank in theirs.encode_ordinary(text)]
    assert ours.encode_ordinary(text) == expected
    assert ours.decode_bytes(expected) == theirs.decode_bytes([token_id - SPECIAL_COUNT for token_id in expected])


def test_special_tokens_come_first_and_are_filled_up(ours):
    assert ours.special_tokens == [*SPECIAL_TOKENS, "<SPECIAL_4>", "<SPECIAL_5>", "<SPECIAL_6>"]
    assert [ours.token_id(name) for name in ours.special_tokens] == list(range(SPECIAL_COUNT))
    assert ours.encode("[INST]a</s>") == [3, SPECIAL_COUNT + ord("a"), 2]
    assert ours.vocab_size == len(RANKS) + SPECIAL_COUNT
    assert ours.pattern == "tekken"


def test_a_token_that_merges_do_not_make_is_found_whole(ours):
    assert ours.encode(UNREACHED) == [len(RANKS) - 1 + SPECIAL_COUNT]


def test_early_files_need_not_list_special_tokens(tmp_path):
    file = made_file()
    del file["special_tokens"]
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match="has no special_tokens, and its version is 'v13'"):
        Tokenizer.load(tmp_path / "tekken.json")
    file["config"] |= {"version": "v3", "default_num_special_tokens": 1000, "default_vocab_size": 1000 + len(RANKS)}
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    early = Tokenizer.load(tmp_path / "tekken.json")
    assert [early.token_id(name) for name in ("<unk>", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_999>")] == [
        0,
        19,
        20,
        999,
    ]


def test_other_formats_keep_the_ids(ours, tmp_path):
    ours.save(tmp_path / "folder")
    ours.save(tmp_path / "one.json")
    ours.save_hugging_face(tmp_path / "hf" / "tokenizer.json")
    for path in ("folder", "one.json", "hf"):
        assert Tokenizer.load(tmp_path / path).sha256 == ours.sha256
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    for seed in range(10):
        text = "".join(random.Random(seed).choices([*WORDS, *SPECIAL_TOKENS, UNREACHED], k=20))
        assert written.encode(text).ids == ours.encode(text)
    ours.save_tiktoken(tmp_path / "x.tiktoken")
    specials = {name: ours.token_id(name) for name in ours.special_tokens}
    ranks = Tokenizer.load(tmp_path / "x.tiktoken", pattern="tekken", special_tokens=specials)
    assert ranks.encode(text) == ours.encode(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["config", "pattern"], r"\w+|\W", "its pattern is"),
        (["config", "pattern"], [], "its pattern is"),
        (["config", "default_vocab_size"], 10_000, "expected at least the 256 bytes, and an entry for each token"),
        (["config", "default_vocab_size"], 100, "expected at least the 256 bytes"),
        (["config", "default_num_special_tokens"], True, "expected a number of tokens"),
        (["special_tokens"], [{}] * 8, "expected a JSON array of at most 7"),
        (["vocab", 300, "rank"], 301, "entry 300 of vocab"),
        (["vocab", 300, "token_bytes"], "%", "entry 300 of vocab"),
        (["vocab", 7, "token_bytes"], "AA==", "entry 7 of vocab"),
        (["vocab", 300], "x", "entry 300 of vocab"),
        (["vocab", 300, "token_bytes"], base64.b64encode(RANKS[299]).decode(), "as entry 299"),
        (["special_tokens", 1, "rank"], 5, "special token 1"),
        (["special_tokens", 1], 5, "special token 1"),
        (["special_tokens", 1, "token_str"], "<unk>", "given twice|same bytes"),
    ],
)
def test_what_is_damaged_or_not_known_is_refused(path, value, message, tmp_path):
    file = copy.deepcopy(made_file())
    *parents, last = path
    part = file
    for key in parents:
        part = part[key]
    part[last] = value
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path / "tekken.json")
