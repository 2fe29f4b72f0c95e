"""A checkpoint that cannot be deleted, or a directory that cannot be synced, costs a note and not the run."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from groundup.config import RunConfig, override
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.system.files import discard, discarded, sync_directory
from groundup.train import train
from groundup.train.checkpoint.folder import read_state


class Notes(Silent):
    """Collects what a person is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOTEMPTY, "Directory not empty")


@pytest.fixture
def many(config: RunConfig) -> RunConfig:
    """A checkpoint at every second step, of which one is kept."""
    return override(config, {"train.max_iters": 12, "train.checkpoint_interval": 2, "train.keep_checkpoints": 1})


@pytest.mark.parametrize("broken", ["shutil.rmtree", "os.rmdir"])
def test_deletions_that_fail_are_notes_and_are_tried_again(
    many: RunConfig, monkeypatch: pytest.MonkeyPatch, broken: str
):
    module, name = {"shutil.rmtree": (shutil, "rmtree"), "os.rmdir": (os, "rmdir")}[broken]
    run, notes, working = RunDirectory(many.run_dir), Notes(), getattr(module, name)

    class MendAt9(Notes):
        def step(self, step: int, loss: float) -> None:
            if step == 9:
                monkeypatch.setattr(module, name, working)

    notes = MendAt9()
    monkeypatch.setattr(module, name, refuse)
    assert train(many, display=notes).finished
    stuck = [note for note in notes.notes if "cannot be deleted" in note]
    assert len(stuck) == len(set(stuck)) >= 1  # each is told once
    assert all(str(run.checkpoints) in note for note in stuck)
    assert discarded(run.checkpoints) == []
    assert set(run.steps()) == {12, int(run.checkpoint("best").name.removeprefix("step-"))}


def test_a_run_with_leftovers_of_any_kind_is_resumed(many: RunConfig, monkeypatch: pytest.MonkeyPatch):
    train(many, pause=lambda done: done >= 7)
    run = RunDirectory(many.run_dir)
    half = run.checkpoints / ".step-2.1.0.old.tmp"  # as NFS leaves it
    half.mkdir()
    (half / ".nfs000001").write_bytes(b"x")
    later = run.step_folder(11)
    shutil.copytree(run.step_folder(7), later)
    for module, name in ((shutil, "rmtree"), (os, "rmdir"), (os, "rename")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(os, "replace", os.replace)
    assert 2 not in run.steps()
    run.delete_leftovers()
    run.rewind(7, None)
    assert run.checkpoint("latest").name == "step-7"
    monkeypatch.undo()
    assert train(many, resume=True).finished
    assert read_state(run.checkpoint("latest"))["step"] == 12


def test_what_a_kill_left_half_written_goes_at_the_next_start(many: RunConfig):
    run = RunDirectory(train(override(many, {"train.max_iters": 3})).run_dir)
    places = [run.path, run.checkpoints, run.tokenizer_dir, run.checkpoint("latest")]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / ".state.json.4711.tmp").write_text("{")
    assert train(override(many, {"train.max_iters": 3}), resume=True).finished
    assert list(run.path.rglob(".*.tmp")) == []


def test_a_folder_that_lost_files_never_has_the_name_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "step-3"
    for _ in range(2):  # twice the same, as when a step is made again
        folder.mkdir()
        for name in ("model.safetensors", "state.json"):
            (folder / name).write_text("x")
        monkeypatch.setattr(os, "rmdir", refuse)
        assert discard(folder) is False
        assert not folder.exists()
        monkeypatch.undo()
    assert len(discarded(tmp_path)) == 2
    assert [file for left in discarded(tmp_path) for file in left.iterdir()] == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_a_file_system_that_syncs_no_directories_trains(many: RunConfig, monkeypatch: pytest.MonkeyPatch, number: int):
    whole = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    sync_directory(many.run_dir.parent)
    assert train(override(many, {"train.max_iters": 3}), display=Notes()).finished


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_broken_disk_is_an_error_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    def broken(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_directory(tmp_path)
