"""`groundup sweep`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.errors import ConfigError

if TYPE_CHECKING:
    from groundup.sweeps.executors.executor import Executor
    from groundup.sweeps.plan import Plan


def sweep(arguments: list[str]) -> int:
    """Parse and run; returns 0, 1 if a trial crashed, or 128 + the signal that stopped the sweep."""
    return call(_sweep, arguments, "sweep")


def _sweep(
    plan: Annotated[str, arg(metavar="PLAN")],
    /,
    *,
    preset: Literal["lr"] | None = None,
    minutes: float | None = None,
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
    groundup sweep RECIPE.toml --preset lr --minutes 5

    Args:
        plan: a TOML file, or the name of a shipped plan. With --preset a recipe, or a folder with the token shards
            train and valid.
        preset: lr: find the learning rate for a recipe and its data, by short runs that begin with the recipe's.
        minutes: with --preset, about how long all runs together take. Default: 5.
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

    for flag, value, wrong in (("--budget", budget, preset is not None), ("--minutes", minutes, preset is None)):
        if value is not None and wrong:
            raise ConfigError(f"{flag} {value} is for a plan" if preset else f"{flag} {value:g} is for --preset lr")
    console, search = make_console(stderr=json_output), None
    if preset is not None:
        from groundup.sweeps.learning_rate import Preset

        search = Preset(plan, minutes, directory)
        directory = search.directory
    loaded = search.first if search else load_plan(plan, budget)
    from groundup.sweeps.terminal import TerminalWatch, print_best, print_plan, print_result

    if dry_run:
        print_plan(console, loaded, directory)
        return 0
    from groundup.sweeps.executors.executor import choose_executor
    from groundup.sweeps.sweep import run_sweep

    place = directory or loaded.default_directory

    def executor_of(plan: Plan) -> Executor:
        return choose_executor(plan, place, kind=executor, workers=workers, threads=threads, gpus=gpus, address=address)

    with progress_bar(console) as update:
        watch = TerminalWatch(console, loaded, update)
        if search is not None:
            result, best = search.run(executor_of, retries=retry, watch=watch)
        else:
            result, best = run_sweep(loaded, executor_of(loaded), directory=place, retries=retry, watch=watch), None
    if json_output:
        lines = [found.to_line() for found in result.results.values()]
        print(json.dumps(lines if search is None else {"best": best and asdict(best), "results": lines}, indent=1))
    code = print_result(console, result, place)
    if search is not None and best is not None:
        print_best(console, best, search)
    return code
