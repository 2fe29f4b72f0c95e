"""The classical experiments on tokenizers, as one report.

For each corpus a tokenizer is trained; then every tokenizer, trained or given, encodes the held-out documents of every
corpus. What comes out: training time and memory, the longest tokens, bytes per token within and across domains, how
much of the vocabulary is used, speed and the time that The Pile would take, and where the time goes. The questions are
those of the course assignment that groundup grew from, and its original report's figures (`ORIGINAL`) stand beside.

`measure` makes the report as plain data; `tables` and `plot` show it, and `folder` writes it.
"""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from groundup.account.hardware import cpu_name
from groundup.display.progress import Silent, Update
from groundup.errors import ConfigError, DataError
from groundup.studies.tokenizer_report.corpus import HELD_OUT_PERIOD, Corpus
from groundup.studies.tokenizer_report.process import measure_encoding, measure_training
from groundup.system.threads import available_cores
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.version import VERSION, installed_version

Report: TypeAlias = dict[str, Any]
"""Plain data, ready for JSON. Times are in seconds, sizes and rates in bytes; what is not known is None."""

FORMAT, FORMAT_VERSION = "groundup-tokenizer-report", 1

PILE_BYTES = 825e9
"""The Pile (Gao et al. 2020): 825 GB of text."""

SPEED_BYTES = 64_000_000
"""Held-out text on which speed is measured, at most."""

COLD_PROCESSES, WARM_SECONDS = 3, 1.0
"""Number of processes that time a first pass, and seconds for which one of them repeats later passes, at least."""

ORIGINAL: Report = {
    "training": {
        "tokenizer": "TinyStories",
        "vocab_size": 10_000,
        "wall_seconds": 17 * 60,
        "peak_memory_bytes": 80_000_000,
        "peak_memory_is_of": "the parent process alone",
    },
    "longest_tokens": [
        {"tokenizer": "TinyStories", "bytes": 15, "texts": [" accomplishment", " disappointment", " responsibility"]},
        {"tokenizer": "OpenWebText", "bytes": 64, "texts": ["ÃÂ" * 16]},
    ],
    "compression": [
        {"tokenizer": "TinyStories", "vocab_size": 10_000, "corpus": "TinyStories", "bytes_per_token": 4.25},
        {"tokenizer": "OpenWebText", "vocab_size": 32_000, "corpus": "OpenWebText", "bytes_per_token": 4.54},
        {"tokenizer": "TinyStories", "vocab_size": 10_000, "corpus": "OpenWebText", "bytes_per_token": 3.22},
    ],
    "speed": {"bytes_per_second": 670_000, "pile_seconds": 342 * 3600},
}
"""What the system's original report found, on its own texts and machine. Compression is on 10 documents each."""


def measure(
    corpora: Sequence[Corpus],
    tokenizers: Mapping[str, Tokenizer] | None = None,
    *,
    train: bool = True,
    sampled_documents: int = 10,
    longest: int = 10,
    seed: int = 0,
    threads: int | None = None,
    progress: Update | None = None,
) -> tuple[Report, dict[str, Tokenizer]]:
    """Train, encode and measure.

    Args:
        corpora: texts to train and to measure on.
        tokenizers: further ones by name. One with the name of a corpus is that corpus's own, which is not trained.
        train: train a tokenizer on each corpus that has none.
        sampled_documents: held-out documents drawn from each corpus, beside all of them together.
        longest: how many of each tokenizer's longest tokens to list.
        seed: of the draw.
        threads: threads that count in training; all cores by default. Encoding is on one thread.
        progress: told what goes on.

    Returns:
        The report, and all tokenizers by name.

    Raises:
        ConfigError: no corpus, no tokenizer, names that are not distinct, or a number below 1.
        DataError, FileMissingError, TokenizerError: as `Corpus.check`, and as training and encoding raise.
    """
    given = dict(tokenizers or {})
    _check(corpora, given, train=train, sampled_documents=sampled_documents, longest=longest)
    threads = threads if threads is not None else available_cores()
    tell = progress or Silent()
    with tempfile.TemporaryDirectory(prefix="groundup-report-") as work:
        everything, training = _all_tokenizers(corpora, given, Path(work), threads, tell, train=train)
        compression, held_out = [], {}
        for corpus in corpora:
            held_out[corpus.name] = counts = _Counts(corpus, everything, sampled_documents, seed)
            for read in counts.run():
                tell(f"{corpus.name}: counting tokens", *read)
            compression += counts.rows()
        speed = _speeds(Path(work), corpora, everything, tell)
    report = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": _system(),
        "settings": {
            "sampled_documents": sampled_documents,
            "seed": seed,
            "training_threads": threads,
            "encoding_threads": 1,
            "speed_bytes_limit": SPEED_BYTES,
        },
        "corpora": [held_out[corpus.name].corpus_facts() for corpus in corpora],
        "tokenizers": [_facts(name, tokenizer, training.get(name), longest) for name, tokenizer in everything.items()],
        "compression": compression,
        "vocabularies_in_common": _in_common(everything),
        "speed": speed,
        "original_report": ORIGINAL,
    }
    return report, everything


