"""What version 0.1 wrote still loads and goes on: a tokenizer, shards, runs and a sweep, made by fixtures' `make.sh`.

Floating-point sums differ in the last bits between processors, so that what is trained anew is compared closely, and
what is read exactly.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from groundup import Tokenizer
from groundup.cli.main import run as run_verb
from groundup.data.shards import TokenShards
from groundup.train import evaluate_run

FIXTURE = Path(__file__).parent / "fixtures" / "version-0.1"
MADE_IN = "/tmp/groundup-fixture"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixture, whose files name the place it lies in."""
    shutil.copytree(FIXTURE, tmp_path / "old")
    for path in (*tmp_path.rglob("*.toml"), *tmp_path.rglob("sweep.json")):
        path.write_text(path.read_text().replace(MADE_IN, str(tmp_path / "old")))
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*words: str) -> None:
    assert not run_verb([*words])


def test_the_tokenizer_makes_the_ids_of_the_shards(here: Path) -> None:
    tokenizer = Tokenizer.load(here / "tokenizer")
    store = TokenShards.open(here / "train")
    text = (here / "train.txt").read_text()
    separator = "<|endoftext|>"
    documents = (part.strip() for part in text.split(separator))
    expected = [i for document in documents if document for i in tokenizer.encode(document + separator)]
    ids = np.concatenate([np.fromfile(here / "train" / entry["file"], np.uint16) for entry in store.index["shards"]])
    assert store.sha256 == TokenShards.open(FIXTURE / "train").sha256
    assert tokenizer.decode(ids.tolist()) == tokenizer.decode(expected)
    assert ids.tolist() == expected


@pytest.mark.parametrize(("name", "loss"), [("gathered", 5.7226669), ("sharded", 5.7351526)])
def test_a_run_is_evaluated_as_it_was(here: Path, name: str, loss: float) -> None:
    assert evaluate_run(here / "runs" / name, "12", data=str(here / "valid")).loss == pytest.approx(loss, rel=1e-5)


def test_a_run_goes_on_from_a_checkpoint_to_the_same_end(here: Path) -> None:
    folder = here / "runs" / "gathered"
    shutil.rmtree(folder / "checkpoints" / "step-12")
    (folder / "checkpoints" / "latest").write_text("step-6\n")
    (folder / "checkpoints" / "best").write_text("step-6\n")
    run("train", str(folder / "config.toml"), "--resume")
    before = {line["step"]: line for line in lines_of(FIXTURE / "runs" / "gathered" / "metrics.jsonl")}
    for line in lines_of(folder / "metrics.jsonl"):
        for key in {"train_loss", "val_loss", "grad_norm", "lr", "tokens"} & line.keys():
            assert line[key] == pytest.approx(before[line["step"]][key], rel=1e-5)
    for file in ("model.safetensors", "optimizer.safetensors"):
        now = load_file(folder / "checkpoints" / "step-12" / file)
        then = load_file(FIXTURE / "runs" / "gathered" / "checkpoints" / "step-12" / file)
        assert now.keys() == then.keys()
        for key in then:
            torch.testing.assert_close(now[key], then[key], rtol=1e-4, atol=1e-6)


def test_a_sharded_run_is_given_back_whole_at_its_end(here: Path) -> None:
    folder = here / "runs" / "sharded"
    weights = (folder / "checkpoints" / "step-12").rglob("*.safetensors")
    before = {path: path.read_bytes() for path in weights}
    run("train", str(folder / "config.toml"), "--resume")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("name", ["gathered", "sharded"])
def test_a_run_begins_with_the_weights_of_an_old_one(here: Path, name: str) -> None:
    """Its loss before the first step is the old run's last one."""
    data = (
        "--train_path",
        "train",
        "--val_path",
        "valid",
        "--max_iters",
        "2",
        "--warmup_iters",
        "0",
        "--batch_size",
        "4",
    )
    run("train", "--init", f"{name}@12", "--name", "new", *data, "--eval_windows", "0")
    losses = [line["val_loss"] for line in lines_of(here / "runs" / "new" / "metrics.jsonl") if "val_loss" in line]
    assert losses[0] == pytest.approx({"gathered": 5.7226669, "sharded": 5.7351526}[name], rel=1e-5)


def test_a_sweep_goes_on_with_the_trial_that_is_left(here: Path) -> None:
    before = (here / "sweep" / "results.jsonl").read_bytes()
    run("sweep", "plan.toml", "--directory", "sweep", "--executor", "inline")
    after = (here / "sweep" / "results.jsonl").read_bytes()
    assert after.startswith(before)
    (line,) = map(json.loads, after[len(before) :].splitlines())
    assert (line["cell"], line["status"], line["steps"]) == ("max_learning_rate=0.01,seed-1", "finished", 12)
    assert line["val_loss"] == pytest.approx(5.4727, abs=1e-3)
