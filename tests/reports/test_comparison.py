"""Two runs side by side."""

import subprocess
import sys

import pytest

pytest.importorskip("scipy")

from groundup.cli.main import run
from groundup.errors import DataError
from groundup.reports.comparison import compare_runs, comparison_sections
from made_runs import ablations_sweep, make_run


def sections(one, other):
    return {section.title: section for section in comparison_sections(compare_runs(one, other))}


def test_two_runs_of_one_seed_each(tmp_path):
    make_run(tmp_path / "a", loss=1.5, options={"model.norm": "pre"})
    make_run(tmp_path / "b", loss=1.4, options={"model.norm": "post"}, steps=300)
    found = sections(tmp_path / "a", tmp_path / "b")
    assert ("model.norm", "pre", "post") in found["options that differ"].rows
    assert ("validation loss", "1.5000", "1.4000", "-0.1000") in found["final figures"].rows
    assert ("steps", "200", "300", "1.5 x") in found["final figures"].rows
    way = found["validation loss during training"].rows
    assert (way[0][0], way[-1][0]) == ("0", "200")
    assert "too few seeds" in found["validation loss by seed"].note


def test_runs_of_a_sweep_bring_the_seeds_of_their_setting(tmp_path):
    folder = ablations_sweep(tmp_path / "ablations")
    found = sections(folder / "baseline-seed1", folder / "post-norm-seed0")["validation loss by seed"]
    assert found.rows[0] == ("baseline", "3", "1.4000, 1.4020, 1.3990")
    assert "post-norm is higher by 0.0500" in found.note


def test_the_figures_are_those_of_the_runs_that_were_named(tmp_path):
    folder = ablations_sweep(tmp_path / "ablations")
    found = sections(folder / "baseline-seed1", folder / "baseline-seed2")
    assert ("validation loss", "1.4020", "1.3990", "-0.0030") in found["final figures"].rows
    assert ("train.seed", "1", "2") in found["options that differ"].rows
    assert found["validation loss during training"].rows[-1][1:] == ("1.4020", "1.3990", "-0.0030")


def test_a_folder_of_several_settings_is_no_side_of_a_comparison(tmp_path):
    folder = ablations_sweep(tmp_path / "ablations")
    with pytest.raises(
        DataError, match=r"holds runs of 4 settings \(baseline, post-norm, no position, …\); name a run"
    ):
        sections(folder, folder / "baseline-seed1")


def test_folders_of_seeds(tmp_path):
    for name, loss in (("a", 1.5), ("b", 1.4)):
        for seed in range(3):
            make_run(tmp_path / name / str(seed), loss=loss + seed / 1000, seed=seed)
    assert "b is lower by 0.1000" in sections(tmp_path / "a", tmp_path / "b")["validation loss by seed"].note


def test_a_run_with_itself_and_one_without_a_record(tmp_path):
    make_run(tmp_path / "a", loss=1.5)
    assert sections(tmp_path / "a", tmp_path / "a")["options that differ"].note == "The options are the same."
    make_run(tmp_path / "b", status="diverged")
    (tmp_path / "b" / "metrics.jsonl").unlink()
    assert "during training" not in " ".join(sections(tmp_path / "a", tmp_path / "b"))


@pytest.mark.parametrize("verb", ["compare", "runs"])
def test_a_damaged_line_is_told_by_every_reader(tmp_path, verb, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        make_run(tmp_path / "runs" / name)
    path = tmp_path / "runs" / "a" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[3:]]))
    assert run([verb, "a", "b"] if verb == "compare" else [verb]) == 0
    assert "a: metrics.jsonl is damaged: line 3" in capsys.readouterr().out


def test_the_verb(tmp_path):
    pytest.importorskip("plotly")
    folder = ablations_sweep(tmp_path / "ablations")
    command = ["compare", folder / "baseline-seed0", folder / "nope-seed0", "--html", tmp_path / "page.html"]
    done = subprocess.run([sys.executable, "-m", "groundup", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model.position" in done.stdout
    assert "not statistically significant" in done.stdout
    assert "<title>baseline and no position</title>" in (tmp_path / "page.html").read_text()
    command = [sys.executable, "-m", "groundup", "compare", str(folder / "baseline-seed0")]
    assert subprocess.run(command, capture_output=True).returncode == 2
