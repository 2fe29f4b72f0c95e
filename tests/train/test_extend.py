"""A run that stops inside its schedule, or gets a longer one, is the run that had that schedule from the start."""

import pytest

from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml
from groundup.errors import ConfigError
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent
from groundup.train import train
from records import record


class Notes(Silent):
    """Remembers the lines that a run shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def command(*arguments: object) -> int:
    """Exit code of `groundup train` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main(["train", *map(str, arguments)])
    return int(end.value.code or 0)


# Stop inside a schedule


@pytest.mark.parametrize("step", [1, 8, 13, 23])
def test_a_run_stopped_at_a_step_goes_on_as_if_it_had_not(config: RunConfig, step: int):
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    save_toml(override(config, {"train.stop_at": step}), config.run_dir.with_suffix(".toml"))
    assert command(config.run_dir.with_suffix(".toml")) == 0
    assert RunDirectory(config.run_dir).checkpoint("latest").name == f"step-{step}"
    assert read_object(config.run_dir / "summary.json")["finished"] is False
    assert command("--resume", config.run_dir) == 0  # config.toml still has the step: it is reached, and stops nothing
    assert record(config.run_dir) == whole


def test_a_later_session_stops_at_another_step(config: RunConfig):
    train(override(config, {"train.stop_at": 5}))
    assert command("--resume", config.run_dir, "--stop_at", 9) == 0
    assert RunDirectory(config.run_dir).checkpoint("latest").name == "step-9"
    notes = Notes()
    stopped = train(override(config, {"train.stop_at": 5}), resume=True, display=notes)
    assert stopped.finished
    assert any("stop_at = 5 has passed" in line for line in notes.lines)


def test_a_step_after_the_schedule_is_no_step_to_stop_at(config: RunConfig):
    with pytest.raises(ConfigError, match=r"train\.stop_at = 25; expected .* at most train\.max_iters = 24"):
        override(config, {"train.stop_at": 25})
