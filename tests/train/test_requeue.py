"""SIGUSR1 stops a run as SIGTERM does; with --requeue the SLURM job goes back into the queue."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml
from groundup.errors import ConfigError
from groundup.record.run import RunDirectory
from groundup.system.slurm import requeue, slurm_job
from groundup.train import train
from records import SignalAt, record


def test_usr1_writes_a_checkpoint_as_sigterm_does(config: RunConfig):
    stopped = train(config, display=SignalAt(7, signal.SIGUSR1))
    assert (stopped.finished, stopped.signal) == (False, signal.SIGUSR1)
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-7"
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job whose scontrol writes down what it was called with."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    tool = folder / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexit $(cat {folder}/code 2>/dev/null || echo 0)\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return folder


def run_recipe(config: RunConfig, *arguments: str, stop: int = 0, number: int = signal.SIGUSR1) -> tuple[int, str]:
    """`groundup train RECIPE …`, which signals itself at a step."""
    recipe = Path(config.runs_dir) / "recipe.toml"
    save_toml(config, recipe)
    program = (
        "import os, sys\n"
        "from groundup.display.console import ConsoleDisplay\n"
        "def step(self, step, loss):\n"
        f"    if step == {stop}: os.kill(os.getpid(), {int(number)})\n"
        "ConsoleDisplay.step = step\n"
        "from groundup.cli.main import main\n"
        "main(['train', *sys.argv[1:]])\n"
    )
    command = [sys.executable, "-c", program, str(recipe), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_requeued_job_goes_on_with_the_same_command(config: RunConfig, slurm: Path):
    code, out = run_recipe(config, "--requeue", stop=7)
    assert (code, "job 4711 is in the queue again" in out) == (128 + signal.SIGUSR1, True)
    assert (slurm / "calls").read_text() == "requeue 4711\n"
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-7"
    code, out = run_recipe(config, "--requeue")
    assert (code, "resuming from step 7" in out) == (0, True)
    assert (slurm / "calls").read_text() == "requeue 4711\n"  # a finished run is not requeued
    assert record(config.run_dir) == record(train(RunDirectory(config.run_dir).config, overwrite=True).run_dir)


def test_a_job_that_stops_at_its_step_is_not_requeued(config: RunConfig, slurm: Path):
    code, out = run_recipe(override(config, {"train.stop_at": 7}), "--requeue")
    assert (code, "stopped at step 7" in out, (slurm / "calls").exists()) == (0, True, False)


def test_ctrl_c_ends_a_job_for_good_and_a_refused_requeue_is_told(config: RunConfig, slurm: Path):
    (slurm / "code").write_text("1")
    code, out = run_recipe(config, "--requeue", stop=5, number=signal.SIGTERM)
    assert (code, "cannot requeue job 4711" in out) == (128 + signal.SIGTERM, True)
    (slurm / "calls").unlink()
    code, _ = run_recipe(config, "--requeue", stop=9, number=signal.SIGINT)
    assert (code, (slurm / "calls").exists()) == (128 + signal.SIGINT, False)


@pytest.mark.parametrize(
    ("environment", "arguments", "says"),
    [
        ({}, [], "SLURM_JOB_ID is not set"),
        ({"SLURM_JOB_ID": "1", "PATH": "/nowhere"}, [], "scontrol"),
        ({"SLURM_JOB_ID": "1"}, ["--overwrite"], "--overwrite"),
    ],
)
def test_requeue_where_it_cannot_work_is_one_line(
    environment: dict[str, str],
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["train", "demo", "--requeue", *arguments])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n"), says in err) == (2, 1, True)


def test_without_a_job_there_is_nothing_to_requeue():
    with pytest.raises(ConfigError, match="SLURM_JOB_ID"):
        slurm_job({"PATH": "/bin"})


def test_a_missing_scontrol_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "cannot requeue job 5" in requeue("5")
