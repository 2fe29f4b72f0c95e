"""`groundup reproduce`: the published study, from text to report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.rule import Rule
from rich.text import Text

from groundup.cli.parse import call
from groundup.config import END_OF_TEXT
from groundup.system.command import command
from groundup.system.threads import available_cores

if TYPE_CHECKING:
    from rich.console import Console

    from groundup.studies.published_study import TextSource
    from groundup.sweeps.sweep import SweepResult

_TOKENIZERS = "tokenizers"
_STORIES_BYTES = {"train": 8_000_000, "valid": 500_000}


def reproduce(arguments: list[str]) -> int:
    """Parse and run; returns 0, 1 if a cell has crashed for good, or 128 + the signal that stopped it."""
    return call(_reproduce, arguments, "reproduce")


def _reproduce(
    *,
    budget: Literal["minutes", "laptop", "paper"] = "minutes",
    data: Path | None = None,
    directory: Path | None = None,
    out: Path | None = None,
    workers: int | None = None,
    only: tuple[str, ...] = (),
) -> int:
    """Run the published study: learning rate, batch size, ablations, two texts, the ladder of speed; then report on it.
    Interrupted, the same command goes on where it stopped.

    groundup reproduce --budget minutes --data texts

    Args:
        budget: minutes, on two CPU cores; laptop, hours; paper, the original size, for a GPU.
        data: a folder with stories/ (or tinystories/) and web/ (or webtext/), each with train and valid as .txt, .jsonl
            or .parquet, also .zst and .gz. Without it the stories are groundup's own, and what needs web text is left
            out.
        directory: of the study; runs/study-BUDGET by default.
        out: folder for the report; report/ in the study's directory by default.
        workers: runs at once; the cores of the CPU, or the GPUs, by default.
        only: names of plans, to run no others.
    """
    from groundup.config.recipe import suggestion
    from groundup.display.console import make_console
    from groundup.errors import ConfigError
    from groundup.reports.report import check_packages
    from groundup.studies.published_study import PLANS, possible_plans

    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}; expected at least 1")
    for name in only:
        if name not in PLANS:
            raise ConfigError(f"--only {name} is no plan of the study{suggestion(name, PLANS)}")
    check_packages()
    console = make_console()
    place = directory or Path("runs") / f"study-{budget}"
    texts = _texts(place, data)
    plans, left_out = possible_plans(budget, [text.name for text in texts])
    for name in only:
        if name in left_out:
            raise ConfigError(f"--only {name} cannot be run: it {left_out[name]}")
    if only:
        plans = [name for name in plans if name in only]
    _check_budget([place_of(place, name) for name in PLANS], budget)
    _heading(console, "text to tokens")
    _learn_tokenizers(texts, place, budget)
    for text in texts:
        _encode(console, text, place)
    for name, why in left_out.items():
        console.print(Text(f"left out: {name} {why}"))
    crashed = False
    for name in plans:
        _heading(console, name)
        result = _sweep(console, name, place, budget, workers)
        if result.signal:
            console.print(Text(f"stopped; the same command goes on with {place}"))
            return 128 + result.signal
        crashed |= any(found.status == "crashed" for found in result.results.values())
    _write_report(console, place, out or place / "report", budget, data)
    return 1 if crashed else 0


def place_of(place: Path, plan: str) -> Path:
    """Where the sweep of a plan lies."""
    return place / plan


def _sweep(console: Console, name: str, place: Path, budget: str, workers: int | None) -> SweepResult:
    """One plan of the study, or what is left of it."""
    from groundup.display.progress import progress_bar
    from groundup.sweeps.executors.pool import Pool, visible_gpus
    from groundup.sweeps.plan import load_plan
    from groundup.sweeps.sweep import run_sweep
    from groundup.sweeps.terminal import TerminalWatch

    plan, directory, gpus = (
        load_plan(name, budget, data=place.resolve() / "data"),
        place_of(place, name),
        visible_gpus(),
    )
    executor = Pool(workers or len(gpus) or available_cores(), directory / ".workers", gpus=gpus)
    with progress_bar(console) as update:
        return run_sweep(plan, executor, directory=directory, watch=TerminalWatch(console, plan, update))


def _write_report(console: Console, place: Path, out: Path, budget: str, data: Path | None) -> None:
    """On all that was run here, also before, with --only."""
    from groundup.reports.content import Preface
    from groundup.reports.finding import finding
    from groundup.reports.report import write_report
    from groundup.studies.published_study import LIMITS, PLANS

    _heading(console, "the report")
    preface = Preface(
        f"The published study on a small language model, at the budget “{budget}”: what its learning rate, batch size, "
        "parts and text are worth. Written by groundup from the runs themselves.",
        LIMITS[budget],
        _command(budget, data),
    )
    swept = [place_of(place, name) for name in PLANS if (place_of(place, name) / "sweep.json").is_file()]
    written = write_report([*swept, place / _TOKENIZERS], out, title=f"The study, {budget}", preface=preface)
    for study in written.studies:
        console.print(Text(f"{study.name}: {finding(study)}"))
    console.print(Text(f"{written.page} and {written.markdown}"))


def _check_budget(sweeps: list[Path], budget: str) -> None:
    """A study's directory is of one budget, as its tokenizers are."""
    from groundup.errors import ConfigError
    from groundup.record.sweep import SweepDirectory

    for place in sweeps:
        document = SweepDirectory(place).document()
        before = document.budget if document else None
        if before not in (None, budget):
            raise ConfigError(
                f"{place.parent} holds the study at the budget {before!r}; choose another --directory for {budget!r}"
            )


