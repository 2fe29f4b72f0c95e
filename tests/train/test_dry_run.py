"""The plan of a run by `groundup train --dry-run`: all of it, and nothing left behind."""

import importlib
from pathlib import Path

import pytest
import torch

from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml
from groundup.errors import CheckpointError, ConfigError
from groundup.record.sinks import Silent
from groundup.train import dry_run, train
from groundup.train.build import Trainer, build
from groundup.train.preview.dry_run import time_steps
from groundup.train.step import train_on_batch

SECTIONS = ["run", "parameters", "optimizer", "disk", "memory", "time"]


@pytest.fixture(autouse=True)
def quick_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole measurement of the machine's products would be most of the time of these tests."""
    module = importlib.import_module("groundup.train.preview.dry_run")  # of the name, the package has the function
    measure = module.measure_matmul_flops
    monkeypatch.setattr(module, "measure_matmul_flops", lambda *a, **o: measure(*a, **o, size=64, rounds=1))


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0), *capsys.readouterr()


def on_disk(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(config: RunConfig, **options: bool) -> dict[str, dict[str, str]]:
    return {section.title: {row[0]: row[1] for row in section.rows} for section in dry_run(config, **options)}


def test_a_dry_run_prints_every_table_and_leaves_nothing_on_the_disk(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_toml(config, tmp_path / "recipe.toml")
    before = on_disk(tmp_path)
    code, out, err = command("train", tmp_path / "recipe.toml", "--dry-run", "--peak_tflops", 2, capsys=capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line in SECTIONS] == SECTIONS
    for part in ("2 layers, d_model 32", "4 x 16 = 64 tokens a step", "24 steps = 1,536 tokens", "one checkpoint",
                 "optimizer state", "tokens/s", "for 24 steps", "4 times 9 windows"):  # fmt: skip
        assert part in out
    assert on_disk(tmp_path) == before
    assert not config.run_dir.exists()


def test_a_dry_run_fits_80_columns(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from groundup.display import console

    monkeypatch.setattr(console, "make_console", lambda: console.Console(width=80, highlight=False))
    save_toml(config, tmp_path / "recipe.toml")
    _, out, _ = command("train", tmp_path / "recipe.toml", "--dry_run", capsys=capsys)
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 80
    # No name of a row is broken, and no number.
    assert any(line.startswith("  checkpoints at once, at most ") for line in lines)
    assert any(line.startswith("  copy of a checkpoint being written ") for line in lines)


def test_figures_follow_from_one_another(config: RunConfig):
    found = rows(override(config, {"train.peak_tflops": 1e-3}))
    step = float(found["time"]["a step"].split(" ms")[0].replace(",", "")) / 1e3
    flops = float(found["time"]["a step"].split(" for ")[1].split()[0])
    speed = float(found["time"]["speed"].split()[0].replace(",", ""))
    assert speed == pytest.approx(64 / step, rel=0.1)
    assert float(found["time"]["MFU"].rstrip("%")) / 100 == pytest.approx(flops / step / 1e9, rel=0.1)
    assert found["parameters"]["all"] in found["run"]["model"]


def test_the_memory_of_weights_gradients_and_state_is_what_a_step_allocates(config: RunConfig):
    for optimizer in ("adamw", "muon"):
        changed = override(config, {"optim.optimizer": optimizer, "train.background_checkpoints": False})
        found, trainer = rows(changed)["memory"], build(changed, "cpu")
        train_on_batch(trainer, 1e-3, 0).read()
        parameters = list(trainer.model.parameters())
        state = sum(
            value.nbytes
            for values in trainer.optimizer.state.values()
            for value in values.values()
            if isinstance(value, torch.Tensor)
        )
        gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        exact = {"weights": sum(p.nbytes for p in parameters), "gradients": gradients, "optimizer state": state}
        assert {name: found[name] for name in exact} == {name: f"{count / 1e3:.1f} kB" for name, count in exact.items()}


def test_a_plan_that_does_not_fit_says_so_and_what_helps(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module("groundup.train.preview.dry_run")

    def memory(of: int):
        monkeypatch.setattr(module, "total_memory", lambda device: of)
        return next(section for section in dry_run(config) if section.title == "memory")

    assert "It will not fit: use a smaller model, data.micro_batch_size or model.context_length" in memory(1000).note
    assert "not fit" not in memory(10**12).note
    assert any(row[0] == "copy of a checkpoint being written" for row in memory(10**12).rows)


def test_smaller_passes_and_checkpointed_blocks_take_less(config: RunConfig):
    def peak(**changes: object) -> float:
        sizes = rows(override(config, changes))["memory"]
        return float(sizes["saved: attention"].split()[0]) if "saved: attention" in sizes else 0.0

    whole = peak()
    assert 0 < peak(**{"data.micro_batch_size": 2}) < 0.6 * whole
    assert peak(**{"train.activation_checkpointing": True}) == 0


def test_what_is_left_of_a_run_is_planned_without_touching_it(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    class Stops(Silent):
        def step(self, step: int, loss: float) -> None:
            if step == 13:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stops())
    # What a kill may leave: a half-written folder, and lines after the checkpoint.
    (config.run_dir / "checkpoints" / ".step-13.tmp").mkdir()
    before = on_disk(tmp_path)
    code, out, _ = command("train", "--resume", config.run_dir, "--dry-run", capsys=capsys)
    assert code == 0
    assert "12 steps, after step 12" in out
    assert "for 12 steps" in out
    assert "2 times 9 windows" in out
    assert "exists already" not in out
    assert on_disk(tmp_path) == before
    assert (config.run_dir / "checkpoints" / ".step-13.tmp").is_dir()
    assert train(config, resume=True).finished
    assert rows(config, resume=True)["run"]["left"] == "0 steps, after step 24"


def test_a_run_in_the_way_is_mentioned_unless_it_would_be_replaced(config: RunConfig):
    train(override(config, {"train.max_iters": 3}))
    assert rows(config)["run"]["run"].endswith("(exists already: --resume, --overwrite, or another --name)")
    assert rows(config, overwrite=True)["run"]["run"] == str(config.run_dir)


def test_what_could_not_be_resumed_cannot_be_planned_either(config: RunConfig, tokens: Path):
    train(override(config, {"train.max_iters": 6}))
    with pytest.raises(ConfigError, match=r"cannot resume .* train\.seed \(was 0, now 1\)"):
        rows(override(config, {"train.max_iters": 6, "train.seed": 1}), resume=True)
    with pytest.raises(CheckpointError, match=r"data\.train is not what"):
        rows(override(config, {"train.max_iters": 6, "data.train": str(tokens / "valid")}), resume=True)


def test_a_mistake_is_told_as_by_a_run(config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_toml(config, tmp_path / "recipe.toml")
    code, _, err = command("train", tmp_path / "recipe.toml", "--dry-run", "--train_path", "nowhere", capsys=capsys)
    assert (code, "nowhere" in err, err.count("\n")) == (2, True, 1)
    code, _, err = command("train", tmp_path / "recipe.toml", "--dry-run", "--resume", capsys=capsys)
    assert (code, "no run " in err, err.count("\n")) == (2, True, 1)
    assert not config.run_dir.exists()


def test_a_limit_of_time_that_is_too_short_for_all_steps_is_told(config: RunConfig):
    short = rows(override(config, {"train.max_minutes": 1e-6}))
    assert "train.max_minutes = 1e-06 is enough for about 0" in short["time"]["training"]
    assert short["run"]["limit"] == "1e-06 minutes"
    assert "max_minutes" not in rows(override(config, {"train.max_minutes": 1e6}))["time"]["training"]


def test_a_run_that_is_too_large_shows_what_is_known_before_it_fails(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    def fails(trainer: Trainer, learning_rate: float, index: int) -> None:
        raise MemoryError

    module = importlib.import_module("groundup.train.preview.dry_run")
    monkeypatch.setattr(module, "train_on_batch", fails)
    plan = dry_run(config)
    assert [next(plan).title for _ in SECTIONS[:-1]] == SECTIONS[:-1]
    with pytest.raises(MemoryError):
        next(plan)


def test_timed_steps_leave_the_weights_where_they_were(config: RunConfig):
    trainer = build(config, "cpu")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert time_steps(trainer, 2) > 0
    assert all(bool((before[name] == p).all()) for name, p in trainer.model.named_parameters())
