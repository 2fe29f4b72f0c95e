"""Profiler of training steps: torch's profiler over a few steps, and a summary page of their time by kind of work."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from groundup.account import training_flops_per_token
from groundup.config import RunConfig
from groundup.display.markdown import table
from groundup.display.units import size_text
from groundup.train import step as training_step
from groundup.train.device import MFU_CONVENTION, device_name, known_peak, peak_memory, synchronize
from groundup.train.step import CLIPPING, DATA, scope

STEPS = 5
"""Number of profiled steps."""
WARM_UP = 9
"""Warm-up steps before the profiled ones, if the session is long enough: they allocate, compile and fill caches."""
ROOT = "training step"
"""Name of the scope around a whole step."""

MATMULS = "matmuls"
ATTENTION = "attention"
LOSS = "loss, without its matmuls"
ELEMENTWISE = "norms, activations, sums"
EMBEDDING = "embedding"
OPTIMIZER = "optimizer"
NORM = "gradient norm and clipping"
BATCHES = "batches"
COPIES = "copies and casts"
REST = "Python and waiting"
GROUPS = (MATMULS, ATTENTION, LOSS, ELEMENTWISE, EMBEDDING, OPTIMIZER, NORM, BATCHES, COPIES, REST)

TOP = 15
_AUTOGRAD = "autograd::engine::evaluate_function: "
_LONGEST_LABEL = 48
_MATMULS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::matmul", "aten::linear", "aten::mkldnn_linear"}
_AROUND_MATMULS = ("_PackedLinear", "MmBackward", "AddmmBackward")
_COPIES = {"aten::copy_", "aten::clone", "aten::contiguous", "aten::to", "aten::_to_copy", "aten::cat"}
_EMBEDDING = ("aten::index_select", "aten::embedding", "IndexSelectBackward", "EmbeddingBackward")
_ATTENTION = (
    "scaled_dot_product", "ScaledDotProduct", "causal_attention", "_RotatedHeads", "aten::bmm", "BmmBackward",
)  # fmt: skip
_OUTER = {"Optimizer.": OPTIMIZER, DATA: BATCHES, CLIPPING: NORM}


class StepProfiler:
    """Profile steps 10 to 14 of a session (earlier and fewer in a shorter one), and write a trace and a summary.

    The profiler does not change the results of the run, bit for bit. Profiled steps are slower, and the device is
    synchronized after each of them.

    Args:
        config: the run; it is profiled if ``train.profile`` is set.
        run_dir: ``trace.json.gz`` and ``summary.md`` are written to its folder ``profile``.
        left: steps that the session may take.
        note: called with the path of the profile, or with the reason that it was not written.
    """

    def __init__(self, config: RunConfig, device: str, run_dir: Path, left: int, note: Callable[[str], None]):
        self._config, self._device, self._folder, self._note = config, device, run_dir / "profile", note
        self._count = min(STEPS, left) if config.train.profile else 0
        self._warm_up = min(WARM_UP, left - self._count)
        self._plain_seconds: list[float] = []
        self._profiled: list[int] = []
        self._profile: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Context manager around one step of the run."""
        if len(self._profiled) == self._count:
            yield
            return
        warming_up = len(self._plain_seconds) < self._warm_up
        if not warming_up and self._profile is None:
            self._start()
        synchronize(self._device)
        began = time.perf_counter()
        try:
            with scope(ROOT):
                yield
                synchronize(self._device)
        except BaseException:
            self._stop()
            self._count = len(self._profiled)
            raise
        if warming_up:
            self._plain_seconds.append(time.perf_counter() - began)
            return
        self._profiled.append(number)
        if len(self._profiled) == self._count:
            self.close()

    def close(self) -> None:
        """Write the profile, if there is one that is not written yet. If the disk is full, only the profile is lost."""
        if self._profile is None:
            return
        profile = self._stop()
        self._count = len(self._profiled)
        if not self._profiled:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            profile.export_chrome_trace(str(self._folder / "trace.json.gz"))
            # The first two steps allocate and compile.
            plain = statistics.median(self._plain_seconds[2:]) if len(self._plain_seconds) > 2 else None
            timing = Timing(self._profiled, plain)
            (self._folder / "summary.md").write_text(
                summary(self._config, self._device, profile.events(), timing), encoding="utf-8"
            )
        except OSError as error:
            self._note(
                f"the profile cannot be written to {self._folder}: {error.strerror or error}; training continues"
            )
        else:
            self._note(f"steps {self._profiled[0]:,} to {self._profiled[-1]:,} profiled: {self._folder / 'summary.md'}")

    def _start(self) -> None:
        # Kineto logs every start and stop to standard error. It reads this log level when it is first used.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        from torch.profiler import ProfilerActivity, profile

        cuda = [ProfilerActivity.CUDA] if self._device.startswith("cuda") else []
        # The events are read once. Without acc_events torch warns that later events would replace them.
        self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], acc_events=True)
        self._profile.start()
        training_step.profiling = True

    def _stop(self) -> Any:
        training_step.profiling = False
        profile, self._profile = self._profile, None
        if profile is not None:
            profile.stop()
        return profile


class Timing(NamedTuple):
    """The profiled steps, and the time of a step without the profiler."""

    steps: Sequence[int]
    plain_seconds: float | None
    """Median of the steps before the profiled ones; None if there were too few."""


