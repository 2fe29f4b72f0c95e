"""Running cases, each in a forked process with its own copy of the world and a time limit, and judging how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import pkgutil
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from groundup.errors import GroundupError
from hostile_cases import Case
from hostile_setup import Prepared, Setup
from hostile_world import build

LIMIT_SECONDS = float(os.environ.get("GROUNDUP_HOSTILE_LIMIT", "60"))
"""After which a case hangs. A guard, not a measure: cases take a tenth of a second to a few seconds."""
_MORE_MEMORY = 3 << 30
"""What a case may map beyond what the process has."""
_MOST_BYTES = 200_000_000
_LONGEST_LINE = 2000
OK = ("right", "refused", "told", "different")
"""Outcomes that are as they should be; ``different`` is looked at by the caller."""
_TOLD = re.compile(
    r"damaged|cannot be read|broken|note:|warning|not be |left out|skipped|nothing|instead|not what|more than once",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended.

    ``right``: exit code 0, with the undamaged result where that is known. ``refused``: one line and exit code 2.
    ``told``: another result, and its output says that something is wrong. ``different``: another result without a word.
    All else is a fault: ``traceback``, ``signal``, ``hang``, ``lines`` (not one line), ``exit`` (another code),
    ``left`` (temporary files, or an old file that is gone), ``noise`` (standard error at exit code 0).
    """

    case: Case
    kind: str
    detail: str = ""


