"""Benchmark of training beside other processes that start and stop: speed relative to the fair share of the cores.

    python benchmarks/train_under_load.py --out benchmarks/results/train_under_load-DATE.json

The demo's model is trained continuously while 0, 1, 2, 4 and 8 busy processes run beside it, which start and stop
during the run. The OpenMP wait policies are measured in turn: `by load` is `groundup.system.threads.wait_by_load`, the
others are libgomp's own, set for the whole run.

The fair share of the run's T threads beside that many busy processes is T / (T + busy) of all cores, and at most T. The
fair speed is that share of the speed on an idle machine with the active policy. Other programs on the machine or its
hypervisor distort both, so `others_cores` is the number of cores they took; below 0.1 is quiet. `neighbours_cores` is
the number of cores that one busy process got, which the scheduler considers fair for one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from side_by_side import Report, Row, ratios, short

POLICIES = {
    "by load": {},
    "active": {"OMP_WAIT_POLICY": "active"},
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = (0, 1, 2, 4, 8)
BATCH_SIZE = 4
VOCABULARY = 2048
MEASURED = ("cores", "neighbours_cores", "others_cores", "tokens_per_cpu_s")
COLUMNS = (
    "policy", "busy_processes", "tokens_per_s", "fair_tokens_per_s", "of_fair_share", "of_fair_share_min",
    "cores", "fair_cores", "neighbours_cores", "others_cores", "tokens_per_cpu_s", "rounds",
    "idle_ratio_median", "idle_ratio_min",
)  # fmt: skip


def trainee(seconds: float) -> None:
    """Train for ``seconds``, and print the time at the end of each step. Runs in a separate process."""
    from groundup.config import load_recipe, override
    from groundup.system.threads import wait_by_load
    from train_measure import make_batches
    from train_peers import Groundup

    config = override(load_recipe("demo"), {"model.vocab_size": VOCABULARY})
    model, batches = Groundup(config), make_batches(config.model, BATCH_SIZE)
    with wait_by_load():
        for _ in range(5):
            model.step(*batches[0])()
        end, number = time.monotonic() + seconds, 0
        print(time.monotonic(), flush=True)
        while time.monotonic() < end:
            model.step(*batches[number % len(batches)])()
            number += 1
            print(time.monotonic(), flush=True)


def run_policy(policy: str, phases: Sequence[int], seconds: float) -> list[Row]:
    """One row for each phase of a run; the first phase has no busy processes."""
    total = (seconds + 1) * len(phases)
    command = [sys.executable, __file__, "--trainee", str(total)]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    process = subprocess.Popen(command, env=environment | POLICIES[policy], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ends = [float(process.stdout.readline())]
    found = []
    for count in phases:
        with busy_processes(count) as others:
            time.sleep(1)  # the wait policy polls five times a second, and the scheduler needs time to adapt
            began = usage(process.pid, others)
            time.sleep(seconds)
            found.append(began | {"until": usage(process.pid, others)})
    ends += [float(line) for line in process.stdout]
    process.wait()
    return [_phase(count, at, ends) for count, at in zip(phases, found, strict=True)]


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[int]]:
    """Context manager of ``count`` busy processes; yields their ids."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def usage(run: int, others: Sequence[int]) -> dict[str, Any]:
    """Time, and processor seconds so far of the run, of the busy processes, and of the whole machine."""
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return {
        "at": time.monotonic(),
        "run": _cpu_seconds(run),
        "busy": sum(map(_cpu_seconds, others)),
        "all": (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"),
    }


def _cpu_seconds(process: int) -> float:
    # After the name, which may contain any character, utime and stime are the 12th and the 13th field.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _phase(count: int, began: dict[str, Any], ends: Sequence[float]) -> Row:
    until = began["until"]
    seconds = until["at"] - began["at"]
    run, busy, everything = ((until[who] - began[who]) / seconds for who in ("run", "busy", "all"))
    return {
        "busy_processes": count,
        "tokens_per_s": tokens_between(ends, began["at"], until["at"]) / seconds,
        "cores": run,
        "tokens_per_cpu_s": tokens_between(ends, began["at"], until["at"]) / seconds / run if run else 0.0,
        "neighbours_cores": busy / count if count else None,
        "others_cores": max(0.0, everything - run - busy),
    }


def tokens_between(ends: Sequence[float], begin: float, end: float, tokens: int = BATCH_SIZE * 256) -> float:
    """Tokens of the steps in a time span; a step that is partly inside counts in part."""
    steps = 0.0
    for start, stop in itertools.pairwise(ends):
        inside = min(stop, end) - max(start, begin)
        steps += max(0.0, inside) / (stop - start)
    return steps * tokens


def fair_cores(busy: int, threads: int, cores: int) -> float:
    """Number of cores that ``threads`` get in a fair share beside busy ones."""
    return min(threads, cores * threads / (threads + busy))


def summarize(report: Report, found: dict[str, list[list[Row]]], phases: Sequence[int], threads: int) -> None:
    """Rows by policy and phase, and the cost of each policy on an idle machine against the active one."""
    cores = len(os.sched_getaffinity(0))
    alone = {
        policy: [statistics.median(row["tokens_per_s"] for row in rows if not row["busy_processes"]) for rows in runs]
        for policy, runs in found.items()
    }
    idle_speed = statistics.median(alone["active"])
    for policy, runs in found.items():
        for count in dict.fromkeys(phases):
            rows = [row for run in runs for row in run if row["busy_processes"] == count]
            fair = fair_cores(count, threads, cores)
            speeds = [row["tokens_per_s"] for row in rows]
            report.add({
                "what": "a run beside busy processes",
                "policy": policy,
                "busy_processes": count,
                "threads": threads,
                "tokens_per_s": short(statistics.median(speeds)),
                "fair_tokens_per_s": short(idle_speed * fair / threads),
                "of_fair_share": short(statistics.median(speeds) / (idle_speed * fair / threads)),
                "of_fair_share_min": short(min(speeds) / (idle_speed * fair / threads)),
                "fair_cores": short(fair),
                **{name: _median(rows, name) for name in MEASURED},
                "rounds": len(speeds),
            })  # fmt: skip
    for policy, speeds in alone.items():
        if policy != "active":
            report.add({
                "what": "speed on an idle machine, of that with active waiting",
                "policy": policy,
                "rounds": len(speeds),
                **ratios(speeds, alone["active"], "idle_ratio"),
            })  # fmt: skip


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return short(statistics.median(values)) if values else None


def main() -> None:
    """Measure all policies in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each phase that is measured")
    parser.add_argument("--busy", type=int, nargs="+", default=BUSY, help="busy processes, phase by phase, after 0")
    parser.add_argument("--policies", nargs="+", default=["by load", "active", "passive"], choices=POLICIES)
    parser.add_argument("--trainee", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trainee:
        trainee(options.trainee)
        return
    if "active" not in options.policies:
        parser.error("--policies needs active, which the others are measured by")
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    # Without busy processes, with each number of them, and without again.
    phases = [0, *(count for count in options.busy if count), 0]
    report = Report(options.out, seconds=options.seconds)
    found: dict[str, list[list[Row]]] = {policy: [] for policy in options.policies}
    for number in range(options.rounds):
        first = number % len(options.policies)
        for policy in options.policies[first:] + options.policies[:first]:
            found[policy].append(run_policy(policy, phases, options.seconds))
            print(json.dumps({"policy": policy, "phases": found[policy][-1]}), file=sys.stderr, flush=True)
    summarize(report, found, phases, threads)
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
