"""The preset "lr": it finds the minimum of a known curve, says when it does not, and continues what it began."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from groundup.cli.main import main
from groundup.config import load_recipe
from groundup.errors import ConfigError
from groundup.reports.method import commands_of
from groundup.reports.settings import load_sweep
from groundup.sweeps.attempt import Figures, Job, Outcome
from groundup.sweeps.learning_rate import Best, Preset, parabola
from groundup.sweeps.sweep import SweepResult, Watch

Curve = Callable[[float, int], float]


class Formula:
    """Answers a formula of learning rate and seed in place of training; infinite is a run that diverged."""

    memory_shares, slots = None, 1

    def __init__(self, curve: Curve, done: list[str], most: int = 1000):
        self._curve, self._jobs, self.done, self._most = curve, list[Job](), done, most

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self) -> Outcome:
        job = self._jobs.pop(0)
        if len(self.done) >= self._most:
            return Outcome(trial=job.trial, ending="interrupted")
        self.done.append(job.trial)
        config = job.config
        assert config.optim.min_learning_rate == pytest.approx(config.optim.max_learning_rate / 10)
        loss = self._curve(config.optim.max_learning_rate, config.train.seed)
        if math.isinf(loss):
            return Outcome(trial=job.trial, ending="diverged", message="nan")
        return Outcome(trial=job.trial, ending="finished", figures=Figures(steps=1, val_loss=loss))

    def close(self) -> None: ...


def bowl(lowest: float, noise: float = 0.002, diverges: float = math.inf) -> Curve:
    """A parabola in the logarithm, with noise that runs of one seed share in part."""

    def loss(rate: float, seed: int) -> float:
        if rate >= diverges:
            return math.inf
        own = random.Random(f"{rate} {seed}").gauss(0, noise)
        return 2 + 0.1 * math.log(rate / lowest) ** 2 + 0.05 * seed + own

    return loss


@pytest.fixture
def tiny(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe whose learning rate is 0.01."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    return "tiny.toml"


def search(target: str, curve: Curve, most: int = 1000) -> tuple[SweepResult, Best | None, list[str]]:
    """A search that stops before its run of a number, the best learning rate, and the runs it made."""
    done: list[str] = []
    preset = Preset(target, 5, measure=lambda config: 0.01)
    result, best = preset.run(lambda plan: Formula(curve, done, most), retries=0, watch=Watch())
    return result, best, done


@pytest.mark.parametrize("lowest", [0.0023, 0.01, 0.04])
def test_it_finds_the_lowest_point_of_a_parabola(lowest: float, tiny: str):
    result, best, done = search(tiny, bowl(lowest))
    assert best is not None
    assert best.rate == pytest.approx(lowest, rel=0.06)
    assert best.low <= best.rate <= best.high < 1.5 * best.low
    assert (best.edge, best.flat, best.minimum) == ("", False, pytest.approx(best.rate / 10))
    assert (len(done), len(set(done)), len(result.results)) == (17, 17, 17)
    rates = [found.varied["optim.max_learning_rate"] for found in result.results.values()]
    assert rates == sorted(rates)


def test_the_interval_contains_the_lowest_point_most_times(tiny: str):
    inside = 0
    for draw in range(100):
        rng = random.Random(draw)
        height = [rng.gauss(0, 0.1) for _ in range(3)]
        losses = {
            k: [2 + 0.02 * (k - 0.4) ** 2 + height[s] + rng.gauss(0, 0.01) for s in range(3)] for k in range(-2, 3)
        }
        vertex, low, high, _ = parabola(losses, 0)
        assert low <= vertex <= high
        inside += low <= 0.4 <= high
    assert 88 <= inside <= 100


def test_the_grid_grows_where_the_lowest_loss_is_at_its_end(tiny: str):
    _, best, done = search(tiny, bowl(0.9))
    assert best is not None
    assert best.rate == pytest.approx(0.9, rel=0.06)
    assert best.edge == ""
    assert len(done) > 17


@pytest.mark.parametrize(("lowest", "edge"), [(1e9, "highest"), (1e-12, "lowest")])
def test_what_lies_beyond_the_grid_is_said(lowest: float, edge: str, tiny: str):
    _, best, _ = search(tiny, bowl(lowest))
    assert best is not None
    assert best.edge == edge


def test_without_a_minimum_the_interval_is_all_that_was_tried(tiny: str):
    _, best, _ = search(tiny, lambda rate, seed: 2 + random.Random(f"{rate} {seed}").gauss(0, 0.1))
    assert best is not None
    assert best.high / best.low > 2


def test_learning_rates_that_diverge_are_no_candidates(tiny: str):
    _, best, _ = search(tiny, bowl(0.04, diverges=0.05))
    assert best is not None
    assert best.rate < 0.05
    assert best.edge == ""


def test_if_all_diverge_there_is_no_best(tiny: str):
    result, best, _ = search(tiny, lambda rate, seed: math.inf)
    assert (best, {found.status for found in result.results.values()}) == (None, {"diverged"})


@pytest.mark.parametrize("moment", [2, 5, 9])
def test_interrupted_it_continues_to_the_same_result(moment: int, tiny: str):
    first, nothing, done = search(tiny, bowl(0.2), most=moment)
    assert (nothing, first.complete, len(done)) == (None, False, moment)
    result, best, rest = search(tiny, bowl(0.2))
    Path("runs").rename("before")
    whole, same, all_of_them = search(tiny, bowl(0.2))
    assert best == same
    assert list(result.results) == list(whole.results)
    assert sorted(done + rest) == sorted(all_of_them)


def test_the_time_decides_the_steps_and_a_search_that_continues_keeps_them(tiny: str, recipe: dict[str, Any]):
    recipe["train"]["max_iters"] = 100_000
    Path(tiny).write_text(tomli_w.dumps(recipe), encoding="utf-8")
    short, long = (Preset(tiny, minutes, measure=lambda config: 0.01).steps for minutes in (5, 10))
    assert 20 < short < long < 10 * 60 / 0.01 / 17
    preset = Preset(tiny, 5, measure=lambda config: 0.01)
    preset.run(lambda plan: Formula(bowl(0.01), []), retries=0, watch=Watch())
    assert Preset(tiny, 10, measure=lambda config: 0.001).steps == short
    with pytest.raises(ConfigError, match=r"leaves 0 steps for each of 17 runs; give --minutes \d+"):
        Preset(tiny, 0.1, Path("elsewhere"), measure=lambda config: 1.0)


def test_the_command_trains_prints_and_is_reported_on(
    tiny: str, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    recipe["train"]["max_iters"], recipe["optim"]["optimizer"] = 4, "muon"
    Path(tiny).write_text(tomli_w.dumps(recipe), encoding="utf-8")
    code, out, _ = run(tiny, "--preset", "lr", "--minutes", "1", capsys=capsys)
    assert code == 0
    text = " ".join(out.split())
    assert "best learning rate" in text
    assert "Muon's matrices" in text
    line = next(line for line in out.splitlines() if line.strip().startswith("max_learning_rate = "))
    rate = float(line.partition("=")[2])
    assert f"groundup train tiny.toml --max_learning_rate {rate:g}" in text
    code, out, err = run(tiny, "--preset", "lr", "--json", capsys=capsys)
    assert (code, json.loads(out)["best"]["rate"]) == (0, rate)
    assert "0 of 5 runs to make" in err
    study = load_sweep(Path("runs/lr-tiny"))
    assert (study.axis, len(study.settings) >= 5) == ("optim.max_learning_rate", True)
    assert commands_of(study) == ["groundup sweep tiny.toml --preset lr"]


def test_a_folder_of_shards_is_trained_on_with_the_demos_recipe(tokens: Path, tmp_path: Path):
    preset = Preset(str(tokens), 5, tmp_path / "sweep", measure=lambda config: 0.01)
    config = preset.first.trials(tmp_path / "sweep")[0].config
    assert (config.data.train, config.model) == (str(tokens / "train"), load_recipe("demo").model)


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.toml", "--preset", "lr"], "no recipe file none.toml"),
        (["tiny.toml", "--minutes", "5"], "--minutes 5 is for --preset lr"),
        (["tiny.toml", "--preset", "lr", "--budget", "short"], "--budget short is for a plan"),
        (["tiny.toml", "--preset", "lr", "--minutes", "0"], "--minutes 0; expected a positive number"),
        (["tiny.toml", "--preset", "rate"], "--preset rate; expected one of lr"),
        ([".", "--preset", "lr"], "has no token shards train"),
        (["bare.toml", "--preset", "lr"], "data.valid is empty"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], said: str, tiny: str, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    bare = recipe | {"data": recipe["data"] | {"valid": ""}}
    Path("bare.toml").write_text(tomli_w.dumps(bare), encoding="utf-8")
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("runs").exists()
