import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.tokenizer import reference, train_bpe, train_bpe_from_documents
from groundup.tokenizer.formats.gpt2 import CHARACTER_TO_BYTE
from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.training.counts import SlowPatternWarning


def write(folder: Path, data: bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(data)
    return path


def products(merges: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [left + right for left, right in merges]


def test_equals_the_reference_on_a_corpus(corpus):
    specials = ["<|endoftext|>"]
    expected = reference.train_bpe([corpus.read_bytes()], 400, [b"<|endoftext|>"])
    assert train_bpe(corpus, 400, specials) == expected


def test_worked_example_with_documents_as_words():
    documents = [b"low"] * 5 + [b"lower"] * 2 + [b"widest"] * 3 + [b"newest"] * 6
    vocab, merges = train_bpe_from_documents(documents, 256 + 12, [])
    expected = [b"st", b"est", b"ow", b"low", b"west", b"ne", b"newest", b"wi", b"wid", b"widest", b"lowe", b"lower"]
    assert products(merges) == expected
    assert [vocab[256 + i] for i in range(12)] == expected


def test_ties_go_to_the_greater_pair_of_byte_strings():
    # Four pairs once each. The printable form of GPT-2 would put the byte 0x00 ("Ā") above "z"; bytes do not.
    _, merges = train_bpe_from_documents([b"AB", b"AC", b"BA", b"\x00A"], 257, [])
    assert merges == [(b"B", b"A")]


def test_layout_is_bytes_then_merges_then_special_tokens(corpus):
    vocab, merges = train_bpe(corpus, 300, ["<|b|>", "<|a|>"])
    assert list(vocab) == list(range(300))
    assert [vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert [vocab[i] for i in range(256, 298)] == products(merges)
    assert [vocab[298], vocab[299]] == [b"<|b|>", b"<|a|>"]


def test_stops_when_no_pair_is_left():
    vocab, merges = train_bpe_from_documents([b"abc"], 10_000, ["<s>"])
    assert merges == [(b"b", b"c"), (b"a", b"bc")]
    assert len(vocab) == 256 + 2 + 1


def test_vocab_of_bytes_alone():
    vocab, merges = train_bpe_from_documents([b"text"], 256, [])
    assert (len(vocab), merges) == (256, [])


def test_special_tokens_are_boundaries_and_never_learned(tmp_path):
    text = b"<|endoftext|>".join([b"ab"] * 50)
    _, merges = train_bpe(write(tmp_path, text), 1000, ["<|endoftext|>"])
    assert merges == [(b"a", b"b")]
    _, merges_without = train_bpe(write(tmp_path, text), 1000, [])
    assert any(b"<|" in token for token in products(merges_without))


def test_longer_special_tokens_win_over_their_beginnings():
    _, merges = train_bpe_from_documents([b"<|a|>b<|a|>"] * 9, 1000, ["<|a|>", "<|a|>b"])
    assert merges == []


def test_a_special_token_of_one_byte_keeps_the_id_of_the_byte():
    vocab, merges = train_bpe_from_documents([b"xaxaxb"], 300, ["a"])
    assert merges == [(b"x", b"b")]
    assert len(vocab) == 257
    assert len(set(vocab.values())) == 257


def test_line_ends_and_nul_and_invalid_utf8_are_learned_from_as_they_are(tmp_path):
    data = b"\r\n\r\n" * 4 + b"\x00\x00" * 3 + b"\xff\xfe" * 2
    expected = reference.train_bpe([data], 300, [])
    assert train_bpe(write(tmp_path, data), 300, []) == expected
    assert b"\r\n\r\n" in products(expected[1])
    assert b"\xff\xfe" in b"".join(products(expected[1]))


def test_runs_of_one_letter_count_and_merge_exactly():
    documents = [b"a" * length for length in range(1, 40)]
    assert train_bpe_from_documents(documents, 300, []) == reference.train_bpe(documents, 300, [])


def test_a_megabyte_of_one_letter_needs_a_merge_per_doubling():
    # Quadratic work would take hours here, and the test run would not end.
    _, merges = train_bpe_from_documents([b"a" * (1 << 20)], 10_000, [])
    assert products(merges) == [b"a" * (1 << i) for i in range(1, 21)]


def test_the_end_of_a_document_is_a_boundary():
    _, merges = train_bpe_from_documents([b"a", b"b"] * 10, 1000, [])
    assert merges == []


def test_documents_may_come_from_a_generator_in_many_batches(monkeypatch, corpus):
    monkeypatch.setattr("groundup.text.batches.BATCH_BYTES", 100)
    documents = corpus.read_bytes().split(b"<|endoftext|>")
    streamed = train_bpe_from_documents(iter(documents), 350, ["<|endoftext|>"])
    assert streamed == train_bpe(corpus, 350, ["<|endoftext|>"])


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(corpus, num_threads):
    assert train_bpe(corpus, 350, [], num_threads=num_threads) == train_bpe(corpus, 350, [], num_threads=3)


def test_progress_reports_both_phases_up_to_the_end(corpus):
    calls = []
    train_bpe(corpus, 300, [], progress=lambda *call: calls.append(call))
    size = corpus.stat().st_size
    assert ("counting", size, size) in calls
    assert calls[-1] == ("merging", 44, 44)


@pytest.mark.parametrize("phase_to_stop_in", ["counting", "merging"])
def test_an_exception_in_progress_stops_the_training(corpus, phase_to_stop_in):
    def progress(phase: str, done: int, total: int | None) -> None:
        if phase == phase_to_stop_in:
            raise RuntimeError(f"stopped while {phase}")

    with pytest.raises(RuntimeError, match=f"stopped while {phase_to_stop_in}"):
        train_bpe(corpus, 300, [], progress=progress)


STOPPED = {
    # Far more merges than could be made before the signal arrives: if it went unnoticed, "finished" would be printed.
    "merging": """
        import random
        words = random.Random(0).choices(range(16**6), k=1_500_000)
        documents = [" ".join(f"{w:06x}" for w in words).encode()]
        train_bpe_from_documents(documents, 1_000_000, [], progress=tell)
    """,
    "counting": """
        import itertools
        train_bpe_from_documents(itertools.repeat(b"the cat sat on the mat " * 50_000), 300, [], progress=tell)
    """,
    "counting matches": """
        import itertools, warnings
        warnings.simplefilter("ignore")
        documents = itertools.repeat(b"the cat sat on the mat " * 5_000)
        train_bpe_from_documents(documents, 300, [], pattern="[a-z]+", progress=tell)
    """,
}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("phase", STOPPED)
def test_ctrl_c_stops_the_training_in_the_middle(phase):
    preamble = f"""
        from groundup.tokenizer import train_bpe_from_documents
        told = []
        def tell(phase, done, total):
            if phase == {phase.split()[0]!r} and not told:
                told.append(print(phase, flush=True))
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(STOPPED[phase]) + "print('finished')"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{phase.split()[0]}\n"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert "finished" not in rest
    assert errors.endswith("KeyboardInterrupt\n")


def test_vocab_size_without_room_names_the_least_that_works(corpus):
    with pytest.raises(TokenizerError, match=r"vocab_size = 257 .* 256 bytes and 2 special tokens; give at least 258"):
        train_bpe(corpus, 257, ["<a>", "<b>"])
    vocab, _ = train_bpe(corpus, 258, ["<a>", "<b>"])
    assert len(vocab) == 258


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ([""], "a special token is the empty string"),
        (["<a>", "<a>"], "special token '<a>' is given twice"),
        ("<|endoftext|>", "special_tokens is the string '<|endoftext|>'; give a list"),
        ([b"<a>"], "special token b'<a>' is of type bytes"),
        (["\ud800"], "has a lone surrogate"),
    ],
)
def test_impossible_special_tokens_are_refused(corpus, special_tokens, message):
    with pytest.raises(TokenizerError) as error:
        train_bpe(corpus, 300, special_tokens)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unusable_inputs_are_named(tmp_path):
    with pytest.raises(FileMissingError, match=r"nowhere\.txt does not exist"):
        train_bpe(tmp_path / "nowhere.txt", 300, [])
    with pytest.raises(FileMissingError, match="does not exist"):
        train_bpe("with\0nul.txt", 300, [])
    with pytest.raises(DataError, match="is a folder"):
        train_bpe(str(tmp_path), 300, [])
    with pytest.raises(DataError, match=r"text\.txt is empty"):
        train_bpe(write(tmp_path, b""), 300, [])
    with pytest.raises(DataError, match="not a regular file"):
        train_bpe(os.devnull, 300, [])
    with pytest.raises(DataError, match="no text to train on"):
        train_bpe_from_documents([b"", b""], 300, [])
    with pytest.raises(TokenizerError, match="num_threads = 0"):
        train_bpe_from_documents([b"a"], 300, [], num_threads=0)


def test_a_file_without_read_permission_is_named(unreadable_file):
    with pytest.raises(DataError, match=r"text\.txt cannot be read: permission denied"):
        train_bpe(unreadable_file, 300, [])


TEXTS = [
    "The cat sat on the mat, the cat's mat. 365 cats!",
    "Größe naïve 東京の猫は寝ている。東京 🐈🐈",
    "\r\n\n\t  x  \x00",
] * 3


def hugging_face_merges(documents: list[str], vocab_size: int, pattern: str | None = None, **options: int):
    """What `tokenizers` learns, as bytes. Without a pattern it splits as GPT-2."""
    if pattern is None:
        split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet, special_tokens=["<s>"], **options
    )
    theirs.train_from_iterator(documents, trainer)
    merges = json.loads(theirs.to_str())["model"]["merges"]
    return [tuple(bytes(CHARACTER_TO_BYTE[c] for c in token) for token in pair) for pair in merges]


@pytest.mark.parametrize("name", ["multilingual/multilingual", "webtext/valid", "tinystories/valid"])
def test_the_hugging_face_tie_rule_gives_the_merges_of_tokenizers(data_dir, name):
    zstandard = pytest.importorskip("zstandard")
    path = data_dir / f"{name}.txt.zst"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read(400_000).decode("utf-8", "ignore")
    documents = text.split("<|endoftext|>")
    _, merges = train_bpe_from_documents(documents, 5000, ["<s>"], tie_rule="huggingface")
    assert merges == hugging_face_merges(documents, 5000)


@pytest.mark.parametrize("min_frequency", [1, 2, 3, 7])
def test_min_frequency_is_that_of_tokenizers_and_of_the_reference(min_frequency):
    ours = train_bpe_from_documents(TEXTS, 2000, ["<s>"], tie_rule="huggingface", min_frequency=min_frequency)
    assert ours[1] == hugging_face_merges(TEXTS, 2000, min_frequency=min_frequency)
    documents = [text.encode() for text in TEXTS]
    expected = reference.train_bpe(documents, 2000, [], min_frequency=min_frequency)
    assert train_bpe_from_documents(documents, 2000, [], min_frequency=min_frequency) == expected


@pytest.mark.parametrize("max_token_length", [2, 3, 4, 9])
def test_max_token_length_is_one_less_than_that_of_tokenizers(max_token_length):
    _, merges = train_bpe_from_documents(
        TEXTS, 2000, ["<s>"], tie_rule="huggingface", max_token_length=max_token_length
    )
    assert merges == hugging_face_merges(TEXTS, 2000, max_token_length=max_token_length + 1)
    assert max(map(len, products(merges))) == max_token_length


def test_tokens_of_one_byte_at_most_are_the_bytes():
    assert train_bpe_from_documents(TEXTS, 2000, [], max_token_length=1)[1] == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_built_in_pattern_equals_the_reference(corpus, pattern):
    special = "<|endoftext|>"
    expected = reference.train_bpe([corpus.read_bytes()], 330, [special.encode()], PATTERNS[pattern])
    assert train_bpe(corpus, 330, [special], pattern=pattern) == expected


def test_a_built_in_pattern_may_be_given_as_its_regular_expression(corpus):
    assert train_bpe(corpus, 330, [], pattern=PATTERNS["cl100k"]) == train_bpe(corpus, 330, [], pattern="cl100k")


def test_any_other_regular_expression_works_and_says_that_it_is_slow(corpus):
    pattern = r"\p{Lu}?\p{Ll}+|(?=\d)"
    specials = ["<|endoftext|>", "<|endoftext|><|endoftext|>"]
    with pytest.warns(SlowPatternWarning, match="a hundred times more slowly"):
        ours = train_bpe(corpus, 330, specials, pattern=pattern)
    assert ours == reference.train_bpe([corpus.read_bytes()], 330, [s.encode() for s in specials], pattern)


@pytest.mark.filterwarnings("ignore::groundup.tokenizer.training.counts.SlowPatternWarning")  # not its subject
def test_text_between_matches_is_split_as_tokenizers_does():
    pattern = r"[a-z]+|(?=[0-9])"
    _, merges = train_bpe_from_documents(TEXTS, 2000, ["<s>"], pattern=pattern, tie_rule="huggingface")
    assert merges == hugging_face_merges(TEXTS, 2000, pattern)


def test_documents_may_be_str_and_lone_surrogates_become_replacement_characters():
    as_bytes = train_bpe_from_documents(["naïve \ufffd\ufffd".encode(), b"abc", bytearray(b"abd")], 300, [])
    assert train_bpe_from_documents(["naïve \ud800\ufffd", "abc", memoryview(b"abd")], 300, []) == as_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 255}, "vocab_size = 255; give a whole number of at least 256"),
        ({"vocab_size": 300.5}, "vocab_size = 300.5 is of type float; give a whole number"),
        ({"vocab_size": 1 << 25}, "ids end at 16777215, give at most 16777216"),
        ({"tie_rule": "hf"}, "tie_rule = 'hf' is not known; give one of bytes, huggingface"),
        ({"min_frequency": 0}, "min_frequency = 0; give a whole number of at least 1"),
        ({"max_token_length": 0}, "max_token_length = 0; give a whole number of at least 1"),
        ({"pattern": "gtp2"}, "pattern 'gtp2' is not known; did you mean gpt2?"),
        ({"pattern": "(a"}, "pattern '(a' is not a regular expression"),
        ({"num_threads": 1000}, "num_threads = 1000; give a whole number from 1 to 256"),
    ],
)
def test_impossible_options_are_refused_before_any_text_is_read(options, message):
    def documents():
        raise AssertionError("read")
        yield ""

    with pytest.raises(TokenizerError) as error:
        train_bpe_from_documents(documents(), **({"vocab_size": 300, "special_tokens": []} | options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no text to train on"),
        ("a text", "documents is a single str; give a list"),
        (b"a text", "documents is a single bytes; give a list"),
        ([b"a", 3], "document 1 (counted from 0) is of type int; give str or bytes"),
        ([("a", 2)], "document 0 (counted from 0) is of type tuple; give str or bytes (for weights"),
        ([None], "document 0 (counted from 0) is of type NoneType"),
        ([memoryview(b"abcd")[::2]], "document 0 (counted from 0) is of type memoryview; give contiguous bytes"),
    ],
)
def test_documents_that_are_none_are_named(documents, message):
    with pytest.raises(DataError) as error:
        train_bpe_from_documents(documents, 300, [])
    assert message in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be cut off there")
@pytest.mark.parametrize("restored", [False, True])
def test_a_text_that_is_cut_off_while_it_is_read_is_refused(restored: bool, tmp_path: Path):
    """In another process, which a read beyond the end of a mapped file would end by SIGBUS."""
    script = """
import os, sys
from pathlib import Path
from groundup.errors import DataError
from groundup.tokenizer.training.texts import mapped, while_unchanged

path = Path(sys.argv[1])
path.write_bytes(b"one two " * 50_000)
text = mapped(path)
batches = while_unchanged(path, text, [[text]])
next(batches)
os.truncate(path, 10)
assert text[300_000:300_008] == bytes(8)
assert text[:8] == b"one two "
if sys.argv[2] == "True":
    path.write_bytes(b"one two " * 50_000)
try:
    next(batches)
except DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "text", str(restored)], capture_output=True, text=True
    )
    assert (done.returncode, "changed while it was read" in done.stdout) == (0, True), done.stderr
