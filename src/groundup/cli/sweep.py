"""`groundup sweep`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from groundup.cli.parse import call
from groundup.errors import ConfigError
from groundup.system.command import command

if TYPE_CHECKING:
    from rich.console import Console

    from groundup.display.progress import Update
    from groundup.sweeps.cost import Cost
    from groundup.sweeps.executors.executor import Executor
    from groundup.sweeps.plan import Plan
    from groundup.sweeps.results import Result
    from groundup.sweeps.sweep import Watch
    from groundup.sweeps.trials import Cell


_MOST_THREADS = 1024


def sweep(arguments: list[str]) -> int:
    """Parse and run; returns 0, 1 if a cell has crashed for good, or 128 + the signal that stopped it."""
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
    """Run an experiment: every cell of a plan, as many at once as there is room for. The same command goes on with one
    that was interrupted, and runs nothing twice.

    groundup sweep PLAN.toml --workers 2

    Args:
        plan: a TOML file, or the name of a plan that is shipped.
        budget: one of the plan's [budgets].
        directory: of the sweep; runs/ and the plan's name by default.
        workers: cells at once; on GPUs, one for each of them by default, otherwise one.
        executor: inline, in this process; pool, processes that stay; or ray, on this machine or a cluster. By default a
            pool where there is more than one worker or the budget is of minutes, and ray with --address.
        threads: CPU threads of each cell; by default the workers share the cores.
        gpus: of each cell, on Ray; by default one where there are any.
        address: of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; its machines must share the directory.
        retry: how often a cell that crashes is tried again.
        dry_run: show the cells and their cost, and run nothing.
        json_output: print the results as JSON at the end, and the rest on standard error.
    """
    from rich.text import Text

    from groundup.display.console import make_console, print_section
    from groundup.display.progress import progress_bar
    from groundup.sweeps.plan import load_plan
    from groundup.sweeps.results import results_section

    console = make_console(stderr=json_output)
    loaded = load_plan(plan, budget)
    if dry_run:
        _show_plan(console, loaded, directory)
        return 0
    from groundup.sweeps.sweep import run_sweep

    place = directory or loaded.default_directory
    if executor is None and address is None and loaded.budget is not None and loaded.budget.fixed == "minutes":
        executor = "pool"  # a process for each cell: by the clock, none may profit from another
    runs_them = _executor(executor, workers, threads, gpus, address, place)
    with progress_bar(console) as update:
        watch = watch_sweep(console, loaded, update)
        result = run_sweep(loaded, runs_them, directory=place, retries=retry, watch=watch)
    if json_output:
        print(json.dumps([r.__dict__ for r in result.results.values()], indent=1))
    print_section(console, *results_section(result.results.values()))
    if result.signal:
        console.print(Text(f"stopped; the same command goes on with {place}"), soft_wrap=True)
        return 128 + result.signal
    crashed = [r for r in result.results.values() if r.status == "crashed"]
    for found in crashed:
        console.print(Text(f"{found.cell} crashed: {found.message}"))
    if crashed:
        console.print("the same command tries them again")
    console.print(Text(f"read what came of it with\n  {command('report', place)}"), soft_wrap=True)
    return 1 if crashed else 0


def _executor(
    kind: str | None,
    workers: int | None,
    threads: int | None,
    gpus: float | None,
    address: str | None,
    place: Path,
) -> Executor:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}; expected at least 1")
    if gpus is not None and not 0 <= gpus < math.inf:
        raise ConfigError(f"--gpus {gpus:g}; expected 0 or more")
    if address is not None and kind not in (None, "ray"):
        raise ConfigError(f"--address {address} is of a Ray cluster, and --executor {kind} runs here; leave one out")
    if kind == "ray" or address is not None:
        from groundup.sweeps.executors.ray import RayExecutor

        return RayExecutor(address, workers=workers or 2, threads=threads or 1, gpus=gpus)
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise ConfigError(f"--threads {threads}; expected 1 to {_MOST_THREADS:,}")
    if gpus is not None:
        raise ConfigError(f"--gpus {gpus:g} is for --executor ray; a pool deals out the GPUs that there are")
    from groundup.sweeps.executors.executor import InlineExecutor
    from groundup.sweeps.executors.pool import Pool, visible_gpus

    gpus_here = visible_gpus() if kind != "inline" else []
    workers = workers or max(1, len(gpus_here))
    if kind == "inline" or (kind is None and workers == 1):
        if workers > 1:
            raise ConfigError(f"--executor inline runs one cell after the other, not {workers}; take --executor pool")
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        return InlineExecutor()
    return Pool(workers, place / ".workers", threads=threads, gpus=gpus_here)


def _show_plan(console: Console, plan: Plan, directory: Path | None) -> None:
    from groundup.display.console import print_section
    from groundup.sweeps.cost import cell_cost, check_memory, cost_section, this_device
    from groundup.sweeps.directory import SweepDirectory
    from groundup.sweeps.trials import cells_of

    _heading(console, plan)
    device, place = this_device(plan.base), directory or plan.default_directory
    # A search makes its cells as it goes; the recipe itself stands for them.
    cells = plan.cells(place) if plan.search is None else cells_of(plan, place, {}, label="a trial")
    costs = [cell_cost(cell, device) for cell in cells]
    results = SweepDirectory(place).results()
    print_section(console, *cost_section(cells, costs, [name for name, r in results.items() if r.has_ended]))
    if plan.search is not None:
        options = plan.search.options
        console.print(f"{options.trials} trials with {len(plan.seeds)} seeds each, chosen by {options.sampler}")
    check_memory(cells, costs, device, 1)


def _heading(console: Console, plan: Plan) -> None:
    from rich.text import Text

    budget = f" ({plan.chosen})" if plan.chosen else ""
    console.print(Text(f"{plan.name}{budget}: {plan.question}", style="bold"))
    console.print()


def watch_sweep(console: Console, plan: Plan, update: Update) -> Watch:
    """What shows a sweep to a person: a bar by the cells' FLOPs on a terminal, and a line for each that ends."""
    from rich.text import Text

    from groundup.display.console import print_section
    from groundup.display.units import time_text
    from groundup.sweeps.cost import cost_section
    from groundup.sweeps.sweep import Watch

    class Terminal(Watch):
        def __init__(self) -> None:
            self.flops: dict[str, int] = {}
            self.left: dict[str, int] = {}
            _heading(console, plan)

        def planned(self, cells: Sequence[Cell], costs: Sequence[Cost], ended: Mapping[str, Result]) -> None:
            print_section(console, *cost_section(cells, costs, ended))
            new = {cell.name: cost.flops for cell, cost in zip(cells, costs, strict=True) if cell.name not in ended}
            self.flops |= new
            self.left |= new
            self._show()

        def ended(self, result: Result) -> None:
            self.left.pop(result.cell, None)
            loss = "" if result.val_loss is None else f", valid loss {result.val_loss:.4f}"
            why = f": {result.message}" if result.message else ""
            ends = f"{result.status} after {result.steps:,} steps, {time_text(result.seconds)}{loss}{why}"
            console.print(Text(f"{result.cell}  {ends}"))
            self._show()

        def note(self, text: str) -> None:
            console.print(Text(text))

        def _show(self) -> None:
            total = sum(self.flops.values())
            cells = f"{len(self.flops) - len(self.left)} of {len(self.flops)} cells"
            update("sweep", total - sum(self.left.values()), total, cells)

    return Terminal()
