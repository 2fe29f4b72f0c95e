"""Plans of trials that train in a tenth of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from groundup.sweeps.plan import Plan, load_plan

WritePlan = Callable[..., Path]


@pytest.fixture
def recipe(tokens: Path) -> dict[str, Any]:
    """24 steps, three evaluations, a checkpoint every 6 steps."""
    return {
        "name": "tiny",
        "model": {"context_length": 16, "d_model": 32, "num_layers": 2, "num_heads": 2},
        "optim": {"max_learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_iters": 3},
        "data": {"train": str(tokens / "train"), "valid": str(tokens / "valid"), "batch_size": 4},
        "train": {
            "max_iters": 24, "log_interval": 5, "eval_interval": 8, "eval_windows": 9, "checkpoint_interval": 6,
            "background_checkpoints": False,
        },
        "sample": {"interval": 0},
    }  # fmt: skip


@pytest.fixture
def write_plan(recipe: dict[str, Any], tmp_path: Path) -> WritePlan:
    """Writes ``recipe.toml`` and, beside it, a plan of it with these tables; returns the plan's path."""

    def write(**tables: Any) -> Path:
        (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
        plan = {"name": "toy", "question": "Does it learn?", "recipe": "recipe.toml"} | tables
        (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
        return tmp_path / "plan.toml"

    return write


@pytest.fixture
def make_plan(write_plan: WritePlan) -> Callable[..., Plan]:
    """A plan with these tables."""

    def make(budget_name: str | None = None, **tables: Any) -> Plan:
        return load_plan(str(write_plan(**tables)), budget_name)

    return make
