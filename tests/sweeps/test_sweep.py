"""Sweeps: every trial once, whatever ends on the way; and nothing that belongs to somebody else is touched."""

import dataclasses
import json
import os
import shutil
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup.account.account import Device
from groundup.errors import ConfigError, DataError, TrainingError
from groundup.record.read import read_run
from groundup.record.sinks import read_jsonl
from groundup.record.sweep import SweepDirectory, TrialResult
from groundup.sweeps import attempt as attempt_module
from groundup.sweeps import sweep as sweep_module
from groundup.sweeps.attempt import Job, Outcome, attempt, loss_at
from groundup.sweeps.cost import trial_cost, trial_costs
from groundup.sweeps.executors.executor import InlineExecutor
from groundup.sweeps.plan import Plan
from groundup.sweeps.sweep import SweepResult, Watch, run_sweep
from groundup.sweeps.terminal import results_section
from groundup.train import train
from groundup.train.checkpoint.folder import read_state, write_state
from groundup.train.loop import Session
from sweep_tables import table

MakePlan = Callable[..., Plan]
RATES = {"max_learning_rate": [3e-3, 1e-2]}


class Recording(InlineExecutor):
    """Notes which attempts are made, and may do something before one."""

    def __init__(self, before: Callable[[int, Job], Outcome | None] = lambda number, job: None):
        super().__init__()
        self.jobs: list[Job] = []
        self._before = before

    def next(self) -> Outcome | None:
        job = self._jobs.pop(0)
        self.jobs.append(job)
        return self._before(len(self.jobs), job) or attempt(job)

    @property
    def trials(self) -> list[str]:
        return [job.trial for job in self.jobs]


class Notes(Watch):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., SweepResult]:
    def run(plan: Plan, executor: InlineExecutor | None = None, **options: Any) -> SweepResult:
        directory = options.pop("directory", tmp_path / "sweep")
        return run_sweep(plan, executor or InlineExecutor(), directory=directory, **options)

    return run


def test_cells_end_as_runs_of_their_own_would(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes=RATES, seeds=2)
    result = sweep(plan)
    assert result.complete
    assert [r.status for r in result.results.values()] == ["finished"] * 4
    for trial in plan.trials(tmp_path / "alone"):
        alone = train(trial.config)
        found = result.results[trial.name]
        lines = list(read_jsonl(alone.run_dir / "metrics.jsonl"))
        assert (found.steps, found.tokens) == (24, 24 * 4 * 16)
        assert found.val_loss == lines[-1]["val_loss"]
        assert found.val_bpb == lines[-1]["val_bpb"]
        assert found.train_loss == lines[-1]["train_loss"]
        assert found.best_val_loss == alone.summary["best_val_loss"]
    document = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert document["plan"]["question"] == "Does it learn?"
    assert document["sha256"] == plan.sha256
    assert set(document["cells"]) == set(result.results)


def test_a_second_sweep_runs_nothing_again(make_plan: MakePlan, sweep):
    plan = make_plan(axes=RATES)
    first, again = sweep(plan), Recording()
    assert table(sweep(plan, again)) == table(first)
    assert again.jobs == []


def test_a_diverged_cell_is_a_result_and_the_others_go_on(make_plan: MakePlan, sweep):
    executor = Recording()
    result = sweep(make_plan(axes={"max_learning_rate": [1e30, 1e-2]}), executor)
    diverged, finished = result.results.values()
    assert (diverged.status, finished.status, result.complete) == ("diverged", "finished", True)
    assert diverged.steps == 1
    assert "step 2: the loss is nan" in diverged.message
    assert len(executor.jobs) == 2
    (_, _, rows, _) = results_section(result.results.values())
    assert [row[-1] for row in rows] == ["1 diverged", "finished"]


def test_the_folder_of_a_run_says_by_itself_that_it_diverged(make_plan: MakePlan, sweep, tmp_path: Path):
    sweep(make_plan(axes={"max_learning_rate": [3e-3, 1e30]}))
    runs = {name: read_run(tmp_path / "sweep" / f"max_learning_rate={name},seed-0") for name in ("0.003", "1e+30")}
    assert {name: run.status for name, run in runs.items()} == {"0.003": "finished", "1e+30": "diverged"}
    assert runs["1e+30"].unstable