class Runner:
    """Runs cases in copies of one world.

    Args:
        whole: build all of the world; see :func:`hostile_world.build`.
    """

    def __init__(self, *, whole: bool = True):
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(prefix="hostile-", dir=memory if os.access(memory, os.W_OK) else None))
        self.world = self.place / "world"
        self.world.mkdir()
        preload()
        child = os.fork()
        if not child:
            _to_the_end(lambda: build(self.world, whole=whole))
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the world of the hostile cases cannot be built")
        self._expected: dict[str, str] = {}

    def close(self) -> None:
        """Remove the world."""
        shutil.rmtree(self.place, ignore_errors=True)

    def run(self, cases: Iterable[Case], workers: int = 1) -> Iterator[Outcome]:
        """The outcomes of cases, as they end."""
        cases = list(cases)
        wanted = {Setup.clean(case) for case in cases} - {None} - self._expected.keys()
        for case, found in self._run_all([clean for clean in wanted if clean is not None], workers):
            self._expected[case] = found.get("result", "")
            if found.get("code") != 0:
                raise RuntimeError(f"{case} fails undamaged: {found}")
        for case, found in self._run_all(cases, workers):
            yield self._judge(case, found)

    def _run_all(self, cases: Sequence[Any], workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        waiting, running = list(reversed(cases)), dict[int, tuple[Any, Path, float]]()
        number = 0
        while waiting or running:
            while waiting and len(running) < workers:
                case, number = waiting.pop(), number + 1
                folder = self.place / f"case-{number:06}"
                folder.mkdir()
                sys.stdout.flush()
                child = os.fork()
                if not child:
                    os.setsid()
                    _to_the_end(lambda case=case, folder=folder: run_here(case, self.world, folder))
                running[child] = case, folder, time.monotonic()
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                late = [pid for pid, (_, _, began) in running.items() if time.monotonic() - began > LIMIT_SECONDS]
                for pid in late:
                    os.kill(pid, signal.SIGKILL)
                    (running[pid][1] / "hang").touch()
                time.sleep(0.002)
                continue
            if child not in running:
                continue
            case, folder, _ = running.pop(child)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what the case has started
            found = _read(folder, status)
            shutil.rmtree(folder, ignore_errors=True)
            yield case, found

    def _judge(self, case: Case, found: dict[str, Any]) -> Outcome:
        def outcome(kind: str, detail: object = "") -> Outcome:
            return Outcome(case, kind, str(detail)[:600])

        if found.get("hang"):
            return outcome("hang")
        if "code" not in found:
            return outcome("signal", f"{found['signal']}: {found.get('error', '')[-300:]}")
        code, error, output = found["code"], found["error"], found["output"]
        if "Traceback (most recent call last)" in error or "Exception ignored" in error:
            return outcome("traceback", error[-600:])
        if found["left"]:
            return outcome("left", found["left"])
        if code == 2 and case.detail in ("no-error", "no-streams"):
            return outcome("refused")
        if code == 2:
            lines = error.splitlines()
            if len(lines) != 1 or not error.endswith("\n") or not error.startswith("groundup: "):
                return outcome("lines", error)
            if len(error) > _LONGEST_LINE or not error[:-1].isprintable():
                return outcome("lines", f"{len(error)} characters, or some that do not print: {error!r}")
            return outcome("refused", error.strip())
        if code == 1 and case.detail == "no-reader":
            return outcome("right")  # as any program whose reader has enough
        if code == 1 and case.actor == "sweep" and "crashed" in output + error:
            return outcome("told")  # as its help says
        if code != 0:
            return outcome("exit", f"{code}: {output[-200:]} {error[-300:]}")
        if error.strip() and not case.name.startswith("sweep:json_output"):  # which talks there
            return outcome("noise", error)
        clean = Setup.clean(case)
        if clean is None or found["result"] == self._expected[clean]:
            return outcome("right")
        return outcome("told" if _TOLD.search(output + found.get("page", "")) else "different", output[-200:])


def preload() -> None:
    """Import once what cases need, before processes are forked."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["WANDB_MODE"] = "disabled"
    for name in list(os.environ):
        if name in ("COLUMNS", "FORCE_COLOR"):
            del os.environ[name]
    import jinja2  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import regex  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import tyro  # noqa: F401

    import groundup

    skipped = ("groundup.__main__", "groundup.sweeps.executors.ray", "groundup.studies.tokenizer_report.process")
    for found in pkgutil.walk_packages(groundup.__path__, "groundup."):
        if found.name not in skipped:
            importlib.import_module(found.name)
    from groundup.reports.page.write import _plotly

    torch.set_num_threads(1)
    _plotly()


def _to_the_end(work: Callable[[], None]) -> None:
    """Do some work as the last of this forked process."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_here(case: Any, world: Path, folder: Path) -> None:
    """One case in this process, which it is the last work of; what came of it goes into the folder."""
    copy = folder / "w"
    shutil.copytree(world, copy, symlinks=True)
    os.chdir(copy)
    sweep = Path("runs/plan/sweep.json")  # which has absolute paths
    sweep.write_bytes(sweep.read_bytes().replace(bytes(world), bytes(copy)))
    setup = Setup(case)
    prepared = setup.prepare()
    before = _temporary()
    _limit_memory()
    output, error = folder / "stdout", folder / "stderr"
    with _redirected(prepared, output, error):
        code = _run(prepared)
    setup.finish()
    os.chdir(copy)
    left = sorted(_temporary() - before) + prepared.lost(code)
    try:
        result = prepared.result(_text(output)) if code == 0 else ""
    except (ValueError, GroundupError) as unreadable:  # a record that another process writes into
        result = f"unreadable: {unreadable}"
    told = {"code": code, "left": left, "result": result, "page": _text(Path("new/report.md"))}
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


def _run(prepared: Prepared) -> int:
    """Run as the interpreter would, flushing the streams at the end; returns the exit code."""
    code = 0
    try:
        prepared.work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        code = 1
        with contextlib.suppress(Exception):
            traceback.print_exc()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except Exception as error:  # what the interpreter does at its end
        with contextlib.suppress(Exception):
            print(f"Exception ignored while flushing sys.stdout: {error!r}", file=sys.stderr)
        code = 120
    with contextlib.suppress(Exception):
        if sys.stderr is not None:
            sys.stderr.flush()
    return code


@contextlib.contextmanager
def _redirected(prepared: Prepared, output: Path, error: Path) -> Iterator[None]:
    """Standard streams as a shell would set them up, into files; and the largest file that may be written."""
    streams = prepared.streams
    pipes = {1: os.pipe(), 2: os.pipe()}  # in place of files, which could not be written on a full disk
    for reader, writer in pipes.values():
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(pipes[2][1], 2)
    os.dup2(os.open("/dev/full", os.O_WRONLY) if streams == "full" else pipes[1][1], 1)
    if streams == "no-reader":
        os.close(pipes[1][0])
        pipes[1] = (os.open(os.devnull, os.O_RDONLY), -1)
        os.dup2(_broken_pipe(), 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    for name, stream, closed in (
        ("stdin", 0, ("no-input", "no-streams")),
        ("stdout", 1, ("closed", "no-streams")),
        ("stderr", 2, ("no-error", "no-streams")),
    ):
        if streams in closed:
            os.close(stream)
            setattr(sys, name, None)
    if prepared.room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (prepared.room, resource.RLIM_INFINITY))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for stream, file in ((1, output), (2, error)):
        with contextlib.suppress(BlockingIOError):
            file.write_bytes(os.read(pipes[stream][0], 1 << 20))


def _broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    room = pages * resource.getpagesize() + _MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _temporary() -> set[str]:
    return {os.fsdecode(os.path.join(place, name)) for place, folders, files in os.walk(".")
            for name in (*folders, *files) if name.endswith(".tmp")}  # fmt: skip


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def _read(folder: Path, status: int) -> dict[str, Any]:
    found: dict[str, Any] = {"output": _text(folder / "stdout"), "error": _text(folder / "stderr")}
    if (folder / "hang").exists():
        return found | {"hang": True}
    if not (folder / "told.json").exists():
        return found | {"signal": os.waitstatus_to_exitcode(status)}
    return found | json.loads((folder / "told.json").read_text(encoding="utf-8"))
