"""Several splits one after the other, and digits, against `tokenizers`."""

import functools
import json
import random
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import PretokenCounts, Tokenizer
from groundup.tokenizer.formats.gpt2 import BYTE_TO_CHARACTER

# Every custom pattern warns that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:the pattern .* is not built in:UserWarning")

DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def digits(individual: bool) -> dict:
    return {"type": "Digits", "individual_digits": individual}


PIPELINES = {
    "deepseek": ([*map(split, DEEPSEEK)], DEEPSEEK),
    "digits and gpt2": ([digits(True), BYTE_LEVEL | {"use_regex": True}], ("digit", "gpt2")),
    "runs of digits": ([digits(False)], ("digits",)),
    "nested": (
        [
            {
                "type": "Sequence",
                "pretokenizers": [split(r"\s+"), {"type": "Sequence", "pretokenizers": [digits(False)]}],
            }
        ],
        (r"\s+", "digits"),
    ),
    "a string": ([split(r"a+") | {"pattern": {"String": "a."}}, split(r"\p{L}+(?!x)|b")], (r"a\.", r"\p{L}+(?!x)|b")),
}


@functools.cache
def file_of(name: str) -> str:
    steps = PIPELINES[name][0]
    steps = steps if steps[-1].get("type") == "ByteLevel" else [*steps, BYTE_LEVEL]
    vocab = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
    merges = []
    for pair in ("Ġ a", "a b", "1 2", "12 3", "Ġ Ġ", "Ġa b", "ä ¸", "ä¸ Ģ", "Ċ Ċ", ". a", "! !"):
        vocab["".join(pair.split())] = len(vocab)
        merges.append(pair)
    added = [{"id": len(vocab), "content": "<x>", "normalized": False, "special": True}]
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [token | dict.fromkeys(("single_word", "lstrip", "rstrip"), False) for token in added],
        }
        | {"normalizer": {"type": "Sequence", "normalizers": []}, "decoder": BYTE_LEVEL, "model": model}
        | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    )


@functools.cache
def both(name: str, folder) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    path = folder / f"{name}.json"
    path.write_text(file_of(name), encoding="utf-8")
    return Tokenizer.load(path), tokenizers.Tokenizer.from_str(file_of(name))


EDGES = ["ab", " ab", "123", "12", "12345", "½", "१२", "\U00011de3", "\U00016ff4", "\U00011db0", "一", "の", "カ"]
EDGES += [
    "!",
    "!a",
    "a.",
    "..",
    "&b",
    " !",
    "\n",
    "\r\n",
    "  ",
    "\t",
    "\u3000",
    "é",
    "e\u0301",
    "x",
    "Ax",
    "<x>",
    "$",
    "🐈",
]
EDGES += ["_", "ʕ", "\x00"]
texts = st.lists(st.sampled_from(EDGES) | st.text(max_size=2), max_size=14).map("".join)


@pytest.mark.parametrize("name", PIPELINES)
@given(text=texts)
def test_ids_are_those_of_tokenizers(tmp_path_factory, name, text):
    ours, theirs = both(name, tmp_path_factory.getbasetemp())
    assert ours.pattern == PIPELINES[name][1]
    assert ours.encode(text) == theirs.encode(text).ids
    stream = ours.stream()
    data = text.encode()
    fed = [token for a, b in pairwise([0, len(data) // 2, len(data)]) for token in stream.feed(data[a:b]).tolist()]
    assert fed + stream.finish().tolist() == ours.encode(text)


@pytest.mark.parametrize("name", PIPELINES)
def test_files_carry_all_splits(tmp_path, name):
    ours, theirs = both(name, tmp_path)
    text = "".join(random.Random(1).choices(EDGES, k=200))
    for target in ("own.json", "folder"):
        ours.save(tmp_path / target)
        loaded = Tokenizer.load(tmp_path / target)
        assert (loaded.pattern, loaded.sha256) == (ours.pattern, ours.sha256)
        assert loaded.encode(text) == ours.encode(text)
    ours.save_hugging_face(tmp_path / "again.json")
    assert Tokenizer.load(tmp_path / "again.json").sha256 == ours.sha256
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "again.json")).encode(text).ids == theirs.encode(text).ids


def test_the_order_of_splits_and_each_of_them_count(tmp_path):
    ours, _ = both("deepseek", tmp_path)
    others = [DEEPSEEK[:2], (DEEPSEEK[1], DEEPSEEK[0], DEEPSEEK[2]), ("digit", *DEEPSEEK[1:])]
    hashes = {Tokenizer(ours.vocab, ours.merges, ["<x>"], pattern=pattern).sha256 for pattern in others}
    assert len(hashes) == len(others)


def test_training_with_several_splits(tmp_path):
    counts = PretokenCounts(pattern=("digit", r"\w+|\W"))
    counts.add_documents(["ab12 ab12 ab"])
    assert len(counts) == 4  # "ab", "1", "2", " "
    counts.save(tmp_path / "counts.npz")
    assert PretokenCounts.load(tmp_path / "counts.npz").pattern == ("digit", r"\w+|\W")


@pytest.mark.parametrize("pattern", [[], ["gtp2"], ["a", 5], [r"(a", "gpt2"]])
def test_patterns_that_are_none_are_explained(pattern):
    with pytest.raises(TokenizerError) as error:
        Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], pattern=pattern)
    assert "pattern" in str(error.value)
