"""Every command, loader and file of groundup under hostile input: a right result, or one line and exit code 2."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator

import pytest

import hostile_cases
from groundup.cli.main import VERBS
from hostile_commands import NOT_TRIED, SERVERS, options_of
from hostile_runner import OK, Outcome, Runner
from hostile_world import own_files
from known_faults import KNOWN_FAULTS, UNNOTICED, is_known, is_unnoticed
from run_cases import command, sample

SHORT, LONG = 100, 20_000


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner(whole=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole_runner() -> Iterator[Runner]:
    made = Runner(whole=True)
    yield made
    made.close()


def faults(outcomes: list[Outcome]) -> list[str]:
    """Cases that ended as they must not, with the command that repeats each alone."""
    found = []
    for outcome in outcomes:
        silent = outcome.kind == "different" and not is_unnoticed(outcome.case)
        if (outcome.kind not in OK or silent) and not is_known(outcome):
            found.append(f"{outcome.kind}: {outcome.detail}\n  {command(outcome.case)}")
    return found


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in SERVERS])
def test_every_verb_has_hostile_cases_for_each_of_its_options(verb: str):
    covered = {case.target for case in hostile_cases.verb_cases(verb)}
    expected = {option.name for option in options_of(verb) if (verb, option.name) not in NOT_TRIED}
    assert expected <= covered
    assert {"streams", "disk"} <= covered


def test_options_that_are_not_tried_exist():
    assert {(verb, name) for verb, name in NOT_TRIED if name not in {o.name for o in options_of(verb)}} == set()


def test_every_file_that_groundup_writes_is_damaged_or_like_one_that_is(runner: Runner):
    assert hostile_cases.uncovered(own_files(runner.world)) == []


def test_a_sample_of_the_cases(runner: Runner):
    cases = [case for case in hostile_cases.all_cases(runner.world) if not case.is_slow]
    outcomes = list(runner.run(sample(cases, SHORT)))
    assert len(outcomes) == SHORT
    assert faults(outcomes) == []


@pytest.mark.long
def test_twenty_thousand_cases(whole_runner: Runner):
    cases = hostile_cases.all_cases(whole_runner.world)
    assert len(cases) >= LONG
    outcomes = list(whole_runner.run(sample(cases, LONG), workers=os.cpu_count() or 1))
    print(collections.Counter(outcome.kind for outcome in outcomes), f"of {len(outcomes):,} cases")
    assert faults(outcomes) == []


def test_the_lists_of_known_exceptions_say_why():
    assert all(reason.strip() for reason in (*KNOWN_FAULTS.values(), *UNNOTICED.values()))
