"""Search: Optuna's proposals become trials, and are the same whatever happens on the way."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.config import RunConfig
from groundup.sweeps.attempt import Figures, Job, Outcome
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import SweepResult, Watch, run_sweep

pytest.importorskip("optuna")
MakePlan = Callable[..., Plan]
SPACE = {"max_learning_rate": {"log": [1e-3, 1.0]}, "num_layers": {"linear": [1, 4]}, "norm": ["pre", "post", "none"]}


def toy_loss(config: RunConfig) -> float:
    """Least at a rate of 0.03 and three layers, with pre-norm."""
    rate, norms = config.optim.max_learning_rate, {"pre": 0.0, "post": 0.3, "none": 1.0}
    return (math.log10(rate / 0.03)) ** 2 + 0.2 * (config.model.num_layers - 3) ** 2 + norms[config.model.norm]


class Toy:
    """Answers a formula in place of training; the first job ends first, or the last."""

    memory_shares = None

    def __init__(
        self, slots: int = 1, *, backwards: bool = False, fail: Callable[[Job], Outcome | None] = lambda job: None
    ):
        self.slots, self._backwards, self._fail = slots, backwards, fail
        self._jobs: list[Job] = []
        self.done: list[str] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self) -> Outcome | None:
        job = self._jobs.pop(-1 if self._backwards else 0)
        self.done.append(job.trial)
        loss = toy_loss(job.config) + 0.01 * job.config.train.seed
        return self._fail(job) or Outcome(trial=job.trial, ending="finished", figures=Figures(steps=1, val_loss=loss))

    def close(self) -> None: ...


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan(
        search={"trials": 32, "space": SPACE}, seeds=2, rules={"min_learning_rate": "max_learning_rate / 10"}
    )


def trial_losses(result: SweepResult) -> list[tuple[str, float | None]]:
    return [(name, r.val_loss) for name, r in result.results.items()]


def test_it_comes_near_the_best_point(plan: Plan, tmp_path: Path):
    result = run_sweep(plan, Toy(), directory=tmp_path / "sweep")
    assert (len(result.results), result.complete) == (64, True)
    best = min(result.results.values(), key=lambda r: r.val_loss or math.inf)
    assert best.val_loss is not None
    assert best.val_loss < 0.1
    assert best.varied["model.norm"] == "pre"
    assert [name[:9] for name in result.results][:3] == ["trial-00,", "trial-00,", "trial-01,"]


def test_it_does_not_depend_on_how_many_run_at_once_or_in_which_order(plan: Plan, tmp_path: Path):
    one = run_sweep(plan, Toy(), directory=tmp_path / "one")
    many = run_sweep(plan, Toy(5, backwards=True), directory=tmp_path / "many")
    assert trial_losses(one) == trial_losses(many)


@pytest.mark.parametrize("moment", [1, 7, 8, 9, 30])
def test_interrupted_and_resumed_it_goes_the_same_way(plan: Plan, tmp_path: Path, moment: int):
    whole = run_sweep(plan, Toy(), directory=tmp_path / "whole")
    left = [moment]

    def interrupt(job: Job) -> Outcome | None:
        left[0] -= 1
        return Outcome(trial=job.trial, ending="interrupted") if left[0] < 0 else None

    first = run_sweep(plan, Toy(2, fail=interrupt), directory=tmp_path / "sweep")
    assert (first.complete, len(first.results)) == (False, moment)
    rest = Toy(2)
    second = run_sweep(plan, rest, directory=tmp_path / "sweep")
    assert trial_losses(second) == trial_losses(whole)
    assert len(rest.done) == 64 - moment


def test_points_that_are_no_run_diverge_or_crash_do_not_end_it(make_plan: MakePlan, tmp_path: Path):
    plan = make_plan(search={"trials": 12, "space": {"num_heads": [2, 3], "max_learning_rate": {"log": [1e-2, 1.0]}}})

    def fail(job: Job) -> Outcome | None:
        rate = job.config.optim.max_learning_rate
        if rate > 0.3:
            return Outcome(trial=job.trial, ending="diverged", message="nan")
        return Outcome(trial=job.trial, ending="crashed", message="no", hopeless=True) if rate < 0.03 else None

    notes: list[str] = []
    watch = Watch()
    watch.note = notes.append
    result = run_sweep(plan, Toy(fail=fail), directory=tmp_path / "sweep", watch=watch)
    assert {r.status for r in result.results.values()} == {"finished", "diverged", "crashed"}
    assert len(result.results) + len(notes) == 12
    assert "num_heads = 3 does not divide" in notes[0]


def test_what_is_trained_is_what_the_name_shows(plan: Plan, tmp_path: Path):
    result = run_sweep(plan, Toy(), directory=tmp_path / "sweep")
    for name, found in result.results.items():
        assert f"max_learning_rate={found.varied['optim.max_learning_rate']:g}" in name
