import hashlib
import json
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
import torch

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer, reference, train_bpe_from_documents
from groundup.tokenizer.patterns import GPT2

BYTES = {byte: bytes([byte]) for byte in range(256)}

EDGES = [
    "",
    "a",
    " ",
    "🙃",
    "Hello, how are you?",
    "Héllò hôw are ü? 🙃",
    "it's they'll I'd 've 'RE ''s '' 'll'",
    "\t's \n'm  're",
    "a  b   c\n\n\nd \n e\t\tf  \n",
    "trailing spaces   ",
    "trailing lines \n\n",
    "\r\nWindows\r\n\r\nlines\r",
    "nul\x00 bell\x07 unit\x1f\x1c\x1d and\x85next\u2028line",
    "no\u00a0break \u3000 ideographic\u2003em\ufeffbom",
    "½ Ⅷ ² ٣ 12345 3.14159 ४५",
    "東京の猫は寝ている。Москва नमस्ते ไทย e\u0301 👩‍👩‍👧‍👦",
    "<|endoftext|>",
    "Hello <|endoftext|>\n\nworld<|endoftext|><|endoftext|>\n",
    "<|endoftext|><|endoftext|><|endoftext|>",
    " <|endoftext|> <|user|>  <|endoftext|>\n <|user|",
    "x" * 3000 + " " * 300 + "ab" * 500 + "=" * 400 + "\n" * 200 + "0" * 300,
]


def as_tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """The same tokenizer as a tiktoken encoding, which needs ranks and no merges."""
    special_ids = {name: tokenizer.token_id(name) for name in tokenizer.special_tokens}
    ranks = {token: token_id for token_id, token in tokenizer.vocab.items() if token_id not in special_ids.values()}
    return tiktoken.Encoding("groundup", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=special_ids)


@pytest.fixture(scope="module")
def gpt2(gpt2_files) -> Tokenizer:
    return Tokenizer.from_files(*gpt2_files, special_tokens=["<|endoftext|>"])


@pytest.mark.parametrize("text", EDGES, ids=lambda text: repr(text[:20]))
def test_a_vocabulary_of_ours_encodes_as_in_tiktoken(small, text):
    # tiktoken takes overlapping special tokens in no fixed order; without the doubled one it has no choice to make.
    tokenizer = Tokenizer(small.vocab, small.merges, ["<|endoftext|>", "<|user|>"])
    ids = tokenizer.encode(text)
    assert ids == as_tiktoken(tokenizer).encode(text, allowed_special="all")
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", EDGES, ids=lambda text: repr(text[:20]))
def test_gpt2_files_encode_as_in_tiktoken(gpt2, text):
    assert gpt2.encode(text) == as_tiktoken(gpt2).encode(text, allowed_special="all")


@pytest.mark.parametrize("name", ["tinystories/valid", "webtext/valid", "multilingual/multilingual"])
def test_gpt2_files_encode_real_text_as_in_tiktoken(gpt2, data_dir, name):
    zstandard = pytest.importorskip("zstandard")
    with (data_dir / f"{name}.txt.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read(2_000_000).decode("utf-8", "ignore")
    ids = gpt2.encode(text)
    assert ids == as_tiktoken(gpt2).encode(text, allowed_special="all")
    assert gpt2.decode(ids) == text


def test_worked_example_with_a_vocabulary_that_lacks_most_bytes():
    tokens = [b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    tokenizer = Tokenizer(dict(enumerate(tokens)), merges)
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]
    with pytest.raises(TokenizerError, match="the byte 0x64, which the vocabulary lacks"):
        tokenizer.encode("the cat died")
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]


def test_of_overlapping_special_tokens_the_longest_wins(small):
    single, double = small.token_id("<|endoftext|>"), small.token_id("<|endoftext|><|endoftext|>")
    assert small.encode("<|endoftext|>" * 3) == [double, single]
    assert small.encode("a<|endoftext|>b") == [ord("a"), single, ord("b")]


def test_special_tokens_are_found_in_text_that_is_not_utf8(small):
    data = b"\xff<|user|>\xe2\x82<|user|>\xe2"
    ids = small.encode_bytes(data)
    assert ids.dtype == np.uint32
    assert ids.tolist() == [0xFF, small.token_id("<|user|>"), 0xE2, 0x82, small.token_id("<|user|>"), 0xE2]
    assert small.decode_bytes(ids) == data


def test_bytes_like_objects_encode_alike(small):
    data = b"the cat"
    for same in (bytearray(data), memoryview(data), np.frombuffer(data, dtype=np.uint8)):
        assert small.encode_bytes(same).tolist() == small.encode("the cat")


def test_lone_surrogates_become_replacement_characters_as_in_tiktoken(small):
    tokenizer = Tokenizer(small.vocab, small.merges)
    for text in ("a\ud83db", "\udc00", "\ud83d\ude43", "x\ud83d", "\udc00\ud800"):
        assert tokenizer.encode(text) == as_tiktoken(tokenizer).encode_ordinary(text)
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude43 \ud800")) == "🙃 \ufffd"


