"""A run that was interrupted equals one that never was."""

import dataclasses
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from groundup.config import RunConfig, override, save_toml
from groundup.errors import CheckpointError, ConfigError, FileMissingError, TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink, Silent, read_jsonl
from groundup.train import evaluate_run, train
from groundup.train.checkpoint.folder import CheckpointContent, load_model, read_state, write_folder
from records import SignalAt, record, without_hashes


class SignalAtMetrics(Silent):
    """Sends this process SIGTERM while the lines of a step are written."""

    def __init__(self, step: int):
        self.at = step

    def metrics(self, line: Mapping[str, Any]) -> None:
        if line["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], list]:
    """The record of a config's run, trained once."""
    known: dict[str, list] = {}

    def of(config: RunConfig) -> list:
        whole = override(config, {"name": "whole", "train.background_checkpoints": False})
        key = str(dataclasses.replace(whole, runs_dir=""))
        if key not in known:
            whole = override(whole, {"runs_dir": str(tmp_path_factory.mktemp("whole"))})
            known[key] = record(train(whole).run_dir)
        return known[key]

    return of


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("stop", [1, 7, 13, 23])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    config: RunConfig, uninterrupted: Callable, optimizer: str, passes: int, stop: int, background: bool
):
    config = override(
        config,
        {
            "data.micro_batch_size": 4 // passes,
            "optim.optimizer": optimizer,
            "train.background_checkpoints": background,
        },
    )
    stopped = train(config, display=SignalAt(stop, signal.SIGTERM))
    assert (stopped.finished, stopped.signal, stopped.summary["step"]) == (False, signal.SIGTERM, stop)
    assert train(config, resume=True).finished
    assert record(config.run_dir) == uninterrupted(config)