def _texts(place: Path, data: Path | None) -> list[TextSource]:
    """The texts that were given, or stories of groundup's own."""
    from groundup.studies.published_study import TextSource, find_texts
    from groundup.text.stories import write_stories

    if data is not None:
        return find_texts(data)
    folder = place / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, size) in enumerate(_STORIES_BYTES.items()):
        path = folder / f"{split}.txt"
        if not path.exists():
            write_stories(path, size, seed=seed, separator=END_OF_TEXT)
    return [TextSource("stories", folder / "train.txt", folder / "valid.txt")]


def _encode(console: Console, text: TextSource, place: Path) -> None:
    """Both splits of a text as shards, by the tokenizer that was learned from it; what is there already stays."""
    from groundup.cli.encode import encode_with_progress
    from groundup.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(place / _TOKENIZERS / "tokenizers" / text.name)
    for split, path in (("train", text.train), ("valid", text.valid)):
        encode_with_progress(console, [path], tokenizer, place / "data" / text.name / split)


def _learn_tokenizers(texts: list[TextSource], place: Path, budget: str) -> None:
    """The experiments on tokenizers, which learn one from each text and measure it on all."""
    from groundup.cli.tokenizer_report import report
    from groundup.errors import ConfigError
    from groundup.reports.tokenizers import read_tokenizer_report
    from groundup.studies.published_study import BUDGETS
    from groundup.studies.tokenizer_report.folder import PLOT_FILE

    folder = place / _TOKENIZERS
    known = read_tokenizer_report(folder)
    if known is not None and (folder / PLOT_FILE).exists():  # what is written last
        before, now = sorted(corpus["name"] for corpus in known["corpora"]), sorted(text.name for text in texts)
        if before != now:
            raise ConfigError(
                f"{place} was begun with other texts ({', '.join(before)}, now {', '.join(now)}); give it the same "
                "--data, or choose another --directory"
            )
        return
    arguments = [f"{text.name}={text.train}" for text in texts]
    for text in texts:
        arguments += ["--held-out", f"{text.name}={text.valid}"]
        arguments += ["--vocab-size", f"{text.name}={BUDGETS[budget][text.name]}"]
    report([*arguments, "--out", str(folder), "--overwrite"])


def _command(budget: str, data: Path | None) -> str:
    given: list[str | Path] = ["--data", data] if data else []
    return command("reproduce", "--budget", budget, *given)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{text}", align="left"))
