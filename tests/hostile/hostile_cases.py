"""The list of all cases: a verb or loader, what is hostile about it, and which one of its kind."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from pathlib import Path

from groundup.cli.main import VERBS
from hostile_commands import BASE, NOT_TRIED, SERVERS, SLOW, Option, is_path, options_of, values_of
from hostile_inputs import CONTENTS, ENDLESS, NAMES, OUTPUT_PATHS, PATHS, PLACES, WORDS, mutations
from hostile_readers import LOADERS, OWN_FILES, READERS, Reader

TRUNCATIONS, FLIPS, MUTATIONS = 20, 50, 100
STREAMS = ("full", "closed", "no-reader", "no-input", "no-error", "no-streams")
ROOM = (0, 1, 64, 512, 4096)
"""Bytes that a file may have, after which the disk is full."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One command or call, and what is hostile about it."""

    actor: str
    """A verb, a reader of a file that groundup wrote, or a loader of the Python API."""
    target: str
    """An option of the verb, or a file of the world."""
    kind: str
    detail: str

    @property
    def name(self) -> str:
        """What the case is called, and repeated by."""
        return f"{self.actor}:{self.target}:{self.kind}:{self.detail}"

    @property
    def is_slow(self) -> bool:
        """Whether it takes a second or more."""
        return self.actor in SLOW or (self.actor in READERS and READERS[self.actor].slow)


def all_cases(world: Path) -> list[Case]:
    """Every case, in an order that never changes."""
    found = [case for verb in VERBS if verb not in SERVERS for case in verb_cases(verb)]
    found += [case for loader in LOADERS for case in _loader_cases(loader)]
    return found + list(_own_file_cases(world))


def verb_cases(verb: str) -> Iterator[Case]:
    """Cases of a verb's options, its output and its streams."""
    for option in options_of(verb):
        if (verb, option.name) in NOT_TRIED:
            continue
        if is_path(option):
            yield from _path_cases(option)
        if not is_path(option) or option.name in ("name", "title"):
            for word in WORDS:
                yield Case(verb, option.name, "word", word)
        if not is_path(option) and option.name in ("name", "title", "prompt"):
            for name in NAMES:
                yield Case(verb, option.name, "word-name", name)
    for stream in STREAMS:
        yield Case(verb, "streams", "stream", stream)
    for room in ROOM:
        yield Case(verb, "disk", "room", str(room))


def is_output(option: Option, world: Path | None = None) -> bool:
    """Whether an option names what is written."""
    outputs = ("out", "csv", "html", "plot", "directory", "runs_dir", "name")
    return option.name in outputs and (option.verb, option.name) != ("runs", "runs_dir")


def _path_cases(option: Option) -> Iterator[Case]:
    verb, name = option.verb, option.name
    for kind in NAMES:
        yield Case(verb, name, "name", kind)
    if is_output(option):
        for kind in OUTPUT_PATHS:
            yield Case(verb, name, "output-path", kind)
        for kind in PLACES:
            yield Case(verb, name, "output-place", kind)
        return
    for kind in PATHS:
        if kind != "root" or name not in ("runs_dir", "runs", "first", "second"):
            yield Case(verb, name, "path", kind)
    for kind in PLACES:
        yield Case(verb, name, "place", kind)
    for kind in CONTENTS:
        yield Case(verb, name, "content", kind)
    for number in range(2 if verb in SLOW else 6):
        yield Case(verb, name, "changing", str(number))
    if values_of(verb, name).get(name, "").endswith(".txt"):
        for ending in (".jsonl", ".parquet", ".txt.gz", ".jsonl.gz", ".txt.zst"):
            for kind in CONTENTS:
                yield Case(verb, name, f"content{ending}", kind)


def _loader_cases(loader: str) -> Iterator[Case]:
    for kind in (*PATHS, "nul"):
        if kind == "root" and LOADERS[loader][1] in ("runs", "runs/plan"):
            continue  # the whole file system is looked through, as was asked
        yield Case(loader, "path", "path", kind)
    for kind in PLACES:
        yield Case(loader, "path", "place", kind)
    for kind in CONTENTS:
        yield Case(loader, "path", "content", kind)
    for kind in NAMES:
        yield Case(loader, "path", "name", kind)
    if Path(LOADERS[loader][1]).suffix:
        for number in range(TRUNCATIONS):
            yield Case(loader, "path", "truncated", str(number))
        for number in range(FLIPS):
            yield Case(loader, "path", "flipped", str(number))


def _own_file_cases(world: Path) -> Iterator[Case]:
    for file, readers in OWN_FILES.items():
        if not (world / file).is_file():  # a smaller world, for the short form
            continue
        content = (world / file).read_bytes()
        for reader in readers:
            few = READERS[reader].slow
            for number in range(TRUNCATIONS // (4 if few else 1)):
                yield Case(reader, file, "truncated", str(number))
            for number in range(FLIPS // (5 if few else 1)):
                yield Case(reader, file, "flipped", str(number))
            yield Case(reader, file, "replaced", "other")
            for kind in PLACES:
                if kind not in ("fifo", *ENDLESS) or not file.startswith("text."):  # text may come from a pipe
                    yield Case(reader, file, "place", kind)
            for kind in CONTENTS:
                yield Case(reader, file, "content", kind)
            changed = len(mutations(content, Path(file).suffix)) if not few else 0
            for number in range(0, changed, max(1, changed // MUTATIONS)):
                yield Case(reader, file, "mutated", str(number))
            if not few:
                yield Case(reader, file, "changing", "0")


def reader_of(case: Case) -> Reader | None:
    """The reader of a case of a file that groundup wrote."""
    return READERS.get(case.actor)


def uncovered(files: list[str]) -> list[str]:
    """Files of the world that no case damages, and that no pattern says are like one that is."""
    from hostile_readers import LIKE_OTHERS

    return [
        file for file in files if file not in OWN_FILES and not any(fnmatch.fnmatch(file, like) for like in LIKE_OTHERS)
    ]


def verbs_without_cases() -> list[str]:
    """Verbs that no case is made for."""
    return [verb for verb in VERBS if verb not in BASE and verb not in SERVERS]
