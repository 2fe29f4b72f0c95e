"""Somebody else's figures beside ours, as a plan's ``[published]`` has them."""

from __future__ import annotations

from typing import Any

from groundup.display.section import Section
from groundup.reports.settings import Cell, Study, short_name

_LOSS = "val_loss"


def published_table(study: Study) -> Section | None:
    """Losses as published, beside those of our cells of the same name or value; None where a plan has none.

    Where the baseline is among them, differences from it stand beside: those of models of other sizes compare, their
    losses do not.
    """
    published = study.plan.get("published")
    losses = published.get("losses") if isinstance(published, dict) else None
    if not isinstance(published, dict) or not isinstance(losses, dict) or not losses:
        return None
    ours = {name: cell for name in losses if (cell := _like(study, name)) is not None}
    name = short_name(study.axis, [study.axis]) if study.axis else "cell"
    columns: dict[str, list[str]] = {name: list(losses), "as published": [_loss(loss) for loss in losses.values()]}
    if ours:
        columns["ours"] = [_our_loss(ours[name]) if name in ours else "" for name in losses]
    base = next((name for name, cell in ours.items() if cell is study.baseline), None)
    # Between tokenizers or texts losses do not compare, and neither do their differences.
    if base is not None and len(ours) > 1 and not study.axis and study.measure == _LOSS:
        columns["published, less its baseline"] = [_less(loss, losses[base]) for loss in losses.values()]
        means = {name: value.mean for name, cell in ours.items() if (value := cell.estimate(_LOSS)) is not None}
        columns["ours, less its baseline"] = [_less(means.get(name), means.get(base)) for name in losses]
    note = f"Validation loss in nats per token. {published.get('source', '')}".rstrip(". ") + "."
    return Section("as published", tuple(columns), list(zip(*columns.values(), strict=True)), note)


def _like(study: Study, name: str) -> Cell | None:
    """Our cell of a published name; along an axis, of its value."""
    for cell in study.cells:
        if name == cell.label or (study.axis and _number(name) == float(cell.varied[study.axis])):
            return cell
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _loss(loss: Any) -> str:
    return loss if isinstance(loss, str) else f"{loss:.3f}"


def _our_loss(cell: Cell) -> str:
    value = cell.estimate(_LOSS)
    return "diverged" if cell.all_diverged else f"{value.mean:.3f}" if value is not None else ""


def _less(loss: Any, base: Any) -> str:
    numbers = isinstance(loss, int | float) and isinstance(base, int | float)
    return f"{loss - base:+.3f}" if numbers else ""
