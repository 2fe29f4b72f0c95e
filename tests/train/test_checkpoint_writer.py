"""Checkpoints written beside the training are the same, in the same order, and their failures are not lost."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from groundup.config import RunConfig, override, save_toml
from groundup.errors import CheckpointError, TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.train import train
from groundup.train.build import build_model, build_optimizer
from groundup.train.checkpoint import writer as writer_module
from groundup.train.checkpoint.folder import CheckpointContent, read_model, read_optimizer, read_state
from groundup.train.checkpoint.writer import CheckpointWriter, SnapshotBuffers
from groundup.train.state import TrainState


@pytest.fixture
def objects(config: RunConfig):
    """A model and its optimizer after one step."""
    config = override(config, {"model.vocab_size": 40})
    model = build_model(config, "cpu")
    optimizer = build_optimizer(model, config.optim)
    model(torch.arange(8).unsqueeze(0)).logsumexp(-1).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def run(config: RunConfig) -> RunDirectory:
    directory = RunDirectory(config.run_dir)
    directory.create(config, {})
    return directory


def make_writer(run: RunDirectory, **options) -> CheckpointWriter:
    return CheckpointWriter(run, **({"keep": 0, "background": True, "sync_record": lambda: None} | options))


def content(model, optimizer, step: int) -> CheckpointContent:
    state = dataclasses.asdict(TrainState(step=step)) | {"format": "groundup-checkpoint", "version": 1}
    return CheckpointContent.of(model, optimizer, state)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_the_same_bit_for_bit_in_the_background(objects, run):
    inline, beside = make_writer(run, background=False), make_writer(run)
    inline.save(1, content(*objects, 1))
    expected = files(run.step_folder(1))
    beside.save(1, content(*objects, 1))
    beside.wait()
    assert files(run.step_folder(1)) == expected
    assert set(expected) == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_what_changes_after_the_save_is_not_in_the_checkpoint(objects, run, monkeypatch):
    """The thread is held until the weights have moved on: it writes what they were."""
    model, optimizer = objects
    before = [p.detach().clone() for p in model.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]
    moved = threading.Event()
    write = writer_module.write_folder
    monkeypatch.setattr(writer_module, "write_folder", lambda *arguments: (moved.wait(10), write(*arguments)))
    writer = make_writer(run)
    writer.save(1, content(model, optimizer, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
            optimizer.state[p]["exp_avg"].zero_()
            optimizer.state[p]["step"] += 1
    moved.set()
    writer.wait()
    state = read_state(run.step_folder(1))
    read_model(run.step_folder(1), model)
    read_optimizer(run.step_folder(1), model, optimizer, state)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(map(torch.equal, moments, (optimizer.state[p]["exp_avg"] for p in model.parameters())))
    assert {optimizer.state[p]["step"] for p in model.parameters()} == {1}


def test_snapshots_share_their_memory_from_one_to_the_next(objects):
    buffers = SnapshotBuffers()
    first, second = (buffers.take(content(*objects, 1)).content() for _ in range(2))
    live = content(*objects, 1)
    for tensors in ("model", "optimizer"):
        of_first, of_second, of_live = (getattr(c, tensors) for c in (first, second, live))
        assert of_first.keys() == of_live.keys()
        for name, tensor in of_live.items():
            assert of_first[name].data_ptr() == of_second[name].data_ptr() != tensor.data_ptr()
            assert torch.equal(of_second[name], tensor)


def test_the_order_is_record_folder_latest_prune_and_then_best(objects, run, monkeypatch):
    order: list[str] = []
    for name in ("point", "prune"):
        original = getattr(RunDirectory, name)

        def noted(self, *arguments, _name=name, _original=original):
            order.append(f"{_name} {arguments[0]}")
            return _original(self, *arguments)

        monkeypatch.setattr(RunDirectory, name, noted)
    write = writer_module.write_folder
    monkeypatch.setattr(
        writer_module, "write_folder", lambda folder, *rest: (order.append(folder.name), write(folder, *rest))
    )
    writer = make_writer(run, keep=2, sync_record=lambda: order.append("record"))
    writer.save(1, content(*objects, 1))
    writer.settle(1, {"best_step": 1}, best=True)
    writer.save(2, content(*objects, 2))
    writer.settle(2, {"due_sample": True}, best=False)
    writer.wait()
    assert order == [
        *["record", "step-1", "point latest", "prune 2", "record", "point best", "prune 2"],
        *["record", "step-2", "point latest", "prune 2", "record", "prune 2"],
    ]
    assert read_state(run.step_folder(1))["best_step"] == 1
    assert read_state(run.step_folder(2))["due_sample"] is True


def test_at_most_one_is_in_flight(objects, run, monkeypatch):
    running, most = [0], [0]
    write = writer_module.write_folder

    def counted(*arguments):
        running[0] += 1
        most[0] = max(most[0], running[0])
        write(*arguments)
        running[0] -= 1

    monkeypatch.setattr(writer_module, "write_folder", counted)
    writer = make_writer(run)
    for step in range(1, 6):
        writer.save(step, content(*objects, step))
    writer.wait()
    assert most == [1]
    assert run.steps() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("keep", [1, 2])
def test_old_ones_go_but_never_the_best(objects, run, keep):
    writer = make_writer(run, keep=keep)
    for step in range(1, 7):
        writer.save(step, content(*objects, step))
        writer.settle(step, {}, best=step == 2)
    writer.wait()
    assert run.steps() == sorted({2, *range(7 - keep, 7)})
    assert run.checkpoint("best").name == "step-2"
    assert run.checkpoint("latest").name == "step-6"


@pytest.mark.parametrize("where", ["write_folder", "point", "prune", "sync_record"])
def test_a_failure_in_the_thread_is_raised_once_in_one_line(objects, run, monkeypatch, where):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writer = make_writer(run)
    writer.save(1, content(*objects, 1))
    writer.wait()
    before = files(run.step_folder(1))
    match where:
        case "write_folder":
            monkeypatch.setattr("groundup.train.checkpoint.folder._save_tensors", full)
        case "sync_record":
            writer.sync_record = full
        case _:
            monkeypatch.setattr(RunDirectory, where, full)
    writer.save(2, content(*objects, 2))
    writer.close()
    with pytest.raises(CheckpointError, match=r"No space left on device.*resume") as raised:
        writer.check()
    assert "\n" not in str(raised.value)
    writer.check()
    writer.wait()
    assert files(run.step_folder(1)) == before
    assert not list(run.checkpoints.glob(".*"))


def test_a_failed_checkpoint_stops_the_run_before_its_second_next_step(config: RunConfig, monkeypatch):
    """The first step after the save may be under way while the thread fails; no other begins."""
    failed = threading.Event()
    write = writer_module.write_folder

    def full(folder: Path, *rest: object) -> None:
        if folder.name != "step-12":
            return write(folder, *rest)
        failed.set()
        raise CheckpointError("cannot write step-12: No space left on device")

    monkeypatch.setattr(writer_module, "write_folder", full)

    class Last(Silent):
        seen = 0

        def step(self, step: int, loss: float) -> None:
            self.seen = step
            if step > 12:
                failed.wait(10)
                for thread in threading.enumerate():
                    if thread.name == "checkpoint":
                        thread.join()

    last = Last()
    with pytest.raises(CheckpointError, match="step-12"):
        train(override(config, {"train.eval_interval": 1000}), display=last)
    assert last.seen in (12, 13)
    assert RunDirectory(config.run_dir).steps() == [6]
    monkeypatch.undo()
    assert train(override(config, {"train.eval_interval": 1000}), resume=True).finished


def test_an_exception_in_the_loop_waits_for_the_checkpoint_in_flight(config: RunConfig):
    class Breaks(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 7:
                raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError, match="the display broke"):
        train(config, display=Breaks())
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-6"


SLOW_WRITER = (
    "import os, signal, sys, time, groundup.train.checkpoint.folder as c\n"
    "save = c._save_tensors\n"
    "def slow(tensors, path):\n"
    "    if 'step-6' in str(path) and path.name == 'model.safetensors':\n"
    "        for number in numbers:\n"
    "            os.kill(os.getpid(), int(number)); time.sleep(0.3)\n"
    "    save(tensors, path)\n"
    "c._save_tensors = slow\n"
    "from groundup.__main__ import main\n"
    "sys.argv[1:], numbers = ['train', {recipe!r}], sys.argv[1:]\n"
    "main()\n"
)


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], 128 + signal.SIGTERM),
        pytest.param([signal.SIGINT], 128 + signal.SIGINT, marks=pytest.mark.long),
        ([signal.SIGINT, signal.SIGINT], 130),
        pytest.param([signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM, marks=pytest.mark.long),
    ],
    ids=["SIGTERM", "SIGINT", "SIGINT twice", "SIGTERM twice"],
)
def test_signals_while_a_checkpoint_is_written(config: RunConfig, tmp_path: Path, signals: list, code: int):
    save_toml(override(config, {"train.eval_interval": 1000}), tmp_path / "recipe.toml")
    program = SLOW_WRITER.format(recipe=str(tmp_path / "recipe.toml"))
    numbers = [str(int(number)) for number in signals]
    ended = subprocess.run([sys.executable, "-c", program, *numbers], capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    run = RunDirectory(config.run_dir)
    if code != -signal.SIGTERM:
        assert 6 in run.steps()
    for step in run.steps():
        assert read_state(run.step_folder(step))["step"] == step
    assert train(override(config, {"train.eval_interval": 1000}), resume=True).finished
    assert not list(run.checkpoints.glob(".*"))


def test_a_signal_that_was_ignored_from_the_start_stays_ignored(config: RunConfig):
    """`nohup groundup train …` goes on when its terminal is closed."""

    class Hangup(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGHUP)

    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(config, display=Hangup()).finished
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_checkpoint_that_had_its_name_but_not_latest_is_made_again(config: RunConfig):
    """Killed between the two: no pointer may name what is thrown away, and the outcome is the same."""
    train(config)
    run = RunDirectory(config.run_dir)
    expected = files(run.step_folder(24))
    best = run.checkpoint("best").name
    run.point("latest", 12)
    run.point("best", 16)
    assert train(config, resume=True).finished
    again = files(run.step_folder(24))
    assert all(again[name] == expected[name] for name in ("model.safetensors", "optimizer.safetensors"))
    assert run.checkpoint("best").name == best


def test_state_of_an_older_version_is_read_with_defaults_for_what_came_later():
    old = {"step": 3, "tokens": 30, "wall_seconds": 1.5}
    assert TrainState.from_dict(old) == TrainState(step=3, tokens=30, wall_seconds=1.5)
    assert TrainState.from_dict(old | {"of_a_newer_version": 1}).step == 3
    with pytest.raises(KeyError, match="tokens"):
        TrainState.from_dict({"step": 3})


def test_a_run_that_was_deleted_is_not_made_again_by_its_checkpoint(objects, run, tmp_path):
    writer = make_writer(run)
    run.path.rename(tmp_path / "elsewhere")
    writer.save(1, content(*objects, 1))
    with pytest.raises(TrainingError, match="was deleted or moved"):
        writer.wait()
    assert not run.path.exists()
