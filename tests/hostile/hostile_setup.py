"""From a case to a command or call in a copy of the world: what lies there, and what is run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundup.cli.main import fail, main
from groundup.errors import GroundupError
from hostile_cases import Case, is_output
from hostile_commands import LEFT_OUT, SLOW, TEXT_INPUTS, arguments_of, options_of, values_of
from hostile_inputs import (
    CONTENTS,
    ENDLESS,
    OUTPUT_PATHS,
    PATHS,
    PLACES,
    WORDS,
    copy_as,
    drain_fifo,
    keep_changing,
    mutations,
    name_text,
    serve_fifo,
)
from hostile_readers import LOADERS, READERS, replacement, result

_LONE_FILES = (".txt", ".npz", ".json", ".tiktoken", ".csv", ".html", ".svg", ".toml")


@dataclasses.dataclass
class Prepared:
    """What a case runs."""

    work: Callable[[], None]
    result: Callable[[str], str] = lambda output: ""
    streams: str = ""
    room: int | None = None
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    """Files that must be as they are unless the exit code is 0, by path, with their hashes."""

    def lost(self, code: int) -> list[str]:
        """Old files that a command which failed did not keep."""
        if code == 0:
            return []
        return [f"{path} is not as it was" for path, before in self.kept.items() if _hash(Path(path)) != before]


class Setup:
    """Makes one case ready in the current folder, which is a copy of the world."""

    def __init__(self, case: Case | str):
        self.case = case
        self._processes: list[int] = []

    @staticmethod
    def clean(case: Case) -> str | None:
        """The undamaged command whose result a case is held against, if there is one: the name of its reader."""
        same = ("truncated", "flipped", "replaced", "changing", "place")
        return case.actor if case.actor in READERS and case.kind in same else None

    def finish(self) -> None:
        """End what was started for the case."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def prepare(self) -> Prepared:
        """Lay out the case."""
        case = self.case
        if isinstance(case, str):
            return self._reader(case)
        if case.actor in READERS:
            reader = READERS[case.actor]
            if reader.before is not None:
                reader.before()
            self._damage(Path(case.target), case)
            return self._reader(case.actor, prepare=False)
        if case.actor in LOADERS:
            return self._loader(case)
        return self._verb(case)

    def _reader(self, name: str, *, prepare: bool = True) -> Prepared:
        reader = READERS[name]
        if prepare and reader.before is not None:
            reader.before()
        return Prepared(
            lambda: main(list(reader.arguments)),
            lambda output: result(output if reader.words else "", reader.writes),
        )

    def _damage(self, path: Path, case: Case) -> None:
        """Do to a file of the world what the case says."""
        good = path.read_bytes()
        draw = random.Random(f"{case.target} {case.kind} {case.detail}")
        if case.kind == "truncated":
            path.write_bytes(good[: len(good) * int(case.detail) // 20])
        elif case.kind == "flipped" and good:
            place = draw.randrange(len(good))
            path.write_bytes(good[:place] + bytes([good[place] ^ (1 << draw.randrange(8))]) + good[place + 1 :])
        elif case.kind == "replaced":
            path.write_bytes(Path(replacement(case.target)).read_bytes())
        elif case.kind == "place":
            path.unlink()
            here = Path.cwd()
            PLACES[case.detail](path.absolute(), good)
            os.chdir(here)
        elif case.kind == "content":
            path.write_bytes(CONTENTS[case.detail](good, path.suffix))
        elif case.kind == "mutated":
            path.write_bytes(mutations(good, path.suffix)[int(case.detail)])
        elif case.kind == "changing":
            self._processes.append(keep_changing(path, good, int(case.detail)))

    def _loader(self, case: Case) -> Prepared:
        load, source = LOADERS[case.actor]
        if case.kind in ("truncated", "flipped"):
            self._damage(Path(source), case)
            return Prepared(_loading(load, source))
        path: Any = self._input(case, source, stream="documents" in case.actor or "encode" in case.actor)
        if case.kind == "path" and case.detail == "nul":
            path = "a\0b"

        return Prepared(_loading(load, path))

    def _verb(self, case: Case) -> Prepared:
        verb, name = case.actor, case.target
        _make_small(verb)
        values = values_of(verb, name if case.kind not in ("stream", "room") else None)
        option = next((option for option in options_of(verb) if option.name == name), None)
        if case.kind in ("word", "word-name"):
            values[name] = WORDS[case.detail] if case.kind == "word" else name_text(case.detail)
        elif case.kind == "stream":
            return Prepared(self._command(verb, values), streams=case.detail)
        elif case.kind == "room":
            return self._without_room(verb, values, int(case.detail))
        elif option is not None and is_output(option):
            values[name] = self._output(case, values.get(name, "new"))
        elif option is not None:
            good = values.get(name, "recipe.toml")
            before, equals, path = good.rpartition("=")
            values[name] = before + equals + self._input(case, path, stream=(verb, name) in TEXT_INPUTS)
        return Prepared(self._command(verb, values))

    def _command(self, verb: str, values: dict[str, str]) -> Callable[[], None]:
        arguments = arguments_of(verb, values)
        return lambda: main(arguments)

    def _input(self, case: Case, source: str, *, stream: bool) -> str:
        """A hostile thing in place of a file of the world; its path."""
        good_path = Path(source)
        good = good_path.read_bytes() if good_path.is_file() else b""
        if case.kind == "path":
            return PATHS.get(case.detail, "")
        if case.kind == "name":
            path = name_text(case.detail) + ("" if case.detail == "dots" else good_path.suffix)
            copy_as(good_path, Path(path))
            return path
        kind, _, ending = case.kind.partition(".")
        target = Path("h", f"hostile{f'.{ending}' if ending else good_path.suffix}")
        target.parent.mkdir()
        here = Path.cwd()
        if kind == "place":
            PLACES[case.detail](target.absolute(), good)
            os.chdir(here)
            if case.detail == "fifo" and stream:
                self._processes.append(serve_fifo(target.absolute(), good))
            if case.detail in ENDLESS and stream:
                target.unlink()
        elif kind == "content":
            target.write_bytes(CONTENTS[case.detail](good, target.suffix))
        elif kind == "changing":
            copy_as(good_path, target)
            inside = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
            if inside:
                chosen = inside[int(case.detail) * len(inside) // 6]
                self._processes.append(keep_changing(chosen, chosen.read_bytes(), int(case.detail)))
        return str(target)

    def _output(self, case: Case, source: str) -> str:
        """A hostile place to write to; its path."""
        ending = Path(source).suffix
        if case.kind == "name":
            return name_text(case.detail) + ("" if case.detail == "dots" else ending)
        if case.kind == "output-path":
            path = OUTPUT_PATHS[case.detail]
            return path if path.startswith(("/dev", "-")) or path in ("", ".", "..") else path + ending
        target = Path("h", f"hostile{ending}")
        target.parent.mkdir()
        here = Path.cwd()
        PLACES[case.detail](target.absolute(), b"")
        os.chdir(here)
        if case.detail == "fifo":
            self._processes.append(drain_fifo(target.absolute()))
        return str(target)

    def _without_room(self, verb: str, values: dict[str, str], room: int) -> Prepared:
        """The command over the output of an earlier one, on a disk that is full."""
        options = {option.name: option for option in options_of(verb)}
        kept: dict[str, str] = {}
        output = next((values[o.name] for o in options.values() if is_output(o) and o.name in values), LEFT_OUT)
        if output.endswith(_LONE_FILES) and verb not in SLOW:
            Path(output).write_bytes(b"old")
            kept[output] = _hash(Path(output))
            if "overwrite" in options:
                values["overwrite"] = "True"
        if verb == "runs":
            Path("runs/index.sqlite").unlink()
        return Prepared(self._command(verb, values), room=room, kept=kept)


def _loading(load: Callable[[Any], str], path: Any) -> Callable[[], None]:
    """A call of a loader, whose errors end as those of a command."""

    def work() -> None:
        try:
            load(path)
        except GroundupError as error:
            fail(str(error))

    return work


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _make_small(verb: str) -> None:
    """Let what a verb makes by itself be small, so that a case takes a second."""
    if verb == "demo":
        from groundup.studies import demo

        demo._TRAIN_BYTES, demo._VALID_BYTES, demo._VOCAB_SIZE = 40_000, 20_000, 300
    if verb == "reproduce":
        _make_study_small()


def _make_study_small() -> None:
    import types

    from groundup.studies import published_study, reproduce

    published_study.BUDGETS["minutes"] = {"stories": 280, "web": 280}
    reproduce._STORIES_BYTES = {"train": 20_000, "valid": 20_000}
    ended = types.SimpleNamespace(signal=None, results={})
    reproduce._sweep = lambda *arguments: ended
