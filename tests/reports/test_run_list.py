"""The list of runs says what the run directories say, whatever state they or the index are in."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from groundup.config.expressions import Filter
from groundup.errors import ConfigError, DataError, FileMissingError
from groundup.reports.run_list import as_csv, list_runs, refresh, tag_run
from made_runs import make_run, rates_sweep

NAMES = ["run", "status", "val_loss", "tags", "model.d_model", "model.norm", "train.compile", "a.same", "b.same"]
ROW = {"run": "x", "status": "finished", "val_loss": 1.5, "tags": ["good", "old"], "model.d_model": 256,
       "model.norm": "pre", "train.compile": False}  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder / "wide", loss=1.3, options={"model.d_model": 128})
    make_run(folder / "narrow", loss=1.5, status="stopped")
    rates_sweep(folder / "sweeps" / "rates", {1e-3: [1.4, None], 2e-3: [1.45]})
    return folder


def names(rows: list[dict]) -> list[str]:
    return [row["run"] for row in rows]


def test_runs_and_sweeps_are_found_wherever_they_lie(runs):
    rows = list_runs(runs, sort="val_loss")
    assert names(rows)[:2] == ["wide", "sweeps/rates/lr-0.001-seed0"]
    by_name = {row["run"]: row for row in rows}
    assert len(rows) == 5
    assert by_name["sweeps/rates/lr-0.001-seed1"]["status"] == "diverged"
    assert by_name["sweeps/rates/lr-0.001-seed1"]["sweep"] == "rates"
    assert by_name["narrow"]["status"] == "stopped"
    assert by_name["wide"]["model.d_model"] == 128


def test_the_index_follows_the_runs(runs):
    before = list_runs(runs)
    assert list_runs(runs) == before
    make_run(runs / "new", loss=1.1)
    (runs / "wide" / "summary.json").write_text("{}")
    os.rename(runs / "narrow", runs / "renamed")
    after = list_runs(runs)
    assert {"new", "renamed"} <= set(names(after))
    assert "narrow" not in names(after)
    assert next(row for row in after if row["run"] == "wide")["status"] == "unfinished"
    assert list_runs(runs, rebuild=True) == after
    (runs / "index.sqlite").unlink()
    assert list_runs(runs) == after


def test_only_what_changed_is_read_again(runs, monkeypatch):
    from groundup.reports import run_list as run_index

    list_runs(runs)
    read: list[str] = []
    original = run_index.read_run
    monkeypatch.setattr(run_index, "read_run", lambda path, **rest: read.append(path.name) or original(path, **rest))
    list_runs(runs)
    assert read == []
    tag_run(runs / "wide", "good")
    list_runs(runs)
    assert read == ["wide"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / "config.toml").unlink(), "it has no config.toml"),
        (lambda run: (run / "config.toml").write_bytes(b"\xff\xfe"), "config.toml cannot be read"),
        (lambda run: (run / "config.toml").write_text("a = ["), "config.toml cannot be read"),
        (lambda run: (run / "summary.json").write_text("[1]"), "summary.json cannot be read: expected an object"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{}\n'),
            "metrics.jsonl is damaged: line 2",
        ),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "val_loss": [1]}\n3\n'),
            "metrics.jsonl is damaged",
        ),
    ],
)
def test_broken_runs_are_listed_with_the_reason(runs, damage, reason):
    damage(runs / "wide")
    (row,) = [row for row in list_runs(runs) if row["run"] == "wide"]
    assert row["status"] == "broken"
    assert reason in row["problem"]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_damaged_index_is_made_anew(runs, content):
    before = list_runs(runs)
    (runs / "index.sqlite").write_bytes(content)
    assert list_runs(runs) == before
    assert sqlite3.connect(runs / "index.sqlite").execute("SELECT count(*) FROM runs").fetchone() == (5,)


def test_an_index_of_another_version_is_made_anew(runs):
    with sqlite3.connect(runs / "index.sqlite") as database:
        database.execute("CREATE TABLE runs (something TEXT)")
        database.execute("PRAGMA user_version = 99")
    assert len(list_runs(runs)) == 5


def test_many_may_list_at_once(runs):
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(refresh(runs)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5] * 8


def test_tags_lie_in_the_run(runs):
    assert tag_run(runs / "wide", "headline") == ["headline"]
    assert tag_run(runs / "wide", "best") == ["best", "headline"]
    (runs / "index.sqlite").unlink(missing_ok=True)
    assert names(list_runs(runs, filter_text="tags = headline")) == ["wide"]
    assert tag_run(runs / "wide", "best", remove=True) == ["headline"]
    with pytest.raises(ConfigError, match="has no tag 'best'"):
        tag_run(runs / "wide", "best", remove=True)
    with pytest.raises(FileMissingError, match="no run"):
        tag_run(runs / "absent", "best")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("d_model>=256 and status=finished", True),
        ("d_model > 256", False),
        ("model.d_model = 256.0", True),
        ("d_model < 10 or val_loss <= 1.5", True),
        ("d_model < 10 or val_loss < 1.5 and status = finished", False),
        ("status != finished", False),
        ("status ~ FIN", True),
        ("status = 'finished' AND norm = \"pre\"", True),
        ("compile = false", True),
        ("tags = good", True),
        ("tags != good", False),
        ("tags ~ ol", True),
        ("same = 1", ConfigError),
        ("a.same = 1", False),
        ("a.same != 1", True),
        ("d_modle = 1", ConfigError),
        ("d_model", ConfigError),
        ("d_model >= wide", ConfigError),
        ("d_model = 1 status = finished", ConfigError),
        ("d_model = 1 and", ConfigError),
        ("", ConfigError),
        ("(d_model = 1)", ConfigError),
    ],
)
def test_filters(text, holds):
    if holds is ConfigError:
        with pytest.raises(ConfigError):
            Filter(text, NAMES)
    else:
        assert Filter(text, NAMES)(ROW) is holds


def test_csv_holds_everything(runs):
    rows = list(csv.DictReader(io.StringIO(as_csv(list_runs(runs, sort="val_loss", descending=True)))))
    assert len(rows) == 5
    assert {"run", "val_loss", "optim.max_learning_rate", "model.d_model"} <= rows[0].keys()
    wide = next(row for row in rows if row["run"] == "wide")
    assert float(wide["val_loss"]) == 1.3


def groundup(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "groundup", *map(str, arguments)], capture_output=True, text=True)


def test_the_verb(runs, tmp_path):
    (runs / "wide" / "config.toml").write_text("a = [")
    assert "wide: headline" in groundup("runs", "--runs-dir", runs, "--tag", "wide", "headline").stdout
    shown = groundup("runs", "--runs-dir", runs, "--sort", "val_loss", "--columns", "max_learning_rate").stdout
    assert "5 runs in" in shown
    assert "wide: config.toml cannot be read" in shown
    filtered = groundup("runs", "--runs-dir", runs, "--filter", "max_learning_rate >= 0.002", "--json")
    assert names(json.loads(filtered.stdout)) == ["sweeps/rates/lr-0.002-seed0"]
    assert groundup("runs", "--runs-dir", runs, "--csv", tmp_path / "runs.csv").returncode == 0
    assert (tmp_path / "runs.csv").read_text().startswith("run,name,sweep")
    absent = groundup("runs", "--runs-dir", tmp_path / "absent")
    assert absent.returncode == 2
    assert "no folder" in absent.stderr
    wrong = groundup("runs", "--runs-dir", runs, "--sort", "val_los")
    assert wrong.stderr == "groundup: no run has 'val_los'; did you mean 'val_loss'?\n"


def test_a_folder_that_cannot_be_written_to_is_listed_all_the_same(runs, monkeypatch):
    def refuse(path, **rest):
        if path != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, **rest)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert len(list_runs(runs)) == 5


@pytest.mark.parametrize("content", [b'["a", "b"', b"{}", b"[1]", b"\xff", b"[" * 10_000, b""])
def test_tags_that_cannot_be_read_are_not_written_over(content: bytes, tmp_path: Path):
    make_run(tmp_path / "runs" / "r")
    file = tmp_path / "runs" / "r" / "tags.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"tags\.json cannot be read"):
        tag_run(tmp_path / "runs" / "r", "new")
    assert file.read_bytes() == content
    assert "tags.json cannot be read" in list_runs(tmp_path / "runs")[0]["problem"]


def test_a_byte_that_is_changed_in_the_index_changes_no_figure(tmp_path: Path):
    make_run(tmp_path / "runs" / "r", loss=1.2345)
    expected = list_runs(tmp_path / "runs")
    file = tmp_path / "runs" / "index.sqlite"
    sound = file.read_bytes()
    assert sound.count(b"1.2345") >= 1
    for changed in (b"1.2346", b"9.9999"):
        file.write_bytes(sound.replace(b"1.2345", changed))
        assert list_runs(tmp_path / "runs") == expected
