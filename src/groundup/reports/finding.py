"""What a study found, in one generated sentence that never says more than its seeds can."""

from __future__ import annotations

from collections.abc import Iterable

from groundup.record.read import MEASURES
from groundup.reports.settings import Cell, Study, short_name, value_text
from groundup.reports.statistics import ALPHA, Difference, Estimate

# More variants than that make a sentence nobody reads to its end; the table has them.
_MOST_VARIANTS = 5
_MOST_NAMED = 10


def finding(study: Study) -> str:
    """The sentence, for a sweep over one number, for variants against a baseline, or for any other set of cells."""
    if not study.ranked:
        diverged = sum(cell.diverged for cell in study.cells)
        return f"No run has finished{f'; {diverged} of {len(study.runs)} diverged' if diverged else ''}."
    if len(study.cells) == 1:
        return _alone(study)
    if study.axis:
        return _sweep(study, study.axis)
    if study.baseline is not None and study.baseline.estimate(study.measure) is not None:
        return _against(study, study.baseline)
    return _best_of(study)


def estimate_text(value: Estimate) -> str:
    """Mean ± half its interval; the mean alone for one seed."""
    return number(value.mean) + (f" ± {number(value.reach)}" if value.reach is not None else "")


def difference_text(difference: Difference, p: float) -> str:
    """A difference with its interval and p, as a table has it."""
    return f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), {p_text(p)}"


def number(value: float) -> str:
    """A loss, to the fourth decimal."""
    return f"{value:.4f}"