OF_MUON = {
    "optim.muon_momentum_warmup": 8, "optim.muon_momentum_cooldown": 6, "optim.muon_coefficients": "polar-express",
    "optim.muon_equalize": True, "optim.muon_variance": 0.9, "optim.muon_dtype": "bfloat16",
    "optim.cautious_decay": True, "optim.groups.embedding.rate": 4.0, "optim.groups.head.beta1": 0.8,
    "optim.groups.vectors.decay": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopped_after_every_single_step_equals_uninterrupted(
    config: RunConfig, uninterrupted: Callable, optimizer: str
):
    config = override(config, {"optim.optimizer": optimizer} | (OF_MUON if optimizer == "muon" else {}))
    train(config, display=SignalAt(1, signal.SIGTERM))
    for step in range(2, 24):
        assert train(config, resume=True, display=SignalAt(step, signal.SIGTERM)).summary["step"] == step
    assert train(config, resume=True).finished
    assert record(config.run_dir) == uninterrupted(config)


@pytest.mark.parametrize("step", [1, 8, 13])
def test_paused_at_a_step_and_resumed_equals_uninterrupted(config: RunConfig, uninterrupted: Callable, step: int):
    paused = train(config, pause=lambda done: done >= step)
    assert (paused.finished, paused.signal, paused.summary["step"]) == (False, None, step)
    assert train(config, resume=True, pause=lambda done: done > 24).finished
    assert record(config.run_dir) == uninterrupted(config)


@pytest.mark.long
def test_a_compiled_run_stopped_and_resumed_equals_uninterrupted(config: RunConfig, uninterrupted: Callable):
    config = override(config, {"train.compile": True})
    train(config, display=SignalAt(7, signal.SIGTERM))
    assert train(config, resume=True).finished
    assert record(config.run_dir) == uninterrupted(config)


def test_stopped_before_its_first_step_the_record_has_that_evaluation_once(config: RunConfig, uninterrupted: Callable):
    stopped = train(config, display=SignalAtMetrics(0))
    assert stopped.summary["step"] == 0
    assert train(config, resume=True).finished
    assert record(config.run_dir) == uninterrupted(config)


def test_metrics_cut_at_any_byte_after_the_checkpoint_are_written_again(config: RunConfig, uninterrupted: Callable):
    """A kill leaves any part of the lines that no checkpoint vouches for; the record comes out whole all the same."""
    config = override(config, {"train.log_interval": 1, "sample.interval": 3})
    train(config, display=SignalAt(20, signal.SIGTERM))
    shutil.rmtree(config.run_dir / "checkpoints" / "step-20")
    (config.run_dir / "checkpoints" / "latest").write_text("step-18\n")
    kept = RunDirectory(config.run_dir).checkpoint("latest")
    state = read_state(kept)
    assert state["step"] == 18
    for name in ("metrics.jsonl", "samples.jsonl"):
        path, copy = config.run_dir / name, config.run_dir.with_name("cut")
        content = path.read_bytes()
        lines = content.splitlines(keepends=True)
        vouched = [line for line in lines if json.loads(line)["step"] <= 18]
        copy.mkdir(exist_ok=True)
        for cut in range(len(b"".join(vouched)), len(content) + 1):
            (copy / name).write_bytes(content[:cut])
            JsonlSink(copy, after_step=18).close()
            assert (copy / name).read_bytes() == b"".join(vouched)
        for cut in range(
            0, len(b"".join(vouched)), 7
        ):  # lines that were on the disk are gone: those left are kept, once
            (copy / name).write_bytes(content[:cut])
            JsonlSink(copy, after_step=18).close()
            whole = content[:cut].count(b"\n")
            assert (copy / name).read_bytes() == b"".join(vouched[:whole])
        path.write_bytes(content[: len(b"".join(vouched)) + 5])
    assert train(config, resume=True).finished
    assert record(config.run_dir) == uninterrupted(config)


def test_the_record_has_no_gap_or_repeat_after_a_kill_between_checkpoints(config: RunConfig):
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    train(config, display=SignalAt(15, signal.SIGINT))
    shutil.rmtree(config.run_dir / "checkpoints" / "step-15")  # as if killed at 15: the last checkpoint is older
    (config.run_dir / "checkpoints" / "latest").write_text("step-12\n")
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "train_lo')  # a line cut off by the kill
    train(config, resume=True)
    assert record(config.run_dir) == whole


def test_killed_process_resumes_from_the_last_complete_checkpoint(config: RunConfig, tmp_path: Path):
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    save_toml(config, tmp_path / "recipe.toml")
    # Killed while the checkpoint of step 12 is half written: the model is there, the rest is not.
    program = (
        "import os, signal, groundup.train.checkpoint.folder as c\n"
        "save = c._save_tensors\n"
        "def killed(tensors, path):\n"
        "    save(tensors, path)\n"
        "    if 'step-12' in str(path): os.kill(os.getpid(), signal.SIGKILL)\n"
        "c._save_tensors = killed\n"
        "from groundup.cli.main import main\n"
        f"main(['train', {str(tmp_path / 'recipe.toml')!r}])\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDirectory(config.run_dir)
    assert run.checkpoint("latest").name == "step-8"
    assert train(config, resume=True).finished
    assert record(config.run_dir) == whole
    assert not list(run.checkpoints.glob(".*"))  # the half-written folder is swept away


@pytest.mark.parametrize("background", [pytest.param(False, marks=pytest.mark.long), True])
def test_full_disk_while_saving_keeps_the_previous_checkpoint(config: RunConfig, tmp_path: Path, background: bool):
    config = override(config, {"train.background_checkpoints": background})
    save_toml(override(config, {"train.eval_interval": 1000}), tmp_path / "recipe.toml")
    # A limit on file size is the disk that fills up: writing the model beyond it fails.
    program = (
        "import resource, signal, groundup.train.checkpoint.writer as w\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write = w.write_folder\n"
        "def limited(folder, *rest):\n"
        "    if folder.name == 'step-12':\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "    write(folder, *rest)\n"
        "w.write_folder = limited\n"
        "from groundup.cli.main import main\n"
        f"main(['train', {str(tmp_path / 'recipe.toml')!r}])\n"
    )
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "step-12" in failed.stderr
    assert "resume" in failed.stderr
    run = RunDirectory(config.run_dir)
    assert run.steps() == [6]
    assert train(override(config, {"train.eval_interval": 1000}), resume=True).finished


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_broken_checkpoints_are_refused(config: RunConfig, file: str, damage: str):
    config = override(config, {"train.max_iters": 6})
    train(config)
    path = config.run_dir / "checkpoints" / "step-6" / file
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "foreign":
            path.write_bytes(b"PK\x03\x04 something else entirely" * 50)
        case "missing":
            path.unlink()
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        train(config, resume=True)


@pytest.mark.parametrize("form", ["gathered", "sharded"])
def test_a_changed_byte_anywhere_in_a_checkpoint_is_refused(config: RunConfig, form: str):
    config = override(
        config, {"train.max_iters": 6, "train.checkpoint_format": form, "train.background_checkpoints": False}
    )
    run = RunDirectory(train(config).run_dir)
    draw = random.Random(0)
    paths = [path for path in run.step_folder(6).rglob("*") if path.suffix in (".safetensors", ".json")]
    assert len(paths) >= 3
    for path in paths:
        sound = path.read_bytes()
        for place in draw.sample(range(len(sound)), 40):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << draw.randrange(8)
            if path.suffix == ".json" and json_or_none(damaged) == json.loads(sound):
                continue  # another blank means the same
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match="step-6"):
                train(config, resume=True)
            if not path.is_relative_to(run.step_folder(6) / "optimizer") and path.name != "optimizer.safetensors":
                with pytest.raises(CheckpointError, match="step-6"):
                    load_model(run, "latest")
        path.write_bytes(sound)
    load_model(run, "latest")
    assert train(config, resume=True).finished


def json_or_none(content: bytes | bytearray) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("name", ["step-6", "6", "best", "latest", "7", "step-06", "9" * 5000, "step-", ""])
def test_a_checkpoint_is_found_by_its_name_or_the_others_are_named(config: RunConfig, name: str):
    run = RunDirectory(config.run_dir)
    for step in (6, 24):
        run.step_folder(step).mkdir(parents=True)
    if name in ("step-6", "6"):
        assert run.checkpoint(name) == run.step_folder(6)
    elif name in ("best", "latest"):
        assert run.checkpoint(name) == run.step_folder(24)
    else:
        with pytest.raises(CheckpointError, match="it has best, latest, 6, 24"):
            run.checkpoint(name)


@pytest.mark.parametrize(
    "content", ["../../other/checkpoints/step-6", "step-6/", "/tmp", "step-9", "\0", "step-6 step-6"]
)
def test_a_pointer_leads_nowhere_but_to_a_checkpoint_of_the_run(config: RunConfig, content: str):
    run = RunDirectory(config.run_dir)
    for folder in (run.step_folder(6), run.step_folder(24), run.path.parent / "other/checkpoints/step-6"):
        folder.mkdir(parents=True)
    for pointer in ("best", "latest"):
        (run.checkpoints / pointer).write_text(content)
        assert run.checkpoint(pointer) == run.step_folder(24)


def test_a_folder_in_the_place_of_a_pointer_is_replaced(config: RunConfig):
    run = RunDirectory(train(config, display=SignalAt(7, signal.SIGTERM)).run_dir)
    for pointer in ("best", "latest"):
        (run.checkpoints / pointer).unlink(missing_ok=True)
        (run.checkpoints / pointer).mkdir()
    assert train(config, resume=True).finished
    assert run.checkpoint("latest") == run.step_folder(24)


def test_a_run_whose_name_is_not_utf8_is_loaded_and_resumed(config: RunConfig):
    config = override(config, {"name": "caf\udce9"})
    train(config, display=SignalAt(7, signal.SIGTERM))
    load_model(RunDirectory.open(config.run_dir), "latest")
    assert train(config, resume=True).finished


def test_a_checkpoint_without_hashes_is_read(config: RunConfig):
    """Version 0.1 wrote none."""
    train(config, display=SignalAt(7, signal.SIGTERM))
    without_hashes(RunDirectory(config.run_dir).checkpoint("latest"))
    load_model(RunDirectory(config.run_dir), "latest")
    assert train(config, resume=True).finished


def test_resume_refuses_another_architecture_and_other_data(config: RunConfig, tokens: Path, tmp_path: Path):
    train(config, display=SignalAt(7, signal.SIGTERM))
    with pytest.raises(ConfigError, match=r"model\.d_model \(was 32, now 64\).*train\.max_iters \(was 24, now 30\)"):
        train(override(config, {"model.d_model": 64, "train.max_iters": 30}), resume=True)
    with pytest.raises(CheckpointError, match=r"data\.train is not what .* was trained on"):
        train(override(config, {"data.train": str(tokens / "valid")}), resume=True)
    moved = tmp_path / "moved"
    shutil.copytree(tokens / "train", moved)
    assert train(override(config, {"data.train": str(moved), "train.log_interval": 3}), resume=True).finished


def test_resume_of_nothing_is_an_error_and_of_a_finished_run_does_nothing(config: RunConfig):
    with pytest.raises(FileMissingError, match="no run"):
        train(config, resume=True)
    with pytest.raises(FileMissingError, match="no run"):
        RunDirectory.open("name/" * 2000)
    train(config)
    before = record(config.run_dir)
    assert train(config, resume=True).finished
    assert record(config.run_dir) == before


def test_old_checkpoints_go_but_the_best_stays(config: RunConfig):
    config = override(
        config,
        {"train.keep_checkpoints": 1, "train.checkpoint_interval": 1, "train.eval_interval": 100, "sample.interval": 0},
    )
    run = RunDirectory(config.run_dir)

    class MarkBest(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 6:
                run.point("best", 5)

    train(config, display=MarkBest())
    assert run.checkpoint("latest").name == "step-24"
    assert set(run.steps()) <= {5, 24}
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-3'.*24"):
        run.checkpoint("step-3")


def test_failed_write_leaves_an_older_folder_of_the_same_step_alone(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    from groundup.train.build import build_model, build_optimizer
    from groundup.train.checkpoint import folder as checkpoint

    config = override(config, {"model.vocab_size": 300})
    model = build_model(config, "cpu")
    optimizer = build_optimizer(model, config.optim)
    folder = config.run_dir / "checkpoints" / "step-1"
    folder.parent.mkdir(parents=True)
    content = CheckpointContent.of(model, optimizer, {"step": 1})
    write_folder(folder, content)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_save_tensors", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_folder(folder, content)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert json.loads(before["state.json"])["step"] == 1


def test_a_run_killed_before_its_first_checkpoint_begins_anew_without_repeats(config: RunConfig):
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    train(config, display=SignalAt(3, signal.SIGTERM))
    shutil.rmtree(config.run_dir / "checkpoints")
    assert train(config, resume=True).finished
    assert record(config.run_dir) == whole


def test_samples_with_other_line_separators_do_not_break_the_record(config: RunConfig):
    train(config, display=SignalAt(8, signal.SIGTERM))
    line = {"step": 8, "prompt": "", "text": "a\u2028b\u2029c\u0085d é"}
    with (config.run_dir / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    with (config.run_dir / "samples.jsonl").open("ab") as binary:
        binary.write('{"step": 9, "text": "é'.encode()[:-1])  # cut inside a character
    assert train(config, resume=True).finished
    assert line in list(read_jsonl(config.run_dir / "samples.jsonl"))


def test_one_run_is_trained_by_one_process(config: RunConfig):
    train(config, display=SignalAt(3, signal.SIGTERM))
    with RunDirectory(config.run_dir).locked(), pytest.raises(TrainingError, match="by another process"):
        train(config, resume=True)
    with RunDirectory(config.run_dir).locked(), pytest.raises(TrainingError, match="by another process"):
        train(config, overwrite=True)
    assert train(config, resume=True).finished


def test_a_file_system_without_locks_is_no_other_process(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    """Lustre and some network drives refuse every lock."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert train(config).finished


def test_data_that_vanishes_during_the_run_costs_no_finished_step(config: RunConfig, tokens: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(tokens / "train", data)

    class Remove(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 3:
                shutil.rmtree(data)

    assert train(override(config, {"data.train": str(data)}), display=Remove()).finished


def test_best_is_named_after_its_checkpoint_is_complete(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    """Killed between the two, a run resumed from that checkpoint evaluates it again, and names it."""
    point, order = RunDirectory.point, []

    def noted(self: RunDirectory, pointer: str, step: int) -> None:
        order.append((pointer, step))
        point(self, pointer, step)

    monkeypatch.setattr(RunDirectory, "point", noted)
    train(config)
    best = [i for i, (pointer, _) in enumerate(order) if pointer == "best"]
    assert best
    assert all(order[i - 1] == ("latest", order[i][1]) for i in best)


def test_the_wrong_safetensors_file_is_refused(config: RunConfig):
    config = override(config, {"train.max_iters": 6})
    train(config)
    folder = config.run_dir / "checkpoints" / "step-6"
    shutil.copy(folder / "model.safetensors", folder / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors was changed"):
        train(config, resume=True)
    without_hashes(folder)
    with pytest.raises(CheckpointError, match="does not fit"):
        train(config, resume=True)


def test_a_run_can_be_evaluated_and_resumed_from_another_folder(
    config: RunConfig, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tokens)
    config = override(config, {"data.train": "train", "data.valid": "valid"})
    train(config, display=SignalAt(7, signal.SIGTERM))
    monkeypatch.chdir(tmp_path)
    assert evaluate_run(config.run_dir).tokens > 0
    assert train(RunDirectory.open(config.run_dir).config, resume=True).finished


def test_a_best_loss_on_other_windows_does_not_count(config: RunConfig):
    train(config, display=SignalAt(9, signal.SIGTERM))
    fewer = override(config, {"train.eval_windows": 2})
    summary = train(fewer, resume=True).summary
    later = [line for line in read_jsonl(config.run_dir / "metrics.jsonl") if line["step"] > 9 and "val_loss" in line]
    assert summary["best_val_loss"] == min(line["val_loss"] for line in later)


def test_options_of_a_group_that_changed_are_named(config: RunConfig):
    config = override(config, {"optim.groups.head.rate": 2.0, "train.max_iters": 4})
    train(config, display=SignalAt(2, signal.SIGTERM))
    for now in (3.0, None):
        with pytest.raises(ConfigError, match=rf"optim\.groups\.head\.rate \(was 2\.0, now {now}\)"):
            train(override(config, {"optim.groups.head.rate": now}), resume=True)
    assert train(config, resume=True).finished