def test_a_megabyte_of_one_character_encodes():
    # Quadratic merging would take hours here, and the test run would not end.
    tokenizer = Tokenizer(*train_bpe_from_documents([b"a" * 4096 + b" " * 4096 + b"\xe6\x97\xa5" * 4096], 300, []))
    for character in ("a", " ", "日"):
        text = character * 1_000_000
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        longest = tokenizer.token_lengths()[ids].max()
        assert len(ids) < len(text.encode()) // longest + 20  # all but the remainder is the longest token


def test_a_token_that_merges_cannot_reach_is_never_used():
    tokenizer = Tokenizer(BYTES | {256: b"abc", 257: b"bc"}, [(b"b", b"c")])
    assert tokenizer.encode("abc") == [97, 257]


def test_the_lowest_rank_merges_first_and_of_equals_the_leftmost():
    tokenizer = Tokenizer(BYTES | {256: b"aa", 257: b"aaa"}, [(b"aa", b"a"), (b"a", b"a")])
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    for length in (2, 3, 4, 5, 6, 7, 60, 61, 62):  # the long ones take the heap
        tokens = reference.merge_pretoken(b"a" * length, ranks)
        assert [tokenizer.vocab[i] for i in tokenizer.encode("a" * length)] == tokens


def test_merges_may_come_in_any_container():
    vocab = BYTES | {256: b"ab", 257: b"abab"}
    for merges in ([[b"a", b"b"], [b"ab", b"ab"]], iter([(b"a", b"b"), (b"ab", b"ab")])):
        tokenizer = Tokenizer(vocab, merges)
        assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"ab")]
        assert tokenizer.encode("ababab") == [257, 256]


def test_a_tokenizer_does_not_see_later_changes_of_what_it_was_made_from():
    vocab, merges = dict(BYTES) | {256: b"ab"}, [(b"a", b"b")]
    tokenizer = Tokenizer(vocab, merges)
    vocab[256], vocab[257] = b"xy", b"z"
    merges.clear()
    assert tokenizer.encode("ab") == [256]
    assert tokenizer.decode([256]) == "ab"
    tokenizer.merges.clear()
    assert tokenizer.merges == [(b"a", b"b")]


def test_the_hash_of_a_tokenizer_never_changes_between_versions():
    """Saved folders and token shards carry it."""
    tokenizer = Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], ["<x>"], pattern="gpt2")
    content = {
        "pattern": GPT2,
        "special_tokens": [257],
        "vocab": [[token_id, token.hex()] for token_id, token in sorted(tokenizer.vocab.items())],
        "merges": [["61", "62"]],
    }
    assert tokenizer.sha256 == hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    whole = Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], ["<x>"], ignore_merges=True)
    content["ignore_merges"] = True
    assert whole.sha256 == hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def test_missing_special_tokens_are_appended_after_the_largest_id():
    tokenizer = Tokenizer(BYTES | {1000: b"ab"}, [(b"a", b"b")], ["<s>", "</s>"])
    assert tokenizer.encode("ab<s>ab</s>") == [1000, 1001, 1000, 1002]
    assert tokenizer.vocab[1000] == b"ab"
    assert tokenizer.vocab_size == 1003


def test_a_special_token_whose_bytes_are_a_token_keeps_that_id():
    tokenizer = Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], ["ab", "c"])
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("abc") == [256, 99]


def test_decodes_arrays_and_tensors(small):
    ids = small.encode("naïve cats")
    for same in (np.array(ids, dtype=np.uint16), torch.tensor(ids), tuple(ids), iter(ids)):
        assert small.decode(same) == "naïve cats"


def test_half_a_character_decodes_to_the_replacement_character(small):
    assert small.decode([0xE2, 0x82]) == "\ufffd"
    assert small.decode_bytes([0xE2, 0x82]) == b"\xe2\x82"


@pytest.mark.parametrize("unknown", [450, -1, 2**40])
def test_unknown_ids_are_named(small, unknown):
    with pytest.raises(TokenizerError, match=f"id {unknown} is not in the vocabulary, which has 450 tokens"):
        small.decode([97, unknown])


def test_ids_of_two_dimensions_are_refused(small):
    with pytest.raises(TokenizerError, match="more than one dimension"):
        small.decode(np.zeros((2, 2), dtype=int))


def test_token_lengths_count_bytes_of_text(small):
    text = "naïve <|user|>cats\n"
    lengths = small.token_lengths()
    assert lengths.shape == (small.vocab_size,)
    assert lengths[small.encode(text)].sum() == len(text.encode()) - len("<|user|>")
    assert lengths[small.token_id("<|user|>")] == 0


