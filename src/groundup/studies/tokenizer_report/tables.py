"""A tokenizer report as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.display.markdown import capital, line
from groundup.display.markdown import table as markdown_table

if TYPE_CHECKING:
    from rich.console import Console

ORIGINAL_REPORT = "original report"
UNKNOWN = "–"
_MOST_SHOWN = 48  # characters of a token; report.json has it whole

PROFILE_PARTS = {
    "split_and_look_up": "split, look up",
    "calls": "calls",
    "new_pretokens": "merge new",
    "python_lists": "Python lists",
}


@dataclass(frozen=True)
class ReportTable:
    """A table of text. The first `names` columns name a row; the others are numbers. The note explains them."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int = 1
    note: str = ""


def tables(report: dict[str, Any]) -> Iterator[ReportTable]:
    """All tables of a report; those without rows are left out."""
    for make in (_compression, _training, _longest, _use, _in_common, _speed, _profile, _shards):
        table = make(report)
        if table.rows:
            yield table


def print_report(console: Console, report: dict[str, Any], out: Path) -> None:
    """Print all tables of a report, and the files in its folder."""
    from rich.table import Table
    from rich.text import Text

    for shown in tables(report):
        console.print(Text(shown.title, style="bold"))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for i, column in enumerate(shown.columns):
            table.add_column(column, justify="left" if i < shown.names else "right", no_wrap=i == 0, overflow="fold")
        for row in shown.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        if shown.note:
            console.print(Text(shown.note, style="dim"))
        console.print()
    names = ", ".join(sorted(path.name + "/" * path.is_dir() for path in out.iterdir()))
    console.print(Text(f"{out}: {names}"), soft_wrap=True)


def markdown(report: dict[str, Any], picture: str | None = None) -> str:
    """The report as a page; `picture` is the name of an image to show at its top."""
    parts = ["# Tokenizer report", f"{description(report)}."]
    if picture:
        parts.append(f"![bytes per token, speed, training time, encoding time]({picture})")
    parts.append(
        "\n".join(
            f"* **{line(corpus['name'])}**: {line(', '.join(corpus['inputs']))}; held out: "
            f"{line(_held_out(corpus))}, {counted(corpus['held_out_documents'], 'document')}, "
            f"{size(corpus['held_out_bytes'])}"
            for corpus in report["corpora"]
        )
    )
    for found in tables(report):
        parts += [f"## {capital(found.title)}", markdown_table(found.columns, found.rows)]
        if found.note:
            parts.append(capital(found.note) + ".")
    parts.append(f"Machine: {machine(report)}")
    return "\n\n".join(parts) + "\n"


def description(report: dict[str, Any]) -> str:
    """One line on what was measured, with what."""
    tokenizers, corpora = (", ".join(row["name"] for row in report[key]) for key in ("tokenizers", "corpora"))
    version, day = report["system"]["groundup"], report["created"][:10]
    return f"Tokenizers: {tokenizers}. Texts: {corpora}. groundup {version}, {day}"


def machine(report: dict[str, Any]) -> str:
    """Machine that the report was measured on."""
    system, settings = report["system"], report["settings"]
    return (
        f"{system['cpu']}, {system['cpu_count']} cores, load {_number(system['load_average'], '.1f')} when measured; "
        f"{system['platform']}, Python {system['python']}. Training used "
        f"{counted(settings['training_threads'], 'thread')}, encoding one."
    )


def _compression(report: dict[str, Any]) -> ReportTable:
    corpora = [corpus["name"] for corpus in report["corpora"]]
    found = {(row["tokenizer"], row["corpus"]): row for row in report["compression"]}
    rows = []
    for tokenizer in report["tokenizers"]:
        figures = [found[tokenizer["name"], corpus] for corpus in corpora]
        cells = [f"{f[part]['bytes_per_token']:.2f}" for f in figures for part in ("held_out", "sample")]
        rows.append([f"{tokenizer['name']} ({tokenizer['vocab_size']:,})", *cells])
    drawn = {row["sample"]["documents"] for row in report["compression"]}
    sample = counted(drawn.pop(), "document") if len(drawn) == 1 else "some documents"
    originals = "; ".join(
        f"{row['tokenizer']} ({row['vocab_size']:,}) on {row['corpus']} {row['bytes_per_token']:.2f}"
        for row in report["original_report"]["compression"]
    )
    return ReportTable(
        "bytes per token, tokenizer by text",
        ["tokenizer", *(what for corpus in corpora for what in (corpus, sample))],
        rows,
        note=f"more is better; of each text all that is held out, then {sample} of it; {ORIGINAL_REPORT}, on 10 "
        f"documents: {originals}",
    )


