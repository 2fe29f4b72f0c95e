"""A process of the local pool: ``python -m groundup.sweeps.executors.worker`` trains cell after cell.

It reads jobs from its standard input and answers outcomes on its standard output, one JSON object a line. When its
standard input ends, the sweep is gone, and so is the worker, at once: checkpoints are whole at any moment.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading

from groundup.sweeps.attempt import Job, attempt


def main() -> None:
    """Answer until there is nobody to answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anybody prints goes to the log
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    import groundup.train  # torch, before the first job

    assert groundup.train
    while True:
        outcome = attempt(Job.from_json(json.loads(jobs.get())))
        answers.write(json.dumps(outcome.to_json()) + "\n")
        answers.flush()


def _read(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    # A terminal's Ctrl-C is for the sweep, which tells its workers by the stop file. Not SIG_IGN: a run that is
    # asked to stop by its own signal must see it.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    main()
