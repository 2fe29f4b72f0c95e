"""`groundup sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from groundup.cli.parse import call


def sweep(arguments: list[str]) -> int:
    """Parse and run; returns 0, 1 if a trial crashed, or 128 + the signal that stopped the sweep."""
    return call(_sweep, arguments, "sweep")


def _sweep(
    plan: Annotated[str, arg(metavar="PLAN")],
    /,
    *,
    budget: str | None = None,
    directory: Path | None = None,
    workers: int | None = None,
    executor: Literal["inline", "pool", "ray"] | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
    retry: int = 2,
    dry_run: bool = False,
    json_output: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Run an experiment: every trial of a plan, several at once if there are workers. The same command continues an
    interrupted sweep; no trial runs twice.

    groundup sweep PLAN.toml --workers 2

    Args:
        plan: a TOML file, or the name of a shipped plan.
        budget: name of one of the plan's [budgets].
        directory: of the sweep; by default runs/ and the plan's name.
        workers: trials at once; by default one for each GPU, or one on a CPU.
        executor: inline, in this process; pool, worker processes; or ray, on this machine or a cluster. By default a
            pool with more than one worker or a budget in minutes, and ray with --address.
        threads: CPU threads of each trial; by default the workers share the cores.
        gpus: GPUs of each trial, on Ray; by default one if there are any.
        address: of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; its machines must share the directory.
        retry: how often a crashed trial is tried again.
        dry_run: print the settings and their cost, and run nothing.
        json_output: print the results as JSON at the end, and everything else on standard error.
    """
    from groundup.display.console import make_console
    from groundup.display.progress import progress_bar
    from groundup.sweeps.plan import load_plan

    console = make_console(stderr=json_output)
    loaded = load_plan(plan, budget)
    from groundup.sweeps.terminal import TerminalWatch, print_plan, print_result

    if dry_run:
        print_plan(console, loaded, directory)
        return 0
    from groundup.sweeps.executors.executor import choose_executor
    from groundup.sweeps.sweep import run_sweep

    place = directory or loaded.default_directory
    runs_them = choose_executor(
        loaded, place, kind=executor, workers=workers, threads=threads, gpus=gpus, address=address
    )
    with progress_bar(console) as update:
        watch = TerminalWatch(console, loaded, update)
        result = run_sweep(loaded, runs_them, directory=place, retries=retry, watch=watch)
    if json_output:
        print(json.dumps([found.to_line() for found in result.results.values()], indent=1))
    return print_result(console, result, place)
