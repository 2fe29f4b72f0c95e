"""Files that change, vanish or cannot grow while a run goes on: one clear line, and nothing is lost."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from groundup.config import RunConfig, override, save_toml
from groundup.data.shards import DataGuard, TokenShards
from groundup.errors import DataError, MissingExtraError, TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink, Silent, read_jsonl
from groundup.train import train


class At(Silent):
    """Does something once a step is done."""

    def __init__(self, step: int, action):
        self.at, self.action = step, action

    def step(self, step: int, loss: float) -> None:
        if step == self.at:
            self.action()


@pytest.fixture
def data(tokens: Path, tmp_path: Path) -> Path:
    """A copy of the training shards, to be damaged."""
    return Path(shutil.copytree(tokens / "train", tmp_path / "data"))


def shard(data: Path) -> Path:
    return next(data.glob("shard-*.bin"))


def train_in_a_process(config: RunConfig, tmp_path: Path, preparation: str) -> str:
    """`groundup train` after some lines of Python, which must fail as a user's mistake does; returns what it says."""
    save_toml(config, tmp_path / "recipe.toml")
    program = f"{preparation}\nfrom groundup.cli.main import main\nmain(['train', {str(tmp_path / 'recipe.toml')!r}])\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_shards_cut_off_under_the_run_end_it_with_a_checkpoint_of_the_last_step(
    config: RunConfig, data: Path, tmp_path: Path
):
    """In a process of its own: read through the map, the missing pages would kill it by SIGBUS."""
    config = override(config, {"data.train": str(data)})
    whole = shard(data).read_bytes()
    cuts = (
        "import os, groundup.display.console as console\n"
        "class Cuts(console.ConsoleDisplay):\n"
        "    def step(self, step, loss):\n"
        f"        if step == 9: os.truncate({str(shard(data))!r}, 0)\n"
        "console.ConsoleDisplay = Cuts\n"
    )
    said = train_in_a_process(config, tmp_path, cuts)
    assert "was truncated during the run: 0 bytes, expected" in said
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-9"
    with shard(data).open("wb") as file:
        file.write(whole)
    assert train(config, resume=True).finished


def test_shards_overwritten_under_the_run_are_noticed(config: RunConfig, data: Path):
    def overwrite() -> None:
        with shard(data).open("r+b") as file:
            file.write(bytes(64))
        os.utime(shard(data), ns=(1, 1))

    with pytest.raises(DataError, match=r"shard-\d+\.bin was overwritten during the run.*resume"):
        train(override(config, {"data.train": str(data)}), display=At(9, overwrite))
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-9"


@pytest.mark.parametrize("change", ["touched", "replaced", "deleted"])
def test_shards_touched_replaced_or_deleted_do_not_matter(config: RunConfig, data: Path, change: str):
    def replace() -> None:
        other = data / "other"
        other.write_bytes(bytes(8))
        os.replace(other, shard(data))

    actions = {"touched": lambda: os.utime(shard(data), ns=(1, 1)), "replaced": replace,
               "deleted": lambda: shutil.rmtree(data)}  # fmt: skip
    whole = train(override(config, {"name": "whole"})).summary
    changed = train(override(config, {"data.train": str(data)}), display=At(9, actions[change])).summary
    assert changed["best_val_loss"] == whole["best_val_loss"]


def test_a_bare_array_is_watched_too(tmp_path: Path):
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(1000, dtype=np.uint16))
    guard = DataGuard(TokenShards.open(path), None)
    guard.check()
    os.truncate(path, 500)
    with pytest.raises(DataError, match=r"ids\.npy was truncated .* 500 bytes, expected 2128"):
        guard.check()


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_directory_that_vanishes_ends_the_run_in_one_line(config: RunConfig, tmp_path: Path, moved: bool):
    config = override(config, {"train.background_checkpoints": False})  # rmtree fails where files still come and go
    elsewhere = tmp_path / "elsewhere"

    def vanish() -> None:
        if moved:
            config.run_dir.rename(elsewhere)
        else:
            shutil.rmtree(config.run_dir)

    with pytest.raises(TrainingError, match="was deleted or moved while it was being trained") as raised:
        train(config, display=At(10, vanish))
    assert "\n" not in str(raised.value)
    assert not config.run_dir.exists()
    if moved:
        elsewhere.rename(config.run_dir)
        assert train(config, resume=True).finished
        steps = [line["step"] for line in read_jsonl(config.run_dir / "metrics.jsonl")]
        assert steps == sorted(set(steps))
        assert steps[-1] == 24


