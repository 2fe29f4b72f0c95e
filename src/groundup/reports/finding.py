"""The finding of a study: one generated sentence that claims no more than its seeds support."""

from __future__ import annotations

from collections.abc import Iterable

from groundup.display.units import value_text
from groundup.record.read import MEASURES
from groundup.reports.settings import Setting, Study, short_name
from groundup.reports.statistics import ALPHA, POWER, Difference, Estimate

NOT_SIGNIFICANT = f"not statistically significant at p < {ALPHA:g}"
# With more settings a sentence gets too long to read; the table has all of them.
_MOST_VARIANTS = 5
_MOST_NAMED = 10


def finding(study: Study) -> str:
    """The finding of a sweep over one number, of variants against a baseline, or of any other set of settings."""
    if not study.ranked:
        diverged = sum(setting.diverged for setting in study.settings)
        return f"No run has finished{f'; {diverged} of {len(study.runs)} diverged' if diverged else ''}."
    if len(study.settings) == 1:
        return _alone(study)
    if study.axis:
        return _sweep(study, study.axis)
    if study.baseline is not None and study.baseline.estimate(study.measure) is not None:
        return _against(study, study.baseline)
    return _best_of(study)


def estimate_text(value: Estimate) -> str:
    """Mean ± half its confidence interval; the mean alone for one seed."""
    return number(value.mean) + (f" ± {number(value.reach)}" if value.reach is not None else "")


def number(value: float) -> str:
    """A loss with four decimals."""
    return f"{value:.4f}"


