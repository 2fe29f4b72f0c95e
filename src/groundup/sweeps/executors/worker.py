"""Worker process of the pool: ``python -m groundup.sweeps.executors.worker``.

It reads jobs from standard input and writes outcomes to standard output, one JSON object a line. When standard input
ends, the sweep is gone and the worker exits at once, which is safe because checkpoints are written atomically.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading

from groundup.sweeps.attempt import Job, attempt


def main() -> None:
    """Run jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # print() goes to the log
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    importlib.import_module("groundup.train")  # imports torch before the first job
    while True:
        outcome = attempt(Job.from_json(json.loads(jobs.get())))
        answers.write(json.dumps(outcome.to_json()) + "\n")
        answers.flush()


def _read(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    # Ctrl-C in a terminal is for the sweep, which stops its workers through the stop file. A handler, not SIG_IGN,
    # because a run must see a signal that is sent to itself.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    main()
