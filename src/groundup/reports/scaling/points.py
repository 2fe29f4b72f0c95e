"""Points of a scaling law from runs: parameters, tokens and validation loss, if the losses can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundup.account.flops import count_flops
from groundup.errors import DataError, FileMissingError
from groundup.record.json import read_object
from groundup.record.read import Run, find_runs, read_run
from groundup.reports.scaling.law import Floats
from groundup.system.files import read_bytes

# Two sizes do not tell a large exponent from a high floor.
_LEAST_VALUES = 3
_PARAMETERS_OF_A_TERM = 2
_MORE_RUNS_THAN_PARAMETERS = 2


class Point(NamedTuple):
    """A validation loss after a number of tokens."""

    run: int
    """Number of the run."""
    parameters: float
    """All trainable parameters, with embedding and output matrix, as Hoffmann et al. count them."""
    tokens: float
    loss: float


@dataclass
class Points:
    """What a law is fitted to."""

    runs: list[Run] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Runs that give no point, and why."""

    def column(self, name: str) -> Floats:
        """A field of every point."""
        return np.array([getattr(point, name) for point in self.points], dtype=np.float64)

    @property
    def sizes(self) -> dict[str, Floats]:
        """N and D of the points, those that vary."""
        found = {"N": self.column("parameters"), "D": self.column("tokens")}
        return {term: values for term, values in found.items() if len(np.unique(values)) > 1}


def read_points(paths: Sequence[Path], *, curves: bool = False) -> Points:
    """Read the points of runs, sweeps and folders of them.

    A run whose schedule has ended gives its last validation loss. With ``curves`` a run with a constant learning rate
    gives every evaluation after its warm-up, whether or not it has ended.

    Raises:
        FileMissingError: a folder does not exist.
        DataError: the losses of two runs cannot be compared, or there are too few runs, sizes or lengths.
    """
    found = Points()
    seen: set[Path] = set()
    for path in (inner for given in paths for inner in _runs_of(given)):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        run = read_run(path, curves=curves, count_flops=count_flops)
        points = list(_points(run, len(found.runs), curves=curves))
        if why := _unusable(run, has_points=bool(points), curves=curves):
            found.left_out[str(path)] = why
        else:
            found.runs.append(run)
            found.points += points
    _check_comparable(found.runs)
    _check_enough(found)
    return found


def _runs_of(given: Path) -> list[Path]:
    folder = next((place for place in (given, "runs" / given) if place.is_dir()), None)
    if folder is None:
        raise FileMissingError(f"no folder {given}, nor {'runs' / given}; expected runs or a folder of them")
    runs = list(find_runs(folder, into_sweeps=True))
    if not runs:
        raise DataError(f"{folder} holds no run; expected folders written by `groundup train` or `groundup sweep`")
    return runs


def _unusable(run: Run, *, has_points: bool, curves: bool) -> str:
    if run.status in ("diverged", "broken", "imported"):
        return run.problem if run.status == "broken" else run.status
    if run.parent:
        return f"it began with the weights of {run.parent}"
    if not run.figures.get("parameters"):
        return "its number of parameters is not recorded"
    if has_points:
        return ""
    if run.status != "finished":
        constant = " nor its learning rate constant" if curves else ""
        return f"{run.status}: its schedule has not ended{constant}"
    return "it has no validation loss"


def _points(run: Run, number: int, *, curves: bool) -> Iterator[Point]:
    parameters, options = run.figures.get("parameters"), run.options
    if not parameters:
        return
    curve = run.curves.get("val_loss")
    constant = options.get("optim.schedule") == "constant" and not options.get("optim.stage_from")
    if curves and constant and curve is not None and run.tokens_per_step > 0:
        for step, loss in zip(curve.steps, curve.values, strict=True):
            if step > options.get("optim.warmup_iters", 0):
                yield Point(number, parameters, float(step * run.tokens_per_step), float(loss))
        return
    loss, tokens = run.figures.get("val_loss"), run.figures.get("tokens")
    if run.status == "finished" and loss and tokens:
        yield Point(number, parameters, tokens, loss)


def _check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose losses are of different tokens, of different texts, or after different contexts."""
    seen = [(run, _what_is_measured(run)) for run in runs]
    for run, measured in seen[1:]:
        first, theirs = seen[0]
        for name, value in measured.items():
            other = theirs.get(name)
            if value is not None and other is not None and value != other:
                raise DataError(
                    f"{first.path} and {run.path} differ in {name} ({_short(other)}, {_short(value)}), so their losses "
                    "cannot be compared; name runs that agree"
                )


def _what_is_measured(run: Run) -> dict[str, Any]:
    """What a validation loss depends on beside the model, by a name for messages; None if unknown."""
    state: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        newest = max(run.path.glob("checkpoints/step-*/state.json"), default=None)
        state = read_object(newest) if newest else {}
    evaluated = state.get("evaluated_on")
    texts = evaluated[0] if isinstance(evaluated, list) and evaluated else None
    return {
        "model.vocab_size": run.options.get("model.vocab_size"),
        "tokenizer": state.get("tokenizer_sha256") or _hash_of(run.path / "tokenizer"),
        "validation data": texts,
        # A path says less than a hash: the same data may lie in two places, but then it has checkpoints to say so.
        "data.valid": None if texts else run.options.get("data.valid"),
        "train.eval_windows": run.options.get("train.eval_windows"),
        "model.context_length": run.options.get("model.context_length"),
    }


def _hash_of(folder: Path) -> str | None:
    """A hash of the files of a tokenizer; None without them."""
    digest = hashlib.sha256()
    files = sorted(file for file in folder.glob("*") if file.is_file() and file.suffix != ".jinja")
    try:
        for file in files:
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + read_bytes(file))
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _short(value: Any) -> str:
    text = str(value)
    return f"SHA-256 {text[:12]}…" if len(text) == 64 and "/" not in text else text


def _check_enough(found: Points) -> None:
    left = ""
    if found.left_out:
        path, why = next(iter(found.left_out.items()))
        left = f" ({len(found.left_out)} left out; {path}: {why})"
    values = {
        "model size": len(np.unique(found.column("parameters"))),
        "number of tokens": len(np.unique(found.column("tokens"))),
    }
    terms = sum(count > 1 for count in values.values())
    # Those of a curve are not independent: runs count, not points, unless a size has only one.
    least = 1 + _PARAMETERS_OF_A_TERM * max(terms, 1) + _MORE_RUNS_THAN_PARAMETERS
    if len(found.runs) < least:
        raise DataError(
            f"{len(found.runs)} usable run{'' if len(found.runs) == 1 else 's'}{left}; expected at least {least} whose "
            "schedule has ended, of 3 or more sizes and lengths, such as from a sweep with [axes] d_model and max_iters"
        )
    if not terms:
        raise DataError("all runs have one size and one number of tokens; expected 3 or more of either")
    for name, count in values.items():
        if 1 < count < _LEAST_VALUES:
            raise DataError(
                f"the runs have {count} values of the {name}{left}; expected {_LEAST_VALUES} or more (the exponent is "
                "unknown from two), or one (then the other is fitted alone)"
            )
