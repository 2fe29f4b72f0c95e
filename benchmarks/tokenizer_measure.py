"""Measurements of tokenizers, each for a fresh process: load a library, time calls, and hash the results.

Every function takes and returns JSON values, and is called by name through `side_by_side.in_fresh_process`.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import GroundupError
from side_by_side import SEPARATOR, Clocks, Row, UnavailableError, clocks, peak_mb, since
from tokenizer_peers import CALLS, OURS, Call, Encode, flat_ids, opener, train, write_vocabulary

SMALL_BYTES = 400
"""Least length of a small document, which consists of whole lines."""
LATENCY_CHARACTERS = 50
_BLOCK = 1 << 22


def write_vocabularies(*, tokenizer: str, vocabulary: str) -> Row:
    """Write the tokenizer in the formats of all libraries into the folder ``vocabulary``."""
    try:
        write_vocabulary(Path(tokenizer), Path(vocabulary))
    except GroundupError as error:
        raise UnavailableError(str(error)) from None
    return {}


def encode(
    *, what: str, call: int, input: str, megabytes: float, documents: int, vocabulary: str, threads: int, passes: int
) -> Row:
    """Time one call on (the beginning of) a file, once cold and ``passes`` times warm.

    Returns times as [CPU, wall-clock] seconds: "construct", "cold", "warm" (one for each pass); "bytes" of text, its
    "documents", "tokens", "sha256" of ids and document ends, "peak_mb".
    """
    this = CALLS[what][call]
    data = text_prefix(Path(input), megabytes)
    prepared, size = _prepared(what, this, data, documents)
    del data
    tokenizer, construct = _opened(this.library, vocabulary)
    encode_once = _bound(this, tokenizer, threads)
    one_by_one = "one by one" in what

    def encode_each(texts: Sequence[str]) -> None:
        for text in texts:
            encode_once(text)

    encode_all = encode_each if one_by_one else encode_once
    cold, result = _timed(encode_all, prepared)
    if "bytes to" in what:  # a batch of one document equals that document
        found = _digest(flat_ids(result)[0], None)
    elif not one_by_one:
        found = _digest(*flat_ids(result))
    del result
    warm = []
    for _ in range(passes):
        seconds, result = _timed(encode_all, prepared)
        warm.append(seconds)
        del result
    peak = peak_mb()
    if one_by_one:  # ids were dropped as they came, as in a program that writes them to a file
        found = _digest_of_each(encode_once, prepared)
    count = len(prepared) if isinstance(prepared, list) else 1
    row = {"construct": construct, "cold": cold, "warm": warm, "bytes": size, "documents": count, "peak_mb": peak}
    return row | found


def latency(*, what: str, call: int, input: str, vocabulary: str, calls: int, blocks: int) -> Row:
    """Microseconds of a call on 50 characters, [best, median] over blocks of calls, without the loop overhead.

    "same_text" repeats one string; "texts_in_turn" cycles through 64 strings of the input.
    """
    this = CALLS[what][call]
    windows = _windows(text_prefix(Path(input), 1.0).decode("utf-8", "replace"))
    tokenizer, _ = _opened(this.library, vocabulary)
    encode_once = _bound(this, tokenizer, 1)
    found: Row = _digest_of_each(encode_once, windows)
    for name, texts in (("same_text", windows[:1]), ("texts_in_turn", windows)):
        texts = list(itertools.islice(itertools.cycle(texts), calls))
        loop = min(_block(None, texts) for _ in range(20))
        times = sorted(_block(encode_once, texts) - loop for _ in range(blocks))
        found[name] = [1e6 * times[0] / calls, 1e6 * times[len(times) // 2] / calls]
    return found


def hard_input(*, kind: str, input: str, megabytes: float, vocabulary: str, seed: int) -> Row:
    """Time groundup's first and second pass over an adversarial text, or over the input for "normal text"."""
    data = text_prefix(Path(input), megabytes) if kind == "normal text" else HARD[kind](int(megabytes * 1e6), seed)
    tokenizer, _ = _opened(OURS, vocabulary)
    cold, ids = _timed(tokenizer.encode_bytes, data)
    del ids
    warm, ids = _timed(tokenizer.encode_bytes, data)
    peak = peak_mb()
    kept = int(tokenizer.token_lengths()[ids].sum()) + data.count(SEPARATOR.encode()) * len(SEPARATOR) == len(data)
    return {"cold": cold, "warm": warm, "bytes": len(data), "tokens": len(ids), "bytes_kept": kept, "peak_mb": peak}