def _training(report: dict[str, Any]) -> ReportTable:
    rows = []
    for tokenizer in report["tokenizers"]:
        if (t := tokenizer["training"]) is None:
            continue
        parts = (t["reading_seconds"], t["counting_seconds"], t["merging_seconds"])
        rows.append(
            [
                tokenizer["name"],
                f"{tokenizer['vocab_size']:,}",
                size(t["bytes"]),
                f"{t['wall_seconds']:.2f}",
                f"{t['cpu_seconds']:.2f}",
                *(_number(part, ".2f") for part in parts),
                size(t["peak_memory_bytes"]),
            ]
        )
    original = report["original_report"]["training"]
    if rows:
        rows.append(
            [
                ORIGINAL_REPORT,
                f"{original['vocab_size']:,}",
                UNKNOWN,
                f"{original['wall_seconds']:,}",
                *[UNKNOWN] * 4,
                size(original["peak_memory_bytes"]),
            ]
        )
    return ReportTable(
        "training",
        ["tokenizer", "tokens", "text", "wall s", "CPU s", "read", "count", "merge", "peak"],
        rows,
        note="read, count and merge are the parts of the wall time; CPU seconds and the peak of resident memory are of "
        f"all threads{_before(report)}; the {ORIGINAL_REPORT} trained on {original['tokenizer']}, and its memory is of "
        f"{original['peak_memory_is_of']}",
    )


def _before(report: dict[str, Any]) -> str:
    before = [row["training"]["memory_before_bytes"] for row in report["tokenizers"] if row["training"]]
    return f", {size(max(before))} of it before training began" if before and None not in before else ""


def _longest(report: dict[str, Any]) -> ReportTable:
    rows = [
        [name, str(token["bytes"]), _shown(token["text"])]
        for tokenizer in report["tokenizers"]
        for name, token in zip(_only_first(tokenizer["name"]), tokenizer["longest_tokens"], strict=False)
    ]
    for original in report["original_report"]["longest_tokens"]:
        label = f"{ORIGINAL_REPORT}, {original['tokenizer']}"
        rows += [
            [name, str(original["bytes"]), _shown(text)]
            for name, text in zip(_only_first(label), original["texts"], strict=False)
        ]
    return ReportTable("longest tokens", ["tokenizer", "bytes", "token"], rows, names=3)


def _use(report: dict[str, Any]) -> ReportTable:
    corpora = [corpus["name"] for corpus in report["corpora"]]
    found = {(row["tokenizer"], row["corpus"]): row["held_out"] for row in report["compression"]}
    rows = [
        [
            tokenizer["name"],
            f"{found[tokenizer['name'], corpora[0]]['tokens_usable']:,}",
            *(_used(found[tokenizer["name"], corpus]) for corpus in corpora),
        ]
        for tokenizer in report["tokenizers"]
    ]
    return ReportTable(
        "tokens that occur in held-out text",
        ["tokenizer", "of", *(f"in {corpus}, {size(_bytes_of(report, corpus))}" for corpus in corpora)],
        rows,
        note="special tokens not counted; a short text cannot use a large vocabulary",
    )


def _in_common(report: dict[str, Any]) -> ReportTable:
    rows = [
        [" and ".join(row["tokenizers"]), f"{row['tokens']:,}", f"{row['tokens'] / min(row['of']):.0%}"]
        for row in report["vocabularies_in_common"]
    ]
    return ReportTable("tokens in common", ["tokenizers", "tokens", "of the smaller"], rows)