def _check(
    corpora: Sequence[Corpus], given: Mapping[str, Tokenizer], *, train: bool, sampled_documents: int, longest: int
) -> None:
    if not corpora:
        raise ConfigError("a report needs at least one corpus; name a text file")
    names = [corpus.name for corpus in corpora]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two corpora have the name {repeated[0]!r}; give each its own name")
    for name in (*names, *given):
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ConfigError(
                f"the name {name!r} is not fit for a file; use letters, digits, - . and _, as in NAME=PATH"
            )
    if not train and not given:
        raise ConfigError("without training, a report needs at least one tokenizer; give one")
    for what, count in (("sampled documents", sampled_documents), ("longest tokens", longest)):
        if count < 1:
            raise ConfigError(f"{what} = {count}; expected 1 or more")
    for corpus in corpora:
        corpus.check()


def _all_tokenizers(
    corpora: Sequence[Corpus],
    given: Mapping[str, Tokenizer],
    work: Path,
    threads: int,
    tell: Update,
    *,
    train: bool,
) -> tuple[dict[str, Tokenizer], dict[str, Report]]:
    """Each corpus's own tokenizer, given or trained, then the other given ones; and figures on the training."""
    everything: dict[str, Tokenizer] = {}
    training: dict[str, Report] = {}
    for corpus in corpora:
        name = corpus.name
        if name in given:
            everything[name] = given[name]
        elif train:
            folder = work / f"trained-{len(training)}"
            training[name] = measure_training(corpus, folder, threads=threads, progress=_prefixed(f"{name}: ", tell))
            everything[name] = Tokenizer.load(folder)
    return everything | dict(given), training


class _Counts:
    """Tokens of one corpus's held-out documents with each tokenizer, in one pass over the text."""

    def __init__(self, corpus: Corpus, tokenizers: Mapping[str, Tokenizer], sampled_documents: int, seed: int):
        self._corpus, self._tokenizers = corpus, tokenizers
        self._sample_size, self._random = sampled_documents, random.Random(seed)
        self._sample: list[tuple[int, list[int]]] = []  # bytes, and tokens by each tokenizer
        self._tokens = [0] * len(tokenizers)
        self._used: list[Any] = []
        self.documents = self.bytes = 0

    def run(self) -> Iterator[tuple[int, int | None]]:
        """Encode all; yield the bytes read so far, and their total, after each document."""
        import numpy as np

        self._used = [np.zeros(tokenizer.vocab_size, dtype=bool) for tokenizer in self._tokenizers.values()]
        documents = self._corpus.held_out_documents()
        for document in documents:
            counts = []
            for tokenizer, used in zip(self._tokenizers.values(), self._used, strict=True):
                ids = tokenizer.encode_bytes(document)
                used[ids] = True
                counts.append(len(ids))
            self._tokens = [total + count for total, count in zip(self._tokens, counts, strict=True)]
            self._draw((len(document), counts))
            self.documents += 1
            self.bytes += len(document)
            yield documents.read

    def corpus_facts(self) -> Report:
        """Inputs of the corpus, and its held-out text."""
        return {
            "name": self._corpus.name,
            "inputs": _as_text(self._corpus.inputs),
            "held_out": _as_text(self._corpus.held_out) or f"one document in {HELD_OUT_PERIOD}",
            "held_out_documents": self.documents,
            "held_out_bytes": self.bytes,
        }

    def _draw(self, document: tuple[int, list[int]]) -> None:
        # Reservoir sampling (Vitter 1985, algorithm R): any document is as likely, and their number need not be known.
        if len(self._sample) < self._sample_size:
            self._sample.append(document)
        elif (place := self._random.randrange(self.documents + 1)) < self._sample_size:
            self._sample[place] = document

    def rows(self) -> list[Report]:
        """One for each tokenizer."""
        if not self.documents:
            raise DataError(f"corpus {self._corpus.name}: no held-out text is left; did a file change meanwhile?")
        rows = []
        for i, (name, tokenizer) in enumerate(self._tokenizers.items()):
            is_text = tokenizer.token_lengths() > 0
            used, usable = int((self._used[i] & is_text).sum()), int(is_text.sum())
            sizes, counts = zip(*((size, tokens[i]) for size, tokens in self._sample), strict=True)
            rows.append(
                {
                    "tokenizer": name,
                    "corpus": self._corpus.name,
                    "sample": {
                        "documents": len(sizes),
                        "bytes": sum(sizes),
                        "tokens": sum(counts),
                        "bytes_per_token": sum(sizes) / sum(counts),
                        "bytes_per_token_by_document": [s / c for s, c in zip(sizes, counts, strict=True)],
                    },
                    "held_out": {
                        "documents": self.documents,
                        "bytes": self.bytes,
                        "tokens": self._tokens[i],
                        "bytes_per_token": self.bytes / self._tokens[i],
                        "tokens_used": used,
                        "tokens_usable": usable,
                        "share_used": used / usable,
                    },
                }
            )
        return rows