def p_text(p: float) -> str:
    """``p = 0.03``, ``p < 0.0001``."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def direction(difference: Difference) -> str:
    """lower or higher."""
    return "lower" if difference.mean < 0 else "higher"


def seeds_text(setting: Setting, measure: str) -> str:
    """The number of seeds of a mean."""
    count = len(setting.values(measure))
    return "one seed" if count == 1 else f"{count} seeds"


def _alone(study: Study) -> str:
    setting, value = study.ranked[0]
    text = f"The {MEASURES[study.measure]} is {estimate_text(value)}, from {seeds_text(setting, study.measure)}"
    if value.size == 1:
        text += ", without a confidence interval"
    return text + _some_diverged([setting]) + "."


def _sweep(study: Study, axis: str) -> str:
    best, value = study.ranked[0]
    differences = study.differences(best)
    name = short_name(axis, best.varied)
    text = (
        f"The {MEASURES[study.measure]} is lowest at {name} = {_at(best, axis)}: {estimate_text(value)} "
        f"({seeds_text(best, study.measure)})"
    )
    others = [setting for setting, _ in study.ranked[1:] if not setting.diverged]
    tested = [setting for setting in others if setting.label in differences]
    alike = [_at(s, axis) for s in study.settings if s in tested and differences[s.label][1] >= ALPHA]
    worse = len(tested) - len(alike)
    if alike:
        few = len(alike) <= _MOST_VARIANTS
        text += _no_difference(alike, listed(alike) if few else f"{len(alike)} values from {alike[0]} to {alike[-1]}")
    if worse:
        which = "the other" if alike or worse == 1 else "all other"
        told = "value that finished is" if worse == 1 else f"{worse} values that finished are"
        text += f"; {which} {told} higher (p < {ALPHA})"
    if len(tested) < len(others):
        text += "; values with one seed have no confidence interval, so nearby values cannot be told apart"
    text += _where_it_diverges(study, axis)
    finite = [setting for setting in study.settings if setting.estimate(study.measure) is not None]
    if best in (study.settings[0], study.settings[-1]) and len(finite) > 1:
        side, beyond = ("smallest", "below") if best is study.settings[0] else ("largest", "above")
        text += f"; this is the {side} value tried, so a better one may lie {beyond}"
    return text + "."


def _no_difference(alike: list[str], named: str) -> str:
    differences = "the difference to" if len(alike) == 1 else "the differences to"
    return f"; {differences} {named} {'is' if len(alike) == 1 else 'are'} {NOT_SIGNIFICANT}"


def _where_it_diverges(study: Study, axis: str) -> str:
    """Values at which all seeds diverge or rise above the untrained loss, and the edge of stability between them."""
    gone = [setting for setting in study.settings if setting.all_diverged]
    apart = [setting for setting in study.settings if setting.all_unstable]
    text = f"; training diverges at {_places(study, gone, axis)}" if gone else ""
    if further := [setting for setting in apart if setting not in gone]:
        text += f"; at {listed(_at(s, axis) for s in further)} the loss rises above that of the untrained model"
    if apart and _at_the_end(study, apart):
        text += _edge(study, axis, study.settings[-len(apart) - 1], apart[0])
    return text + _some_diverged(study.settings)


def _places(study: Study, settings: list[Setting], axis: str) -> str:
    if len(settings) > 1 and _at_the_end(study, settings):
        return f"{_at(settings[0], axis)} and above"
    return listed(_at(setting, axis) for setting in settings)


def _at_the_end(study: Study, settings: list[Setting]) -> bool:
    """Whether these are the highest values, with some below them."""
    return len(settings) < len(study.settings) and study.settings[-len(settings) :] == settings


def _edge(study: Study, axis: str, last: Setting, first_gone: Setting) -> str:
    """The two values that bracket the edge of stability, and the best value relative to it."""
    best = study.ranked[0][0].varied[axis]
    below, above = last.varied[axis], first_gone.varied[axis]
    if not 0 < best <= below < above:
        return ""
    places = f"between {_at(last, axis)} and {_at(first_gone, axis)}"
    return (
        f" (the edge of stability lies {places}; the best value is at {best / above:.0%} to {best / below:.0%} of it)"
    )


def _against(study: Study, baseline: Setting) -> str:
    value = baseline.estimate(study.measure)
    assert value is not None
    others = [setting for setting in study.settings if setting is not baseline]
    differences = study.differences(baseline)
    head = (
        f"Compared with the baseline{'' if baseline.label == 'baseline' else f' {baseline.label}'} "
        f"({MEASURES[study.measure]} {estimate_text(value)}, {seeds_text(baseline, study.measure)})"
    )
    if len(others) > _MOST_VARIANTS:
        return f"{head}, {_counted(study, others, differences)}{_some_diverged(study.settings)}."
    parts = [_variant(study, setting, differences, value) for setting in others]
    tests = {difference.test for difference, _ in differences.values()}
    corrected = f", Holm's correction for {len(differences)} comparisons" if len(differences) > 1 else ""
    how = f" ({' or '.join(sorted(tests))}, 95 % confidence intervals{corrected})" if tests else ""
    return f"{head}, {'; '.join(parts)}{how}{_some_diverged([baseline])}."


def _variant(
    study: Study, setting: Setting, differences: dict[str, tuple[Difference, float]], baseline: Estimate
) -> str:
    if setting.all_diverged:
        count = len(setting.runs)
        with_seeds = f" with {'both' if count == 2 else f'all {count}'} seeds" if count > 1 else ""
        return f"{setting.label} diverges{with_seeds}"
    value = setting.estimate(study.measure)
    if value is None:
        return f"{setting.label} has not finished"
    if setting.diverged:
        return f"{setting.label} diverges with {setting.diverged} of {len(setting.runs)} seeds"
    if setting.label not in differences:
        more = value.mean - baseline.mean
        lost = study.baseline is not None and study.baseline.diverged > 0
        why = "without a test because seeds of the baseline diverged" if lost else "with too few seeds for a test"
        return f"{setting.label} is {number(abs(more))} {'higher' if more > 0 else 'lower'}, {why}"
    difference, p = differences[setting.label]
    if p < ALPHA:
        by = f"{number(abs(difference.mean))} ± {number(difference.high - difference.mean)}"
        return f"{setting.label} is {direction(difference)} by {by} ({p_text(p)})"
    signed = f"{difference.mean:+.4f} ± {number(difference.high - difference.mean)}"
    told = f"{signed}, {p_text(p)}; {power_text(difference)}"
    return f"the difference to {setting.label} is {NOT_SIGNIFICANT} ({told})"


def power_text(difference: Difference) -> str:
    """The smallest effect that the test would have found."""
    return f"{number(difference.smallest_effect)} is detectable with {100 * POWER:.0f} % power"


def _counted(study: Study, others: list[Setting], differences: dict[str, tuple[Difference, float]]) -> str:
    groups: dict[str, list[tuple[str, Difference]]] = {"lower": [], "higher": [], "not significantly different": []}
    for label, (difference, p) in differences.items():
        groups[direction(difference) if p < ALPHA else "not significantly different"].append((label, difference))
    parts = []
    for word, members in groups.items():
        if members:
            named = listed(f"{label} {difference.mean:+.4f}" for label, difference in members)
            some = f" ({named})" if len(others) <= _MOST_NAMED else ""
            parts.append(f"{len(members)} {'is' if len(members) == 1 else 'are'} {word}{some}")
    gone = sum(setting.all_diverged for setting in others)
    untested = sum(s.label not in differences and not s.diverged and bool(s.values(study.measure)) for s in others)
    parts += [f"{gone} diverged"] if gone else []
    parts += [f"{untested} {'has' if untested == 1 else 'have'} too few seeds for a test"] if untested else []
    best, value = study.ranked[0]
    said = listed(parts or ["none has a result yet"])
    return f"of {len(others)} other settings {said}; the lowest is {best.label} ({estimate_text(value)})"


def _best_of(study: Study) -> str:
    best, value = study.ranked[0]
    differences = study.differences(best)
    text = (
        f"Of {len(study.settings)} settings, {best.label} has the lowest {MEASURES[study.measure]}: "
        f"{estimate_text(value)} ({seeds_text(best, study.measure)})"
    )
    alike = [label for label, (_, p) in differences.items() if p >= ALPHA]
    if alike:
        text += _no_difference(alike, listed(alike) if len(alike) <= _MOST_VARIANTS else f"{len(alike)} others")
    if worse := len(differences) - len(alike):
        text += f"; {worse} {'is' if worse == 1 else 'are'} higher (p < {ALPHA})"
    if len(differences) < sum(not setting.diverged for setting, _ in study.ranked) - 1:
        text += "; settings with one seed have no confidence interval and no test, so small differences may be noise"
    gone = [setting.label for setting in study.settings if setting.all_diverged]
    if gone:
        text += f"; {listed(gone) if len(gone) <= _MOST_VARIANTS else f'{len(gone)} settings'} diverged"
    return text + _some_diverged(study.settings) + "."


def _some_diverged(settings: list[Setting]) -> str:
    some = [setting for setting in settings if 0 < setting.diverged < len(setting.runs)]
    if not some:
        return ""
    if len(some) > _MOST_VARIANTS:
        return f"; some seeds of {len(some)} settings diverged and are in no mean"
    each = listed(f"{setting.diverged} of {len(setting.runs)} seeds of {setting.label}" for setting in some)
    return f"; {each} diverged and {'is' if sum(s.diverged for s in some) == 1 else 'are'} not in the mean"


def _at(setting: Setting, axis: str) -> str:
    return value_text(setting.varied[axis])


def listed(parts: Iterable[str], joint: str = "and") -> str:
    """Join words: ``a``, ``a and b``, ``a, b and c``."""
    words = list(parts)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