def test_token_id_of_text_and_of_bytes(small):
    assert small.token_id("<|user|>") == small.token_id(b"<|user|>") == small.encode("<|user|>")[0]
    assert small.token_id(b"\xff") == 0xFF
    with pytest.raises(TokenizerError, match="'no such token' is not a token"):
        small.token_id("no such token")


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (BYTES, [(b"a", b"b")], "merge 0 of b'a' and b'b': b'ab' is not in the vocabulary"),
        (BYTES | {256: b"xyz"}, [(b"xy", b"z")], "merge 0 of b'xy' and b'z': b'xy' is not in the vocabulary"),
        (BYTES | {256: b"ab"}, [(b"a", b"b")] * 2, "merge 1 of b'a' and b'b' is listed before"),
        (BYTES | {256: b"a"}, [], "ids 97 and 256 are the same bytes b'a'"),
        (BYTES | {256: b""}, [], "token 256 is empty"),
        (BYTES | {-1: b"ab"}, [], "has the id -1"),
        (BYTES | {2**31: b"ab"}, [], "has the id 2147483648"),
        (BYTES | {256: "ab"}, [], "token 256 is 'ab' of type str"),
        (BYTES | {256.0: b"ab"}, [], "has the id 256.0; ids are integers"),
        ({True: b"a"}, [], "has the id True; ids are integers"),
        (list(BYTES.values()), [], "vocab is of type list; give a mapping"),
        ({token: i for i, token in BYTES.items()}, [], "token b'\\x00' is 0 of type int; tokens are bytes"),
        (BYTES | {256: b"ab"}, [("a", "b")], "merge 0 is ('a', 'b'); a merge is a pair of bytes"),
        (BYTES | {256: b"ab"}, [(b"a", b"b"), (97, b"b")], "merge 1 is (97, b'b'); a merge is a pair of bytes"),
        (BYTES | {256: b"ab"}, [(b"a", b"b", b"c")], "merge 0 is (b'a', b'b', b'c'); a merge is a pair of bytes"),
        (BYTES, [5], "merges are not pairs"),
        (BYTES, None, "merges are not pairs"),
    ],
)
def test_impossible_vocabularies_are_refused(vocab, merges, message):
    with pytest.raises(TokenizerError) as error:
        Tokenizer(vocab, merges)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_impossible_special_tokens_and_patterns_are_refused():
    with pytest.raises(TokenizerError, match="special token '<s>' is given twice"):
        Tokenizer(BYTES, [], ["<s>", "<s>"])
    with pytest.raises(TokenizerError, match="empty string"):
        Tokenizer(BYTES, [], [""])
    with pytest.raises(TokenizerError, match="pattern 'gpt5' is not known; did you mean gpt2"):
        Tokenizer(BYTES, [], pattern="gpt5")


def test_a_pickled_tokenizer_encodes_alike(small):
    small.encode("the encoder exists before pickling")
    copy = pickle.loads(pickle.dumps(small))
    assert copy.encode("the cat<|user|>") == small.encode("the cat<|user|>")
    assert copy.sha256 == small.sha256


def test_threads_may_share_a_tokenizer(small, corpus):
    texts = corpus.read_text(encoding="utf-8").split("<|endoftext|>") * 8
    expected = [small.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(small.encode, texts)) == expected


def test_the_hash_tells_apart_whatever_changes_ids(small):
    same = Tokenizer(small.vocab, small.merges, reversed(small.special_tokens))
    assert same.sha256 == small.sha256
    assert Tokenizer(small.vocab, small.merges).sha256 != small.sha256
    assert Tokenizer(small.vocab, small.merges[:-1], small.special_tokens).sha256 != small.sha256


def test_without_the_core_a_tokenizer_loads_and_decodes_and_says_what_encoding_needs(small, tmp_path):
    small.save(tmp_path)
    program = f"""
        import sys
        sys.modules["groundup.tokenizer._native"] = None  # as if it were not built
        from groundup import Tokenizer, train_bpe
        from groundup.errors import TokenizerError
        assert not {{"torch", "numpy", "regex"}} & set(sys.modules), "imported before they are needed"
        tokenizer = Tokenizer.load({str(tmp_path)!r})
        print(tokenizer.decode({small.encode("the cat")!r}))
        for use in (tokenizer.encode, lambda text: train_bpe(__file__, 300, [])):
            try:
                use("text")
            except TokenizerError as error:
                print(error)
    """
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    decoded, *errors = result.stdout.splitlines()
    assert decoded == "the cat"
    assert len(errors) == 2
    assert all("needs the C++ core" in error and "pip install ." in error for error in errors)


@pytest.mark.parametrize("merge_count", [40_000, 60_000, 220_000])
def test_large_vocabularies_merge_by_rank(merge_count):
    """The table of ranks has three sizes, chosen by how many merges there are."""
    rng = np.random.default_rng(merge_count)
    letters = [bytes([byte]) for byte in b"abcdefghijklmnopqrstuvwxyz"]
    pairs = [left + right for left in letters for right in letters]
    merges = [(pair[:1], pair[1:]) for pair in pairs]
    fours = [(pairs[i // len(pairs)], pairs[i % len(pairs)]) for i in rng.permutation(len(pairs) ** 2)[:merge_count]]
    merges = [merges[i] for i in rng.permutation(len(merges))] + fours
    vocab = BYTES | {256 + rank: left + right for rank, (left, right) in enumerate(merges)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokenizer = Tokenizer(vocab, merges)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size)) for size in range(1, 90)]
    text = " ".join(words)
    expected = [token for word in reference.pretokens(text.encode()) for token in reference.merge_pretoken(word, ranks)]
    assert [vocab[token_id] for token_id in tokenizer.encode(text)] == expected