def whole_file(*, input: str, vocabulary: str, slice_megabytes: float) -> Row:
    """Time groundup's single pass over a file of any size, in slices that end at separators; ids are dropped.

    The times do not include reading the file; "bytes" and "tokens" are those of the file.
    """
    tokenizer, _ = _opened(OURS, vocabulary)
    cpu = wall = 0.0
    size = tokens = 0
    for piece in _slices(Path(input), int(slice_megabytes * 1e6)):
        seconds, ids = _timed(tokenizer.encode_bytes, piece)
        cpu, wall = cpu + seconds[0], wall + seconds[1]
        size, tokens = size + len(piece), tokens + len(ids)
        del ids
    return {"cold": [cpu, wall], "bytes": size, "tokens": tokens, "peak_mb": peak_mb()}


def in_memory_as_shards(*, input: str, vocabulary: str) -> Row:
    """Time groundup's single call on a whole file, and hash the ids that its shards should contain."""
    tokenizer, _ = _opened(OURS, vocabulary)
    data = Path(input).read_bytes()
    cold, ids = _timed(tokenizer.encode_bytes, data)
    del ids
    peak = peak_mb()
    row = {"cold": cold, "bytes": len(data), "peak_mb": peak}
    return row | _digest(tokenizer.encode_bytes(_as_in_shards(data)), None)


def shards(*, folder: str) -> Row:
    """Hash of the ids in a folder of token shards."""
    from groundup.data.shards import TokenShards

    found = TokenShards.open(folder)
    digest = hashlib.sha256()
    for start in range(0, len(found), _BLOCK):
        digest.update(found.read(start, min(_BLOCK, len(found) - start)).astype("<u4").tobytes())
    return {"tokens": len(found), "sha256": digest.hexdigest()}


def train_once(*, who: str, input: str, vocab_size: int, threads: int, learned: str) -> Row:
    """Time one training, reading the text included. Writes the merges to the file ``learned``, a line each, in hex."""
    modules = {OURS: "groundup.tokenizer.training.train", "gigatoken": "gigatoken"}
    library = who.partition(":")[0]
    try:
        importlib.import_module(modules.get(library, library))
        importlib.import_module("groundup.tokenizer.formats.gpt2")  # parses the peers' merges
    except ImportError:
        raise UnavailableError(f"{library} is not installed; pip install {library}") from None
    if library == OURS:
        from groundup.tokenizer.encoders import load_core

        load_core()
    before = peak_mb()
    start = clocks()
    merges = train(who, Path(input), vocab_size, threads)
    cpu, wall = since(start)
    peak = peak_mb()
    Path(learned).write_text("".join(f"{left.hex()} {right.hex()}\n" for left, right in merges), encoding="ascii")
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak, "peak_mb_before": before, "merges": len(merges)}


def write_prefix(*, input: str, megabytes: float, out: str) -> Row:
    """Write `text_prefix` to a file."""
    return {"bytes": Path(out).write_bytes(text_prefix(Path(input), megabytes))}


def text_prefix(path: Path, megabytes: float) -> bytes:
    """The first megabytes of a file, cut after a whole document if possible, otherwise after a whole character."""
    limit = int(megabytes * 1e6)
    with path.open("rb") as file:
        data = file.read(limit)
        if not file.read(1):
            return data
    end = data.rfind(SEPARATOR.encode())
    return data[:end] if end > 0 else data.decode("utf-8", "ignore").encode()


def _opened(library: str, vocabulary: str) -> tuple[Any, Clocks]:
    construct = opener(library, Path(vocabulary))
    start = clocks()
    tokenizer = construct()
    return tokenizer, since(start)


def _bound(call: Call, tokenizer: Any, threads: int) -> Encode:
    if not hasattr(tokenizer, call.method):
        raise UnavailableError(f"this {call.library} has no {call.named(threads)}")
    return call.bind(tokenizer, threads)


def _timed(work: Callable[[Any], Any], given: Any) -> tuple[Clocks, Any]:
    start = clocks()
    result = work(given)
    return since(start), result


def _prepared(what: str, call: Call, data: bytes, documents: int) -> tuple[Any, int]:
    """The input in the type of the call, and its bytes."""
    if "bytes to" in what:
        return (data if call.takes_bytes else data.decode()), len(data)
    texts = [text for text in data.decode().split(SEPARATOR) if text]
    if "small" in what:
        texts = list(itertools.islice(_small(texts), documents))
    return texts, sum(len(text.encode()) for text in texts)


