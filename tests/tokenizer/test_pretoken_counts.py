"""Counts that are kept: their files, their sums, and training on them."""

import json
import threading
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.tokenizer import reference, train_bpe, train_bpe_from_documents
from groundup.tokenizer.training.counts import PretokenCounts, SlowPatternWarning

SPECIAL = "<|endoftext|>"


def counted(documents, weight=1, **options) -> PretokenCounts:
    counts = PretokenCounts(**options)
    counts.add_documents(documents, weight)
    return counts


def save(folder, counts) -> str:
    counts.save(folder / "counts.npz")
    return folder / "counts.npz"


def test_counts_are_those_of_the_reference(corpus):
    counts = PretokenCounts(special_tokens=[SPECIAL])
    counts.add_file(corpus)
    expected: Counter[bytes] = Counter()
    for piece in corpus.read_bytes().split(SPECIAL.encode()):
        expected.update(reference.pretokens(piece))
    assert list(counts.items()) == sorted(expected.items())
    assert len(counts) == len(expected)
    assert counts.bytes_counted == corpus.stat().st_size


def test_parts_counted_apart_saved_and_merged_train_as_the_whole(tmp_path, corpus):
    documents = corpus.read_bytes().split(SPECIAL.encode())
    for name, part in (("a", documents[:7]), ("b", documents[7:])):
        counted(part, special_tokens=[SPECIAL]).save(tmp_path / f"{name}.npz")
    total = PretokenCounts.load(tmp_path / "a.npz")
    total.merge(PretokenCounts.load(tmp_path / "b.npz"))
    assert total.train(400) == train_bpe(corpus, 400, [SPECIAL])
    assert total.train(300, tie_rule="huggingface") == train_bpe(corpus, 300, [SPECIAL], tie_rule="huggingface")


def test_a_sum_leaves_its_parts_as_they_are():
    a, b = counted(["aa ab"]), counted(["ab b"])
    total = a + b
    assert dict(total.items()) == {b"aa": 1, b" ab": 1, b"ab": 1, b" b": 1}
    assert dict(a.items()) == {b"aa": 1, b" ab": 1}
    assert total.bytes_counted == 9
    a.merge(a)
    assert dict(a.items()) == {b"aa": 2, b" ab": 2}


def test_a_weight_is_as_many_copies():
    documents = ["the cat", "a cat's mat", "x" * 100]
    weighted = counted(["dogs and cats"])
    weighted.add_documents(documents, weight=3)
    assert weighted.train(300) == train_bpe_from_documents(["dogs and cats", *documents * 3], 300, [])
    assert weighted.bytes_counted == 13 + sum(map(len, documents))


def test_a_file_holds_everything_that_decides(tmp_path):
    with pytest.warns(SlowPatternWarning):
        counts = counted(["naïve x1"], 5, pattern=r"\w|\d+", special_tokens=["<é>", "x"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PretokenCounts.load(save(tmp_path, counts))
    assert (loaded.pattern, loaded.special_tokens, loaded.bytes_counted) == (r"\w|\d+", ["<é>", "x"], 9)
    assert list(loaded.items()) == list(counts.items())


def test_counts_of_nothing_are_saved_and_do_not_train(tmp_path):
    loaded = PretokenCounts.load(save(tmp_path, PretokenCounts()))
    assert list(loaded.items()) == []
    with pytest.raises(DataError, match="no text to train on"):
        loaded.train(300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "cl100k"}, "counts with pattern 'gpt2' and with 'cl100k' do not add up"),
        ({"special_tokens": ["<s>"]}, r"counts with special tokens \[\] and with \['<s>'\] do not add up"),
    ],
)
def test_counts_of_different_kinds_do_not_add_up(options, message):
    with pytest.raises(TokenizerError, match=message):
        PretokenCounts().merge(PretokenCounts(**options))
    with pytest.raises(TokenizerError, match=message):
        PretokenCounts() + PretokenCounts(**options)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = save(tmp_path, counted(["some words to count, and some words again"]))
    data = path.read_bytes()
    for size in [*range(0, len(data), 9), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"counts\.npz is (truncated|not a file of pretoken counts)"):
            PretokenCounts.load(path)


def test_a_file_with_any_byte_changed_is_refused_or_holds_the_same(tmp_path):
    counts = counted(["some words to count, and some words again"])
    path = save(tmp_path, counts)
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 9):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            loaded = list(PretokenCounts.load(path).items())
        except DataError:
            refused += 1
        else:
            assert loaded == list(counts.items())
    assert refused > len(data) // 18


def forged(path, **changes):
    header = {"format": "groundup pretoken counts", "version": 1, "pattern": "gpt2", "special_tokens": []}
    header |= {"bytes_counted": 4} | changes.pop("header", {})
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "data": np.frombuffer(b"aabb", np.uint8),
        "ends": np.array([2, 4], np.uint64),
        "counts": np.array([1, 1], np.uint64),
    }
    np.savez(path, **(arrays | changes))
    return path


