"""Calls of each library to encode and to train: its fastest public call for the compared result.

All libraries get the same vocabulary, written by `write_vocabulary` in their formats, and the same text, converted to
the type of their call (bytes if possible) before the clock starts. All recognize special tokens in a text that is
encoded as a whole.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side_by_side import SEPARATOR, UnavailableError, labelled

OURS = "groundup"
Encode = Callable[[Any], Any]


@dataclass(frozen=True)
class Call:
    """A library's call to encode one type of input to one type of result."""

    library: str
    text: str
    """The call as shown in rows, with {threads} and {parallel} to be filled in."""
    bind: Callable[[Any, int], Encode]
    """Returns the timed call for the library's tokenizer and a number of threads."""
    most_threads: int = 1
    fewest_threads: int = 1
    slow: bool = False
    """Whether it gets only the beginning of the text: without a cache it is not faster on longer text."""
    takes_bytes: bool = False

    @property
    def method(self) -> str:
        """Name of the method that the library's tokenizer must have."""
        return self.text.split("(")[0]

    def fits(self, threads: int) -> bool:
        """Whether this is the call for this number of threads."""
        return self.fewest_threads <= threads <= self.most_threads

    def named(self, threads: int) -> str:
        return self.text.format(threads=threads, parallel=threads > 1)


def _gigatoken_one(tokenizer: Any, threads: int) -> Encode:
    return lambda data: tokenizer.encode_batch([data], parallel=threads > 1)


def _hugging_face_batch(tokenizer: Any, threads: int) -> Encode:
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


_TIKTOKEN_ARRAY = Call(
    "tiktoken", "encode_to_numpy(str)",
    lambda t, _: lambda text: t.encode_to_numpy(text, allowed_special="all"), slow=True,
)  # fmt: skip
_TOKENIZERS_ENCODE = Call("tokenizers", "encode(str).ids", lambda t, _: lambda text: t.encode(text).ids, slow=True)
_GIGATOKEN_ARRAY = Call("gigatoken", "encode(str)", lambda t, _: t.encode)
_ANY = 1 << 10  # for any number of threads

CALLS: dict[str, list[Call]] = {
    "encode bytes to array": [
        Call(OURS, "encode_bytes(bytes)", lambda t, _: t.encode_bytes, takes_bytes=True),
        Call(
            OURS, "encode_to_numpy(bytes, num_threads={threads})",
            lambda t, n: lambda data: t.encode_to_numpy(data, num_threads=n), _ANY, 2, takes_bytes=True,
        ),
        Call("gigatoken", "encode(bytes)", lambda t, _: t.encode, takes_bytes=True),
        Call("gigatoken", "encode_batch([bytes], parallel={parallel})", _gigatoken_one, _ANY, takes_bytes=True),
        _TIKTOKEN_ARRAY,
        _TOKENIZERS_ENCODE,
    ],
    "encode documents one by one to arrays": [
        Call(OURS, "encode_to_numpy(str)", lambda t, _: t.encode_to_numpy),
        _GIGATOKEN_ARRAY,
        _TIKTOKEN_ARRAY,
    ],
    "encode documents one by one to lists": [
        Call(OURS, "encode(str)", lambda t, _: t.encode),
        Call("gigatoken", "encode(str).tolist()", lambda t, _: lambda text: t.encode(text).tolist()),
        Call("tiktoken", "encode_ordinary(str)", lambda t, _: t.encode_ordinary, slow=True),
        _TOKENIZERS_ENCODE,
    ],
    "encode a batch of small documents to arrays": [
        Call(
            OURS, "encode_batch_to_numpy(list[str], num_threads={threads})",
            lambda t, n: lambda texts: t.encode_batch_to_numpy(texts, num_threads=n), _ANY,
        ),
        Call(
            "gigatoken", "encode_batch(list[str], parallel={parallel})",
            lambda t, n: lambda texts: t.encode_batch(texts, parallel=n > 1), _ANY,
        ),
    ],
    "encode a batch of small documents to lists": [
        Call(
            OURS, "encode_batch(list[str], num_threads={threads})",
            lambda t, n: lambda texts: t.encode_batch(texts, num_threads=n), _ANY,
        ),
        Call(
            "gigatoken", "encode_batch_list(list[str], parallel={parallel})",
            lambda t, n: lambda texts: t.encode_batch_list(texts, parallel=n > 1), _ANY,
        ),
        Call(
            "tiktoken", "encode_ordinary_batch(list[str], num_threads={threads})",
            lambda t, n: lambda texts: t.encode_ordinary_batch(texts, num_threads=n), _ANY, slow=True,
        ),
        Call("tokenizers", "encode_batch_fast(list[str])", _hugging_face_batch, _ANY, slow=True),
    ],
}  # fmt: skip
"""Calls by kind, groundup's first. Latency is measured with the calls for single documents."""


