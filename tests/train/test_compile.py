"""torch.compile: evaluations use the compiled forward, with the same figures; the mode is passed on."""

from typing import Any

import pytest
import torch

from groundup.config import RunConfig, override
from groundup.errors import ConfigError
from groundup.record.sinks import read_jsonl
from groundup.train import train
from groundup.train.build import build, why_not_compiled
from groundup.train.evaluate import evaluate, evaluate_unless
from groundup.train.ranks.collective import Ranks


def test_a_compiled_run_evaluates_with_its_compiled_forward_to_the_same_losses(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    assert not why_not_compiled("cpu")
    modes: list[str] = []
    rows: list[tuple[int, bool]] = []
    plain = torch.compile

    def counted(model: Any = None, **options: Any) -> Any:
        forward = plain(model, **options)
        if not isinstance(model, torch.nn.Module):
            return forward
        modes.append(options["mode"])

        def call(x: torch.Tensor, **rest: Any) -> torch.Tensor:
            rows.append((len(x), torch.is_grad_enabled()))
            return forward(x, **rest)

        return call

    monkeypatch.setattr(torch, "compile", counted)
    options = {
        "train.max_iters": 3, "train.eval_interval": 2, "train.eval_windows": 20, "train.eval_batch_size": 8,
        "sample.interval": 0, "train.log_interval": 1,
    }  # fmt: skip
    eager = train(override(config, {**options, "name": "eager"}))
    assert (modes, rows) == ([], [])
    compiled = train(override(config, {**options, "name": "compiled", "train.compile": True}))
    assert set(modes) == {"default"}
    # Three evaluations of two whole batches each, and a third smaller one that is not compiled for.
    assert [row for row in rows if not row[1]] == [(8, False)] * 6
    assert len([row for row in rows if row[1]]) == 3
    for name in ("val_loss", "train_loss"):
        theirs, ours = (
            [line[name] for line in read_jsonl(run.run_dir / "metrics.jsonl") if name in line]
            for run in (eager, compiled)
        )
        assert len(ours) == 3
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_the_compiled_forward_is_asked_for_whole_batches_only(config: RunConfig):
    trainer = build(config, "cpu")
    seen: list[int] = []

    def forward(x: torch.Tensor, **rest: Any) -> torch.Tensor:
        seen.append(len(x))
        return trainer.model(x, **rest)

    store = trainer.valid_store
    assert store is not None
    found = evaluate_unless(lambda: False, trainer.model, store, 16, 8, 20, Ranks(), compiled=forward)
    assert seen == [8, 8]
    assert found == evaluate(trainer.model, store, 16, batch_size=8, limit=20)


@pytest.mark.parametrize("mode", ["default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune"])
def test_the_mode_is_passed_to_torch(config: RunConfig, mode: str, monkeypatch: pytest.MonkeyPatch):
    found: list[str | None] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: (found.append(options.get("mode")), model)[1])
    build(override(config, {"train.compile": True, "train.compile_mode": mode}), "cpu")
    assert found[1:] == [mode, mode]  # after the trial whether it works


def test_an_unknown_mode_is_refused(config: RunConfig):
    with pytest.raises(
        ConfigError, match=r"train\.compile_mode = 'fastest'; expected one of 'default', 'max-autotune-no"
    ):
        override(config, {"train.compile_mode": "fastest"})
