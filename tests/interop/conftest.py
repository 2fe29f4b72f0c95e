"""A tokenizer of 300 ids, and ids of text."""

from pathlib import Path

import pytest
import torch

from groundup.tokenizer import Tokenizer

TEXT = "The cat sat on the mat. They didn't see 日本 or 🎉, 1,234 times\n\n  and then."


@pytest.fixture(scope="session")
def tokenizer(tokens: Path) -> Tokenizer:
    return Tokenizer.load(tokens / "tokenizer")


@pytest.fixture(scope="session")
def ids(tokenizer: Tokenizer) -> torch.Tensor:
    """``(1, S)``."""
    return torch.tensor([[tokenizer.token_id("<|endoftext|>"), *tokenizer.encode(TEXT)][:60]])
