"""Training: the loop, its checkpoints and the run directory. ``groundup.train(…)`` is ``groundup.train.train(…)``."""

import sys
from types import ModuleType
from typing import Any

from groundup.record.run import RunDirectory
from groundup.train.evaluate import Evaluation, evaluate, evaluate_run
from groundup.train.in_time import train_in_time
from groundup.train.loop import TrainResult, train
from groundup.train.preview.dry_run import dry_run, seconds_per_step
from groundup.train.ranks.failures import AnotherRankError

__all__ = [
    "AnotherRankError",
    "Evaluation",
    "RunDirectory",
    "TrainResult",
    "dry_run",
    "evaluate",
    "evaluate_run",
    "seconds_per_step",
    "train",
    "train_in_time",
]


class _Callable(ModuleType):
    """This module, which is callable: its name in ``groundup`` is also that of its function."""

    def __call__(self, *args: Any, **kwargs: Any) -> TrainResult:
        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
