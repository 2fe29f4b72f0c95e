"""The published study, from text to report: tokenizers, token shards, sweeps, and the report on all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.rule import Rule
from rich.text import Text

from groundup.config import END_OF_TEXT
from groundup.config.recipe import suggestion
from groundup.data.encode import encode_with_summary
from groundup.display.progress import progress_bar
from groundup.errors import ConfigError
from groundup.record.sweep import SweepDirectory
from groundup.reports.content import Preface
from groundup.reports.finding import finding
from groundup.reports.report import check_packages, write_report
from groundup.reports.tokenizers import read_tokenizer_report
from groundup.studies import published_study
from groundup.studies.published_study import LIMITS, TextSource, find_texts, possible_plans
from groundup.studies.tokenizer_report.corpus import Corpus
from groundup.studies.tokenizer_report.folder import PLOT_FILE, make_report
from groundup.studies.tokenizer_report.tables import print_report
from groundup.sweeps.executors.pool import Pool, visible_gpus
from groundup.sweeps.plan import load_plan
from groundup.sweeps.sweep import SweepResult, run_sweep
from groundup.sweeps.terminal import TerminalWatch
from groundup.system.command import command
from groundup.system.threads import available_cores
from groundup.text.stories import write_stories
from groundup.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.console import Console

_TOKENIZERS = "tokenizers"
_STORIES_BYTES = {"train": 8_000_000, "valid": 500_000}


def reproduce_study(
    console: Console,
    *,
    budget: str = "minutes",
    data: Path | None = None,
    directory: Path | None = None,
    out: Path | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
) -> int:
    """Run the published study and report on it; an interrupted study resumes.

    Args:
        budget: minutes, laptop or paper.
        data: folder of texts, as `find_texts` takes it; None for built-in stories alone.
        directory: folder of the study; None for runs/study-BUDGET.
        out: folder for the report; None for report/ in the study's folder.
        workers: trials at once; None for one for each GPU, or else each core.
        only: names of plans to run; none for all.

    Returns:
        0, 1 if a trial has crashed for good, or 128 + the signal that stopped the study.

    Raises:
        ConfigError: an option is impossible, or the folder holds a study with other texts or at another budget.
        MissingExtraError: a package that the report needs is not installed.
    """
    plans_of_study = published_study.PLANS
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}; expected at least 1")
    for name in only:
        if name not in plans_of_study:
            raise ConfigError(f"--only {name} is not a plan of the study{suggestion(name, plans_of_study)}")
    check_packages()
    place = directory or Path("runs") / f"study-{budget}"
    texts = _texts(place, data)
    plans, left_out = possible_plans(budget, [text.name for text in texts])
    for name in only:
        if name in left_out:
            raise ConfigError(f"--only {name} cannot be run: it {left_out[name]}")
    if only:
        plans = [name for name in plans if name in only]
    _check_budget([place_of(place, name) for name in plans_of_study], budget)
    _heading(console, "text to tokens")
    _train_tokenizers(console, texts, place, budget)
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
    """Directory of a plan's sweep."""
    return place / plan


def _sweep(console: Console, name: str, place: Path, budget: str, workers: int | None) -> SweepResult:
    """Run a plan of the study, or resume it."""
    plan, directory = load_plan(name, budget, data=place.resolve() / "data"), place_of(place, name)
    gpus = visible_gpus()
    executor = Pool(workers or len(gpus) or available_cores(), directory / ".workers", gpus=gpus)
    with progress_bar(console) as progress:
        return run_sweep(plan, executor, directory=directory, watch=TerminalWatch(console, plan, progress))


def _write_report(console: Console, place: Path, out: Path, budget: str, data: Path | None) -> None:
    """Report on everything in the study's folder, also from earlier calls with other --only."""
    _heading(console, "the report")
    preface = Preface(
        f"The published study on a small language model, at the budget “{budget}”: what its learning rate, batch size, "
        "parts and text are worth. Written by groundup from the runs themselves.",
        LIMITS[budget],
        _command(budget, data),
    )
    places = [place_of(place, name) for name in published_study.PLANS]
    swept = [sweep for sweep in places if (sweep / "sweep.json").is_file()]
    written = write_report([*swept, place / _TOKENIZERS], out, title=f"The study, {budget}", preface=preface)
    for study in written.studies:
        console.print(Text(f"{study.name}: {finding(study)}"))
    console.print(Text(f"{written.page} and {written.markdown}"))


def _check_budget(sweeps: list[Path], budget: str) -> None:
    """Refuse a directory of another budget, which has other tokenizers."""
    for place in sweeps:
        document = SweepDirectory(place).document()
        before = document.budget if document else None
        if before not in (None, budget):
            raise ConfigError(
                f"{place.parent} holds the study at the budget {before!r}; choose another --directory for {budget!r}"
            )


def _texts(place: Path, data: Path | None) -> list[TextSource]:
    """The given texts, or built-in stories."""
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
    """Encode both splits of a text with its own tokenizer; finished shards stay."""
    tokenizer = Tokenizer.load(place / _TOKENIZERS / "tokenizers" / text.name)
    for split, path in (("train", text.train), ("valid", text.valid)):
        with progress_bar(console) as progress:
            encode_with_summary([path], tokenizer, place / "data" / text.name / split, progress=progress)


def _train_tokenizers(console: Console, texts: list[TextSource], place: Path, budget: str) -> None:
    """Train a tokenizer on each text, and measure it on all texts."""
    folder = place / _TOKENIZERS
    known = read_tokenizer_report(folder)
    if known is not None and (folder / PLOT_FILE).exists():  # the picture is written last
        before, now = sorted(corpus["name"] for corpus in known["corpora"]), sorted(text.name for text in texts)
        if before != now:
            raise ConfigError(
                f"{place} was begun with other texts ({', '.join(before)}, now {', '.join(now)}); give it the same "
                "--data, or choose another --directory"
            )
        return
    sizes = published_study.BUDGETS[budget]
    corpora = [
        Corpus(name=text.name, inputs=[str(text.train)], held_out=[str(text.valid)], vocab_size=sizes[text.name])
        for text in texts
    ]
    with progress_bar(console) as progress:
        found = make_report(corpora, folder, overwrite=True, progress=progress)
    print_report(console, found, folder)


def _command(budget: str, data: Path | None) -> str:
    given: list[str | Path] = ["--data", data] if data else []
    return command("reproduce", "--budget", budget, *given)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{text}", align="left"))
