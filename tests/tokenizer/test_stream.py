"""Encoding text that arrives in pieces. That every cut gives the same ids is in tests/properties."""

import itertools
import subprocess
import sys
import textwrap

import pytest

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer


@pytest.mark.parametrize(
    "pieces",
    [
        ["hel", "lo world"],
        ["wait..", "."],
        ["<|endof", "text|>"],
        ["<|endoftext|>", "<|endoftext|>"],
        ["it'", "s they'l", "l"],
        ["a ", " ", " b", "\n", "\n", ""],
        ["\ud83d", "\ude43", "\ud83d"],
    ],
)
def test_cut_in_awkward_places(small, pieces):
    assert list(small.encode_iterable(pieces)) == small.encode("".join(pieces))


def test_ids_come_as_soon_as_nothing_can_change_them(small):
    stream = small.stream()
    assert stream.feed(b"the cat").tolist() == small.encode("the")
    assert stream.feed(b"").tolist() == []
    assert stream.feed(b" sat").tolist() == small.encode(" cat")
    assert stream.feed(b"<|us").tolist() == []
    assert stream.feed(b"er|>").tolist() == [*small.encode(" sat"), small.token_id("<|user|>")]
    assert stream.finish().tolist() == []


def test_encode_iterable_does_not_wait_for_the_end(small):
    endless = small.encode_iterable(itertools.repeat("the cat "))
    assert list(itertools.islice(endless, 1000)) == small.encode("the cat " * 1000)[:1000]


def test_a_finished_stream_takes_another_text(small):
    stream = small.stream()
    stream.feed(b"the c")
    stream.finish()
    assert stream.feed(b"at").tolist() == []
    assert stream.finish().tolist() == small.encode("at")


def test_an_error_ends_the_text(small):
    tokenizer = Tokenizer({ord(letter): letter.encode() for letter in "ab "}, [])
    stream = tokenizer.stream()
    with pytest.raises(TokenizerError, match="the byte 0x63"):
        stream.feed(b"ab c ab")
    assert [*stream.feed(b"ab"), *stream.finish()] == tokenizer.encode("ab")


def test_an_endless_pretoken_is_scanned_once(small):
    # 200,000 pieces of one letter: scanning what is held again with each would be 2e10 steps.
    text = "a" * 200_000
    assert list(small.encode_iterable(text)) == small.encode(text)
    assert list(small.encode_iterable(" " * 200_000)) == small.encode(" " * 200_000)


@pytest.mark.parametrize("line", ["the cat sat on the mat. ", "the cat sat\n", "<|user|>hi <|endof "])
def test_memory_does_not_grow_with_the_text(small, tmp_path, line):
    """The peak of the process, in which C++ is counted too, after 2 MB and after 30 MB of one stream."""
    pytest.importorskip("resource")
    small.save(tmp_path)
    program = f"""
        import itertools, resource
        from groundup import Tokenizer
        def peak_bytes():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pieces = itertools.repeat({line!r} * 100)
        text = itertools.islice(pieces, 30_000_000 // {100 * len(line)})
        ids = Tokenizer.load({str(tmp_path)!r}).encode_iterable(text)
        sum(itertools.islice(ids, 500_000))
        early = peak_bytes()
        sum(ids)
        print(peak_bytes() - early)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    growth = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(growth) < 2_000_000
