"""What is reported arrives: in JSONL, TensorBoard and W&B, on the terminal and in files."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from groundup.config import TrackConfig
from groundup.display.console import ConsoleDisplay
from groundup.display.curve import loss_curve
from groundup.errors import MissingExtraError
from groundup.record import read_metrics
from groundup.record.sinks import JsonlSink, Silent, Sinks, external_sinks, read_jsonl

LINES = [
    {"step": 1, "tokens": 64, "train_loss": 3.5, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 10.0, "mfu": None},
    {"step": 2, "tokens": 128, "val_loss": 3.25, "val_perplexity": 25.8, "val_bpb": 1.5},
]
SAMPLE = {"step": 2, "prompt": "Once", "text": ' a "cat" <b>', "temperature": 0.8, "top_p": 0.9, "seed": 1}


def feed(sink) -> None:
    for line in LINES:
        sink.metrics(line)
    sink.sample(SAMPLE)
    sink.close()


def test_jsonl_keeps_every_line_and_drops_later_ones_on_resume(tmp_path: Path):
    feed(JsonlSink(tmp_path))
    assert list(read_jsonl(tmp_path / "metrics.jsonl")) == LINES
    assert list(read_jsonl(tmp_path / "samples.jsonl")) == [SAMPLE]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tra')
    JsonlSink(tmp_path, after_step=1).close()
    assert list(read_jsonl(tmp_path / "metrics.jsonl")) == LINES[:1]
    assert list(read_jsonl(tmp_path / "samples.jsonl")) == []


def test_jsonl_is_json_even_where_a_loss_is_not_a_number(tmp_path: Path):
    sink = JsonlSink(tmp_path)
    sink.metrics({"step": 1, "val_loss": float("nan"), "val_perplexity": float("inf")})
    sink.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "val_loss": None, "val_perplexity": None}


def test_tensorboard_files_hold_the_scalars_and_the_text(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (sink,) = external_sinks(TrackConfig(tensorboard=True), tmp_path, "name", {})
    feed(sink)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)]
             for tag in ("train_loss", "val_loss")}  # fmt: skip
    assert found == {"train_loss": [(1, 3.5)], "val_loss": [(2, 3.25)]}
    assert events.Tensors("sample")[0].tensor_proto.string_val[0] == b'Once a "cat" <b>'
    assert "mfu" not in events.Tags()["tensors"]


@pytest.mark.filterwarnings("default")  # wandb warns of deprecated parts of its own
def test_wandb_works_offline_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = TrackConfig(wandb=True, wandb_project="p", wandb_run_name="the-name", group="the-sweep")
    (sink,) = external_sinks(config, tmp_path, "name", {"model.d_model": 64})
    feed(sink)
    kept = (tmp_path / "wandb_id").read_text()
    (record,) = tmp_path.glob(f"wandb/offline-run-*-{kept}/*.wandb")
    expected = (b"the-name", b"the-sweep", b"train_loss", b"3.5", b"val_loss", b"3.25", b"model.d_model")
    # W&B's own process may still be writing when the run is finished.
    deadline = time.monotonic() + 60
    while not all(part in record.read_bytes() for part in expected) and time.monotonic() < deadline:
        time.sleep(0.1)
    content = record.read_bytes()
    assert [part for part in expected if part not in content] == []


def start_wandb(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start and end a run in a process of its own: W&B reads the environment once."""
    program = (
        "import sys; from pathlib import Path\n"
        "from groundup.config import TrackConfig\n"
        "from groundup.errors import TrainingError\n"
        "from groundup.record.sinks import external_sinks\n"
        "try: external_sinks(TrackConfig(wandb=True), Path(sys.argv[1]), 'name', {})[0].close()\n"
        "except TrainingError as error: print(error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-c", program, folder],
        env=kept | {"HOME": str(folder)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_wandb_that_does_not_start_says_how_to_go_without(tmp_path: Path):
    done = start_wandb(tmp_path, WANDB_API_KEY="bad")
    assert done.returncode == 0, done.stderr
    assert re.search("W&B does not start: .*WANDB_API_KEY invalid.*WANDB_MODE=offline", done.stdout)


def test_wandb_without_an_account_records_offline_and_says_so(tmp_path: Path):
    done = start_wandb(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert "recorded offline" in done.stderr
    assert "does not start" not in done.stdout


@pytest.mark.parametrize(("package", "options"), [("wandb", {"wandb": True}), ("tensorboard", {"tensorboard": True})])
def test_a_missing_package_is_named_with_its_extra(
    package: str, options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install .* '\.\[{package}\]'"):
        external_sinks(TrackConfig(**options), tmp_path, "name", {})


def test_a_sink_that_cannot_be_closed_leaves_no_other_open():
    closed = []

    class Part(Silent):
        def __init__(self, name: str):
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "full":
                raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        Sinks([Part("full"), Part("terminal")]).close()
    assert closed == ["full", "terminal"]


def show(*, terminal: bool) -> str:
    file = io.StringIO()
    display = ConsoleDisplay(Console(file=file, force_terminal=terminal, width=100, color_system=None))
    display.begin({"model": "a model"}, 2, 0)
    for line in LINES:
        display.step(line["step"], 3.0)
        display.metrics(line)
    display.sample(SAMPLE)
    display.close()
    return file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_shows_plan_losses_and_samples(terminal: bool):
    shown = show(terminal=terminal)
    for expected in ("a model", "valid loss 3.2500", "1.5000 bits/byte", 'Once a "cat" <b>'):
        assert expected in shown
    assert ("left" in shown) == terminal


MEASURED = {"step": 10, "tokens": 640, "train_loss": 12.345678, "grad_norm": 123.4567, "tokens_per_second": 234567.8,
            "mfu": 0.4123, "peak_memory": 123_456_789_012, "lr": 1e-3}  # fmt: skip


@pytest.mark.parametrize("mfu", [0.4123, None])
@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_latest_numbers_stand_under_the_bar_and_fit_80_columns(mfu: float | None, width: int):
    file = io.StringIO()
    display = ConsoleDisplay(Console(file=file, force_terminal=True, width=width, color_system=None))
    display.begin({}, 1_000_000, 0)
    display.step(10, 12.3)
    display.metrics(MEASURED | {"mfu": mfu})
    display.close()
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", file.getvalue())]
    bar, numbers = (next(line for line in lines if part in line) for part in ("10/1000000", "loss 12.346"))
    assert bar != numbers
    assert max(map(len, lines)) <= width
    if width >= 80:
        for part in ("gradient norm 1.2e+02", "234,568 tokens/s", *(() if mfu is None else ("MFU 41.2%",))):
            assert part in numbers
        assert "memory 123" in numbers


@pytest.mark.parametrize("terminal", [True, False])
def test_a_validation_line_fits_80_columns_of_a_terminal_and_a_file_has_the_speed_too(terminal: bool):
    file = io.StringIO()
    display = ConsoleDisplay(Console(file=file, force_terminal=terminal, width=80 if terminal else 160))
    display.begin({}, 50_000, 0)
    display.metrics(
        MEASURED | {"train_loss": 3.14159, "val_loss": 3.21987, "val_perplexity": 25.0248, "val_bpb": 1.912612}
    )
    display.close()
    line = "step    10  valid loss 3.2199 (train 3.1416)  perplexity 25.02  1.9126 bits/byte"
    assert line in file.getvalue()
    assert (f"{line}  234,568 tokens/s\n" in file.getvalue()) == (not terminal)


def test_a_line_without_numbers_for_a_person_is_not_shown():
    """Update ratios have steps of their own in the record."""
    file = io.StringIO()
    display = ConsoleDisplay(Console(file=file, force_terminal=False, width=100))
    display.begin({}, 100, 0)
    display.metrics({"step": 7, "tokens": 64, "update_ratio_head": 1e-3})
    display.metrics({"step": 8, "tokens": 64, "wall_seconds": 1.0, "train_loss": None, "lr": 1e30})  # it diverged
    assert file.getvalue().strip() == ""
    display.metrics(MEASURED)
    assert "step  10  loss 12.346  gradient norm 1.2e+02" in file.getvalue()


def test_loss_curve_shows_both_losses(tmp_path: Path):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(100):
            line = {"step": step, "train_loss": 9 - step / 20}
            file.write(json.dumps(line | ({"val_loss": 8 - step / 20} if step % 10 == 0 else {})) + "\n")
    drawn = loss_curve(read_metrics(tmp_path / "metrics.jsonl").lines, 60, 12, color=False)
    assert len(drawn.splitlines()) == 12
    assert "train" in drawn
    assert "valid" in drawn
    assert "9.0" in drawn
