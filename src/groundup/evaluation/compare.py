"""Loss, perplexity and bits per byte of models side by side, on token shards or on text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import END_OF_TEXT
from groundup.config.names import check_together
from groundup.display.console import print_pairs, print_section
from groundup.display.progress import Progress, Silent
from groundup.display.units import parse_size, size_text
from groundup.errors import ConfigError, DataError, TokenizerError, TrainingError
from groundup.generation.scoring import score_text
from groundup.generation.weights import Weights
from groundup.language_model import check_source, is_foreign, load
from groundup.record.run import RunDirectory
from groundup.system.threads import wait_by_load
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader
from groundup.train.evaluate import Evaluation, Pack, evaluate_run, evaluate_shards

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Evaluated:
    """A model and how it scored."""

    model: str
    weights: Weights
    found: Evaluation
    on: str
    """What was scored: the folder of shards, or the files of text."""
    plain: Evaluation | None = None
    """The same model in float32, if its weights were rounded."""

    @property
    def difference(self) -> dict[str, float | None]:
        """What rounding costs: nats per token, percent of perplexity, bits per byte."""
        assert self.plain is not None
        nats = self.found.loss - self.plain.loss
        bits = [evaluation.bits_per_byte for evaluation in (self.found, self.plain)]
        return {
            "nats": nats,
            "perplexity_percent": 100 * math.expm1(min(nats, 700)),
            "bits_per_byte": None if bits[0] is None or bits[1] is None else bits[0] - bits[1],
        }

    def values(self) -> dict[str, Any]:
        """All of it, for JSON."""
        values = {"model": self.model, "on": self.on, "weights": self.weights, **_values(self.found)}
        if self.plain is not None:
            values |= {"float32": _values(self.plain), "difference": self.difference}
        return values


def _values(found: Evaluation) -> dict[str, Any]:
    return {
        "step": found.step, "loss": found.loss, "perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens, "bytes": found.bytes,
    }  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What `groundup evaluate` is asked for."""

    text: TextReader | None
    tasks: tuple[str, ...]
    bytes: int
    """Of text, after which to stop; 0 reads all."""
    questions: float | None
    """Of each task: their number, or a share below 1; None for all."""


def checked_options(
    models: Sequence[str], *, split: str, data: str, text: str, separator: str, read: ReadOptions, tasks: str,
    tasks_folder: str, num_fewshot: int | None, chat: bool, add_bos_token: bool, limit: str,
) -> Options:  # fmt: skip
    """Options that fit together, and the files of text, opened.

    Raises:
        ConfigError: options that do not apply, or exclude each other.
        FileMissingError, DataError, MissingExtraError: as for :class:`groundup.text.readers.TextReader`.
    """
    if not models or not all(models):
        raise ConfigError("no model is named; expected a run, or a folder or file of a model")
    named = [
        f"--{option.name.replace('_', '-')}" for option in fields(read)
        if getattr(read, option.name) != getattr(ReadOptions(), option.name)
    ]  # fmt: skip
    of_tasks = {
        "--tasks-folder": bool(tasks_folder), "--num-fewshot": num_fewshot is not None, "--chat": chat,
        "--add-bos-token": add_bos_token,
    }  # fmt: skip
    of_text = {"--separator": separator != END_OF_TEXT} | dict.fromkeys(named, True)
    sources = {"--data": bool(data), "--text": bool(text), "--tasks": bool(tasks)}
    check_together(
        sources | of_tasks | of_text | {"--split": split != "valid"},
        needs=dict.fromkeys(of_tasks, "--tasks") | dict.fromkeys(of_text, "--text"),
        excludes={"--tasks": ("--data", "--text", "--split"), "--text": ("--data", "--split"), "--data": ("--split",)},
    )
    if limit and not (text or tasks):
        raise ConfigError(f"--limit {limit} applies to --text and --tasks; give one of them, or leave it out")
    return Options(
        text=_text_reader(text, separator, read) if text else None,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        bytes=_bytes(limit) if limit and text else 0,
        questions=_questions(limit) if limit and tasks else None,
    )


def _text_reader(files: str, separator: str, read: ReadOptions) -> TextReader:
    """The files of a list with commas; a file whose name has commas is one file."""
    names = [files] if Path(files).exists() else [name for name in files.split(",") if name]
    return TextReader([Path(name) for name in names], separator=separator, read=read)


def _bytes(limit: str) -> int:
    found = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 19 else parse_size(limit)
    if found < 1:
        raise ConfigError(f"--limit {limit}; expected at least 1 byte")
    return found


def _questions(limit: str) -> float:
    try:
        found = float(limit)
    except ValueError:
        found = math.nan
    if not 0 < found < 1e18 or (found >= 1 and found != int(found)):
        raise ConfigError(f"--limit {limit}; of --tasks expected a whole number of questions, or a share below 1")
    return found if found < 1 else int(found)