@pytest.mark.parametrize("name", ["metrics.jsonl", pytest.param("samples.jsonl", marks=pytest.mark.long)])
def test_a_full_disk_while_the_record_is_written(config: RunConfig, tmp_path: Path, name: str):
    """A limit on the size of files is the disk that fills up; the checkpoints' files are allowed to be larger."""
    config = override(config, {"train.log_interval": 1, "sample.interval": 1})
    fills_up = (
        "import resource, signal, groundup.record.sinks as j\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write = j.JsonlSink._write\n"
        "def limited(self, name, line):\n"
        f"    if name + '.jsonl' == {name!r} and line['step'] == 9:\n"
        "        size = self.paths[name].stat().st_size\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))\n"
        "    write(self, name, line)\n"
        "j.JsonlSink._write = limited\n"
    )
    said = train_in_a_process(config, tmp_path, fills_up)
    assert name in said
    assert "free some space and resume" in said
    assert not (config.run_dir / name).read_bytes().endswith(b"\n")
    assert train(config, resume=True).finished
    whole = train(override(config, {"name": "whole"})).run_dir
    steps = [[line["step"] for line in read_jsonl(run / name)] for run in (config.run_dir, whole)]
    assert steps[0] == steps[1]


def test_a_line_that_the_disk_takes_only_a_part_of_is_dropped_on_resume(tmp_path: Path):
    sink = JsonlSink(tmp_path)
    sink.metrics({"step": 1, "train_loss": 2.0})
    sink.metrics({"step": 2, "train_loss": 1.0})
    sink.sync()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot write .*metrics\.jsonl: File too large"):
            sink.metrics({"step": 3, "train_loss": 0.5})
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "metrics.jsonl").stat().st_size == size + 5
    JsonlSink(tmp_path, after_step=2).close()
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_disk_that_is_full_from_the_beginning_is_said_of_the_run(config: RunConfig, tmp_path: Path):
    fills_up = (
        "import resource, signal, groundup.train.logging as record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "whole = record.environment\n"
        "def limited(*arguments):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "    return whole(*arguments)\n"
        "record.environment = limited\n"
    )
    said = train_in_a_process(config, tmp_path, fills_up)
    assert f"cannot write {config.run_dir}" in said
    assert "free some space" in said
    assert train(config).finished


def test_a_run_that_could_not_begin_is_not_in_the_way(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    """Whoever installs what was missing repeats the same command."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError):
        train(override(config, {"track.wandb": True}))
    assert train(override(config, {"train.seed": 1})).finished
    with pytest.raises(TrainingError, match="exists already"):
        train(config)


def test_a_config_that_is_not_a_runs_is_left_alone(config: RunConfig):
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.toml").write_text("mine = true\n")
    with pytest.raises(TrainingError, match="exists already"):
        train(config)
    assert (config.run_dir / "config.toml").read_text() == "mine = true\n"


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".config.toml.7.tmp"]], ids=str)
def test_a_process_killed_while_it_started_leaves_no_run_in_the_way(config: RunConfig, left: list[str]):
    config.run_dir.mkdir(parents=True)
    for name in left:
        (config.run_dir / name).touch()
    assert train(config).finished
    assert not list(config.run_dir.rglob(".*.tmp"))


def test_a_run_killed_while_it_was_replaced_is_still_a_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    train(override(config, {"train.max_iters": 6}))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, overwrite=True)
    monkeypatch.undo()
    assert RunDirectory.open(config.run_dir).steps() == []
    assert train(config, overwrite=True).finished
    assert not list(config.run_dir.rglob(".*.tmp"))