def _speed(report: dict[str, Any]) -> ReportTable:
    rows = []
    for row in report["speed"]:
        rates = [f"{row['bytes_per_second'][mode] / 1e6:,.1f}" for mode in ("cold", "warm", "list")]
        rows.append(
            [
                row["tokenizer"],
                row["corpus"],
                f"{1e3 * row['startup_seconds']:,.0f}",
                *rates,
                *(duration(row["pile_seconds"][mode]) for mode in ("cold", "warm", "list")),
            ]
        )
    original = report["original_report"]["speed"]
    rate, pile = f"{original['bytes_per_second'] / 1e6:.2f}", duration(original["pile_seconds"])
    rows.append([ORIGINAL_REPORT, *[UNKNOWN] * 4, rate, UNKNOWN, UNKNOWN, pile])
    return ReportTable(
        "encoding on one thread, MB/s",
        ["tokenizer", "text", "start ms", "cold", "warm", "lists", "Pile cold", "warm", "lists"],
        rows,
        names=2,
        note="wall time; start loads files and builds tables, once; cold is the first pass of a fresh process after "
        "that, warm a later one, both to arrays; lists is a later one to Python lists; the last columns are the time "
        "for The Pile, 825 GB",
    )


def _profile(report: dict[str, Any]) -> ReportTable:
    rows = []
    for row in report["speed"]:
        nanoseconds = [1e9 * row["profile_cpu_seconds"][part] / row["bytes"] for part in PROFILE_PARTS]
        rows.append([row["tokenizer"], row["corpus"], *(f"{n:.2f}" for n in nanoseconds), f"{sum(nanoseconds):.2f}"])
    return ReportTable(
        "where the CPU time of a first pass to lists goes, ns per byte",
        ["tokenizer", "text", *PROFILE_PARTS.values(), "sum"],
        rows,
        names=2,
        note="from differences between passes: split, look up is a warm call on the whole text; calls is what one for "
        "each document adds; merge new is cold less warm; Python lists is lists less arrays",
    )


def _shards(report: dict[str, Any]) -> ReportTable:
    rows = [
        [
            row["folder"],
            row["dtype"],
            f"{row['tokens']:,}",
            size(row["text_bytes"]),
            size(row["shard_bytes"]),
            f"{row['text_bytes'] / row['seconds'] / 1e6:,.1f}",
        ]
        for row in report.get("shards", [])
    ]
    return ReportTable(
        "token shards, each with the text's own tokenizer",
        ["folder", "type", "tokens", "text", "on disk", "MB/s"],
        rows,
        names=2,
        note="MB/s from text files to shards on disk",
    )


def size(count: float | None) -> str:
    """Bytes in decimal units: 12.3 MB."""
    if count is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """1 document, 2 documents."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """A long time in the unit that fits: 342 h, 2.1 h, 13 min."""
    hours = seconds / 3600
    if hours < 1:
        return f"{seconds / 60:.0f} min"
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _used(held_out: dict[str, Any]) -> str:
    return f"{held_out['tokens_used']:,} ({held_out['share_used']:.0%})"


def _bytes_of(report: dict[str, Any], corpus: str) -> int:
    return next(int(row["held_out_bytes"]) for row in report["corpora"] if row["name"] == corpus)


def _held_out(corpus: dict[str, Any]) -> str:
    held_out = corpus["held_out"]
    return held_out if isinstance(held_out, str) else ", ".join(held_out)


def _only_first(label: str) -> Iterator[str]:
    yield label
    while True:
        yield ""


def _shown(token: str) -> str:
    """A token in quotes; a long one that is one part over and over as that part and how often."""
    for period in range(1, len(token) // 4 + 1):
        part, times = token[:period], len(token) // period
        if part * times == token:
            return f"{part!r} × {times}"
    if len(token) > _MOST_SHOWN:
        return f"{token[: _MOST_SHOWN // 2]!r} … {token[-_MOST_SHOWN // 4 :]!r}"
    return repr(token)


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)
