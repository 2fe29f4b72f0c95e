"""A run whose record is damaged resumes, is listed and reported; what is left out is told."""

import json
import signal
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.config import RunConfig, override
from groundup.errors import GroundupError
from groundup.record.read import read_run
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.reports.run_list import list_runs
from groundup.sweeps.attempt import read_figures
from groundup.train import train
from groundup.train.checkpoint.folder import load_model, write_state
from records import SignalAt, record


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b"[1]\n", b'{"step": "x"}\n', b"\xff\xfe\n", b'{"ste'])
def test_damage_after_the_checkpoint_is_dropped_at_resume(config: RunConfig, name: str, damage: bytes):
    expected = record(train(override(config, {"name": "whole"})).run_dir)
    train(config, display=SignalAt(15, signal.SIGTERM))
    with (config.run_dir / name).open("ab") as file:
        file.write(damage)
    assert train(config, resume=True).finished
    assert record(config.run_dir) == expected


def test_damage_before_the_checkpoint_is_told_at_resume(config: RunConfig):
    train(config, display=SignalAt(15, signal.SIGTERM))
    path = config.run_dir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\0" * len(lines[1]) + b"\n", *lines[2:]]))
    notes = Notes()
    assert train(config, resume=True, display=notes).finished
    (told,) = [note for note in notes.notes if "damaged" in note]
    assert "metrics.jsonl is damaged: line 2" in told
    assert [line["step"] for line in read_jsonl(path)] == [0, 8, 10, 15, 16, 20, 24]


def test_reports_leave_a_damaged_line_out_and_say_so(config: RunConfig):
    train(config)
    before, listed = read_run(config.run_dir), list_runs(config.run_dir.parent)
    path = config.run_dir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"step": 8, "val_loss": "NaN"}\n', *lines[3:], b"\0\0\n"]))
    for run in (read_run(config.run_dir), read_run(config.run_dir, curves=False)):
        assert run.status == "finished"
        assert {k: v for k, v in run.figures.items() if k != "train_loss"} == {
            k: v for k, v in before.figures.items() if k != "train_loss"
        }
        assert "metrics.jsonl is damaged: line 3 " in run.problem
    (row,) = list_runs(config.run_dir.parent)
    assert (row["status"], row["val_loss"]) == ("finished", listed[0]["val_loss"])
    assert "metrics.jsonl is damaged" in row["problem"]
    assert read_figures(config.run_dir).val_loss == before.figures["val_loss"]


def test_a_run_that_lost_its_last_line_is_in_no_mean(config: RunConfig):
    train(config)
    path = config.run_dir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], b"\0" * 100 + b"\n"]))
    assert read_run(config.run_dir).status == "broken"


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "environment.json", "tags.json", "checkpoints/latest"])
@pytest.mark.parametrize("content", [b"", b"\0\0", b"\xff\xfe", b"[" * 10_000, b"[1]", b"x = "])
def test_damaged_files_of_a_run_end_in_a_result_or_one_line(
    config: RunConfig, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
):
    train(config, pause=lambda done: done >= 9)
    (config.run_dir / name).write_bytes(content)
    read_run(config.run_dir)
    list_runs(config.run_dir.parent)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(config.run_dir)])
    err = capsys.readouterr().err
    if name == "config.toml" and content != b"":
        assert (end.value.code, err.count("\n")) == (2, 1)
    assert end.value.code in (0, 2)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", "7"), ("step", 8), ("tokens", -1), ("pending_losses", 3), ("due_line", []), ("best_val_loss", "x"),
     ("options", 1), ("optimizer", 4), ("best_step", 10**30), ("due_line", {"step": "q"}), ("adopted", [3])],
)  # fmt: skip
def test_a_state_of_other_types_is_one_line(config: RunConfig, key: str, value: object):
    train(config, pause=lambda done: done >= 7)
    path = RunDirectory(config.run_dir).checkpoint("latest") / "state.json"
    write_state(path.parent, json.loads(path.read_text()) | {key: value})
    with pytest.raises(GroundupError, match=r"state\.json") as raised:
        train(config, resume=True)
    assert "\n" not in str(raised.value)


def test_a_truncated_state_is_one_line_wherever_it_is_cut(config: RunConfig):
    train(config, pause=lambda done: done >= 7)
    path: Path = RunDirectory(config.run_dir).checkpoint("latest") / "state.json"
    content = path.read_bytes()
    for cut in range(0, len(content), len(content) // 8):
        path.write_bytes(content[:cut])
        with pytest.raises(GroundupError, match=r"state\.json"):
            load_model(RunDirectory(config.run_dir), "latest")
