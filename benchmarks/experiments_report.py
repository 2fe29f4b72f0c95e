"""Time and size of a report on many runs, and time of the list of runs.

    python benchmarks/experiments_report.py [--runs 500] [--points 5000] [--rounds 3] [--out FILE]

The runs are synthetic, two seeds of each of many learning rates, in a temporary folder. Each measurement runs in a
separate process and includes imports, as the command does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import Report, Row, clocks, failed, in_fresh_process, labelled, peak_mb, short, since

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "reports"))

COLUMNS = """runs points input_mb rounds wall_s_median wall_s_max cpu_s_median peak_mb page_mb markdown_kb""".split()
TIME_LIMIT = 600


def make(folder: str, runs: int, points: int) -> Row:
    """Make run directories with --points points each."""
    from made_runs import make_run

    for number in range(runs):
        options = {"optim.max_learning_rate": 1e-3 * (1 + number // 2 / 100)}
        loss = 1.4 + number * 7919 % runs / 1000
        make_run(Path(folder, f"run-{number:04}"), loss=loss, seed=number % 2, steps=points, every=1, options=options)
    return {"input_mb": round(sum(file.stat().st_size for file in Path(folder).rglob("*.jsonl")) / 1e6, 1)}


def report(folder: str, out: str) -> Row:
    """Measure both forms of the report."""
    start = clocks()
    from groundup.reports.report import write_report

    written = write_report([folder], Path(out))
    cpu, wall = since(start)
    sizes = {"page_mb": written.page.stat().st_size / 1e6, "markdown_kb": written.markdown.stat().st_size / 1e3}
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": round(peak_mb())} | {k: short(v) for k, v in sizes.items()}


def index(folder: str, rebuild: bool) -> Row:
    """Measure the list of all runs."""
    start = clocks()
    from groundup.reports.run_list import list_runs

    list_runs(Path(folder), rebuild=rebuild)
    cpu, wall = since(start)
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": round(peak_mb())}


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = Report(options.out)
    with tempfile.TemporaryDirectory() as place:
        folder, out = str(Path(place, "runs")), str(Path(place, "report"))
        arguments = {"folder": folder, "runs": options.runs, "points": options.points}
        made = in_fresh_process("experiments_report:make", arguments, threads=1, time_limit=TIME_LIMIT)
        about = {"ours": labelled("groundup"), "runs": options.runs, "points": options.points} | made
        for what, function, rest in (
            ("report", "report", {"out": out}),
            ("list of runs, made anew", "index", {"rebuild": True}),
            ("list of runs, nothing changed", "index", {"rebuild": False}),
        ):
            found = [
                in_fresh_process(f"experiments_report:{function}", {"folder": folder} | rest, threads=1,
                                 time_limit=TIME_LIMIT)
                for _ in range(options.rounds)
            ]  # fmt: skip
            about["what"] = what
            if any(map(failed, found)):
                rows.add_failure(about, next(filter(failed, found)))
                continue
            walls, cpus = ([one[clock] for one in found] for clock in ("wall_s", "cpu_s"))
            times = {"wall_s_median": short(statistics.median(walls)), "wall_s_max": short(max(walls))}
            kept = {name: value for name, value in found[-1].items() if name not in ("wall_s", "cpu_s")}
            rows.add(about | {"rounds": options.rounds, "cpu_s_median": short(statistics.median(cpus))} | times | kept)
    rows.finish(COLUMNS)


if __name__ == "__main__":
    main()
