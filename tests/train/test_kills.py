"""kill -9 at any moment: the run goes on from a complete checkpoint, and ends as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.config import RunConfig, override, save_toml
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import train

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.fixture
def busy(config: RunConfig) -> RunConfig:
    """A run that writes more than it trains: a checkpoint every step, and as few kept as can be."""
    return override(
        config,
        {
            "train.log_interval": 1,
            "train.eval_interval": 2,
            "train.eval_windows": 2,
            "train.checkpoint_interval": 1,
            "train.keep_checkpoints": 1,
            "sample.interval": 3,
            "sample.tokens": 3,
        },
    )


def drive(config: RunConfig, folder: Path, how: str, kills: int, seed: int = 0) -> dict[str, int]:
    """What the driver saw; it fails where a run does not come back as it must."""
    save_toml(config, folder / "recipe.toml")
    arguments = [how, str(folder / "recipe.toml"), str(seed), str(kills)]
    done = subprocess.run([sys.executable, DRIVER, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(busy: RunConfig, tmp_path: Path):
    assert drive(busy, tmp_path, "times", kills=5)["kills"] == 5


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_killed_fifty_times_at_random_moments(busy: RunConfig, tmp_path: Path, optimizer: str, background: bool):
    config = override(busy, {"optim.optimizer": optimizer, "train.background_checkpoints": background})
    seen = drive(config, tmp_path, "times", kills=50)
    assert seen["kills"] == 50
    assert seen["while_writing"] > 0
    assert seen["with_a_checkpoint"] > 0


def test_killed_before_random_file_operations(busy: RunConfig, tmp_path: Path):
    seen = drive(override(busy, {"train.max_iters": 4}), tmp_path, "operations", kills=5)
    assert seen["kills"] == 5


@pytest.mark.long
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_killed_before_every_single_file_operation(busy: RunConfig, tmp_path: Path, background: bool):
    config = override(busy, {"train.max_iters": 4, "train.background_checkpoints": background})
    seen = drive(config, tmp_path, "operations", kills=0)
    assert seen["kills"] == seen["operations"] > 60
    assert seen["while_writing"] > 10
    assert seen["with_a_checkpoint"] > 30


@pytest.mark.parametrize(
    ("options", "kills"),
    [
        ({"optim.schedule": "wsd"}, 5),
        pytest.param({"optim.schedule": "wsd"}, 0, marks=pytest.mark.long),
        pytest.param({"optim.schedule": "constant"}, 0, marks=pytest.mark.long),
        pytest.param({"optim.stage_from": 4, "optim.stage_schedule": "wsd"}, 0, marks=pytest.mark.long),
    ],
)
def test_a_longer_run_killed_before_file_operations(busy: RunConfig, tmp_path: Path, options: dict, kills: int):
    """Killed while it extends a finished run of half the steps, it is the run that had all steps from the start."""
    seen = drive(override(busy, {"train.max_iters": 8} | options), tmp_path, "extension", kills)
    assert seen["kills"] == (kills or seen["operations"]) > 0


def test_killed_in_an_evaluation_the_steps_before_it_are_saved(busy: RunConfig, tmp_path: Path):
    config = override(
        busy,
        {
            "train.max_iters": 4,
            "train.checkpoint_interval": 100,
            "train.eval_interval": 4,
            "train.eval_batch_size": 1,
            "train.background_checkpoints": False,
            "sample.interval": 4,
        },
    )
    # Two batches before the first step, and two after the last: before those its checkpoint is on the disk.
    assert drive(config, tmp_path, "evaluations", kills=0)["latest"] == [-1, -1, 4, 4]


def test_the_command_itself_killed_and_resumed(busy: RunConfig, tmp_path: Path):
    save_toml(busy, tmp_path / "recipe.toml")
    command = [sys.executable, "-m", "groundup", "train", str(tmp_path / "recipe.toml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = RunDirectory(busy.run_dir)
    while process.poll() is None and len(run.steps()) == 0:
        time.sleep(0.01)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    whole = train(override(busy, {"name": "whole"})).run_dir
    steps = [[line["step"] for line in read_jsonl(path / "metrics.jsonl")] for path in (busy.run_dir, whole)]
    assert steps[0] == steps[1]
    last = [RunDirectory(path).checkpoint("latest") / "model.safetensors" for path in (busy.run_dir, whole)]
    assert last[0].read_bytes() == last[1].read_bytes()
