"""Tasks of lm-evaluation-harness: found by name, run on models, and their results as rows."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.display.console import print_section
from groundup.display.progress import Progress, Silent
from groundup.errors import ConfigError, DataError, FileMissingError, GroundupError, MissingExtraError
from groundup.evaluation.compare import naming
from groundup.generation.weights import Weights
from groundup.language_model import check_source, load
from groundup.system.threads import wait_by_load

if TYPE_CHECKING:
    from rich.console import Console

_SEED = 1234
"""Seed of few-shot examples and of what a task draws, as lm-eval has it."""
_BOOTSTRAP = 1000
"""Samples for the standard error of metrics that are no mean."""
_NETWORK = (
    "ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "DatasetNotFoundError", "HfHubHTTPError",
    "ConnectError", "ConnectTimeout", "ReadTimeout", "MaxRetryError", "HTTPError",
)  # fmt: skip


@dataclass(frozen=True)
class TaskResult:
    """A metric of a task."""

    model: str
    task: str
    version: str
    filter: str
    shots: int | None
    """Number of solved examples before each question."""
    metric: str
    value: float
    stderr: float | None
    samples: int | None
    """Number of questions; None for a group of tasks."""
    higher_is_better: bool | None


def check_installed() -> None:
    """Refuse to go on without lm-eval.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise MissingExtraError.for_package("lm_eval", "eval", "--tasks")


def evaluate_tasks(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    folder: str | Path = "",
    num_fewshot: int | None = None,
    limit: float | None = None,
    chat: bool = False,
    add_bos_token: bool = False,
    checkpoint: str = "best",
    weights: Weights = "float32",
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[list[TaskResult]]:
    """Run tasks of lm-eval on models, one model after the other; yields the rows of each.

    Args:
        models: runs, or whatever :func:`groundup.load` takes.
        tasks: names of tasks, groups or tags of lm-eval, or of the folder; or YAML files.
        folder: a folder with tasks; Python code that they name is run.
        num_fewshot: solved examples before each question, where a task does not fix them at 0.
        limit: questions of each task: their number, or a share below 1.
        chat: render each question by the model's chat template.
        add_bos_token: put the token that begins a text before each context.

    Raises:
        MissingExtraError: lm-eval is not installed.
        ConfigError: no such task, or an option that a task cannot have.
        DataError: a data set cannot be fetched, or a task has a fault.
    """
    check_installed()
    if not tasks:
        raise ConfigError("--tasks names no task; expected one such as arc_easy, or several with commas")
    if num_fewshot is not None and num_fewshot < 0:
        raise ConfigError(f"--num-fewshot {num_fewshot}; expected 0 or greater")
    for name in models:
        check_source(name, checkpoint)
    show = progress or Silent()
    show("loading lm-eval", 0, None)
    with wait_by_load(), _quiet() as errors:
        manager = _manager(tasks, folder, show)
        for name in models:
            show(f"loading {name}", 0, None)
            model = load(name, checkpoint=checkpoint, device=device, weights=weights)
            from groundup.evaluation.harness import HarnessModel

            asked = HarnessModel(model, add_bos_token=add_bos_token, progress=show)
            with contextlib.closing(asked), naming(name):
                results = _run(manager, asked, tasks, num_fewshot, limit, errors, chat=chat, progress=show)
            if asked.cut:
                show.note(
                    f"{name}: questions longer than the model's context of {asked.max_length} tokens, of which the end "
                    f"was taken: {asked.cut:,}"
                )
            yield _rows(name, results)


def _run(
    manager: Any, asked: Any, tasks: Sequence[str], num_fewshot: int | None, limit: float | None,
    errors: Sequence[str], *, chat: bool, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    from lm_eval.evaluator import evaluate

    random.seed(_SEED)
    np.random.seed(_SEED)
    what = "a task"
    try:
        loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in tasks:
            what = f"the task {name}"
            progress(f"data of {name}", 0, None)
            for part, found in manager.load([name]).items():
                loaded[part] |= found
        for name, task in loaded["tasks"].items():
            what = f"the task {name}"
            given = task.get_config("num_fewshot")
            if num_fewshot is not None and given != 0:
                task.set_config(key="num_fewshot", value=num_fewshot)
            elif given is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_SEED)
        what = "a task" if len(loaded["tasks"]) > 1 else what
        progress("building requests", 0, None)
        with contextlib.redirect_stdout(io.StringIO()):  # lm-eval prints that it draws samples
            results: dict[str, Any] = evaluate(
                lm=asked, task_dict=loaded, limit=limit, log_samples=False, bootstrap_iters=_BOOTSTRAP,
                apply_chat_template=chat, fewshot_as_multiturn=chat,
            )  # fmt: skip
    except (GroundupError, MemoryError):
        raise
    except Exception as error:  # whatever lm-eval, datasets or a task's code raises
        raise _refusal(what, error, errors) from None
    return results


def _refusal(what: str, error: Exception, errors: Sequence[str]) -> GroundupError:
    """The error for one of another program's, with what it logged before."""
    said = f"{type(error).__name__}: {_first_line(error)}" + (f" ({errors[-1][:300]})" if errors else "")
    names = {kind.__name__ for one in _causes(error) for kind in type(one).__mro__}
    if names & set(_NETWORK):
        return DataError(
            f"the data set of {what} could not be fetched: {said}; connect to the network once, after which it lies in "
            f"Hugging Face's cache, or name local files in the task"
        )
    return DataError(f"{what} cannot be run: {said}; mend the task, or choose another")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:300]


