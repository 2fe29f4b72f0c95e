"""Every figure of a run's plan against an independent count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from groundup.config import RunConfig, TrainConfig, override
from groundup.data.shards import TokenShards
from groundup.optim import build_optimizer
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import train
from groundup.train.build import Trainer, build, build_model
from groundup.train.limits import checkpoint_bytes
from groundup.train.preview.describe import Section, describe
from groundup.train.preview.dry_run import evaluations_left


def cells(section: Section) -> dict[str, str]:
    return {row[0]: row[1] for row in section.rows}


def trainer(config: RunConfig) -> Trainer:
    return build(config, "cpu")


def test_the_words_of_a_plan_hold_its_derived_values(config: RunConfig):
    stores = TokenShards.open(config.data.train), TokenShards.open(config.data.valid)
    config = override(config, {"model.vocab_size": 300, "data.micro_batch_size": 2, "train.peak_tflops": 0.5,
                               "train.max_minutes": 1.5, "train.finish_schedule": True})  # fmt: skip
    plan = describe(config, *stores, "cpu")
    assert plan["batch"] == "4 x 16 = 64 tokens a step in 2 micro-batches"
    assert plan["length"].startswith(f"24 steps = 1,536 tokens = {1536 / len(stores[0]):.2f} epochs")
    assert "1.5 minutes" in plan["limit"]
    assert "schedule" in plan["limit"]
    assert plan["MFU"].startswith("of 0.5 TFLOP/s, counting 2mnp FLOPs a matmul")
    unknown = describe(override(config, {"train.peak_tflops": 0.0}), *stores, "cpu")
    assert unknown["MFU"].startswith("n/a")
    assert "train.peak_tflops" in unknown["MFU"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_has_the_size_that_is_announced(config: RunConfig, optimizer: str, tied: bool):
    config = override(config, {"optim.optimizer": optimizer, "model.tie_embeddings": tied, "train.max_iters": 3,
                               "model.vocab_size": 300})  # fmt: skip
    model = build_model(config, "cpu")
    announced = checkpoint_bytes(model, build_optimizer(model, config.optim))
    folder = RunDirectory(train(config).run_dir).checkpoint("latest")
    files = [folder / "model.safetensors", folder / "optimizer.safetensors"]
    assert announced == sum(t.nbytes for file in files for t in load_file(file).values())
    # The rest are names and shapes.
    assert announced <= sum(file.stat().st_size for file in folder.iterdir()) < announced + 20_000


@given(steps=st.integers(1, 60), interval=st.integers(1, 70), done=st.integers(0, 60))
def test_evaluations_that_are_left_are_those_of_the_steps_that_are_left(steps: int, interval: int, done: int):
    done = min(done, steps)
    config = TrainConfig(max_iters=steps, eval_interval=interval)
    after = [s for s in range(done + 1, steps + 1) if s % interval == 0 or s == steps]
    assert evaluations_left(config, done) == len(after) + (done == 0)


def test_a_run_is_evaluated_as_often_as_planned(config: RunConfig):
    config = override(config, {"train.eval_interval": 7})
    lines = read_jsonl(train(config).run_dir / "metrics.jsonl")
    assert sum("val_loss" in line for line in lines) == evaluations_left(config.train, 0)
