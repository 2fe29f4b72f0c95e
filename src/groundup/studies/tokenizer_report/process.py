"""Measurements of a tokenizer report that need a fresh process.

The peak memory of a process includes all that it did before, and the first pass of an encoder is only once the first:
training and encoding are measured in fresh processes, which import no more than they need. A process takes its task as
JSON from standard input and answers with lines of JSON: progress, and last the result or the error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from groundup import errors
from groundup.display.progress import Update
from groundup.errors import GroundupError, TokenizerError
from groundup.studies.tokenizer_report.corpus import Corpus
from groundup.text.options import ReadOptions

_LEAST_WARM_ROUNDS = 3
# NumPy's linear algebra starts threads that spin for a tenth of a second, beside the first pass.
_ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


def measure_training(
    corpus: Corpus, folder: Path, *, threads: int | None = None, progress: Update | None = None
) -> dict[str, Any]:
    """Train on the corpus in a fresh process and save the tokenizer into the folder.

    Returns:
        Wall and CPU seconds (all threads), the wall seconds of its three parts (reading, counting, merging; None
        where the core did not report the end of counting), peak and initial resident memory in bytes, documents and
        bytes read.
    """
    task = {"task": "training", "corpus": dataclasses.asdict(corpus), "folder": str(folder), "threads": threads}
    return _in_fresh_process(task, f"training on {corpus.name}", progress)


def measure_encoding(
    folder: Path, corpus: Corpus, *, limit: int, least_seconds: float = 1.0, processes: int = 3
) -> dict[str, Any]:
    """Encode held-out documents, at most about `limit` bytes, on one thread of fresh processes.

    Args:
        folder: of the tokenizer.
        least_seconds: how long at least to repeat warm passes, which take turns.
        processes: how often to measure what happens only once in a process.

    Returns:
        Documents and bytes encoded, and median seconds for: `load` the tokenizer's files, `prepare` (the first call,
        which builds tables), then one pass over all documents: `cold` the first, `warm` later ones, `joined` all of
        them in a single text, `list` from str to Python lists. Each pass has wall and CPU seconds (`_cpu`).
    """
    task = {"task": "encoding", "corpus": dataclasses.asdict(corpus), "folder": str(folder), "limit": limit}
    what = f"encoding {corpus.name}"
    first, *others = (
        _in_fresh_process(task | {"least_seconds": least_seconds * (number == 0)}, what, None)
        for number in range(processes)
    )
    for name in first["seconds"].keys() & others[0]["seconds"].keys() if others else ():
        first["seconds"][name] = median(found["seconds"][name] for found in (first, *others))
    return first


def _in_fresh_process(task: dict[str, Any], what: str, progress: Update | None) -> dict[str, Any]:
    # -P, and the path of this process: the other one must find this groundup, and nothing in the current folder.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | _ONE_BLAS_THREAD | {"PYTHONPATH": path},
    )
    answer: dict[str, Any] = {}
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended already; what it left says why
            process.stdin.write(json.dumps(task))
            process.stdin.close()
        for line in process.stdout:
            answer = json.loads(line) if line.endswith("\n") else {}  # a line may be cut off when it is killed
            if progress and "progress" in answer:
                progress(*answer["progress"])
        code = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if "error" in answer:
        name, message = answer["error"]
        raise getattr(errors, name, TokenizerError)(message)
    if "result" not in answer:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise TokenizerError(
            f"{what}: the measuring process {how} and left no result; if the memory was not enough, use less text"
        )
    result: dict[str, Any] = answer["result"]
    return result


def main() -> None:
    """Main function of the fresh process."""
    try:
        task = json.load(sys.stdin)
        read = ReadOptions(**task["corpus"].pop("read"))
        corpus, folder = Corpus(**task["corpus"], read=read), Path(task["folder"])
        if task["task"] == "training":
            _answer("result", _training(corpus, folder, task["threads"]))
        else:
            _answer("result", _encoding(corpus, folder, task["limit"], task["least_seconds"]))
    except GroundupError as error:
        name = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
        _answer("error", [name, str(error)])
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)  # who started this process is being stopped too, and says so
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _answer("error", [TokenizerError.__name__, f"{where}{error.strerror or error}; check the folder and the disk"])
    except MemoryError:
        _answer("error", [TokenizerError.__name__, "out of memory while measuring; use less text"])


def _answer(kind: str, content: object) -> None:
    print(json.dumps({kind: content}), flush=True)


def _training(corpus: Corpus, folder: Path, threads: int | None) -> dict[str, Any]:
    from groundup.tokenizer import Tokenizer, train_bpe_from_documents
    from groundup.tokenizer.encoders import load_core

    load_core()
    documents = corpus.training_documents()
    counted = (0, 0.0)  # bytes, and when

    def show(phase: str, done: int, total: int | None) -> None:
        nonlocal counted
        if phase == "counting":
            counted = (done, time.perf_counter())
            done, total = documents.read
        _answer("progress", [phase, done, total])

    before = peak_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    vocab, merges = train_bpe_from_documents(
        documents, corpus.vocab_size, [corpus.separator], num_threads=threads, progress=show
    )
    end, cpu = time.perf_counter(), time.process_time() - cpu
    after = peak_memory()
    Tokenizer(vocab, merges, [corpus.separator]).save(folder)
    # The core reports the whole text when it has counted it. Without that the two phases cannot be told apart.
    complete = counted[0] == documents.bytes
    return {
        "wall_seconds": end - wall,
        "cpu_seconds": cpu,
        "reading_seconds": documents.seconds,
        "counting_seconds": counted[1] - wall - documents.seconds if complete else None,
        "merging_seconds": end - counted[1] if complete else None,
        "peak_memory_bytes": after,
        "memory_before_bytes": before,
        "documents": documents.count,
        "bytes": documents.bytes,
    }


def _encoding(corpus: Corpus, folder: Path, limit: int, least_seconds: float) -> dict[str, Any]:
    import numpy as np  # noqa: F401  (the first pass must not pay for its import)

    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.encoders import load_core

    load_core()
    documents = list(_limited(corpus.held_out_documents(), limit))
    texts = [document.decode("utf-8", "replace") for document in documents]
    joined = corpus.separator.encode().join(documents)
    taken: dict[str, list[tuple[float, float]]] = {}

    def clock(name: str, work: Callable[[], object]) -> float:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        taken.setdefault(name, []).append((wall, cpu))
        return wall

    loaded: list[Tokenizer] = []
    clock("load", lambda: loaded.append(Tokenizer.load(folder)))
    tokenizer = loaded[0]
    clock("prepare", lambda: tokenizer.encode_bytes(b""))
    # Ids are dropped document by document, as a writer of shards would.
    clock("cold", lambda: _consume(map(tokenizer.encode_bytes, documents)))
    rounds, elapsed = 0, 0.0
    while elapsed < least_seconds or 0 < rounds < _LEAST_WARM_ROUNDS:
        # In turns, so that a disturbance of the machine hits all three.
        elapsed += clock("warm", lambda: _consume(map(tokenizer.encode_bytes, documents)))
        elapsed += clock("joined", lambda: tokenizer.encode_bytes(joined))
        elapsed += clock("list", lambda: _consume(map(tokenizer.encode, texts)))
        rounds += 1
    seconds: dict[str, float] = {}
    for name, passes in taken.items():
        walls, cpus = zip(*passes, strict=True)
        seconds[name], seconds[f"{name}_cpu"] = median(walls), median(cpus)
    return {"documents": len(documents), "bytes": sum(map(len, documents)), "seconds": seconds}


def _limited(documents: Iterator[bytes], limit: int) -> Iterator[bytes]:
    taken = 0
    for document in documents:
        yield document
        taken += len(document)
        if taken >= limit:
            return


def _consume(results: Iterable[object]) -> None:
    for _ in results:
        pass


def peak_memory() -> int | None:
    """The most resident memory this process has had, in bytes; None where the system does not tell."""
    try:
        # Linux's ru_maxrss begins with the peak of the process that started this one; VmHWM begins anew.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
