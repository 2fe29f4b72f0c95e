"""`groundup sweep` as a user meets it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.record.sweep import SweepDirectory

RECIPE = """
name = "tiny"
model = {{ context_length = 16, d_model = 32, num_layers = 1, num_heads = 2 }}
optim = {{ warmup_iters = 3 }}
data = {{ train = "{tokens}/train", valid = "{tokens}/valid", batch_size = 4 }}
train = {{ max_iters = 20, eval_interval = 10, eval_windows = 9, checkpoint_interval = 5 }}
sample = {{ interval = 0 }}
"""
PLAN = """
name = "rates"
question = "Which rate [is] best?"
recipe = "tiny.toml"
seeds = 2
baseline = { max_learning_rate = 1e-2 }
axes = { max_learning_rate = [1e-2, 1e30] }
budgets = { short = { seeds = 1 }, long = { options = { max_iters = 100_000 } } }
"""


@pytest.fixture
def plan(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.toml").write_text(RECIPE.format(tokens=tokens), encoding="utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plan.toml"


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `groundup sweep`."""
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_settings_with_their_cost_then_results(plan: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(plan, "--dry-run", capsys=capsys)
    assert code == 0
    assert "rates: Which rate [is] best?" in out
    assert "max_learning_rate=0.01 (baseline)" in out
    assert "4 of 4 runs to make" in out
    assert not Path("runs").exists()
    code, out, _ = run(plan, capsys=capsys)
    assert code == 0
    assert "max_learning_rate=0.01,seed-1  finished after 20 steps" in out
    assert "2 diverged" in out
    assert "groundup report runs/rates" in out
    code, out, _ = run(plan, capsys=capsys)
    assert (code, "0 of 4 runs to make" in out, "2 (2 done)" in out) == (0, True, True)


def test_results_as_json_and_a_budget_by_name(plan: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run("plan.toml", "--budget", "short", "--json", capsys=capsys)
    assert code == 0
    assert [(r["seed"], r["status"]) for r in json.loads(out)] == [(0, "finished"), (0, "diverged")]
    assert "1 diverged" in err
    assert Path("runs/rates-short/results.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.toml"], "no plan nothing.toml"),
        (["plan.toml", "--budget", "lon"], "unknown budget 'lon'; did you mean 'long'?"),
        (["plan.toml", "--executor", "inline", "--workers", "2"], "use --executor pool"),
        (["plan.toml", "--executor", "pool", "--address", "auto"], "--executor pool runs here; leave one out"),
        (["plan.toml", "--workers", "0"], "--workers 0; expected at least 1"),
        (["plan.toml", "--retry", "-1"], "retries = -1; expected 0 or more"),
    ],
)
def test_what_cannot_be_is_one_line(plan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str):
    code, _, err = run(*arguments, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.parametrize("how", [[], ["--workers", "2", "--threads", "1"]])
def test_ctrl_c_leaves_checkpoints_to_go_on_from(plan: Path, how: list[str]):
    command = [sys.executable, "-m", "groundup", "sweep", "plan.toml", "--budget", "long", *how]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    first = Path("runs/rates-long/max_learning_rate=0.01,seed-0")
    try:
        end = time.monotonic() + 120
        while not (first / "checkpoints" / "latest").exists():
            assert time.monotonic() < end
            assert sweep.poll() is None
            time.sleep(0.05)
        os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
        out, _ = sweep.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
    assert sweep.returncode == 128 + signal.SIGINT
    assert "the same command continues runs/rates-long" in out
    summary = json.loads((first / "summary.json").read_text())
    assert (first / "checkpoints" / "latest").read_text() == f"step-{summary['step']}\n"
    assert all(r.status == "diverged" for r in SweepDirectory(Path("runs/rates-long")).results().values())