def _manager(tasks: Sequence[str], folder: str | Path, progress: Progress) -> Any:
    """lm-eval's task manager, which knows all the names.

    Raises:
        FileMissingError: no such folder.
        ConfigError: one of the names is unknown; the nearest are listed.
        DataError: a file of the folder cannot be read.
    """
    from lm_eval.tasks import TaskManager

    if folder and not Path(folder).is_dir():
        raise FileMissingError(f"no folder {folder}; expected one with YAML files of tasks")
    own = None
    if folder:
        try:
            own = TaskManager(include_path=str(folder), include_defaults=False)
        except Exception as error:  # of YAML, or of lm-eval
            raise DataError(f"the tasks in {folder} cannot be read: {_first_line(error)}; mend the file") from None
        broken = [Path(folder, f"{name}.yaml") for name in tasks if name not in own.all_tasks]
        if broken := [path for path in broken if path.is_file()]:
            raise DataError(
                f"{broken[0]} is not read as a task; expected its name in `task`, and files that `include` finds"
            )
    files = [name for name in tasks if name.endswith((".yaml", ".yml"))]
    if missing := [name for name in files if not Path(name).is_file()]:
        raise FileMissingError(f"no file {missing[0]}; expected a YAML file of a task, or the name of one")
    if own is not None and all(name in own.all_tasks or name in files for name in tasks):
        return own
    if own is None and len(files) == len(tasks):
        return TaskManager(include_defaults=False)
    progress("reading lm-eval's list of tasks", 0, None)  # thousands of files
    manager = TaskManager(include_path=str(folder) if folder else None)
    for name in tasks:
        if name not in manager.all_tasks and name not in files:
            near = difflib.get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
            first = own.all_tasks[:5] if own is not None else []
            hint = f"; did you mean {', '.join(near)}?" if near else "; `lm-eval ls tasks` lists them"
            in_folder = f"; {folder} has {', '.join(first)}" if first else f"; {folder} has none" if folder else ""
            raise ConfigError(f"no task {name!r}{hint}{in_folder}")
    return manager


class _Heard(logging.Handler):
    """Errors that other programs log; some say there what is wrong, and raise a KeyError."""

    def __init__(self, level: int):
        super().__init__(level)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Silence of lm-eval, datasets and their bars; yields the errors that they log."""
    import datasets
    import lm_eval.api.task

    bar, showed_bars = lm_eval.api.task.tqdm, not datasets.are_progress_bars_disabled()
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    datasets.disable_progress_bars()
    heard = _Heard(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub", "evaluate")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [heard], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard.errors
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        lm_eval.api.task.tqdm = bar
        if showed_bars:
            datasets.enable_progress_bars()


def _rows(model: str, results: dict[str, Any]) -> list[TaskResult]:
    """The metrics of each task and group, in lm-eval's order."""
    rows = []
    for task, values in results["results"].items():
        shots = results.get("n-shot", {}).get(task)
        samples = results.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            better = (results.get("higher_is_better", {}).get(task) or {}).get(metric)
            rows.append(TaskResult(
                model, task, str(results.get("versions", {}).get(task, "")), filter_name,
                shots if isinstance(shots, int) else None, metric, float(value),
                float(stderr) if isinstance(stderr, int | float) else None, samples, better,
            ))  # fmt: skip
    return rows


def print_tasks(console: Console, found: Sequence[Sequence[TaskResult]]) -> None:
    """A row for each metric, and a column for each model."""
    values = {(row.task, row.filter, row.metric, row.model): row for rows in found for row in rows}
    models = list(dict.fromkeys(row.model for rows in found for row in rows))
    keys = dict.fromkeys((row.task, row.filter, row.metric) for rows in found for row in rows)
    table = []
    for task, filter_name, metric in keys:
        row = next(row for row in values.values() if (row.task, row.filter, row.metric) == (task, filter_name, metric))
        arrow = {True: " ↑", False: " ↓", None: ""}[row.higher_is_better]
        named = metric if filter_name == "none" else f"{metric}, {filter_name}"
        cells = [_cell(values.get((task, filter_name, metric, model))) for model in models]
        table.append([task, "" if row.shots is None else str(row.shots), named + arrow, *cells])
    print_section(console, "tasks", ["task", "shots", "metric", *models], table, "± standard error; ↑ higher is better")


def _cell(row: TaskResult | None) -> str:
    if row is None:
        return ""
    return f"{row.value:.4f}" + (f" ± {row.stderr:.4f}" if row.stderr is not None else "")
