"""Threads that share a tokenizer, processes that are forked from them, and processes that are sent one."""

import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from groundup.tokenizer import Tokenizer

TEXT = "The cat sat on the mat, and it didn't move; naïve 東京 1984 <|user|>\n\n"


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    small.save(path)
    return path


def run(program, *arguments, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program), encoding="utf-8")
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_threads_share_a_tokenizer_in_every_use(small):
    other = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern="o200k")  # nothing made yet
    texts = [TEXT * (1 + i % 7) for i in range(40)]
    fresh = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern="o200k")
    expected = [fresh.encode(text) for text in texts]

    def use(i):
        stream = other.stream()
        streamed = [
            *stream.feed(texts[i][:37]).tolist(),
            *stream.feed(texts[i][37:]).tolist(),
            *stream.finish().tolist(),
        ]
        return (
            other.encode(texts[i]),
            other.encode_to_numpy(texts[i], num_threads=2).tolist(),
            other.encode_batch(texts[i : i + 2], num_threads=2)[0],
            streamed,
        )

    with ThreadPoolExecutor(6) as pool:
        for i, results in enumerate(pool.map(use, range(len(texts)))):
            assert all(ids == expected[i] for ids in results)


@pytest.mark.parametrize(
    "call", ["encode", "encode_to_numpy", "encode_batch", "encode_batch_to_numpy", "count", "feed"]
)
def test_other_python_threads_run_during_a_long_call(small, call):
    """No thread is ever made to give way here, so that another can only have run if the call let it."""
    text = TEXT * 15_000
    stream = small.stream()
    use = {"feed": stream.feed}.get(call) or getattr(small, call)
    argument = [text] if "batch" in call else text
    use(argument[:1])
    ticks, stop = 0, False

    def tick():
        nonlocal ticks
        while not stop:
            ticks += 1
            time.sleep(0)  # gives the interpreter back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread = threading.Thread(target=tick)
    try:
        thread.start()
        ran = False
        for _ in range(100):
            before = ticks
            use(argument)
            if ran := ticks > before:
                break
    finally:
        stop = True
        sys.setswitchinterval(interval)
        thread.join()
    assert ran


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_while_threads_encode_encodes(folder, tmp_path):
    program = """
        import os, signal, sys, threading
        from groundup import Tokenizer
        folder, text = sys.argv[1], sys.argv[2]
        shared, stop = Tokenizer.load(folder), False
        expected = shared.encode(text)
        long = text * 20_000
        long_expected = shared.encode(long)
        rounds = 0

        def work():
            global rounds
            while not stop:
                assert shared.count(long) == len(long_expected)
                Tokenizer.load(folder).encode_to_numpy(long, num_threads=2)  # the encoder is made here, too
                rounds += 1

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(12):
            child = os.fork()
            if child == 0:
                signal.alarm(30)  # ends a child that waits for ever
                fine = shared.encode(text) == expected
                fine &= shared.encode_to_numpy(long, num_threads=2).tolist() == long_expected
                fresh = Tokenizer.load(folder)
                fine &= fresh.encode_batch([text, text], num_threads=2) == [expected] * 2
                stream = fresh.stream()
                fine &= [*stream.feed(text).tolist(), *stream.finish().tolist()] == expected
                os._exit(0 if fine else 3)
            print(os.waitpid(child, 0)[1])
        alive = [thread.is_alive() for thread in threads]
        stop = True
        for thread in threads:
            thread.join()
        print(alive, rounds > 0)
    """
    assert run(program, folder, TEXT, tmp_path=tmp_path).splitlines() == [*["0"] * 12, "[True, True] True"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_is_sent_the_tokenizer(small, folder, tmp_path, method):
    program = """
        import multiprocessing, sys
        from groundup import Tokenizer
        if __name__ == "__main__":
            tokenizer = Tokenizer.load(sys.argv[1])
            tokenizer.encode("an encoder is there before")
            with multiprocessing.get_context(sys.argv[3]).Pool(1) as pool:
                print(pool.map(tokenizer.encode, [sys.argv[2], ""]))
    """
    output = run(program, folder, TEXT, method, tmp_path=tmp_path)
    assert output.strip() == str([small.encode(TEXT), []])


@pytest.mark.parametrize("encoded_before", [True, False])
def test_a_pickled_tokenizer_is_the_same(small, encoded_before):
    tokenizer = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern="llama3", ignore_merges=True)
    if encoded_before:
        tokenizer.encode(TEXT)
        tokenizer.encode_with_offsets(TEXT)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.sha256 == tokenizer.sha256
    assert copy.encode(TEXT, allowed_special={"<|user|>"}) == tokenizer.encode(TEXT, allowed_special={"<|user|>"})
    assert (copy.pattern, copy.ignore_merges, copy.special_tokens) == ("llama3", True, small.special_tokens)