def _speeds(work: Path, corpora: Sequence[Corpus], tokenizers: Mapping[str, Tokenizer], tell: Update) -> list[Report]:
    rows = []
    pairs = list(itertools.product(corpora, tokenizers))
    for number, (corpus, name) in enumerate(pairs):
        tell("measuring speed", number, len(pairs))
        folder = work / f"measured-{list(tokenizers).index(name)}"
        if not folder.exists():
            tokenizers[name].save(folder)
        found = measure_encoding(
            folder, corpus, limit=SPEED_BYTES, least_seconds=WARM_SECONDS, processes=COLD_PROCESSES
        )
        size, seconds = found["bytes"], found["seconds"]
        rows.append(
            {
                "tokenizer": name,
                "corpus": corpus.name,
                "documents": found["documents"],
                "bytes": size,
                "bytes_per_second": {mode: size / seconds[mode] for mode in ("cold", "warm", "list")},
                "pile_seconds": {mode: PILE_BYTES * seconds[mode] / size for mode in ("cold", "warm", "list")},
                "startup_seconds": seconds["load"] + seconds["prepare"],
                "profile_cpu_seconds": profile(seconds),
                "seconds": seconds,
            }
        )
    return rows


def profile(seconds: Mapping[str, float]) -> dict[str, float]:
    """Profile of the CPU time of a first pass to lists: differences between the passes of `measure_encoding`.

    Splitting, looking up known pretokens and writing ids are one loop, which cannot be divided from outside. What is
    smaller than its noise may come out as 0.
    """
    cpu = {name.removesuffix("_cpu"): value for name, value in seconds.items() if name.endswith("_cpu")}
    one_text = min(cpu["joined"], cpu["warm"])
    return {
        "split_and_look_up": one_text,
        "calls": cpu["warm"] - one_text,
        "new_pretokens": max(0.0, cpu["cold"] - cpu["warm"]),
        "python_lists": max(0.0, cpu["list"] - cpu["warm"]),
    }


def _facts(name: str, tokenizer: Tokenizer, training: Report | None, longest: int) -> Report:
    special = {tokenizer.token_id(token) for token in tokenizer.special_tokens}
    by_length = sorted(
        ((token_id, token) for token_id, token in tokenizer.vocab.items() if token_id not in special),
        key=lambda entry: (-len(entry[1]), entry[0]),
    )
    return {
        "name": name,
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "special_tokens": tokenizer.special_tokens,
        "pattern": tokenizer.pattern,
        "sha256": tokenizer.sha256,
        "id_dtype": "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
        "longest_tokens": [
            {"id": token_id, "bytes": len(token), "text": token.decode("utf-8", "replace"), "hex": token.hex()}
            for token_id, token in by_length[:longest]
        ],
        "training": training,
    }


def _in_common(tokenizers: Mapping[str, Tokenizer]) -> list[Report]:
    texts = {
        name: set(tokenizer.vocab.values()) - {token.encode() for token in tokenizer.special_tokens}
        for name, tokenizer in tokenizers.items()
    }
    return [
        {"tokenizers": [a, b], "tokens": len(texts[a] & texts[b]), "of": [len(texts[a]), len(texts[b])]}
        for a, b in itertools.combinations(texts, 2)
    ]


def _prefixed(prefix: str, tell: Update) -> Update:
    return lambda what, done, total, extra="": tell(prefix + what, done, total, extra)


def _as_text(paths: list[str]) -> list[str]:
    """Paths that may hold bytes which are not UTF-8."""
    return [os.fsencode(path).decode("utf-8", "replace") for path in paths]


def _system() -> Report:
    return {
        "groundup": VERSION,
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in ("numpy", "regex")},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