def evaluate_models(
    models: Sequence[str],
    *,
    checkpoint: str = "best",
    split: str = "valid",
    data: str = "",
    text: TextReader | None = None,
    limit: int = 0,
    weights: Weights = "float32",
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[Evaluated]:
    """Score models, one after the other, on all of a split, on other shards, or on text.

    Args:
        models: runs, or whatever :func:`groundup.load` takes.
        split: of each run's data.
        data: token shards to evaluate on instead; they must come from the model's tokenizer.
        text: documents to evaluate on instead (:func:`groundup.generation.scoring.score_text`).
        limit: bytes of text after which to stop; 0 reads all.
        weights: round the weights; each model is then scored in float32 too.

    Raises:
        GroundupError: a model cannot be loaded, or what it is scored on cannot be read.
        TrainingError: a loss is not finite.
    """
    if text is not None and not text.is_repeatable and (len(models) > 1 or weights != "float32"):
        raise ConfigError("a stream can be read once, and here it would be read again; write it to a file")
    kinds: list[Weights] = ["float32", weights] if weights != "float32" else ["float32"]
    show = progress or Silent()
    if text is not None:
        text.say_left_out(show.note)
    for number, model in enumerate(models):  # a wrong name is found before hours of work
        if number:  # the first is loaded at once
            check_source(model, checkpoint)
        if text is None and not data and is_foreign(model):
            raise DataError(f"{model} is not a run, so it names no data; give --text FILE, or --data FOLDER")
    pack = _pack_of_all(models, show) if data and text is None else None
    with wait_by_load():
        for model in models:
            found = []
            for kind in kinds:
                show(f"{model} in {kind}" if len(kinds) > 1 else model, 0, None)
                with naming(model):
                    if text is not None:
                        found.append(_on_text(model, text, limit, show, checkpoint, kind, device))
                    elif is_foreign(model):
                        loaded = load(model, device=device, weights=kind)
                        found.append(
                            evaluate_shards(loaded.model, loaded.tokenizer, data, model, pack=pack or "stream")
                        )
                    else:
                        found.append(
                            evaluate_run(model, checkpoint, split, data=data, pack=pack, device=device, weights=kind)
                        )
                    if not math.isfinite(found[-1].loss):
                        raise TrainingError(
                            "the loss is not finite: the weights have diverged; use an earlier checkpoint"
                        )
            if text is not None and model == models[0]:
                text.say_how_read(show.note)
            yield Evaluated(model, weights, found[-1], _named(text, data, split), found[0] if len(found) > 1 else None)


def _named(text: TextReader | None, data: str, split: str) -> str:
    if text is None:
        return data or f"the {split} split of its data"
    return ", ".join(map(str, text.files[:3])) + (", …" if len(text.files) > 3 else "")


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Name the model in errors that its computation raises, which know no name."""
    try:
        yield
    except (TrainingError, TokenizerError) as error:
        raise type(error)(str(error) if model in str(error) else f"{model}: {error}") from None


def _on_text(
    name: str, reader: TextReader, limit: int, progress: Progress, checkpoint: str, weights: Weights, device: str
) -> Evaluation:
    model = load(name, checkpoint=checkpoint, device=device, weights=weights)
    found = score_text(
        model.model, model.tokenizer, reader, begin_token=model.sample.begin_token, limit=limit, progress=progress
    )
    if found.not_scored:
        progress.note(
            f"{name}: the tokenizer has no token that begins a document; the first token of each of "
            f"{found.documents:,} documents is not scored ({size_text(found.not_scored)})"
        )
    return Evaluation(found.loss, found.tokens, found.bytes, model.step)


def _pack_of_all(models: Sequence[str], progress: Progress) -> Pack:
    """The windows that all models are scored in, so that they predict the same tokens.

    If one was trained on windows of one document each, these: it has seen no text that goes on in the next document.
    """
    runs = [model for model in models if not is_foreign(model)]
    packed = [model for model in runs if RunDirectory.open(model).config.data.pack == "documents"]
    if packed and len(packed) < len(models):
        progress.note(
            f"all models are scored in windows of one document each, as {packed[0]} was trained "
            f'(data.pack = "documents"); of each document all tokens but the first'
        )
    return "documents" if packed else "stream"


def print_evaluated(console: Console, found: Sequence[Evaluated]) -> None:
    """One model in two columns; several, or one with rounded weights, as a table."""
    if len(found) == 1 and found[0].plain is None:
        one = found[0].found
        bits = one.bits_per_byte
        rows = {} if one.step is None else {"checkpoint": f"step {one.step:,}"}
        print_pairs(console, rows | {
            "loss": f"{one.loss:.4f} nats per token",
            "perplexity": f"{one.perplexity:,.3f}",
            "bits per byte": f"{bits:.4f}" if bits is not None else "unknown: the data has no byte counts",
            "scored": f"{one.tokens:,} tokens" + (f" = {one.bytes:,} bytes of text" if one.bytes else ""),
        })  # fmt: skip
        return
    rounded = any(row.plain is not None for row in found)
    differ = len({row.on for row in found}) > 1
    header = ["model", *["weights"] * rounded, "loss", "perplexity", "bits per byte"]
    header += ["+ nats", "+ perplexity", "+ bits"] if rounded else ["tokens", "bytes"]
    table = []
    for row in found:
        if row.plain is not None:
            table.append([row.model, "float32", *_cells(row.plain), "", "", ""])
        of_weights: list[str] = [row.weights] if rounded else []
        last = [f"{row.found.tokens:,}", f"{row.found.bytes:,}" if row.found.bytes else "?"]
        if row.plain is not None:
            difference = row.difference
            bits = difference["bits_per_byte"]
            last = [
                f"{difference['nats']:+.5f}",
                f"{difference['perplexity_percent']:+.3f} %",
                f"{bits:+.5f}" if bits is not None else "?",
            ]
        table.append([row.model, *of_weights, *_cells(row.found), *last])
    note = "each run was scored on its own data, which may differ: name one with --data or --text" if differ else ""
    print_section(console, f"scored on {found[0].on}" if not differ else "scored", header, table, note)


def _cells(found: Evaluation) -> list[str]:
    bits = found.bits_per_byte
    perplexity = f"{found.perplexity:,.3f}" if found.perplexity < 10_000 else f"{found.perplexity:,.0f}"
    if found.perplexity >= 1e9:
        perplexity = f"{found.perplexity:.3e}"
    return [f"{found.loss:.4f}", perplexity, f"{bits:.4f}" if bits is not None else "?"]
