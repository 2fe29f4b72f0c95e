"""Names and effects of options.

The full name of an option is its place in the config (``model.d_model``), the short one its last part. Its effect is
what it changes: the result of a run, only its speed, or only its record.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from groundup.config.options import ModelConfig, RunConfig
from groundup.config.recipe import flatten, suggestion, with_single_betas
from groundup.errors import ConfigError


@functools.cache
def default_options() -> Mapping[str, Any]:
    """Every option by its full name, with its default."""
    return MappingProxyType(flatten(RunConfig()))


def short_names() -> dict[str, str]:
    """Last parts of option names that are unique, to the full names. Options of a group have only full names."""
    return dict(_short_names())


@functools.cache
def _short_names() -> dict[str, str]:
    full_names = [name for name in default_options() if name.count(".") < 2]
    count = Counter(name.split(".")[-1] for name in full_names)
    return {short: name for name in full_names if count[short := name.split(".")[-1]] == 1}


def full_name(name: str) -> str:
    """The full name of an option that is given by either.

    Raises:
        ConfigError: there is no such option; the nearest is named.
    """
    full = _full_names().get(name)
    if full is None:
        raise ConfigError(f"unknown option {name}{suggestion(name, _full_names())}")
    return full


@functools.cache
def _full_names() -> dict[str, str]:
    return _short_names() | {name: name for name in default_options()}


def by_full_names(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A table whose keys are options, by their full names. ``model.d_model = 64`` is a table in a table for TOML.

    Raises:
        ConfigError: an unknown option, or one that is there by both of its names.
    """
    sections = {
        ".".join(name.split(".")[:depth]) for name in default_options() for depth in range(1, name.count(".") + 1)
    }
    written: dict[str, Any] = {}

    def unfold(name: str, value: Any) -> None:
        if name in sections and isinstance(value, Mapping):
            options = {full.rpartition(".")[2] for full in default_options() if full.rpartition(".")[0] == name}
            for last, deeper in (with_single_betas(value, name, options) if "betas" in value else value).items():
                unfold(f"{name}.{last}", deeper)
        elif name.endswith(".betas") and name.removesuffix(".betas") in sections:
            unfold(name.removesuffix(".betas"), {"betas": value})
        else:
            written[name] = value

    for name, value in table.items():
        unfold(name, value)
    found: dict[str, Any] = {}
    for name, value in written.items():
        try:
            full = full_name(name)
        except ConfigError as error:
            raise ConfigError(f"[{place}] {error}") from None
        if full in found:
            raise ConfigError(f"[{place}] has {full} twice, as {name} too; leave one of them out")
        found[full] = value
    return found


def check_length(given: Iterable[str]) -> None:
    """Refuse two lengths of a run beside each other.

    Args:
        given: full names of the options that a user gives for this run, over its recipe.

    Raises:
        ConfigError: both train.minutes and train.max_iters are given.
    """
    if {"train.minutes", "train.max_iters"} <= set(given):
        raise ConfigError("--minutes and --max_iters are two lengths for one run; leave one of them out")


Effect = Literal["result", "speed", "record"]

SPEED = (
    "data.micro_batch_size", "train.device", "train.parallel", "train.attention", "train.kernels", "train.compile",
    "train.compile_mode", "train.activation_checkpointing", "train.background_checkpoints", "train.checkpoint_format",
)  # fmt: skip
"""Where and how a run is computed. The results agree to rounding."""
RECORD = (
    "name", "runs_dir", "data.train", "data.valid", "data.vocab", "data.merges",
    "train.log_interval", "train.eval_interval", "train.eval_windows", "train.eval_batch_size",
    "train.checkpoint_interval", "train.checkpoint_minutes", "train.keep_checkpoints",
    "train.keep_best",
    "train.max_minutes", "train.finish_schedule", "train.stop_at", "train.ratio_interval", "train.spike_factor",
    "train.peak_tflops", "train.profile", "sample.", "track.",
)  # fmt: skip
"""What is measured, kept and shown, where it lies, and how long a session lasts. A name that ends in a dot stands for
its section. Data are recognised by their hash, so their paths are free."""
WITHOUT_WEIGHTS = (
    "context_length", "rope_theta", "rope_scaling", "rope_factor", "rope_original_context", "rope_low_frequency",
    "rope_high_frequency", "position", "norm_eps", "embedding_scale", "output_init", "logit_softcap", "qk_scale",
)  # fmt: skip
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


def check_together(
    given: Mapping[str, bool], *, needs: Mapping[str, str], excludes: Mapping[str, Sequence[str]]
) -> None:
    """Refuse options that would have no effect.

    Args:
        given: options of a command, and whether they are given.
        needs: option -> the one that it belongs to.
        excludes: option -> those that do not apply beside it.

    Raises:
        ConfigError: naming the option.
    """
    for option, other in needs.items():
        if given[option] and not given[other]:
            raise ConfigError(f"{option} applies to {other}; give {other}, or leave it out")
    for option, others in excludes.items():
        for other in others:
            if given[option] and given[other]:
                raise ConfigError(f"{other} does not apply to {option}; leave one of them out")
