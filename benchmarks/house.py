"""Locality of the code: files entered, and switches between files, on paths that a reader follows; and start-up times.

    python benchmarks/house.py --out house.json

Each path runs in a separate process under `sys.setprofile`. A file counts if one of its functions is called. A switch
is a call from one file of the package into another. Class bodies and module imports do not count.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src" / "groundup"
_NEW_LOCALS = 0x2
_ROUNDS = 9
WAYS = (
    "train before its first step",
    "a plain step",
    "sweep before its first step",
    "sweep before it trains",
    "encode",
)


class Trace:
    """Recorder of the calls in all threads while it is on."""

    def __init__(self) -> None:
        self.files: collections.Counter[str] = collections.Counter()
        self.switches = 0

    def start(self) -> None:
        """Start counting."""
        sys.setprofile(self._seen)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)

    def _seen(self, frame: Any, event: str, argument: object) -> None:
        if event != "call" or frame.f_code.co_name.startswith("<module"):
            return
        here = own_file(frame)
        if here is None or not frame.f_code.co_flags & _NEW_LOCALS:  # the body of a class
            return
        self.files[here] += 1
        caller = frame.f_back
        while caller is not None and own_file(caller) is None:
            caller = caller.f_back
        if caller is not None and own_file(caller) != here:
            self.switches += 1

    def result(self) -> dict[str, Any]:
        """Counts, and the names of the files."""
        return {"files": len(self.files), "switches": self.switches, "names": sorted(self.files)}


def own_file(frame: Any) -> str | None:
    """Name of the frame's file in the package; None for other files."""
    path = frame.f_code.co_filename
    return os.path.relpath(path, SOURCE) if path.startswith(f"{SOURCE}{os.sep}") else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WALKS[options.way]()))
        return 0
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, __file__, "--way", way], cwd=folder, capture_output=True, text=True, check=True
            )
        rows.append({"way": way} | json.loads(done.stdout.splitlines()[-1]))
        if not rows[-1]["files"]:
            print(f"nothing of {SOURCE} was called: another copy of groundup is installed", file=sys.stderr)
            return 1
    rows += folders() + start_up()
    for row in rows:
        print(json.dumps({key: value for key, value in row.items() if key != "names"}))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def folders() -> list[dict[str, Any]]:
    """Files in each folder of the package that has more than 15."""
    counts = collections.Counter(str(path.parent.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))
    return [{"folder": folder, "files": count} for folder, count in counts.most_common() if count > 15]


def start_up() -> list[dict[str, Any]]:
    """Seconds of a Python process that imports groundup, and of `groundup --help`, beside one that does nothing."""
    commands = {
        "nothing": ["-c", "pass"],
        "import groundup": ["-c", "import groundup"],
        "--help": ["-m", "groundup", "-h"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(_ROUNDS):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - start)
    return [{"start": name, "seconds": round(statistics.median(found), 3)} for name, found in seconds.items()]


def _config(**changes: Any) -> Any:
    import numpy as np

    from groundup.config import RunConfig, override

    np.save("ids.npy", np.random.default_rng(0).integers(0, 64, 5_000))
    small = {
        "name": "house", "data.train": "ids.npy", "data.batch_size": 2, "model.vocab_size": 64, "model.d_model": 16,
        "model.num_layers": 2, "model.num_heads": 2, "model.context_length": 16, "train.max_iters": 4,
        "optim.warmup_iters": 1, "train.device": "cpu", "sample.interval": 0, "train.kernels": "plain",
        "train.attention": "plain",
    }  # fmt: skip
    return override(RunConfig(), small | changes)


def _until_first_forward(work: Callable[[], object]) -> dict[str, Any]:
    from torch.nn.modules import module

    trace = Trace()

    def stop_at_step(_: object, inputs: tuple[Any, ...]) -> None:
        if not inputs[0].is_meta:  # on the meta device, the modules are only counted
            trace.stop()

    # The first forward pass belongs to the first step: without validation data nothing is evaluated before it.
    module.register_module_forward_pre_hook(stop_at_step)
    trace.start()
    work()
    trace.stop()
    return trace.result()


def _before_first_step() -> dict[str, Any]:
    from groundup.train import train

    config = _config()
    return _until_first_forward(lambda: train(config))


def _plain_step() -> dict[str, Any]:
    from torch.optim import optimizer

    from groundup.train import train

    trace, steps = Trace(), 0

    def after_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            trace.start()
        elif steps == 3:
            trace.stop()

    optimizer.register_optimizer_step_post_hook(after_step)
    train(_config(**{"train.log_interval": 100}))
    return trace.result()


def _before_first_step_of_a_sweep() -> dict[str, Any]:
    return _until_first_forward(_sweep_of_two())


def _before_a_sweep_trains() -> dict[str, Any]:
    import groundup.train

    sweep, trace = _sweep_of_two(), Trace()

    class Reached(BaseException):
        """The first trial is handed to ``train``."""

    def reached(*arguments: object, **options: object) -> None:
        trace.stop()
        raise Reached

    groundup.train.train = reached
    trace.start()
    with contextlib.suppress(Reached):
        sweep()
    trace.stop()
    return trace.result()


def _sweep_of_two() -> Callable[[], object]:
    """Write a plan of two trials; returns the command that runs it in this process."""
    from groundup.cli.main import run
    from groundup.config import save_toml

    save_toml(_config(), Path("base.toml"))
    plan = 'name = "two"\nquestion = "Which?"\nrecipe = "base.toml"\n[axes]\nmax_learning_rate = [0.001, 0.01]\n'
    Path("plan.toml").write_text(plan, encoding="utf-8")
    return lambda: run(["sweep", "plan.toml", "--executor", "inline"])


def _encode() -> dict[str, Any]:
    from groundup.cli.main import run
    from groundup.tokenizer import Tokenizer

    Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"]).save("tok")
    Path("text.txt").write_text("one two<|endoftext|>three\n", encoding="utf-8")
    trace = Trace()
    trace.start()
    run(["encode", "text.txt", "--tokenizer", "tok", "--out", "out"])
    trace.stop()
    return trace.result()


WALKS = dict(
    zip(
        WAYS,
        (_before_first_step, _plain_step, _before_first_step_of_a_sweep, _before_a_sweep_trains, _encode),
        strict=True,
    )
)


if __name__ == "__main__":
    sys.exit(main())
