"""A small run with random weights."""

from pathlib import Path

import pytest

import groundup
from foreign_models import made_run
from groundup.interop.export import export_model
from groundup.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tokens: Path) -> Tokenizer:
    return Tokenizer.load(tokens / "tokenizer")


@pytest.fixture(scope="session")
def run_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("evaluated") / "small", tokenizer)


@pytest.fixture(scope="session")
def model(run_dir: Path) -> groundup.LanguageModel:
    return groundup.load(run_dir)


@pytest.fixture(scope="session")
def exported(run_dir: Path) -> Path:
    """The same model as a folder of transformers."""
    export_model(run_dir, out := run_dir.parent / "exported")
    return out
