"""Run hostile cases and count how they end: ``python tests/hostile/run_cases.py --number 1000 --workers 2``.

``--only PATTERN`` takes the cases whose names match; ``--case NAME`` runs one alone and shows what it said.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hostile_cases import Case, all_cases
from hostile_runner import OK, Outcome, Runner


def sample(cases: Sequence[Case], number: int) -> list[Case]:
    """So many cases, the same each time, spread over actors and kinds; slow ones last."""
    groups: dict[tuple[str, str, str], list[Case]] = collections.defaultdict(list)
    draw = random.Random(6)
    for case in draw.sample(list(cases), len(cases)):
        groups[case.actor, case.target, case.kind].append(case)
    found: list[Case] = []
    while len(found) < min(number, len(cases)):
        found += [group.pop() for group in groups.values() if group]
    return sorted(found[:number], key=lambda case: case.is_slow)


def command(case: Case) -> str:
    """What to type to repeat a case alone."""
    import shlex

    return f"python tests/hostile/run_cases.py --case {shlex.quote(case.name)}"


def counts(outcomes: Sequence[Outcome]) -> str:
    """A table of outcomes by actor and kind of case."""
    table = collections.Counter((o.case.actor, o.case.kind, o.kind) for o in outcomes)
    return "\n".join(f"{number:6}  {actor}  {kind}  {how}" for (actor, kind, how), number in sorted(table.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=1 << 30)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="*")
    parser.add_argument("--case")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runner = Runner()
    try:
        cases = [case for case in all_cases(runner.world) if fnmatch.fnmatchcase(case.name, options.only)]
        chosen = [c for c in cases if c.name == options.case] if options.case else sample(cases, options.number)
        began = time.perf_counter()
        outcomes = []
        for outcome in runner.run(chosen, options.workers):
            outcomes.append(outcome)
            if outcome.kind not in OK or options.case:
                print(f"{outcome.kind}: {outcome.case.name}: {outcome.detail}", flush=True)
        if options.out:
            lines = [json.dumps([o.case.name, o.kind, o.detail]) + "\n" for o in outcomes]
            options.out.write_text("".join(lines), encoding="utf-8")
        print(counts(outcomes))
        print(
            collections.Counter(o.kind for o in outcomes), f"{time.perf_counter() - began:.0f} s, {len(cases)} in all"
        )
    finally:
        runner.close()
    return int(any(outcome.kind not in OK for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