def _small(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        document = ""
        for line in text.splitlines(keepends=True):
            document += line
            if len(document) >= SMALL_BYTES:
                yield document
                document = ""
        if document:
            yield document


def _windows(text: str) -> list[str]:
    """64 different strings of 50 ASCII characters that begin at a word."""
    found: dict[str, None] = {}
    words = text.replace(SEPARATOR, " ").split()
    for first in range(0, len(words), 7):
        window = " ".join(words[first : first + LATENCY_CHARACTERS])[:LATENCY_CHARACTERS]
        if len(window) == LATENCY_CHARACTERS and window.isascii():
            found[window] = None
        if len(found) == 64:
            return list(found)
    raise UnavailableError(f"latency wants 64 different strings of ASCII text, and the input has {len(found)}")


def _block(work: Encode | None, texts: Sequence[str]) -> float:
    """Seconds for all texts; None times the empty loop."""
    if work is None:
        start = time.perf_counter()
        for _ in texts:
            pass
        return time.perf_counter() - start
    start = time.perf_counter()
    for text in texts:
        work(text)
    return time.perf_counter() - start


def _digest_of_each(encode_once: Encode, texts: Sequence[str]) -> Row:
    import numpy as np

    results = [np.asarray(encode_once(text), np.uint32) for text in texts]
    return _digest(np.concatenate(results), np.cumsum([len(ids) for ids in results], dtype=np.int64))


def _digest(ids: Any, ends: Any) -> Row:
    digest = hashlib.sha256(ids.astype("<u4", copy=False).tobytes())
    if ends is not None:
        digest.update(ends.astype("<i8", copy=False).tobytes())
    return {"tokens": len(ids), "sha256": digest.hexdigest()}


def _as_in_shards(data: bytes) -> bytes:
    """The text with a separator after every document, without empty documents and without line breaks at separators."""
    separator = SEPARATOR.encode()
    parts = data.split(separator)
    own_line = [
        (before.endswith(b"\n") or (i == 0 and not before)) and (after.startswith(b"\n") or not after)
        for i, (before, after) in enumerate(itertools.pairwise(parts))
    ]
    documents = []
    for part, after_line, before_line in zip(parts, [False, *own_line], [*own_line, False], strict=True):
        document = part[1:] if after_line else part
        documents.append(document[:-1] if before_line and document.endswith(b"\n") else document)
    return b"".join(document + separator for document in documents if document)


def _slices(path: Path, size: int) -> Iterator[bytes]:
    separator, rest = SEPARATOR.encode(), b""
    with path.open("rb") as file:
        while piece := file.read(size):
            rest += piece
            if (end := rest.rfind(separator)) >= 0:
                yield rest[: end + len(separator)]
                rest = rest[end + len(separator) :]
    if rest:
        yield rest


def _one_line(size: int, seed: int) -> bytes:
    import numpy as np

    # Letters with the frequencies of English, so that merges apply.
    letters = np.frombuffer(b"eeeeeeetttttaaaaooooiiiinnnnsssshhhhrrrddllcumwfgypbvk", np.uint8)
    return letters[np.random.default_rng(seed).integers(0, len(letters), size)].tobytes()


def _base64(size: int, seed: int) -> bytes:
    import base64

    import numpy as np

    return base64.b64encode(np.random.default_rng(seed).bytes(size // 4 * 3))


def _cjk(size: int, seed: int) -> bytes:
    import numpy as np

    rng = np.random.default_rng(seed)
    # Characters by Zipf's law over 6,000 ideographs, with occasional full stops and commas, without white space.
    points = 0x4E00 + (rng.zipf(1.2, size // 3) % 6000)
    points[rng.random(len(points)) < 0.05] = 0x3002
    points[rng.random(len(points)) < 0.05] = 0xFF0C
    return points.astype("<u2").tobytes().decode("utf-16-le").encode()


HARD: dict[str, Callable[[int, int], bytes]] = {
    "one line of random letters": _one_line,
    "base64": _base64,
    "CJK without spaces": _cjk,
    "one repeated letter": lambda size, seed: b"a" * size,
    "white space": lambda size, seed: b" \n" * (size // 2),
    "random bytes": lambda size, seed: __import__("numpy").random.default_rng(seed).bytes(size),
}