def write_vocabulary(tokenizer_folder: Path, out: Path) -> None:
    """Write the tokenizer in the format of each library: groundup's folder, tokenizer.json, and ranks for tiktoken.

    Raises:
        UnavailableError: the pattern is not GPT-2's, or ids have gaps, which the peers do not support here.
    """
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.formats.gpt2 import printable
    from groundup.tokenizer.patterns import GPT2

    tokenizer = Tokenizer.load(tokenizer_folder)
    if tokenizer.pattern not in ("gpt2", GPT2):
        raise UnavailableError(f"the tokenizer's pattern is {tokenizer.pattern!r}; the benchmarks know gpt2 only")
    if len(tokenizer.vocab) != tokenizer.vocab_size:
        raise UnavailableError(
            f"the vocabulary has {len(tokenizer.vocab)} tokens and ids up to {tokenizer.vocab_size - 1}; "
            "tiktoken and gigatoken need ids without gaps"
        )
    specials = {tokenizer.token_id(name): name for name in tokenizer.special_tokens}
    ordinary = {token_id: token for token_id, token in tokenizer.vocab.items() if token_id not in specials}
    tokenizer.save(out / OURS)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    switches = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {
        "type": "BPE",
        "vocab": {printable(token): token_id for token_id, token in ordinary.items()}
        | {name: token_id for token_id, name in specials.items()},
        "merges": [[printable(left), printable(right)] for left, right in tokenizer.merges],
    }
    content = {
        "version": "1.0",
        "added_tokens": [{"id": token_id, "content": name} | switches for token_id, name in specials.items()],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": model,
    }
    (out / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    lines = [f"{base64.b64encode(token).decode()} {token_id}\n" for token_id, token in sorted(ordinary.items())]
    (out / "ranks.tiktoken").write_text("".join(lines), encoding="ascii")
    (out / "specials.json").write_text(json.dumps({name: token_id for token_id, name in specials.items()}))


def opener(library: str, vocabulary: Path) -> Callable[[], Any]:
    """Import the library and everything that it imports later; return the function that loads its tokenizer.

    Raises:
        UnavailableError: it is not installed.
    """
    labelled(library)
    if library == OURS:
        import numpy  # noqa: F401 - groundup imports it later

        from groundup.tokenizer import Tokenizer
        from groundup.tokenizer.encoders import load_core

        load_core()
        return lambda: Tokenizer.load(vocabulary / OURS)
    if library == "gigatoken":
        import awkward  # noqa: F401 - gigatoken imports it later
        import gigatoken

        return lambda: gigatoken.Tokenizer(vocabulary / "tokenizer.json")
    if library == "tokenizers":
        import tokenizers

        return lambda: tokenizers.Tokenizer.from_file(str(vocabulary / "tokenizer.json"))
    if library == "tiktoken":
        return lambda: _tiktoken(vocabulary)
    raise UnavailableError(f"{library!r} is not a peer for encoding; choose gigatoken, tiktoken or tokenizers")


def _tiktoken(vocabulary: Path) -> Any:
    import tiktoken

    from groundup.tokenizer.patterns import GPT2

    # Not tiktoken.load, which caches a copy by the file's path.
    lines = (vocabulary / "ranks.tiktoken").read_bytes().split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    specials = json.loads((vocabulary / "specials.json").read_text(encoding="utf-8"))
    return tiktoken.Encoding("same", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=specials)


def flat_ids(result: Any) -> tuple[Any, Any]:
    """A library's result as ids, uint32 (N,), and document ends in them, int64 (documents,), or None."""
    import numpy as np

    if isinstance(result, tuple):
        return np.asarray(result[0], np.uint32), np.asarray(result[1], np.int64)
    if isinstance(result, np.ndarray):
        return result.astype(np.uint32, copy=False), None
    if isinstance(result, list):
        if not result or isinstance(result[0], int):
            return np.array(result, np.uint32), None
        ends = np.cumsum([len(ids) for ids in result], dtype=np.int64)
        return np.fromiter(itertools.chain.from_iterable(result), np.uint32, count=int(ends[-1])), ends
    import awkward as ak

    return ak.to_numpy(ak.flatten(result)), np.cumsum(ak.to_numpy(ak.num(result)), dtype=np.int64)


Merges = list[tuple[bytes, bytes]]
"""Learned merges, in order. rustbpe does not return the two parts of a merge; the first has all bytes."""

_PIECE_BYTES = 16 << 20


def train(who: str, path: Path, vocab_size: int, threads: int) -> Merges:
    """Train with ``LIBRARY`` or ``LIBRARY:TIE_RULE`` on a file with documents between separators.

    The vocabulary of every library has the 256 bytes, the separator and the merges.

    Raises:
        UnavailableError: the library is not installed, or the library or tie rule is unknown.
    """
    library, _, tie_rule = who.partition(":")
    trainers = {OURS: _train_ours, "gigatoken": _train_gigatoken, "tokenizers": _train_hf, "rustbpe": _train_rustbpe}
    if library not in trainers:
        raise UnavailableError(f"{library!r} is not a trainer; choose one of: {', '.join(trainers)}")
    labelled(library)
    return trainers[library](path, vocab_size, threads, tie_rule)


def _train_ours(path: Path, vocab_size: int, threads: int, tie_rule: str) -> Merges:
    import inspect

    from groundup.tokenizer import train_bpe

    if tie_rule and "tie_rule" not in inspect.signature(train_bpe).parameters:
        if tie_rule != "bytes":
            raise UnavailableError(f"this groundup's train_bpe has no tie_rule, so not {tie_rule!r}")
        tie_rule = ""
    options = {"tie_rule": tie_rule} if tie_rule else {}
    return train_bpe(path, vocab_size, [SEPARATOR], num_threads=threads, **options)[1]


def _train_gigatoken(path: Path, vocab_size: int, threads: int, tie_rule: str) -> Merges:
    import gigatoken

    _, merges = gigatoken.train_bpe(path, vocab_size, [SEPARATOR], tie_breaking=tie_rule or "huggingface")
    return [(bytes(left), bytes(right)) for left, right in merges]


def _train_hf(path: Path, vocab_size: int, threads: int, tie_rule: str) -> Merges:
    import tokenizers

    from groundup.tokenizer.formats.gpt2 import from_printable

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents_of(path), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs: Sequence[Sequence[str]] = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return [(from_printable(left), from_printable(right)) for left, right in pairs]


def _train_rustbpe(path: Path, vocab_size: int, threads: int, tie_rule: str) -> Merges:
    import rustbpe

    from groundup.tokenizer.patterns import GPT2

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(documents_of(path), vocab_size - 1, pattern=GPT2)  # it has no special tokens
    learned = sorted((rank, bytes(token)) for token, rank in tokenizer.get_mergeable_ranks() if rank >= 256)
    return [(token, b"") for _, token in learned]


def documents_of(path: Path) -> Iterator[str]:
    """Documents of a file, for libraries that take no path; a long file is never in memory as a whole."""
    separator, rest = SEPARATOR.encode(), b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            *documents, rest = (rest + piece).split(separator)
            for document in documents:
                yield document.decode("utf-8", "replace")
    yield rest.decode("utf-8", "replace")
