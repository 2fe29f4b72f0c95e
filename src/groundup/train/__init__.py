"""Training: the loop, its checkpoints and the run directory."""

from groundup.train.evaluate import Evaluation, evaluate, evaluate_run
from groundup.train.loop import TrainResult, seconds_per_step, train
from groundup.train.run_directory import RunDirectory

__all__ = ["Evaluation", "RunDirectory", "TrainResult", "evaluate", "evaluate_run", "seconds_per_step", "train"]
