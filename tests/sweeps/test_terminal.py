"""What a sweep prints about its plan and its results, in 80 columns."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from groundup.account.account import Device
from groundup.display.console import print_section
from groundup.record.sweep import TrialResult
from groundup.sweeps.cost import cost_section, trial_costs
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import SweepResult
from groundup.sweeps.terminal import print_result

GOLDEN = Path(__file__).parent / "golden" / "terminal.txt"
A_GPU = Device("a card", "cuda", "bf16", 100e12, 16e9, "made for this test")


def result(setting: str, seed: int, **ends: object) -> TrialResult:
    ended = TrialResult(
        trial=f"{setting}-seed{seed}", setting=setting, varied={}, variant=None, seed=seed, status="finished",
        attempts=1, run=f"{setting}-seed{seed}", steps=200, tokens=409_600, seconds=61.5, train_loss=2.0 + seed / 100,
        val_loss=2.1 + seed / 100, best_val_loss=2.1, val_bpb=1.05,
    )  # fmt: skip
    return dataclasses.replace(ended, **ends)


def printed(show: Callable[[Console], object]) -> str:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    show(console)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


def test_the_tables_are_those_of_the_golden_file(make_plan: Callable[..., Plan], tmp_path: Path):
    """After a change of the wording, copy the file that the failure names over the golden one, and read the diff."""
    results = [
        result("baseline", 0), result("baseline", 1),
        result("lr-0.01", 0), result("lr-0.01", 1, status="diverged", val_loss=None, steps=30, message="nan"),
        result("lr-0.02", 0, status="crashed", val_loss=None, val_bpb=None, train_loss=None, message="out of memory"),
    ]  # fmt: skip
    ended = SweepResult(tmp_path, {r.trial: r for r in results}, False, None)
    trials = make_plan(axes={"max_learning_rate": [1e-3, 1e-2]}, seeds=2).trials(tmp_path)
    costs = trial_costs(trials, A_GPU)
    text = printed(lambda console: print_section(console, *cost_section(trials, costs, [trials[0].name])))
    text += printed(lambda console: print_result(console, ended, Path("sweeps/rates")))
    (tmp_path / "terminal.txt").write_text(text)
    assert text == GOLDEN.read_text(), f"cp {tmp_path / 'terminal.txt'} {GOLDEN}"
    assert max(map(len, text.splitlines())) <= 80