def p_text(p: float) -> str:
    """``p = 0.03``, ``p < 0.0001``."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def verdict(difference: Difference, p: float) -> str:
    """lower, higher, or not distinguishable."""
    if p >= ALPHA:
        return "not distinguishable"
    return "lower" if difference.mean < 0 else "higher"


def seeds_text(cell: Cell, measure: str) -> str:
    """How many seeds a mean is of."""
    count = len(cell.values(measure))
    return "one seed" if count == 1 else f"{count} seeds"


def _alone(study: Study) -> str:
    cell, value = study.ranked[0]
    text = f"The {MEASURES[study.measure]} is {estimate_text(value)}, from {seeds_text(cell, study.measure)}"
    if value.size == 1:
        text += ", which gives no interval"
    return text + _some_diverged([cell]) + "."


def _sweep(study: Study, axis: str) -> str:
    best, value = study.ranked[0]
    differences = study.differences(best)
    name = short_name(axis, best.varied)
    text = (
        f"The {MEASURES[study.measure]} is lowest at {name} = {_at(best, axis)}: {estimate_text(value)} "
        f"({seeds_text(best, study.measure)})"
    )
    others = [cell for cell, _ in study.ranked[1:] if not cell.diverged]
    tested = [cell for cell in others if cell.label in differences]
    alike = [_at(cell, axis) for cell in study.cells if cell in tested and differences[cell.label][1] >= ALPHA]
    worse = len(tested) - len(alike)
    if alike:
        few = len(alike) <= _MOST_VARIANTS
        named = listed(alike) if few else f"{len(alike)} values from {alike[0]} to {alike[-1]}"
        text += f"; {named} {'is' if len(alike) == 1 else 'are'} not distinguishable from it (p ≥ {ALPHA})"
    if worse:
        text += f"; {_other(worse, bool(alike))} worse (p < {ALPHA})"
    if len(tested) < len(others):
        text += (
            "; with one seed for a value there is no interval, and values that are near each other cannot be told apart"
        )
    text += _where_it_diverges(study, axis)
    finite = [cell for cell in study.cells if cell.estimate(study.measure) is not None]
    if best in (study.cells[0], study.cells[-1]) and len(finite) > 1:
        side = "smallest" if best is study.cells[0] else "largest"
        text += f"; it is the {side} value tried, so that a better one may lie beyond"
    return text + "."


def _other(count: int, after_alike: bool) -> str:
    which = "the other" if after_alike else "the other" if count == 1 else "all other"
    return f"{which} {'value that finished is' if count == 1 else f'{count} values that finished are'}"


def _where_it_diverges(study: Study, axis: str) -> str:
    """Where all seeds end without a number, where they only come apart on the way, and between which values the edge
    of stability lies."""
    gone = [cell for cell in study.cells if cell.all_diverged]
    apart = [cell for cell in study.cells if cell.all_unstable]
    text = f"; it diverges at {_places(study, gone, axis)}" if gone else ""
    if further := [cell for cell in apart if cell not in gone]:
        text += f"; at {listed(_at(cell, axis) for cell in further)} the loss rises above that of the untrained model"
    if apart and _at_the_end(study, apart):
        text += _edge(study, axis, study.cells[-len(apart) - 1], apart[0])
    return text + _some_diverged(study.cells)


def _places(study: Study, cells: list[Cell], axis: str) -> str:
    if len(cells) > 1 and _at_the_end(study, cells):
        return f"{_at(cells[0], axis)} and above"
    return listed(_at(cell, axis) for cell in cells)


def _at_the_end(study: Study, cells: list[Cell]) -> bool:
    """Whether these are the highest values, with some below them."""
    return len(cells) < len(study.cells) and study.cells[-len(cells) :] == cells


def _edge(study: Study, axis: str, last: Cell, first_gone: Cell) -> str:
    """How near the best value is to the edge of stability, which two values bracket."""
    best = study.ranked[0][0].varied[axis]
    below, above = last.varied[axis], first_gone.varied[axis]
    if not 0 < best <= below < above:
        return ""
    places = f"between {_at(last, axis)} and {_at(first_gone, axis)}"
    return f" (the edge of stability lies {places}, the best at {best / above:.0%} to {best / below:.0%} of it)"


def _against(study: Study, baseline: Cell) -> str:
    value = baseline.estimate(study.measure)
    assert value is not None
    differences = study.differences(baseline)
    others = [cell for cell in study.cells if cell is not baseline]
    head = (
        f"Against {baseline.label} ({MEASURES[study.measure]} {estimate_text(value)}, "
        f"{seeds_text(baseline, study.measure)})"
    )
    if len(others) > _MOST_VARIANTS:
        return f"{head}, {_counted(study, others, differences)}{_some_diverged(study.cells)}."
    parts = [_variant(study, cell, differences, value) for cell in others]
    tests = {difference.test for difference, _ in differences.values()}
    corrected = f", p by Holm's correction for {len(differences)}" if len(differences) > 1 else ""
    how = f" ({' or '.join(sorted(tests))}, 95 % intervals{corrected})" if tests else ""
    return f"{head}, {'; '.join(parts)}{how}{_some_diverged([baseline])}."


def _variant(study: Study, cell: Cell, differences: dict[str, tuple[Difference, float]], baseline: Estimate) -> str:
    if cell.all_diverged:
        count = len(cell.runs)
        return f"{cell.label} diverges" + (
            f" with {'both' if count == 2 else f'all {count}'} seeds" if count > 1 else ""
        )
    value = cell.estimate(study.measure)
    if value is None:
        return f"{cell.label} has not finished"
    if cell.diverged:
        return f"{cell.label} diverges with {cell.diverged} of {len(cell.runs)} seeds"
    if cell.label not in differences:
        more = value.mean - baseline.mean
        word = "higher" if more > 0 else "lower"
        lost = study.baseline is not None and study.baseline.diverged > 0
        seeds = "too few seeds for an interval or a test"
        why = "without a test: seeds of the baseline diverged" if lost else f"with {seeds}"
        return f"{cell.label} is {number(abs(more))} {word}, {why}"
    difference, p = differences[cell.label]
    by = f"{number(abs(difference.mean))} ± {number(difference.high - difference.mean)}"
    if p < ALPHA:
        return f"{cell.label} is {verdict(difference, p)} by {by} ({p_text(p)})"
    signed = f"{difference.mean:+.4f} ± {number(difference.high - difference.mean)}"
    return (
        f"{cell.label} is not distinguishable from it ({signed}, {p_text(p)}; a difference of "
        f"{number(difference.smallest_effect)} would have been seen four times in five)"
    )


def _counted(study: Study, others: list[Cell], differences: dict[str, tuple[Difference, float]]) -> str:
    parts = []
    for word in ("lower", "higher", "not distinguishable"):
        found = {label: pair[0] for label, pair in differences.items() if verdict(*pair) == word}
        if found:
            named = listed(f"{label} {difference.mean:+.4f}" for label, difference in found.items())
            some = f" ({named})" if len(others) <= _MOST_NAMED else ""
            parts.append(f"{len(found)} {'is' if len(found) == 1 else 'are'} {word}{some}")
    gone = sum(cell.all_diverged for cell in others)
    untested = sum(c.label not in differences and not c.diverged and bool(c.values(study.measure)) for c in others)
    parts += [f"{gone} diverged"] if gone else []
    parts += [f"{untested} {'has' if untested == 1 else 'have'} too few seeds for a test"] if untested else []
    best, value = study.ranked[0]
    said = listed(parts or ["none has a result yet"])
    return f"of {len(others)} others {said}; lowest is {best.label} ({estimate_text(value)})"


def _best_of(study: Study) -> str:
    best, value = study.ranked[0]
    differences = study.differences(best)
    text = (
        f"Of {len(study.cells)} cells, {best.label} has the lowest {MEASURES[study.measure]}: {estimate_text(value)} "
        f"({seeds_text(best, study.measure)})"
    )
    alike = [label for label, (_, p) in differences.items() if p >= ALPHA]
    if alike:
        named = listed(alike) if len(alike) <= _MOST_VARIANTS else f"{len(alike)} others"
        verb = "is" if len(alike) == 1 else "are"
        text += f"; {named} {verb} not distinguishable from it (p ≥ {ALPHA})"
    if len(alike) < len(differences):
        worse = len(differences) - len(alike)
        text += f"; {worse} {'is' if worse == 1 else 'are'} worse (p < {ALPHA})"
    if len(differences) < sum(not cell.diverged for cell, _ in study.ranked) - 1:
        text += "; where a cell has one seed there is no interval and no test, and a small difference may be the seed's"
    gone = [cell.label for cell in study.cells if cell.all_diverged]
    if gone:
        text += f"; {listed(gone) if len(gone) <= _MOST_VARIANTS else f'{len(gone)} cells'} diverged"
    return text + _some_diverged(study.cells) + "."


def _some_diverged(cells: list[Cell]) -> str:
    some = [cell for cell in cells if 0 < cell.diverged < len(cell.runs)]
    if not some:
        return ""
    if len(some) > _MOST_VARIANTS:
        return f"; some seeds of {len(some)} cells diverged and are in no mean"
    each = listed(f"{cell.diverged} of {len(cell.runs)} seeds of {cell.label}" for cell in some)
    return f"; {each} diverged and {'is' if sum(c.diverged for c in some) == 1 else 'are'} not in the mean"


def _at(cell: Cell, axis: str) -> str:
    return value_text(cell.varied[axis])


def listed(parts: Iterable[str], joint: str = "and") -> str:
    """One, one and another, or several with commas."""
    words = list(parts)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
