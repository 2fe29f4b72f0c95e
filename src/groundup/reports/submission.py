"""Submission: what a leaderboard asks for about one run, or the seeds of one configuration, as a page and Markdown.

Every figure comes from the runs' own records, or is computed now and says so. What no record has is said to be unknown.
"""

from __future__ import annotations

import base64
import datetime
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundup.account.flops import count_flops
from groundup.config import RunConfig, flatten
from groundup.display.figure import new_figure, picture_bytes
from groundup.display.markdown import capital, fenced, line, table
from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, time_text, value_text
from groundup.errors import DataError, FileMissingError, GroundupError, MissingExtraError
from groundup.record.curve import smooth, thin
from groundup.record.json import read_object
from groundup.record.metrics import finite, read_metrics
from groundup.record.read import Run, find_runs, read_run
from groundup.record.run import RunDirectory
from groundup.reports.curves import COLOURS
from groundup.reports.method import Pairs
from groundup.reports.statistics import Estimate, estimate
from groundup.system.command import command
from groundup.system.files import read_text, write_atomically
from groundup.version import VERSION

UNKNOWN = "unknown"
_SEED = "train.seed"
_OF_ONE_RUN = ("name", "runs_dir", _SEED)
"""Options in which the seeds of one configuration may differ, besides where their metrics are sent."""
_POINTS, _SMOOTHING, _MOST_MARKED = 1000, 0.02, 60


@dataclass(frozen=True)
class Score:
    """Loss of a run's last weights on its whole validation split."""

    loss: float
    bits_per_byte: float | None
    tokens: int | None
    """Scored tokens; None if the run itself made the evaluation, which does not record them."""
    computed: bool
    """Whether it was computed for this page, and not during the run."""


class Submission(NamedTuple):
    """The files of a submission and its results."""

    page: Path
    markdown: Path
    picture: Path
    results: Pairs


def write_submission(paths: Sequence[str | Path], out: Path | None = None, *, title: str = "") -> Submission:
    """Write ``submission.html``, ``submission.md`` and their picture into a folder.

    Args:
        paths: a run, or several that differ in their seed only; or a folder of them.
        out: the folder; by default ``report`` in the only folder of `paths`, or in the working directory.
        title: of the page; by default the name of the run.

    Raises:
        FileMissingError: a run, or its validation data, does not exist.
        DataError: a run is not finished or has no validation loss, or the runs differ in more than the seed.
        MissingExtraError: a package of the extra "report" is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.for_package("jinja2", "report", "a submission") from None
    runs = _runs(paths)
    states = [_state(run) for run in runs]
    _check_same(runs, states)
    scores = [_score(run, state) for run, state in zip(runs, states, strict=True)]
    out = out or (Path(paths[0]) / "report" if len(paths) == 1 and Path(paths[0]).is_dir() else Path("report"))
    results = _results(runs, scores)
    first = runs[0]
    picture = _pictures(runs)
    values = {
        "title": title or (first.name if len(runs) == 1 else f"{first.name} and {len(runs) - 1} more seeds"),
        "version": VERSION,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
        "seeds": _seeds(runs, scores),
        "sections": [
            ("Evaluation", _evaluation(runs, scores)),
            ("Cost", _cost(runs)),
            ("Hardware and software", _software(runs)),
            ("Data", _data(runs, states)),
            ("Options that are not the default", _changed(first)),
        ],
        "commands": _commands(runs),
        "config": read_text(first.path / "config.toml", "surrogateescape").encode("utf-8", "replace").decode(),
        "again": command("report", *map(Path, paths), "--submission", "--out", out),
        "alts": [f"Validation and training loss over {along}." for along in ("wall-clock time", "tokens")],
        "alt": "Validation and training loss over wall-clock time, and over tokens.",
        "image": "images/submission-loss.png",
    }
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"line": line, "table": lambda found: table(found.header, found.rows), "fenced": fenced}
    markdown = environment.from_string(_page_file("submission.md")).render(values)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["capital"] = capital
    page = environment.from_string(_page_file("submission.html")).render(
        values | {"pictures": [base64.b64encode(picture("svg", [name])).decode() for name in ("time", "tokens")]},
        css=jinja2.utils.markupsafe.Markup(_page_file("report.css")),
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    made = Submission(out / "submission.html", out / "submission.md", out / "images" / "submission-loss.png", results)
    write_atomically(made.picture, picture("png", ["time", "tokens"]))
    write_atomically(made.markdown, markdown.rstrip() + "\n")
    write_atomically(made.page, page)
    return made


def _page_file(name: str) -> str:
    return (resources.files("groundup.reports") / "page" / name).read_text(encoding="utf-8")


def _runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs, by seed; all finished."""
    places: dict[str, Path] = {}
    for given in map(Path, paths):
        folder = given if given.exists() else Path("runs") / given
        if not folder.exists():
            RunDirectory.open(given)  # raises, with the runs that exist
        found = list(find_runs(folder, into_sweeps=True))
        if not found:
            raise DataError(f"{folder} holds no run; expected a folder written by `groundup train`")
        places |= {os.path.realpath(place): place for place in found}
    runs = [read_run(place, count_flops=count_flops) for place in places.values()]
    for run in runs:
        if run.status == "broken":
            raise DataError(f"{run.path} cannot be submitted: {run.problem}")
        if run.status != "finished":
            steps = run.figures.get("steps") or 0
            raise DataError(
                f"{run.path} is {run.status} (step {steps:,.0f}); a submission needs a finished run: "
                f"`{command('train', '--resume', run.path)}`"
            )
    return sorted(runs, key=lambda run: run.seed)


