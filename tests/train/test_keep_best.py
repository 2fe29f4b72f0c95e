"""`train.keep_best`: what is kept of the best step, and that a run resumes exactly with any of them."""

import json
import math
from pathlib import Path

import pytest
import torch

import groundup
from groundup.config import RunConfig, override
from groundup.errors import CheckpointError, ConfigError
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import evaluate_run, train
from groundup.train.checkpoint.folder import load_model, read_state

# Evaluations at 8, 16 and 24, checkpoints at 10, 20 and the end.
OPTIONS = {"train.checkpoint_interval": 10, "train.keep_checkpoints": 1, "train.eval_windows": 0}


def folders(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir() if p.is_dir())


@pytest.fixture
def runs(config: RunConfig) -> dict[str, Path]:
    return {
        keep: train(override(config, {**OPTIONS, "name": keep, "train.keep_best": keep})).run_dir
        for keep in ("full", "weights", "none")
    }


def test_each_choice_keeps_what_it_says_and_the_training_is_the_same(runs: dict[str, Path]):
    losses = {keep: [line.get("val_loss") for line in read_jsonl(run / "metrics.jsonl")] for keep, run in runs.items()}
    assert losses["full"] == losses["weights"] == losses["none"]
    best = json.loads((runs["full"] / "summary.json").read_text())["best_step"]
    assert (runs["full"] / "checkpoints/best").read_text() == f"step-{best}\n"
    assert (runs["weights"] / "checkpoints/best").read_text() == f"best-{best}\n"
    assert folders(runs["weights"]) == [f"best-{best}", "step-24"]
    assert sorted(p.name for p in (runs["weights"] / f"checkpoints/best-{best}").iterdir()) == [
        "model.safetensors", "state.json",
    ]  # fmt: skip
    assert folders(runs["none"]) == ["step-24"]
    assert not (runs["none"] / "checkpoints/best").exists()
    for keep in ("full", "weights"):
        found = evaluate_run(runs[keep], "best")
        assert (found.step, found.loss) == (best, pytest.approx(min(filter(None, losses["full"])), abs=1e-5))
        assert groundup.load(runs[keep], checkpoint="best").generate("Once", max_tokens=3, temperature=0)
    assert evaluate_run(runs["none"], "best").step == 24  # the newest


@pytest.mark.parametrize("background", [True, False])
def test_a_run_stopped_between_best_and_checkpoint_resumes_exactly(
    config: RunConfig, runs: dict[str, Path], background: bool
):
    options = {**OPTIONS, "name": "again", "train.keep_best": "weights", "train.background_checkpoints": background}
    # A kill after the evaluation of step 16, with a checkpoint of step 10 as the latest.
    stopped = train(override(config, options), pause=lambda done: done == 18)
    run = RunDirectory(stopped.run_dir)
    assert folders(run.path) == ["best-16", "step-18"]
    resumed = train(override(config, options), resume=True)
    assert resumed.finished
    losses = [[line.get("val_loss") for line in read_jsonl(p / "metrics.jsonl")] for p in (run.path, runs["full"])]
    assert losses[0] == losses[1]
    ours, theirs = (load_model(RunDirectory(p))[0].state_dict() for p in (run.path, runs["weights"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_best_before_the_latest_checkpoint_stays_until_a_later_one(config: RunConfig):
    # Weights of 8 are the best of the checkpoint at 10; those of 16 must not replace them before the next one.
    seen: list[list[str]] = []
    options = {**OPTIONS, "train.keep_best": "weights", "train.background_checkpoints": False}

    def pause(done: int) -> bool:
        seen.append(folders(Path(config.runs_dir) / config.name))
        return False

    train(override(config, options), pause=pause)
    assert seen[17] == ["best-16", "best-8", "step-10"]
    assert seen[21] == ["best-16", "step-20"]


def test_a_rewound_run_has_the_best_of_its_checkpoint(config: RunConfig):
    options = {**OPTIONS, "train.keep_best": "weights", "train.background_checkpoints": False}
    run = RunDirectory(config.run_dir)
    copied: list[dict[str, bytes]] = []

    def pause(done: int) -> bool:
        if done == 17:
            copied.append({str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()})
        return done == 17

    train(override(config, options), pause=pause)
    run.clear()
    for name, content in copied[0].items():  # as a kill at step 17 leaves it
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_bytes(content)
    state = read_state(run.checkpoint("latest"))
    run.rewind(state["step"], state["best_step"])
    assert (state["step"], run.checkpoint("best").name) == (10, "best-8")
    assert folders(run.path) == ["best-8", "step-10"]
    assert train(override(config, options), resume=True).finished
    assert math.isfinite(evaluate_run(run.path, "best").loss)


def test_choices_that_make_no_sense_are_refused(config: RunConfig, runs: dict[str, Path]):
    with pytest.raises(ConfigError, match=r"train\.keep_best = 'some'; expected one of 'full', 'weights', 'none'"):
        override(config, {"train.keep_best": "some"})
    with pytest.raises(ConfigError, match="gathers the weights in one file"):
        override(config, {"train.keep_best": "weights", "train.checkpoint_format": "sharded"})
    with pytest.raises(CheckpointError):
        RunDirectory(runs["weights"]).checkpoint("best-7")