class Spent(NamedTuple):
    """Mean milliseconds of a profiled step. The groups sum to the whole step."""

    step: float
    groups: dict[str, float]
    operators: list[tuple[str, str, float, float]]
    """Name, group, calls a step and milliseconds of each operator, the slowest first."""


def group_of(chain: Sequence[str]) -> str:
    """The group of an operator.

    Args:
        chain: names of the operator, of its caller, and so on outwards, without the step itself.
    """
    if not chain:
        return REST
    for prefix, group in _OUTER.items():
        if any(name.startswith(prefix) for name in chain):
            return group
    if any(part in name for name in chain for part in _ATTENTION):
        return ATTENTION
    if chain[0] in _MATMULS or chain[0].removeprefix(_AUTOGRAD).startswith(_AROUND_MATMULS):
        return MATMULS
    if any("CrossEntropy" in name for name in chain):
        return LOSS
    if any(name.startswith(_EMBEDDING) for name in chain):
        return EMBEDDING
    if chain[0] in _COPIES:
        return COPIES
    return ELEMENTWISE


def spent(events: Iterable[Any], *, on_gpu: bool) -> Spent:
    """Sum up the events of a profile.

    On a CPU the time of an operator is its self time, without the operators that it calls. On a GPU it is the time of
    the kernels that it launched. The rest of the step goes to the group REST.

    Args:
        events: torch's ``FunctionEvent`` objects, with a scope ROOT around every step.
    """
    events = list(events)
    # A GPU trace has each scope a second time, as a range of device time.
    roots = [event for event in events if event.name == ROOT and event.device_type.name == "CPU"]
    groups: Counter[str] = Counter()
    milliseconds: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.name == ROOT or event.device_type.name != "CPU" or not _within(event, roots):
            continue
        chain = _chain(event)
        time = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / len(roots)
        group = group_of(chain)
        groups[group] += time
        milliseconds[_label(chain), group] += time
        calls[_label(chain), group] += 1
    step = sum(root.time_range.elapsed_us() for root in roots) / 1e3 / len(roots)
    groups[REST] += step - sum(groups.values())
    return Spent(
        step,
        {group: groups[group] for group in GROUPS},
        [(*key, calls[key] / len(roots), time) for key, time in milliseconds.most_common()],
    )


def _within(event: Any, roots: Sequence[Any]) -> bool:
    # By start time, not by the call chain: on a GPU the backward pass runs in another thread.
    return any(root.time_range.start <= event.time_range.start <= root.time_range.end for root in roots)


def _chain(event: Any) -> list[str]:
    names = []
    while event is not None and event.name != ROOT:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _label(chain: Sequence[str]) -> str:
    """The operator and the module or autograd function that called it: ``mul in _SiLUGateBackward``."""
    own = _short(chain[0])
    callers = (name for name in chain[1:] if not name.startswith(("aten::", "autograd::")))
    caller = next(callers, "")
    label = f"{own} in {_short(caller)}" if caller else own
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _short(name: str) -> str:
    name = name.removeprefix(_AUTOGRAD).removeprefix("aten::")
    if name.startswith("## Call CompiledFxGraph"):
        return "compiled graph"
    return name.split("#")[0]


def summary(config: RunConfig, device: str, events: Iterable[Any], timing: Timing) -> str:
    """The summary page in Markdown."""
    found = spent(events, on_gpu=device.startswith("cuda"))
    step_tokens = config.data.batch_size * config.model.context_length
    columns = [timing.plain_seconds, found.step / 1e3]
    peak, flops = known_peak(config.train, device), step_tokens * training_flops_per_token(config.model)
    lines = [
        "# Where the time of a step goes",
        "",
        f"Run {config.name}, steps {timing.steps[0]:,} to {timing.steps[-1]:,}, on {device} ({device_name(device)}), "
        f"{config.train.precision}, {step_tokens:,} tokens a step.",
        "",
        table(
            ("", "without the profiler", "with it"),
            [
                ("a step, ms", *(f"{s * 1e3:,.2f}" if s else "n/a" for s in columns)),
                ("tokens/s", *(f"{step_tokens / s:,.0f}" if s else "n/a" for s in columns)),
                ("MFU", *(f"{flops / s / peak:.1%}" if s and peak else "n/a" for s in columns)),
            ],
        ),
        "",
        f"Peak memory so far: {size_text(peak_memory(device))}. MFU counts {MFU_CONVENTION}"
        f"{'' if peak else '; set train.peak_tflops to see it'}.",
        "",
        table(
            ("what", "ms a step", "share"),
            [
                *((group, f"{ms:,.2f}", f"{ms / found.step:.1%}") for group, ms in found.groups.items()),
                ("all", f"{found.step:,.2f}", "100.0%"),
            ],
        ),
        "",
        f"## The {TOP} slowest operators",
        "",
        table(
            ("operator", "group", "calls", "ms a step", "share"),
            [
                (name, group, f"{calls:,.0f}", f"{ms:,.2f}", f"{ms / found.step:.1%}")
                for name, group, calls, ms in found.operators[:TOP]
            ],
        ),
        "",
        "To see every operator on a time line, open trace.json.gz at https://ui.perfetto.dev (the file stays on your",
        "machine) or in chrome://tracing.",
        "",
    ]
    return "\n".join(lines)
