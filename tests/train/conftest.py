"""A run small enough to train in a second, on text with a tokenizer of its own."""

from pathlib import Path

import pytest

from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, SampleConfig, TrainConfig
from groundup.data.encode import encode_files
from groundup.tokenizer import Tokenizer, train_bpe

SENTENCES = [
    "The cat sat on the mat and looked at the moon.",
    "A dog ran to the pond, and the cat ran after it.",
    '"Come back," said the cat, "the moon is in the pond!"',
    "The dog looked at the moon in the pond and sat on the mat.",
]


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``text``, ``tokenizer/``, and the shards ``train/`` and ``valid/``."""
    folder = tmp_path_factory.mktemp("tokens")
    for name, repeats in (("train", 60), ("valid", 5)):
        documents = [" ".join(SENTENCES[i % 4 :] + SENTENCES[: i % 3]) for i in range(repeats)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    vocab, merges = train_bpe(folder / "train.txt", 300, ["<|endoftext|>"])
    tokenizer = Tokenizer(vocab, merges, ["<|endoftext|>"])
    tokenizer.save(folder / "tokenizer")
    for name in ("train", "valid"):
        encode_files(folder / f"{name}.txt", tokenizer, folder / name)
    return folder


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
