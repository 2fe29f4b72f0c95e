"""Reading a run never fails, whatever is in its files, and finds what training wrote."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.record.read import read_run
from made_runs import make_run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    "step tokens wall_seconds train_loss val_loss val_bpb finished parameters best_val_loss prompt text temperature "
    "git packages device device_name run cell varied variant seed status message plan name question baseline".split()
)
LINES = st.lists(st.dictionaries(NAMES, JSON, max_size=6), max_size=4)
WORDS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=5)
TOML = st.dictionaries(
    st.sampled_from(["name", "model", "train", "data", "optim", "d_model"]),
    WORDS | st.integers(-9, 9) | st.dictionaries(
        st.sampled_from(["seed", "vocab_size", "d_model", "max_learning_rate"]),
        st.integers(0, 64) | st.floats(0, 1) | st.just("x") | st.lists(st.integers(0, 3), max_size=2), max_size=4,
    ),
    max_size=5,
)  # fmt: skip


def test_what_training_wrote(tmp_path):
    make_run(tmp_path / "run", loss=1.5, seed=3, steps=100, every=1)
    (tmp_path / "run" / "metrics.jsonl").open("ab").close()
    run = read_run(tmp_path / "run")
    assert (run.status, run.seed, run.problem) == ("finished", 3, "")
    assert run.tokens_per_step == 32 * 64
    assert run.figures["val_loss"] == 1.5
    assert run.figures["flops"] == pytest.approx(100 * 32 * 64 * run.flops_per_token)
    assert run.curves["train_loss"].steps.tolist() == list(range(1, 101))
    assert np.all(np.diff(run.curves["val_loss"].values) < 0)
    quick = read_run(tmp_path / "run", curves=False)
    assert quick.figures == run.figures


def test_a_line_cut_off_by_a_crash_is_no_damage(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 999, "tra')
    run = read_run(tmp_path / "run")
    assert (run.status, run.problem) == ("unfinished", "")
    assert run.figures["steps"] == 200


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc")
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "summary.json", "config.toml"])
def test_a_file_that_opens_and_cannot_be_read_is_told(tmp_path, name):
    make_run(tmp_path / "run")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to("/proc/self/mem")
    assert f"{name} cannot be read" in read_run(tmp_path / "run").problem


def test_a_loss_that_is_no_number_has_diverged(tmp_path):
    make_run(tmp_path / "run", status="diverged")
    assert read_run(tmp_path / "run").status == "diverged"


@settings(max_examples=60)
@given(TOML, LINES, LINES, JSON, JSON, JSON)
def test_whatever_is_in_the_files(config, metrics, samples, environment, summary, tags):
    pytest.importorskip("scipy")
    from groundup.reports.content import content
    from groundup.reports.curves import lines_of, pack
    from groundup.reports.run_list import list_runs
    from groundup.reports.settings import load_studies

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "sweep", "run")
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        for name, value in (("environment", environment), ("summary", summary), ("tags", tags)):
            (folder / f"{name}.json").write_text(json.dumps(value))
        for name, lines in (("metrics", metrics), ("samples", samples)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for with_sweep in (False, True):
            if with_sweep:
                (folder.parent / "sweep.json").write_text(json.dumps({"plan": summary, "versions": tags}))
                results = [{**line, "run": "run"} for line in metrics]
                (folder.parent / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
            studies = load_studies([place])
            assert sum(len(study.runs) for study in studies) == 1
            pack([lines_of(study) for study in studies])
            assert content(studies[0], []).rows
            assert len(list_runs(Path(place))) == 1
