"""A profile tells where a step's time goes, and changes nothing of the run that it watches."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from groundup.config import RunConfig, override, save_toml
from groundup.errors import TrainingError
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.train import train
from groundup.train.preview.profiler import GROUPS, group_of, scope, spent


class Notes(Silent):
    """Collects what a person is told, and sends a signal once a step is done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: int, loss: float) -> None:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def record(run: Path) -> list:
    clocks = {"wall_seconds", "tokens_per_second", "mfu", "peak_memory"}
    lines = [{k: v for k, v in line.items() if k not in clocks} for line in read_jsonl(run / "metrics.jsonl")]
    last = RunDirectory(run).checkpoint("latest")
    files = [(last / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]
    return [lines, list(read_jsonl(run / "samples.jsonl")), *files]


def profiled(config: RunConfig, **changes: object) -> RunConfig:
    return override(config, {"train.profile": True, "name": "profiled"} | changes)


def table(page: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with a word, by their first cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    begin = next(i for i, row in enumerate(rows) if row[0] == first) + 2
    end = next((i for i in range(begin, len(rows)) if set("".join(rows[i])) <= {"-", ":"}), len(rows) + 1) - 1
    return {row[0]: row[1:] for row in rows[begin:end]}


def steps_in(trace: Path) -> int:
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "training step" and event.get("ph") == "X" for event in events)


def test_a_profiled_run_is_the_same_bit_for_bit(config: RunConfig):
    config = override(config, {"optim.optimizer": "muon"})
    plain = train(config).run_dir
    watched = train(profiled(config)).run_dir
    assert record(watched) == record(plain)
    assert not (plain / "profile").exists()
    assert sorted(path.name for path in (watched / "profile").iterdir()) == ["summary.md", "trace.json.gz"]


@pytest.mark.parametrize(
    "change",
    [
        {"train.kernels": "plain", "train.attention": "plain"},
        {"data.micro_batch_size": 2, "train.precision": "bf16"},
        pytest.param({"train.compile": True}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_groups_of_a_step_sum_to_its_time(config: RunConfig, change: dict):
    notes = Notes()
    run = train(profiled(config, **change), display=notes).run_dir
    page = (run / "profile" / "summary.md").read_text(encoding="utf-8")
    assert f"steps 10 to 14 profiled: {run / 'profile' / 'summary.md'}" in notes.notes
    assert "Run profiled, steps 10 to 14, on cpu" in page
    assert steps_in(run / "profile" / "trace.json.gz") == 5
    groups = table(page, "what")
    assert list(groups) == [*GROUPS, "all"]
    times = {name: float(cells[0].replace(",", "")) for name, cells in groups.items()}
    whole = times.pop("all")
    assert min(times.values()) >= 0
    assert sum(times.values()) == pytest.approx(whole, abs=0.005 * len(times) + 0.005)
    assert sum(float(cells[1].rstrip("%")) for cells in groups.values()) == pytest.approx(200, abs=0.6)
    for name in ("matmuls", "attention", "optimizer", "gradient norm and clipping", "batches"):
        assert times[name] > 0
    assert float(table(page, "")["a step, ms"][1].replace(",", "")) == whole
    operators = table(page, "operator")
    assert len(operators) <= 15
    assert any(name.startswith("mm") for name in operators)


@pytest.mark.parametrize(("steps", "told"), [(1, "steps 1 to 1"), (8, "steps 4 to 8")])
def test_a_shorter_run_is_profiled_earlier(config: RunConfig, steps: int, told: str):
    notes = Notes()
    run = train(profiled(config, **{"train.max_iters": steps, "optim.warmup_iters": 1}), display=notes).run_dir
    assert any(note.startswith(told) for note in notes.notes)
    assert steps_in(run / "profile" / "trace.json.gz") == min(steps, 5)
    speeds = table((run / "profile" / "summary.md").read_text(encoding="utf-8"), "")["tokens/s"]
    assert (speeds[0] == "n/a") == (steps < 8)


def test_a_run_that_is_stopped_while_it_is_profiled_keeps_what_was_seen(config: RunConfig):
    notes = Notes(stop_at=11)
    run = train(profiled(config), display=notes).run_dir
    assert any(note.startswith("steps 10 to 11 profiled") for note in notes.notes)
    assert steps_in(run / "profile" / "trace.json.gz") == 2
    # Resumed without, it is the run that was never stopped; with it, the new session writes another profile.
    assert train(override(profiled(config), {"train.profile": False}), resume=True).finished
    whole = train(config).run_dir
    assert record(run) == record(whole)


def test_a_resumed_session_has_a_profile_of_its_own(config: RunConfig):
    train(config, display=Notes(stop_at=7))
    notes = Notes()
    train(override(config, {"train.profile": True}), resume=True, display=notes)
    assert any(note.startswith("steps 17 to 21 profiled") for note in notes.notes)


def test_a_step_that_breaks_ends_the_profile_with_the_run(config: RunConfig):
    hot = {"optim.max_learning_rate": 1e30, "optim.grad_clip": 0.0, "optim.warmup_iters": 1, "train.max_iters": 5}
    with pytest.raises(TrainingError, match=r"step \d"):
        train(profiled(config, **hot))
    assert not torch.autograd._profiler_enabled()
    assert scope("batches") is scope("clipping")


def test_a_profile_that_cannot_be_written_costs_only_itself(config: RunConfig):
    class Blocks(Notes):
        def step(self, step: int, loss: float) -> None:
            if step == 1:
                (config.run_dir.with_name("profiled") / "profile").write_text("in the way")

    notes = Blocks()
    assert train(profiled(config), display=notes).finished
    assert any("the profile cannot be written" in note for note in notes.notes)


@pytest.mark.parametrize(
    ("chain", "group"),
    [
        ([], "Python and waiting"),
        (["aten::mm", "aten::matmul", "_PackedLinear"], "matmuls"),
        (["aten::mm", "_LinearCrossEntropy"], "matmuls"),
        (["aten::mm", "Optimizer.step#CombinedOptimizer.step"], "optimizer"),
        (["autograd::engine::evaluate_function: MmBackward0"], "matmuls"),
        (["aten::bmm", "aten::matmul"], "attention"),
        (["aten::fill_", "aten::_scaled_dot_product_flash_attention_for_cpu_backward"], "attention"),
        (["aten::mul", "_RotatedHeadsBackward"], "attention"),
        (["aten::baddbmm_", "groundup::causal_attention_backward"], "attention"),
        (["aten::exp_", "groundup::causal_attention", "GeneratedBackwardFor_groundup_causal_attention"], "attention"),
        (["aten::exp_", "_LinearCrossEntropy"], "loss, without its matmuls"),
        (["aten::mul", "_RMSNormBackward"], "norms, activations, sums"),
        (["## Call CompiledFxGraph abc ##", "CompiledFunction"], "norms, activations, sums"),
        (["aten::scatter_add_", "aten::index_add_", "IndexSelectBackward0"], "embedding"),
        (["aten::_foreach_norm", "clipping"], "gradient norm and clipping"),
        (["aten::copy_", "aten::to", "batches"], "batches"),
        (["aten::copy_", "aten::_to_copy", "aten::to", "_PackedLinear"], "copies and casts"),
    ],
)
def test_operators_are_grouped_by_what_they_are_for(chain: list[str], group: str):
    assert group_of(chain) == group


def event(name: str, start: float, end: float, parent: Any = None, kernels: float = 0.0, device: str = "CPU") -> Any:
    """As torch's profiler describes it, in microseconds; the time of the operators within is taken from its own."""
    made = SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name=device),
        cpu_parent=parent,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        self_cpu_time_total=end - start,
        self_device_time_total=kernels,
    )
    if parent is not None:
        parent.self_cpu_time_total -= end - start
    return made


def test_on_a_gpu_the_time_of_kernels_counts_whichever_thread_launched_them():
    root = event("training step", 0, 1000)
    forward = event("aten::matmul", 10, 40, root)
    events = [
        root,
        event("training step", 20, 990, device="CUDA"),
        forward,
        event("aten::mm", 20, 30, forward, kernels=300),
        event("aten::mm", 100, 110, event("MmBackward0", 90, 120), kernels=500),  # in autograd's own thread
        event("some_kernel", 200, 700, kernels=500, device="CUDA"),
        event("aten::mul", 1200, 1300, kernels=70),  # an evaluation, between two steps
    ]
    found = spent(events, on_gpu=True)
    assert found.step == 1.0
    assert {group: ms for group, ms in found.groups.items() if ms} == {
        "matmuls": pytest.approx(0.8),
        "Python and waiting": pytest.approx(0.2),
    }
    assert found.operators[0] == ("mm in MmBackward0", "matmuls", 1.0, 0.5)
    on_cpu = spent(events, on_gpu=False)
    assert on_cpu.groups["matmuls"] == pytest.approx(0.03 + 0.01)
    assert sum(on_cpu.groups.values()) == pytest.approx(1.0)


def test_profile_by_command_says_where_it_is_and_nothing_else(config: RunConfig, tmp_path: Path):
    """In a process of its own: the profiler's library writes to the terminal past Python."""
    save_toml(config, tmp_path / "recipe.toml")
    ended = subprocess.run(
        [sys.executable, "-m", "groundup", "train", str(tmp_path / "recipe.toml"), "--profile"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^steps 10 to 14 profiled: .*summary\.md$", ended.stdout, re.MULTILINE)
