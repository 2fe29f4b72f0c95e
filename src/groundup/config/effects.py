"""What an option changes: the result of a run, only its speed, or only its record."""

from __future__ import annotations

import dataclasses
from typing import Literal

from groundup.config.options import ModelConfig

Effect = Literal["result", "speed", "record"]

SPEED = (
    "data.micro_batch_size", "train.device", "train.parallel", "train.attention", "train.kernels", "train.compile",
    "train.activation_checkpointing", "train.background_checkpoints", "train.checkpoint_format",
)  # fmt: skip
"""Where and how a run is computed. The results agree to rounding."""
RECORD = (
    "name", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges",
    "train.log_interval", "train.eval_interval", "train.eval_windows", "train.eval_batch_size",
    "train.checkpoint_interval", "train.checkpoint_minutes", "train.keep_checkpoints",
    "train.max_minutes", "train.finish_schedule", "train.ratio_interval", "train.spike_factor", "train.peak_tflops",
    "train.profile", "sample.", "track.",
)  # fmt: skip
"""What is measured, kept and shown, where it lies, and how long a session lasts. A name that ends in a dot stands for
its section. Data are recognised by their hash, so their paths are free."""
WITHOUT_WEIGHTS = ("context_length", "rope_theta", "position", "norm_eps")
"""Options of a model that add no weight to it and change no shape of one."""
FIXED = (
    *(f"model.{field.name}" for field in dataclasses.fields(ModelConfig) if field.name not in WITHOUT_WEIGHTS),
    "optim.optimizer",
)
"""Options that decide which tensors a checkpoint holds."""


def effect_of(name: str) -> Effect:
    """The effect of an option, given by its full name."""
    section = f"{name.partition('.')[0]}."
    if name in SPEED:
        return "speed"
    return "record" if name in RECORD or section in RECORD else "result"
