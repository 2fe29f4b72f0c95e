"""How much an update moves the weights, against arithmetic that knows nothing of groups or optimizers."""

import numpy as np
import pytest
import torch

from groundup.config import RunConfig, override
from groundup.record.sinks import Silent, read_jsonl
from groundup.train import train
from groundup.train.build import build
from groundup.train.logging import update_ratios
from groundup.train.step import train_on_batch


def group_of(name: str) -> str:
    if "embeddings" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "vectors" if ".ln" in name or name.startswith("ln_final") else "matrices"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ratios_are_root_mean_squares_of_updates_over_those_of_weights(config: RunConfig, optimizer: str):
    config = override(config, {"optim.optimizer": optimizer})
    trainer = build(config, "cpu")
    train_on_batch(trainer, 1e-2, 0).read()
    before = {name: p.detach().numpy().astype(np.float64) for name, p in trainer.model.named_parameters()}
    with update_ratios(trainer.optimizer) as found:
        train_on_batch(trainer, 5e-3, 0).read()
    after = {name: p.detach().numpy().astype(np.float64) for name, p in trainer.model.named_parameters()}
    assert set(found) == {f"update_ratio_{group}" for group in ("embedding", "head", "matrices", "vectors")}
    for group in ("embedding", "head", "matrices", "vectors"):
        names = [name for name in before if group_of(name) == group]
        moved = np.concatenate([(after[name] - before[name]).ravel() for name in names])
        weights = np.concatenate([before[name].ravel() for name in names])
        expected = np.sqrt(np.mean(moved**2)) / np.sqrt(np.mean(weights**2))
        assert found[f"update_ratio_{group}"] == pytest.approx(expected, rel=1e-4)


def test_weights_that_are_all_zero_have_no_ratio():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([{"params": [weight], "name": "new"}], lr=1.0)
    with update_ratios(optimizer) as found:
        weight.grad = torch.ones(3)
        optimizer.step()
    assert found == {"update_ratio_new": None}


def test_measuring_is_by_interval_and_changes_nothing_bit_for_bit(config: RunConfig):
    """Step 6 has no line but for its ratios; the run's other lines and its weights are those of a run without."""
    runs = {
        every: train(override(config, {"name": f"every-{every}", "train.ratio_interval": every})).run_dir
        for every in (0, 1, 6)
    }
    weights = {every: (run / "checkpoints/step-24/model.safetensors").read_bytes() for every, run in runs.items()}
    assert weights[0] == weights[1] == weights[6]
    lines = {every: list(read_jsonl(run / "metrics.jsonl")) for every, run in runs.items()}
    measured = {every: [line["step"] for line in of if "update_ratio_head" in line] for every, of in lines.items()}
    assert measured == {0: [], 1: list(range(1, 25)), 6: [6, 12, 18, 24]}
    clocks = {"wall_seconds", "tokens_per_second", "mfu", "peak_memory"}
    for every in (1, 6):
        others = [
            {k: v for k, v in line.items() if k not in clocks and not k.startswith("update_ratio_")}
            for line in lines[every]
            if {"train_loss", "val_loss"} & set(line)
        ]
        assert others == [{k: v for k, v in line.items() if k not in clocks} for line in lines[0]]
    assert 1e-4 < lines[6][-1]["update_ratio_matrices"] < 0.1


def test_lines_of_ratios_are_there_once_after_a_run_was_resumed(config: RunConfig):
    class Stops(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 13:
                raise KeyboardInterrupt

    config = override(config, {"train.ratio_interval": 3})
    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stops())
    train(config, resume=True)
    train(override(config, {"name": "whole"}))
    keys = ("step", "update_ratio_head", "update_ratio_matrices")
    found = [
        [[line.get(key) for key in keys] for line in read_jsonl(run / "metrics.jsonl")]
        for run in (config.run_dir, config.run_dir.with_name("whole"))
    ]
    assert found[0] == found[1]