def _state(run: Run) -> dict[str, Any]:
    """The state of the latest checkpoint; empty if the run has none that can be read."""
    try:
        return read_object(RunDirectory(run.path).checkpoint("latest") / "state.json")
    except (GroundupError, OSError, ValueError):
        return {}


def _hash(run: Run, state: dict[str, Any], kind: str) -> str | None:
    data = run.environment.get("data")
    if isinstance(data, dict) and isinstance(data.get(kind), str):
        return str(data[kind])
    evaluated = state.get("evaluated_on")
    valid = evaluated[0] if isinstance(evaluated, list) and evaluated else None
    found = {"train": state.get("dataset_sha256"), "valid": valid, "tokenizer": state.get("tokenizer_sha256")}[kind]
    return found if isinstance(found, str) else None


def _check_same(runs: Sequence[Run], states: Sequence[dict[str, Any]]) -> None:
    """Refuse runs that are not the seeds of one configuration.

    Raises:
        DataError: naming the first option, or part of the data, that differs; or the seed that occurs twice.
    """
    first, defaults = runs[0], flatten(RunConfig())
    for run, state in zip(runs[1:], states[1:], strict=True):
        for kind in ("train", "valid", "tokenizer"):
            ours, theirs = _hash(first, states[0], kind), _hash(run, state, kind)
            if ours and theirs and ours != theirs:
                raise DataError(
                    f"{first.path} and {run.path} differ in more than the seed: their {kind} data have the SHA-256 "
                    f"{ours[:12]}… and {theirs[:12]}…; submit the seeds of one configuration"
                )
        for name in sorted({*first.options, *run.options, *defaults}):
            if name in _OF_ONE_RUN or name.startswith("track."):
                continue
            values = [other.options.get(name, defaults.get(name)) for other in (first, run)]
            if values[0] != values[1]:
                raise DataError(
                    f"{first.path} and {run.path} differ in more than the seed: {name} = {value_text(values[0])} and "
                    f"{value_text(values[1])}; submit the seeds of one configuration"
                )
    seeds = [run.seed for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise DataError(f"{seeds.count(seed)} of the runs have the seed {seed}; name one run of each seed")


def _score(run: Run, state: dict[str, Any]) -> Score:
    """The loss on the whole validation split: the run's own, or computed now.

    Raises:
        DataError: the run has no validation split, or the split was changed since.
        FileMissingError: the split or the checkpoint is gone.
    """
    valid = run.options.get("data.valid")
    if not valid:
        raise DataError(f"{run.path} has no validation split (data.valid), so that there is no loss to submit")
    whole = run.options.get("train.eval_windows") == 0
    lines = read_metrics(run.path / "metrics.jsonl").lines
    last = next((found for found in reversed(lines) if finite(found.get("val_loss")) is not None), None)
    if whole and last is not None and last.get("step") == run.summary.get("step"):
        return Score(float(last["val_loss"]), finite(last.get("val_bpb")), None, computed=False)
    if not os.path.exists(str(valid)):
        raise FileMissingError(
            f"data.valid = {str(valid)!r} of {run.path} does not exist, and the run evaluated only "
            f"{run.options.get('train.eval_windows')} windows of it; restore it to compute the loss on the whole split"
        )
    from groundup.data.shards import TokenShards
    from groundup.train.evaluate import evaluate_run

    known = _hash(run, state, "valid")
    if known and TokenShards.open(str(valid)).sha256 != known:
        raise DataError(f"data.valid = {str(valid)!r} is not what {run.path} was evaluated on; restore it")
    found = evaluate_run(run.path, "latest")
    if found.step != run.summary.get("step"):
        raise DataError(
            f"the latest checkpoint of {run.path} is of step {found.step}, but the run ended with step "
            f"{run.summary.get('step')}; restore the last checkpoint"
        )
    return Score(found.loss, found.bits_per_byte, found.tokens, computed=True)


def _over_seeds(values: Iterable[float | None], text: Callable[[float], str], *, measured: bool = False) -> str:
    """A value, or the mean of several with standard deviation and confidence interval; unknown if one is missing.

    Args:
        measured: it depends on the machine, not on the seed: the range stands in place of the interval.
    """
    found = list(values)
    known = [value for value in found if value is not None]
    if not found or len(known) < len(found):
        return UNKNOWN
    if len(known) == 1:
        return text(known[0])
    if len(set(known)) == 1:
        return f"{text(known[0])}, for each of {len(known)} seeds"
    if measured:
        return (
            f"{text(sum(known) / len(known))} mean of {len(known)} seeds, from {text(min(known))} to {text(max(known))}"
        )
    over: Estimate = estimate(known)
    assert over.deviation is not None
    assert over.low is not None
    assert over.high is not None
    return (
        f"{text(over.mean)} mean of {over.size} seeds, standard deviation {text(over.deviation)}, 95 % confidence "
        f"interval {text(over.low)} to {text(over.high)}"
    )


def _exact(value: float) -> str:
    return f"{value:.4f}"


def _seconds(value: float) -> str:
    return f"{time_text(value)} ({value:,.1f} s)"


def _training_seconds(run: Run) -> float | None:
    return finite(run.summary.get("train_seconds"))


def _results(runs: Sequence[Run], scores: Sequence[Score]) -> Pairs:
    return [
        ("validation loss", _over_seeds((score.loss for score in scores), _exact)),
        ("bits per byte", _over_seeds((score.bits_per_byte for score in scores), _exact)),
        ("wall-clock time", _over_seeds((run.figures.get("seconds") for run in runs), _seconds, measured=True)),
        ("tokens", _over_seeds((run.figures.get("tokens") for run in runs), "{:,.0f}".format, measured=True)),
        ("parameters", _over_seeds((runs[0].figures.get("parameters"),), "{:,.0f}".format)),
    ]


def _seeds(runs: Sequence[Run], scores: Sequence[Score]) -> Section | None:
    """A row for each seed; None for a single run."""
    if len(runs) == 1:
        return None
    rows = [
        (
            str(run.seed),
            _exact(score.loss),
            _over_seeds((score.bits_per_byte,), _exact),
            _over_seeds((run.figures.get("steps"),), "{:,.0f}".format),
            _over_seeds((run.figures.get("seconds"),), time_text),
            run.name,
        )
        for run, score in zip(runs, scores, strict=True)
    ]
    return Section("seeds", ("seed", "validation loss", "bits per byte", "steps", "wall-clock time", "run"), rows)


def _evaluation(runs: Sequence[Run], scores: Sequence[Score]) -> Pairs:
    first = runs[0]
    context = first.options.get("model.context_length")
    packed = "one document a window" if first.options.get("data.pack") == "documents" else "one after the other"
    sources = {
        "computed for this page from the last checkpoint" if score.computed else "the run's own last evaluation"
        for score in scores
    }
    tokens = {score.tokens for score in scores}
    rows = [
        ("split", f"the whole validation split, in windows of {context} tokens, {packed}"),
        ("context length", f"{context} tokens"),
        ("source", ", or ".join(sorted(sources))),
        ("scored tokens", "; ".join(UNKNOWN if count is None else f"{count:,}" for count in tokens)),
    ]
    windows = first.options.get("train.eval_windows")
    shown = "the whole split" if windows == 0 else f"{windows} windows of the split, the same every time"
    best = _over_seeds((run.figures.get("best_val_loss") for run in runs), _exact)
    rows.append(("during the run", f"evaluated on {shown}; lowest validation loss {best}"))
    return rows


def _mfu(run: Run) -> float | None:
    """Model FLOP utilization over the whole training time, by the peak that the run's own lines were measured by."""
    before, tokens, seconds, of_one = 0.0, 0.0, 0.0, None
    for found in read_metrics(run.path / "metrics.jsonl").lines:
        share, speed, after = (finite(found.get(name)) for name in ("mfu", "tokens_per_second", "tokens"))
        if speed and after:
            tokens += after - before
            seconds += (after - before) / speed  # the summary's are rounded to a tenth
            before = after
            of_one = share / speed if share else of_one
    return of_one * tokens / seconds if of_one and seconds else None


def _has_mfu(run: Run) -> bool:
    return any(finite(found.get("mfu")) for found in read_metrics(run.path / "metrics.jsonl").lines)


def _cost(runs: Sequence[Run]) -> Pairs:
    first = runs[0]
    minutes = first.options.get("train.minutes")
    rows = [
        ("wall-clock time", _over_seeds((run.figures.get("seconds") for run in runs), _seconds, measured=True)),
        ("training steps only", _over_seeds((_training_seconds(run) for run in runs), _seconds, measured=True)),
        ("steps", _over_seeds((run.figures.get("steps") for run in runs), "{:,.0f}".format, measured=True)),
        ("tokens", _over_seeds((run.figures.get("tokens") for run in runs), "{:,.0f}".format, measured=True)),
        ("FLOPs per token", _over_seeds((first.flops_per_token,), "{:,.0f}".format)),
        ("FLOPs", _over_seeds((run.figures.get("flops") for run in runs), flops_text, measured=True)),
        ("MFU", _over_seeds((_mfu(run) for run in runs), "{:.1%}".format, measured=True)),
        ("parameters", _over_seeds((first.figures.get("parameters"),), "{:,.0f}".format)),
        ("seeds", ", ".join(str(run.seed) for run in runs)),
    ]
    if minutes:
        rows.insert(0, ("time limit", f"{value_text(minutes)} minutes (train.minutes)"))
    rows[1 + bool(minutes)] = (
        "training steps only",
        f"{rows[1 + bool(minutes)][1]}: without evaluations, samples and checkpoints",
    )
    if rows[-3][1] == UNKNOWN and not any(_has_mfu(run) for run in runs):
        rows[-3] = ("MFU", f"{UNKNOWN}: the peak of the device is not known (train.peak_tflops)")
    return rows


def _common(values: Iterable[Any]) -> str:
    found = list(dict.fromkeys(UNKNOWN if value in (None, "") else str(value) for value in values))
    return "; ".join(found)


def _commit(git: Any) -> str:
    if not isinstance(git, dict) or not git.get("commit"):
        return UNKNOWN
    return str(git["commit"]) + (", with uncommitted changes" if git.get("modified") else "")


def _software(runs: Sequence[Run]) -> Pairs:
    environments = [run.environment for run in runs]

    def package(name: str) -> Iterable[Any]:
        for found in environments:
            packages = found.get("packages")
            yield packages.get(name) if isinstance(packages, dict) else None

    def device(found: dict[str, Any]) -> str | None:
        name, ranks = found.get("device_name") or found.get("cpu"), found.get("ranks")
        if not name:
            return None
        if not ranks:
            return f"{name}, number {UNKNOWN}"
        if str(found.get("device", "")).startswith("cuda"):
            return f"{ranks} x {name}"
        return f"{name}, {ranks} process{'es' * (ranks != 1)}"

    on_gpu = any(str(found.get("device", "")).startswith("cuda") for found in environments)
    rows = [("device", _common(map(device, environments)))]
    if on_gpu:
        rows += [
            ("GPU driver", _common(found.get("driver") for found in environments)),
            ("CUDA", _common(found.get("cuda") for found in environments)),
        ]
    return [
        *rows,
        ("CPU", _common(found.get("cpu") or found.get("device_name") for found in environments)),
        ("CPU cores, threads used", _common(
            f"{found['cpu_count']}, {found['threads']}" if {"cpu_count", "threads"} <= found.keys() else None
            for found in environments
        )),
        ("system", _common(found.get("platform") for found in environments)),
        ("PyTorch", _common(package("torch"))),
        ("Python", _common(found.get("python") for found in environments)),
        ("version of groundup", _common(found.get("groundup") for found in environments)),
        ("commit of groundup", _common(_commit(found.get("git")) for found in environments)),
        ("commit of your repository", _common(_commit(found.get("working_git")) for found in environments)),
    ]  # fmt: skip


def _data(runs: Sequence[Run], states: Sequence[dict[str, Any]]) -> Pairs:
    first = runs[0]
    rows = []
    for kind, what in (("train", "training"), ("valid", "validation")):
        rows.append((f"{what} tokens", str(first.options.get(f"data.{kind}") or UNKNOWN)))
        rows.append((f"SHA-256 of the {what} shards", _hash(first, states[0], kind) or UNKNOWN))
    rows.append(("SHA-256 of the tokenizer", _hash(first, states[0], "tokenizer") or UNKNOWN))
    rows.append(("vocabulary", value_text(first.options.get("model.vocab_size", UNKNOWN))))
    tokens, per_step = first.figures.get("tokens"), first.tokens_per_step
    epochs = finite(first.summary.get("epochs"))
    if tokens and math.isfinite(per_step):
        rows.append(("trained on", f"{count_text(tokens)} tokens" + (f", {epochs:g} epochs" if epochs else "")))
    if first.parent:
        rows.append(("began with the weights of", first.parent))
    return rows


def _changed(run: Run) -> Pairs:
    defaults = flatten(RunConfig())
    return [
        (name, f"{value_text(value) or '(empty)'} (default {value_text(defaults[name]) or '(empty)'})")
        for name, value in run.options.items()
        if name in defaults and name not in _OF_ONE_RUN and value != defaults[name]
    ]


def _commands(runs: Sequence[Run]) -> list[str]:
    """The command of every session, as it was recorded."""
    found: list[str] = []
    for run in runs:
        told = run.environment.get("commands")
        lines = [str(command) for command in told] if isinstance(told, list) else []
        found += lines or [f"# {UNKNOWN}: {run.name} has no record of its command"]
    return found


def _pictures(runs: Sequence[Run]) -> Callable[[str, Sequence[str]], bytes]:
    """Loss over wall-clock time and over tokens, drawn side by side as a file of a kind."""
    times, counts = ("time", "tokens")
    most = dict.fromkeys((times, counts), 0.0)
    drawn: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = []
    after_start: list[float] = []
    lowest = math.inf
    for place, run in enumerate(runs):
        for measure in ("train_loss", "val_loss"):
            if measure not in run.curves:
                continue
            curve = run.curves[measure]
            if measure == "train_loss":
                curve = curve._replace(values=smooth(curve.values, _SMOOTHING))
            style: dict[str, Any] = {"alpha": 0.35, "lw": 0.9} if measure == "train_loss" else {"lw": 1.6}
            if measure == "val_loss" and len(curve.steps) <= _MOST_MARKED:
                style["marker"] = "."
            curve = thin(curve, _POINTS)
            style["color"] = COLOURS[place % len(COLOURS)]
            kind = "validation" if measure == "val_loss" else "training, smoothed"
            along = {times: curve.seconds, counts: curve.steps * run.tokens_per_step}
            drawn.append((kind + (f", seed {run.seed}" if len(runs) > 1 else ""), style, along, curve.values))
            most = {name: max(most[name], float(values[-1])) for name, values in along.items()}
            lowest = min(lowest, float(np.min(curve.values)))
            later = curve.values[curve.steps > 0]
            if len(later):
                after_start.append(float(later[0] if measure == "val_loss" else np.quantile(later, 0.95)))
    units = {
        times: _unit(most[times], (("seconds", 1), ("minutes", 60), ("hours", 3600))),
        counts: _unit(most[counts], (("", 1), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9))),
    }
    labels = {
        times: f"wall-clock time ({units[times][0]})",
        counts: f"tokens ({units[counts][0]})" if units[counts][0] else "tokens",
    }

    def picture(kind: str, names: Sequence[str]) -> bytes:
        from matplotlib import rc_context
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(4.6 * len(names), 3.6, "a submission")
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            for label, style, along, values in drawn:
                ax.plot(along[name] / units[name][1], values, label=label, **style)
            ax.set_xlabel(labels[name])
            ax.grid(alpha=0.25)
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(6))
        if after_start and lowest < (top := max(after_start)):
            axes[0].set_ylim(lowest - 0.05 * (top - lowest), top + 0.05 * (top - lowest))
        axes[0].set_ylabel("loss (nats per token)")
        if len(runs) <= len(COLOURS) and drawn:
            axes[-1].legend(fontsize=8, frameon=False, loc="upper right")
        with rc_context({"svg.hashsalt": "submission"}):
            return picture_bytes(figure, kind, **({"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}))

    return picture


def _unit(most: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The largest unit of which there are at least three."""
    return next(((name, size) for name, size in reversed(units) if most >= 3 * size), units[0])
