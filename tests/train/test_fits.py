"""A run that cannot fit into memory is refused before anything is allocated; one that fits is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.config import RunConfig, override
from groundup.errors import ConfigError
from groundup.record.sinks import Silent
from groundup.sweeps.attempt import Job, attempt
from groundup.system.launch import Launch
from groundup.train import dry_run, train
from groundup.train import limits as fits
from groundup.train.build import build
from groundup.train.ranks.collective import Ranks

GIANT = {"model.d_model": 16384, "model.num_layers": 96, "model.num_heads": 128}


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr("groundup.train.build.build_model", refuse)


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (GIANT, ["the largest of this shape that fits: --d_model ", "weights ", "gradients ", "optimizer "]),
        ({"model.num_layers": 10**15}, ["more than a billion GB"]),
        ({"model.d_model": 10**12}, ["no model of this shape fits"]),
        ({"model.d_model": 10**200, "model.num_heads": 1}, ["no model of this shape fits"]),
        ({"model.d_ff": 10**12}, ["--force"]),
        ({"model.vocab_size": 10**12}, ["--force"]),
        ({"data.batch_size": 10**9}, ["data.batch_size = 1000000000"]),
        ({"data.batch_size": 10**7}, ["what fits: --micro_batch_size "]),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(
    config: RunConfig, changes: dict, says: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fits, "available_memory", lambda: 16e9)
    with pytest.raises(ConfigError) as raised:
        train(override(config, changes))
    message = str(raised.value)
    assert all(part in message for part in [*says, "--force"])
    assert "\n" not in message
    assert not config.run_dir.exists()


def test_what_is_proposed_fits(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    config = override(config, {"model.vocab_size": 300})
    for changes in (GIANT, {"data.batch_size": 10**6}):
        large = override(config, changes)
        monkeypatch.setattr(fits, "available_memory", lambda: 16e9)
        with pytest.raises(ConfigError) as raised:
            fits.check_fits(large, "cpu", Ranks())
        words = str(raised.value).split()
        proposed = {
            option: int(words[words.index(f"--{option}") + 1].rstrip(","))
            for option in ("d_model", "num_layers", "num_heads", "micro_batch_size")
            if f"--{option}" in words
        }
        sections = {"micro_batch_size": "data"}
        fitting = override(large, {f"{sections.get(k, 'model')}.{k}": v for k, v in proposed.items()})
        fits.check_fits(fitting, "cpu", Ranks())


def test_the_mark_lies_between_what_fits_and_what_cannot(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    """Against the tensors that are there: weights, gradients and two moments at the least."""
    config = override(config, {"model.vocab_size": 300, "model.d_model": 64, "data.batch_size": 1})
    trainer = build(config, "cpu")
    numbers = sum(p.numel() for p in trainer.model.parameters())

    def with_memory(count: float) -> str:
        monkeypatch.setattr(fits, "available_memory", lambda: count)
        return fits.check_fits(config, "cpu", Ranks())

    with pytest.raises(ConfigError):
        with_memory(4 * 3 * numbers)
    assert "memory may run out" in with_memory(4 * 5 * numbers)
    assert with_memory(4 * 20 * numbers) == ""


def test_force_and_a_close_fit_go_on(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    class Notes(Silent):
        notes: list[str]

        def __init__(self) -> None:
            self.notes = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    config = override(config, {"train.max_iters": 3})
    monkeypatch.setattr(fits, "available_memory", lambda: 1e5)
    with pytest.raises(ConfigError, match="--force"):
        train(config)
    with pytest.raises(ConfigError, match="--force"):
        next(iter(dry_run(config)))
    assert train(config, force=True).finished
    notes = Notes()
    monkeypatch.setattr(fits, "available_memory", lambda: 1.5e6)
    assert train(override(config, {"name": "close"}), display=notes).finished
    assert any("memory may run out" in note for note in notes.notes)


def test_an_evaluation_that_cannot_fit_is_refused_and_a_batch_is_no_larger_than_the_data(
    config: RunConfig, tokens: Path, monkeypatch: pytest.MonkeyPatch
):
    config = override(config, {"train.eval_batch_size": 10**9, "train.eval_windows": 0, "train.max_iters": 3})
    monkeypatch.setattr(fits, "available_memory", lambda: 16e9)
    assert train(config).finished
    config = override(config, {"model.vocab_size": 300})
    with pytest.raises(ConfigError, match=r"eval_batch_size = 1000000000: .* 16\.00 GB are available.*--force"):
        fits.check_fits(config, "cpu", Ranks(), valid_tokens=10**9)
    fits.check_fits(override(config, {"train.eval_windows": 64}), "cpu", Ranks(), valid_tokens=10**9)


def test_ranks_on_one_machine_share_its_memory(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    config = override(config, {"model.vocab_size": 300})
    monkeypatch.setattr(fits, "available_memory", lambda: 3e6)
    fits.check_fits(config, "cpu", Ranks())
    four = Ranks(Launch(ranks=4, local_ranks=4))
    with pytest.raises(ConfigError, match="--force"):
        fits.check_fits(config, "cpu", four)


def test_a_card_counts_what_is_free_on_it(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    config = override(config, {"model.vocab_size": 300})
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 80 * 10**9))
    fits.check_fits(config, "cuda:0", Ranks())
    with pytest.raises(ConfigError, match="available on cuda:0"):
        fits.check_fits(override(config, GIANT), "cuda:0", Ranks())


def test_a_setting_of_a_sweep_fails_with_the_line(config: RunConfig):
    outcome = attempt(Job(trial="giant", config=override(config, GIANT)))
    assert (outcome.ending, outcome.hopeless) == ("crashed", True)
    assert "needs at least" in outcome.message


def test_the_command_refuses_without_taking_memory(config: RunConfig, tmp_path: Path):
    np.save(tmp_path / "ids.npy", np.arange(3000, dtype=np.uint16) % 60)
    program = (
        "import sys\n"
        "from groundup.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    arguments = ["train", "--train_path", str(tmp_path / "ids.npy"), "--vocab_size", "64", "--d_model", "16384",
                 "--num_layers", "96", "--num_heads", "128", "--runs_dir", str(tmp_path)]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the largest of this shape that fits" in done.stderr
    # Not ru_maxrss, which begins at what the parent had when it started the process.
    assert int(done.stdout) * 1024 < 2e9
