"""Shared parts of the benchmarks: a process for each measurement, rounds, and rows of results.

Each measurement runs in a separate process, so that all caches are cold in a first pass, and peak memory belongs to one
library. In a round each contender has one turn, so that a disturbance of the machine affects all, and ratios are taken
within a round (`run_turns`). A `Report` collects the rows as JSON and as a Markdown table.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

SEPARATOR = "<|endoftext|>"
PACKAGES = ("groundup", "gigatoken", "tiktoken", "tokenizers", "rustbpe", "numpy", "torch", "transformers", "xllamacpp")
Row = dict[str, Any]
Turn = TypeVar("Turn", bound=Hashable)
Clocks = tuple[float, float]


class UnavailableError(Exception):
    """A library is not installed, or lacks the measured call. The message is for the user."""


def clocks() -> Clocks:
    """Clock of CPU time (user and system, all threads of this process) and wall-clock time, in seconds."""
    return time.process_time(), time.perf_counter()


def since(start: Clocks) -> Clocks:
    """CPU and wall seconds since then."""
    return time.process_time() - start[0], time.perf_counter() - start[1]


def peak_mb() -> float:
    """Peak resident memory of this process in MB, including mapped files."""
    try:
        # Not ru_maxrss if possible: in a child it starts at the parent's value.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def in_fresh_process(
    function: str,
    arguments: dict[str, Any],
    *,
    threads: int,
    time_limit: float,
    math_threads: int = 1,
    variables: Mapping[str, str] | None = None,
    checkout: Path | None = None,
) -> Row:
    """Call ``function`` ("module:name" in this folder) in a new process, and return its result.

    Arguments and result are passed as JSON. ``threads`` is for tokenizers, ``math_threads`` for matmuls; ``variables``
    are set in the environment. ``checkout`` is another checkout, whose benchmarks run with its own `.venv`. If the
    function does not return, the result is ``{"unavailable": why}``, ``{"timed_out_s": seconds}`` or ``{"error": last
    lines of stderr}``.
    """
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
        # On import, NumPy's BLAS starts threads that spin for a while, which would count as CPU time.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(math_threads),
        "MKL_NUM_THREADS": str(math_threads),
        **(variables or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        script = checkout / "benchmarks" / Path(__file__).name if checkout else Path(__file__)
        command = [python_of(checkout), str(script), function, str(result)]
        try:
            # Libraries print to stdout, so the result is passed in a file.
            done = subprocess.run(
                command, input=json.dumps(arguments).encode(), env=environment, timeout=time_limit,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"timed_out_s": time_limit}
        if done.returncode or not result.exists():
            last_lines = done.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
            return {"error": " | ".join(last_lines) or f"exit code {done.returncode} and no message"}
        return json.loads(result.read_text(encoding="utf-8"))


def python_of(checkout: Path | None) -> str:
    """The interpreter of a checkout's `.venv`; without one, that of this process."""
    python = checkout / ".venv" / "bin" / "python" if checkout else None
    return str(python) if python and python.exists() else sys.executable


def _worker(function: str, result: str) -> None:
    module, name = function.split(":")
    arguments = json.load(sys.stdin)
    try:
        found = getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:
        # By name: as a script, this file is loaded a second time when the module imports it.
        if type(error).__name__ != UnavailableError.__name__:
            raise
        found = {"unavailable": str(error)}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def failed(result: Row) -> bool:
    """Whether `in_fresh_process` returned a failure."""
    return any(key in result for key in ("unavailable", "timed_out_s", "error"))


def run_turns(
    turns: Sequence[Turn], rounds: int, measure: Callable[[Turn], Row], *, needs_first: bool = True
) -> dict[Turn, list[Row]]:
    """Results of each contender, one a round. A contender that fails has only that result, and no further turns.

    If the first contender fails, the others cannot be compared and are not measured any more, unless ``needs_first`` is
    False. Each round begins with another contender, so that none always runs after the same one.
    """
    unique = list(dict.fromkeys(turns))
    results: dict[Turn, list[Row]] = {turn: [] for turn in unique}
    for number in range(rounds):
        first = number % len(unique)
        for turn in unique[first:] + unique[:first]:
            if results[turn] and failed(results[turn][-1]):
                continue
            result = measure(turn)
            results[turn] = [result] if failed(result) else [*results[turn], result]
            if needs_first and failed(result) and turn == unique[0]:
                return results
    return results


