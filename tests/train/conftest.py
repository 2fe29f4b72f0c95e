"""A run small enough to train in a second, on the text of ``tokens``."""

from pathlib import Path

import pytest

from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, SampleConfig, TrainConfig


@pytest.fixture
def config(tokens: Path, tmp_path: Path) -> RunConfig:
    """24 steps; no interval is a multiple of another."""
    return RunConfig(
        name="tiny",
        runs_dir=str(tmp_path),
        model=ModelConfig(context_length=16, d_model=32, num_layers=2, num_heads=2),
        optim=OptimConfig(max_learning_rate=1e-2, min_learning_rate=1e-3, warmup_iters=3),
        data=DataConfig(train=str(tokens / "train"), valid=str(tokens / "valid"), batch_size=4),
        train=TrainConfig(
            max_iters=24, log_interval=5, eval_interval=8, eval_windows=9, checkpoint_interval=6, keep_checkpoints=0
        ),
        sample=SampleConfig(interval=7, tokens=12),
    )
