import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.tokenizer import reference, train_bpe, train_bpe_from_documents


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
    monkeypatch.setattr("groundup.tokenizer.train.BATCH_BYTES", 100)
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


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_stops_the_training_in_the_middle():
    # Far more merges than could be made before the signal arrives: if it went unnoticed, "finished" would be printed.
    program = """
        import random
        from groundup.tokenizer import train_bpe_from_documents
        words = random.Random(0).choices(range(16**6), k=1_500_000)
        told = []
        def tell(phase, done, total):
            if phase == "merging" and not told:
                told.append(print("merging", flush=True))
        train_bpe_from_documents([" ".join(f"{w:06x}" for w in words).encode()], 1_000_000, [], progress=tell)
        print("finished")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "merging\n"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
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