def ratios(numerators: Sequence[float], denominators: Sequence[float], name: str = "ratio") -> Row:
    """Median and minimum of the ratios of the rounds, as ``NAME_median`` and ``NAME_min``."""
    each = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return {f"{name}_median": short(statistics.median(each)), f"{name}_min": short(min(each))}


def short(value: float) -> float:
    """The value rounded to four significant digits."""
    return float(f"{value:.4g}")


def labelled(package: str) -> str:
    """Name and version of a package, as in rows.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise UnavailableError(f"{package} is not installed; pip install {package}") from None


class Report:
    """Writer of rows: to stderr and a file as they come, and at the end as tables to stdout.

    The file is complete after every row, so that an interrupted run keeps its measurements.
    """

    def __init__(self, out: Path | None, **about_the_machine: object) -> None:
        self._out = out
        self._failures: list[str] = []
        self._left_out: set[str] = set()
        self.rows: list[Row] = []
        self._add(machine() | about_the_machine)

    def add(self, row: Row) -> None:
        """Add a measured row. If its ids or losses differ, the row is kept, and the run ends with exit code 1."""
        for key in ("identical_ids", "identical_merges", "same_merges_as_one_thread", "bytes_kept", "losses_agree"):
            if row.get(key) is False:
                self._failures.append(f"{key} is false: {json.dumps(row)}")
        self._add(row)

    def add_failure(self, about: Row, result: Row) -> None:
        """Add a failure instead of a row: a peer that is not installed, timed out, or raised an error."""
        if "unavailable" in result:
            if result["unavailable"] not in self._left_out:
                print(f"left out: {result['unavailable']}", file=sys.stderr)
            self._left_out.add(result["unavailable"])
            return
        if "error" in result:
            self._failures.append(f"{json.dumps(about)}: {result['error']}")
        self._add(about | result)

    def finish(self, columns: Sequence[str]) -> None:
        """Print a table for each kind of row; raise SystemExit if a measurement failed."""
        for what in dict.fromkeys(row["what"] for row in self.rows[1:]):
            print(f"{what}\n\n{markdown([row for row in self.rows[1:] if row['what'] == what], columns)}\n")
        if self._failures:
            sys.exit("\n".join(["the rows are not all good:", *self._failures]))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if self._out is not None:
            text = "[\n" + ",\n".join(map(json.dumps, self.rows)) + "\n]\n"
            partial = self._out.with_name(self._out.name + ".part")
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._out)


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table of the columns that any row has."""
    used = [column for column in columns if any(row.get(column) is not None for row in rows)]
    lines = [[column.replace("_", " ") for column in used], ["---"] * len(used)]
    lines += [[_cell(row.get(column)) for column in used] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def machine() -> Row:
    """Environment that the figures depend on, without anything that identifies the machine."""
    return {
        "what": "machine",
        "cpu": _cpu_fact("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": _simd(),
        "l2_cache": _cache(2),
        "l3_cache": _cache(3),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_fact(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _simd() -> list[str]:
    flags = set((_cpu_fact("flags") or _cpu_fact("Features")).split())
    telling = "avx2 bmi2 avx512f avx512bw avx512vl avx512vbmi avx512_vbmi2 avx512_vpopcntdq asimd sve"
    return [flag for flag in telling.split() if flag in flags]


def _cache(level: int) -> str | None:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (index / "level").read_text().strip() == str(level):
                return (index / "size").read_text().strip()
        except OSError:
            continue
    return None


if __name__ == "__main__":
    _worker(*sys.argv[1:])