def test_the_forged_file_without_changes_is_good(tmp_path):
    assert dict(PretokenCounts.load(forged(tmp_path / "f.npz")).items()) == {b"aa": 1, b"bb": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": np.array([2, 5], np.uint64)}, "do not ascend to the end of the data"),
        ({"ends": np.array([4, 4], np.uint64)}, "do not ascend"),
        ({"ends": np.array([], np.uint64), "counts": np.array([], np.uint64)}, "do not ascend"),
        ({"ends": np.array([2, 4])}, "ends is int64"),
        ({"counts": np.array([[1, 1]], np.uint64)}, r"counts is uint64 \(1, 2\)"),
        ({"counts": np.array([1], np.uint64)}, "2 pretokens and 1 counts"),
        ({"counts": np.array([0, 1], np.uint64)}, "a pretoken occurs 0 times"),
        ({"counts": np.array([1 << 63, 1], np.uint64)}, "its counts are too large"),
        ({"counts": np.array([{}, 1], object)}, "truncated or damaged"),
        ({"header": {"version": 2}}, "has version 2, and this groundup reads version 1"),
        ({"header": {"format": "shards"}}, "is not a file of pretoken counts"),
        ({"header": {"pattern": "gpt3"}}, "pattern 'gpt3' is not known"),
        ({"header": {"special_tokens": ["a", "a"]}}, "special token 'a' is given twice"),
        ({"header": {"bytes_counted": -1}}, "lacks pattern, special_tokens or bytes_counted"),
    ],
)
def test_impossible_contents_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as error:
        PretokenCounts.load(forged(tmp_path / "f.npz", **changes))
    assert "f.npz" in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileMissingError, match=r"nowhere\.npz does not exist"):
        PretokenCounts.load(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="is a folder"):
        PretokenCounts.load(tmp_path)
    (tmp_path / "text.npz").write_text("text")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "zip.npz", "other.npz"):
        with pytest.raises(DataError, match=f"{name} is not a file of pretoken counts"):
            PretokenCounts.load(tmp_path / name)


def test_places_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        PretokenCounts().save(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        PretokenCounts().save(tmp_path / "no" / "counts.npz")


@pytest.mark.parametrize("weight", [0, -1, 1_000_001])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(TokenizerError, match=f"weight = {weight}; give a whole number from 1 to 1000000"):
        PretokenCounts().add_documents(["a"], weight)


def test_counts_never_overflow(tmp_path):
    # The greatest counts that a file may hold: three times that does not fit 64 bits.
    path = forged(tmp_path / "f.npz", counts=np.array([(1 << 61) - (1 << 50), 1], np.uint64))
    counts = PretokenCounts.load(path)
    with pytest.raises(TokenizerError, match="may overflow 64-bit counts"):
        counts.merge(PretokenCounts.load(path))
    assert dict(counts.items()) == {b"aa": (1 << 61) - (1 << 50), b"bb": 1}


def test_counts_whose_counting_was_stopped_are_not_used():
    def documents():
        yield "a" * 100
        raise RuntimeError("stopped")

    counts = PretokenCounts()
    with pytest.raises(RuntimeError, match="stopped"):
        counts.add_documents(documents())
    counts.add_documents(["fine: nothing had been counted"])

    def stop(phase, done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        counts.add_documents(["text"], progress=stop)
    for use in (counts.items, lambda: counts.train(300), lambda: counts.add_documents(["a"]), lambda: len(counts)):
        with pytest.raises(TokenizerError, match="whose counting was stopped; count again"):
            list(use() or [])


def test_a_second_thread_is_turned_away():
    counts = PretokenCounts()
    errors = []

    def use_elsewhere(phase, done, total):
        def add():
            try:
                counts.add_documents(["b"])
            except TokenizerError as error:
                errors.append(str(error))

        thread = threading.Thread(target=add)
        thread.start()
        thread.join()

    counts.add_documents(["a"], progress=use_elsewhere)
    assert errors
    assert "in use already; give each thread its own" in errors[0]
    assert dict(counts.items()) == {b"a": 1}


def test_progress_of_a_file_ends_with_its_size(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\n<s>\ntwo\n<s>\n")
    calls = []
    counts = PretokenCounts()
    for _ in range(2):
        counts.add_file(path, separator="<s>", progress=lambda *call: calls.append(call))
    assert calls[-1] == ("counting", 16, 16)
    assert all(done <= total for _, done, total in calls)
    assert dict(counts.items()) == {b"one": 2, b"two": 2}


@pytest.mark.parametrize("pattern", ["gpt2", r"\w+|\W"])
@pytest.mark.filterwarnings("ignore::groundup.tokenizer.training.counts.SlowPatternWarning")  # not its subject
def test_a_special_token_inside_a_document_is_a_boundary_or_text(tmp_path, pattern):
    documents = ["one<|endoftext|>two", "three", "<|pad|>", "four <|pad|> <|pad|>"]
    options = {"special_tokens": [SPECIAL, "<|pad|>"], "pattern": pattern}
    as_text = PretokenCounts(**options)
    as_text.add_documents(documents, 3, special_tokens="text")
    expected = counted(documents, 3, pattern=pattern)
    assert list(as_text.items()) == list(expected.items())
    assert as_text.bytes_counted == expected.bytes_counted
    assert as_text.special_tokens_met == {SPECIAL: 1, "<|pad|>": 3}
    apart = [piece for document in documents for piece in document.replace("<|pad|>", SPECIAL).split(SPECIAL)]
    assert list(counted(documents, **options).items()) == list(counted(apart, pattern=pattern).items())


def test_in_a_file_the_separator_separates_and_the_others_are_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one <|pad|>\n<|endoftext|>\ntwo\n<|endoftext|>\n")
    counts = PretokenCounts(special_tokens=[SPECIAL, "<|pad|>"])
    counts.add_file(path, separator=SPECIAL, special_tokens="text")
    assert list(counts.items()) == list(counted(["one <|pad|>", "two"]).items())
    assert counts.special_tokens_met == {"<|pad|>": 1}