def test_a_crashed_cell_is_tried_again_and_then_given_up(make_plan: MakePlan, sweep, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(axes=RATES)
    bad = plan.trials()[0].name

    def crash(number: int, job: Job) -> Outcome | None:
        return Outcome(trial=job.trial, ending="crashed", message="no luck") if job.trial == bad else None

    executor, notes = Recording(crash), Notes()
    result = sweep(plan, executor, retries=2, watch=notes)
    assert executor.trials.count(bad) == 3
    assert [r.status for r in result.results.values()] == ["crashed", "finished"]
    assert not result.complete
    assert result.results[bad].attempts == 3
    assert sum("no luck; trying again" in line for line in notes.lines) == 2
    mended = sweep(plan)  # the next sweep tries it again
    assert [r.status for r in mended.results.values()] == ["finished", "finished"]


def test_a_lost_cell_goes_on_from_its_checkpoint(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes=RATES)
    whole = sweep(plan, directory=tmp_path / "whole")

    def lose(number: int, job: Job) -> Outcome | None:
        if number > 1:
            return None
        attempt(dataclasses.replace(job, until=14))
        return Outcome(trial=job.trial, ending="lost", message="gone")

    executor = Recording(lose)
    result = sweep(plan, executor)
    assert table(result) == table(whole)
    assert len(executor.jobs) == 3
    steps = [line["step"] for line in read_jsonl(tmp_path / "sweep" / executor.trials[0] / "metrics.jsonl")]
    assert sorted(set(steps)) == steps


def test_what_would_fail_again_is_not_tried_again(make_plan: MakePlan, sweep, recipe: dict[str, Any], tmp_path: Path):
    plan = make_plan(axes=RATES)
    bad = tmp_path / "sweep" / plan.trials()[0].name
    sweep(plan)
    (bad / "summary.json").unlink()
    (bad / "checkpoints" / "step-24" / "model.safetensors").write_bytes(b"broken")
    results = tmp_path / "sweep" / "results.jsonl"
    results.write_text("".join(line + "\n" for line in results.read_text().splitlines() if bad.name not in line))
    executor = Recording()
    result = sweep(plan, executor)
    assert executor.trials == [bad.name]
    assert result.results[bad.name].status == "crashed"
    assert "model.safetensors" in result.results[bad.name].message
    assert [r.status for r in result.results.values()] == ["crashed", "finished"]


def test_a_signal_leaves_checkpoints_and_the_same_sweep_goes_on(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes=RATES, seeds=2)
    whole = sweep(plan, directory=tmp_path / "whole")

    def interrupt(number: int, job: Job) -> Outcome | None:
        if number == 2:
            (tmp_path / "sweep" / ".stop").touch()
        return None

    stopped = sweep(plan, Recording(interrupt))
    assert (stopped.complete, stopped.signal, len(stopped.results)) == (False, signal.SIGINT, 1)
    assert table(sweep(plan)) == table(whole)


def test_a_run_that_is_asked_to_stop_writes_a_checkpoint(make_plan: MakePlan, tmp_path: Path, monkeypatch):
    (trial,) = make_plan().trials(tmp_path / "sweep")
    monkeypatch.setattr(attempt_module, "_SECONDS_BETWEEN_LOOKS", 0)
    looks: Iterator[bool] = iter([False] * 6 + [True] * 9)
    monkeypatch.setattr(
        attempt_module.Path,
        "exists",
        lambda path, real=Path.exists: next(looks) if path.name == ".stop" else real(path),
    )
    outcome = attempt(Job(trial=trial.name, config=trial.config))
    assert (outcome.ending, outcome.figures.steps) == ("interrupted", 5)
    assert (trial.config.run_dir / "checkpoints" / "latest").read_text() == "step-5\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_signal_that_a_cell_received_is_the_one_that_is_told(make_plan: MakePlan, sweep, monkeypatch, number):
    """A trial that is trained in this process takes the signal before the sweep can."""
    monkeypatch.setattr("groundup.train.loop.Session.goes_on", signalled(number))
    stopped = sweep(make_plan(axes=RATES))
    monkeypatch.undo()
    assert (stopped.complete, stopped.signal) == (False, number)
    assert sweep(make_plan(axes=RATES)).complete


def signalled(number: signal.Signals) -> Callable[..., bool]:
    """A loop's question whether it goes on, in front of which the process gets a signal, once."""
    goes_on, sent = Session.goes_on, []

    def asked(self: Session) -> bool:
        if not sent and self._steps_launched() == 3:
            sent.append(number)
            os.kill(os.getpid(), number)
        return goes_on(self)

    return asked


def test_a_signal_between_cells_is_heard(make_plan: MakePlan, sweep):
    def interrupt(number: int, job: Job) -> Outcome | None:
        outcome = attempt(job)
        os.kill(os.getpid(), signal.SIGTERM)
        return outcome

    stopped = sweep(make_plan(axes=RATES), Recording(interrupt))
    assert (stopped.complete, stopped.signal, len(stopped.results)) == (False, signal.SIGTERM, 1)


def test_a_changed_plan_takes_over_only_the_same_cells(make_plan: MakePlan, sweep, tmp_path: Path):
    sweep(make_plan(axes=RATES))
    executor = Recording()
    sweep(make_plan(axes={"max_learning_rate": [1e-2, 2e-2]}), executor)
    assert executor.trials == ["max_learning_rate=0.02,seed-0"]
    with pytest.raises(
        ConfigError, match=r"0\.01,seed-0 was begun with other options: optim\.beta2 \(was 0\.95, now 0\.9\)"
    ):
        sweep(make_plan(axes={"max_learning_rate": [1e-2]}, options={"beta2": 0.9}))
    elsewhere = sweep(make_plan(axes=RATES, options={"beta2": 0.9}), directory=tmp_path / "other")
    assert elsewhere.complete


def test_other_tokens_in_the_place_of_those_of_ended_cells_are_refused(
    make_plan: MakePlan, sweep, tokens: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(tokens / "train", data)
    options = {"data": {"train": str(data)}}
    sweep(make_plan(axes=RATES, options=options))
    shutil.rmtree(data)
    shutil.copytree(tokens / "valid", data)
    more = make_plan(axes={"max_learning_rate": [2e-2]}, options=options)
    with pytest.raises(ConfigError, match=r"data\.train = .*/data is not what .*,seed-0 was trained on \(SHA-256 "):
        sweep(more)
    whole = make_plan(axes=RATES, options=options)
    for folder in (tmp_path / "sweep").glob("max_learning_rate=*"):
        with pytest.raises(ConfigError, match="was trained on"):
            sweep(whole)
        shutil.rmtree(folder)
    again = Recording()
    assert sweep(whole, again).complete
    assert len(again.trials) == 2


def test_a_run_of_somebody_else_is_left_alone(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes=RATES)
    train(plan.trials(tmp_path / "sweep")[1].config)
    with pytest.raises(TrainingError, match=r"0\.01,seed-0 holds a run that this sweep did not begin"):
        sweep(plan)


def test_a_run_that_finished_before_its_line_was_written_is_not_trained_again(
    make_plan: MakePlan, sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = make_plan(axes=RATES)
    whole = sweep(plan)
    results = tmp_path / "sweep" / "results.jsonl"
    results.write_text(results.read_text().splitlines()[0] + '\n{"cell": "max_le')
    monkeypatch.setattr("groundup.train.train", lambda *args, **options: pytest.fail("trained again"))
    assert table(sweep(plan)) == table(whole)
    assert len(results.read_text().splitlines()) == 2


def test_two_sweeps_in_one_directory_are_refused(make_plan: MakePlan, sweep, tmp_path: Path):
    with (
        SweepDirectory(tmp_path / "sweep").locked(),
        pytest.raises(TrainingError, match="has a sweep running in another process"),
    ):
        sweep(make_plan())


def test_a_run_with_a_damaged_config_is_named_and_the_others_go_on(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes=RATES)
    sweep(plan, Recording(lambda number, job: Outcome(trial=job.trial, ending="interrupted") if number > 1 else None))
    first = tmp_path / "sweep" / "max_learning_rate=0.003,seed-0"
    (first / "summary.json").unlink()
    (first / "config.toml").write_text("x = 1\n")
    (tmp_path / "sweep" / "results.jsonl").unlink()
    results = sweep(plan).results
    assert [found.status for found in results.values()] == ["crashed", "finished"]
    assert results[first.name].message.startswith(f"{first / 'config.toml'}: unknown option x")
    assert results[first.name].attempts == 1


@pytest.mark.parametrize(
    ("name", "content"), [("sweep.json", "{"), ("sweep.json", "[]"), ("results.jsonl", '{"a": 1}\n')]
)
def test_a_damaged_record_is_named(make_plan: MakePlan, sweep, tmp_path: Path, name: str, content: str):
    sweep(make_plan())
    (tmp_path / "sweep" / name).write_text(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.") + " is damaged"):
        sweep(make_plan())


def test_cells_that_do_not_fit_are_refused_before_the_start(make_plan: MakePlan, sweep, tmp_path: Path):
    plan = make_plan(axes={"batch_size": [4, 2**30]})
    executor = Recording()
    with pytest.raises(
        ConfigError, match=r"trial batch_size=1073741824,seed-0 does not fit: a step needs about [\d,.]+ GB"
    ):
        sweep(plan, executor)
    assert executor.jobs == []
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_a_cell_that_the_clock_ends_is_not_shown_with_all_its_steps(make_plan: MakePlan, tmp_path: Path):
    options = {"max_iters": 1_000_000, "warmup_iters": 0}
    by_steps, by_clock = (
        trial_cost(make_plan(options=options, **budget).trials(tmp_path / "sweep")[0], device)
        for device in [Device("a", "cpu", "fp32", 1e9, None, "made up")]
        for budget in ({}, {"budget": {"fixed": "minutes", "amount": 0.5}})
    )
    share = 30 / by_steps.seconds
    assert (by_steps.steps, by_clock.seconds) == (1_000_000, 30)
    assert by_clock.steps == pytest.approx(1_000_000 * share, rel=1e-3)
    assert by_clock.tokens == pytest.approx(by_steps.tokens * share, rel=1e-3)
    assert by_clock.flops == pytest.approx(by_steps.flops * share, rel=1e-3)


def test_trials_share_a_cost_only_if_it_is_the_same(make_plan: MakePlan, tmp_path: Path):
    axes = {
        "max_learning_rate": [1e-3, 1e-2],
        "batch_size": [2, 4],
        "optimizer": ["adamw", "muon"],
        "d_model": [16, 32],
    }
    trials = make_plan(axes=axes, seeds=2, options={"data.micro_batch_size": 2}).trials(tmp_path / "sweep")
    device = Device("a", "cpu", "fp32", 1e9, None, "made up")
    costs = trial_costs(trials, device)
    assert costs == [trial_cost(trial, device) for trial in trials]
    assert len(set(costs)) == 8


def test_missing_data_is_said_before_the_start(make_plan: MakePlan, sweep):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sweep(make_plan(options={"data": {"train": "nowhere"}}))


def test_a_budget_of_minutes_counts_all_sessions(make_plan: MakePlan, tmp_path: Path):
    plan = make_plan(budget={"fixed": "minutes", "amount": 10})
    (trial,) = plan.trials(tmp_path / "sweep")
    attempt(Job(trial=trial.name, config=trial.config, until=6))
    state = next(trial.config.run_dir.glob("checkpoints/*/state.json"))
    write_state(state.parent, read_state(state.parent) | {"wall_seconds": 540.0})
    before = (trial.config.run_dir / "config.toml").read_text()
    assert attempt_module._minutes_left(trial.config, trial.config.run_dir) == pytest.approx(1.0)
    assert attempt(Job(trial=trial.name, config=trial.config, until=8)).ending != "crashed"
    assert (trial.config.run_dir / "config.toml").read_text() == before


def test_a_cell_that_was_removed_is_run_again_with_its_new_options(make_plan: MakePlan, sweep, tmp_path: Path):
    sweep(make_plan(axes=RATES))
    changed = make_plan(axes=RATES, options={"beta2": 0.9})
    for folder in (tmp_path / "sweep").glob("max_learning_rate=*"):
        with pytest.raises(ConfigError, match="was begun with other options"):
            sweep(changed)
        shutil.rmtree(folder)
    stopped = sweep(changed, Recording(lambda number, job: Outcome(trial=job.trial, ending="interrupted")))
    assert stopped.results == {}
    again = Recording()
    results = sweep(changed, again)
    assert again.trials == [f"max_learning_rate={rate},seed-0" for rate in ("0.003", "0.01")]
    for name in results.results:
        assert tomllib.loads((tmp_path / "sweep" / name / "config.toml").read_text())["optim"]["beta2"] == 0.9


def test_results_are_told_as_they_come(make_plan: MakePlan, sweep):
    seen: list[TrialResult] = []

    class Telling(Watch):
        def ended(self, result: TrialResult) -> None:
            seen.append(result)

    result = sweep(make_plan(axes=RATES), watch=Telling())
    assert seen == list(result.results.values())
    assert sweep_module.DEFAULT_RETRIES == 2


def test_hopeless_cells_are_stopped_and_the_same_ones_after_an_interruption(make_plan: MakePlan, sweep, tmp_path: Path):
    rates = {"max_learning_rate": [1e-5, 1e-4, 3e-3, 1e-2]}
    tables = {"axes": rates, "options": {"min_learning_rate": 0.0}, "seeds": 2, "baseline": {"max_learning_rate": 1e-5}}
    plan = make_plan(stop={"rule": "halving", "at": [0.3, 0.7], "keep": 0.5}, **tables)
    whole = sweep(plan, directory=tmp_path / "whole")
    ends = {(r.varied["optim.max_learning_rate"], r.status, r.steps) for r in whole.results.values()}
    # The baseline goes on to its end; of four, two are kept at step 8; of the three that are left, two at step 16.
    assert ends == {(1e-5, "finished", 24), (1e-4, "stopped", 8), (3e-3, "finished", 24), (1e-2, "finished", 24)}
    unstopped = sweep(make_plan(**tables), directory=tmp_path / "unstopped")
    for name, result in whole.results.items():
        folder = tmp_path / "unstopped" / name
        if result.status == "finished":
            assert result.val_loss == unstopped.results[name].val_loss
        else:
            assert result.val_loss == loss_at(folder, 8)
    for moment in (5, 12):
        directory = tmp_path / f"stopped-{moment}"

        def interrupt(number: int, job: Job, moment: int = moment, directory: Path = directory) -> Outcome | None:
            if number == moment:
                (directory / ".stop").touch()
            return None

        assert not sweep(plan, Recording(interrupt), directory=directory).complete
        assert table(sweep(plan, directory=directory)) == table(whole)
