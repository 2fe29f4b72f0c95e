"""Options of `groundup train`: their other spellings, and the config that they make.

Every option has one full name, its place in the config (``--model.d_model``). On the command line the last part is
enough where it is unique (``--d_model``), and the flags of the course's training script work too (``--no_rope``,
``--val_path``, …). All are rewritten here to full names before tyro reads them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from groundup.cli.parse import parse, switch_value
from groundup.config import RunConfig, check_warmup, flatten, override, short_names
from groundup.config.names import check_length
from groundup.config.recipe import recipes_dir, suggestion
from groundup.errors import ConfigError

_RENAMED = {
    "train_path": "data.train",
    "val_path": "data.valid",
    "vocab_path": "data.vocab",
    "merges_path": "data.merges",
    "generate_interval": "sample.interval",
    "generate_tokens": "sample.tokens",
    "learning_rate": "optim.max_learning_rate",
}
_SWITCHES = {
    "no_rope": ("model.position", "none"),
    "no_rmsnorm": ("model.norm", "none"),
    "post_norm": ("model.norm", "post"),
    "ffn_silu": ("model.ffn", "silu"),
    "weight_tying": ("model.tie_embeddings",),
    "bf16": ("train.precision", "bf16"),
    "use_amp": ("train.precision", "bf16"),
    "use_flash": ("train.attention", "flash"),
}
_OWN_SWITCHES = ("overwrite", "dry_run", "adopt_config", "force", "requeue")
"""Flags of the command, which are not options of the run's config."""
# Multiples of the batch size, which is known only when all else is read.
_DEFERRED = ("eval_batches", "grad_accum_steps")


@dataclasses.dataclass
class Flags:
    """Arguments of `groundup train`, rewritten for tyro."""

    recipe: str | None = None
    resume: bool = False
    resume_run: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    adopt_config: bool = False
    force: bool = False
    requeue: bool = False
    then: str = ""
    """Schedule of a second stage of the run that is resumed."""
    help: bool = False
    options: list[str] = dataclasses.field(default_factory=list)
    """Full names and their values, for tyro."""
    deferred: dict[str, int] = dataclasses.field(default_factory=dict)

    def given(self, name: str) -> str | None:
        """The value of an option that is text, by its full name; None if it is not there."""
        values = [option.partition("=")[2] for option in self.options if option.startswith(f"--{name}=")]
        return values[-1] if values else None

    def apply_deferred(self, config: RunConfig) -> RunConfig:
        """The config with --grad_accum_steps and --eval_batches, which count in batches of --batch_size, applied.

        ``--batch_size 8 --grad_accum_steps 4`` is a step of 32 sequences in 4 micro-batches of 8.
        """
        batch_size = config.data.batch_size
        if steps := self.deferred.get("grad_accum_steps"):
            config = override(config, {"data.batch_size": batch_size * steps, "data.micro_batch_size": batch_size})
        if batches := self.deferred.get("eval_batches"):
            config = override(config, {"train.eval_windows": batches * batch_size})
        return config


def read_flags(arguments: list[str]) -> Flags:
    """Rewrite the arguments of `groundup train`.

    Raises:
        ConfigError: an unknown flag, with the nearest known one; a flag without its value.
    """
    flags = Flags()
    short, full = short_names(), set(flatten(RunConfig()))
    booleans = {name for name, value in flatten(RunConfig()).items() if isinstance(value, bool)}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            flags.help = True
            continue
        if not argument.startswith("--"):
            if flags.recipe is not None:
                raise ConfigError(f"unexpected argument {argument!r} after the recipe {flags.recipe!r}")
            flags.recipe = argument
            continue
        written, equals, value = argument[2:].partition("=")
        name = written.replace("-", "_")
        attached = value if equals else None
        if name == "resume":
            flags.resume = True
            if attached or (rest and not rest[0].startswith("--")):
                flags.resume_run = attached or rest.pop(0)
        elif name in _OWN_SWITCHES:
            setattr(flags, name, _is_on(argument, attached, rest))
        elif name in _SWITCHES:
            target, *fixed = _SWITCHES[name]
            if _is_on(argument, attached, rest):
                flags.options += [f"--{target}", *fixed]
            elif not fixed:
                flags.options.append(f"--{_off(target)}")
        elif name == "then":
            flags.then = _value(argument, attached, rest)
        elif name == "dataset":
            if flags.recipe is not None:
                raise ConfigError(f"--dataset beside the recipe {flags.recipe!r}; leave one of them out")
            flags.recipe = _value(argument, attached, rest)
        elif name == "checkpoint_dir":
            folder = Path(_value(argument, attached, rest))
            flags.options += [f"--runs_dir={folder.parent}", f"--name={folder.name}"]
        elif name in _DEFERRED:
            flags.deferred[name] = _count(argument, _value(argument, attached, rest))
        elif name.endswith(".betas") and f"{name[:-1]}1" in full:
            flags.options += _betas(name, _value(argument, attached, rest))
        else:
            target = _target(name, short, full, booleans)
            if target in booleans:
                flags.options.append(f"--{target if _is_on(argument, attached, rest) else _off(target)}")
            elif (positive := _on(target)) in booleans:
                flags.options.append(f"--{target if _is_on(argument, attached, rest) else positive}")
            else:  # as one word: a value that begins with dashes is a value all the same
                flags.options.append(f"--{target}={_value(argument, attached, rest)}")
    return flags


def _betas(name: str, text: str) -> list[str]:
    """``--optim.groups.head.betas 0.8,0.95`` as two options."""
    values = text.strip("[]").split(",")
    if len(values) != 2:
        raise ConfigError(f"--{name} {text}; expected two numbers in [0, 1), such as 0.8,0.95")
    return [f"--{name[:-1]}{i}={value.strip()}" for i, value in enumerate(values, 1)]


def _target(name: str, short: dict[str, str], full: set[str], booleans: set[str]) -> str:
    if name in _RENAMED:
        return _RENAMED[name]
    if name in full:
        return name
    if name in short:
        return short[name]
    for boolean in booleans:  # tyro's way to switch off: --train.no_compile
        if name in (_off(boolean), _off(boolean).rpartition(".")[2]):
            return _off(boolean)
    others = ("dataset", "checkpoint_dir", "resume", "then")
    known = [*full, *short, *_RENAMED, *_SWITCHES, *_DEFERRED, *_OWN_SWITCHES, *others]
    near = suggestion(name, known)
    hint = near if "did you mean" in near else "; see `groundup train --help`"
    raise ConfigError(f"unknown option --{name}{hint}")


def _value(argument: str, attached: str | None, rest: list[str]) -> str:
    if attached is not None:
        return attached
    # A negative number is a value, for the config to judge; another flag is not.
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        raise ConfigError(f"{argument} needs a value")
    return rest.pop(0)


def _is_on(argument: str, attached: str | None, rest: list[str]) -> bool:
    """Whether a boolean option is switched on: ``--compile``, ``--compile true``, but not ``--compile=false``."""
    try:
        return switch_value(attached, rest) is not False
    except ConfigError as error:
        raise ConfigError(f"{argument.partition('=')[0]} {error}") from None


def _off(target: str) -> str:
    """tyro's name for a boolean option that is switched off: ``train.no_compile``."""
    section, _, last = target.rpartition(".")
    return f"{section}.no_{last}"


def _on(target: str) -> str:
    """The boolean option that is switched off by this name: ``train.compile``."""
    section, _, last = target.rpartition(".")
    return f"{section}.{last.removeprefix('no_')}"


def _count(argument: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise ConfigError(f"{argument} {text}; expected a whole number, at least 1")
    return int(text)


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:  # tyro says what is wrong
        return False


def check_together(flags: Flags) -> None:
    """Refuse flags that contradict each other."""
    if flags.resume and flags.overwrite:
        raise ConfigError("--resume and --overwrite contradict each other; leave one out")
    check_length(option.partition("=")[0].removeprefix("--") for option in flags.options)
    if (minutes := flags.given("train.minutes")) is not None and _is_zero(minutes):
        raise ConfigError(f"--minutes {minutes}; expected a positive number of minutes")
    if flags.requeue and flags.overwrite:
        raise ConfigError(
            "--requeue starts the same command again, and --overwrite would then delete what the run has done; "
            "leave one out"
        )
    if flags.then and (not flags.resume or flags.adopt_config):
        mend = "leave --adopt-config out" if flags.resume else "name the run with --resume RUN"
        raise ConfigError(f"--then {flags.then} gives a finished run a second stage; {mend}")
    if flags.adopt_config and not (flags.resume or flags.requeue):
        raise ConfigError("--adopt-config changes options of a run that is resumed; add --resume, or leave it out")


def resolve(flags: Flags) -> RunConfig:
    """The config: recipe or resumed run, then the command line over it."""
    if flags.help:
        parse(
            RunConfig,
            ["--help"],
            "train [RECIPE] [--resume [RUN]] [--then SCHEDULE] [--overwrite] [--dry-run] [--adopt-config] [--force] "
            "[--requeue]",
            description=_about(),
        )
    if flags.resume_run is not None:
        if flags.recipe is not None:
            raise ConfigError(f"--resume {flags.resume_run} has its recipe already; leave out {flags.recipe!r}")
        from groundup.record.run import RunDirectory

        run = RunDirectory.open(flags.resume_run)
        # The folder may have been renamed or moved since.
        base = dataclasses.replace(run.config, name=run.path.name, runs_dir=str(run.path.parent))
    elif flags.recipe is None and flags.resume and flags.given("name") is None:
        raise ConfigError("--resume needs to know which run: `groundup train --resume RUN`, or a recipe with it")
    else:
        from groundup.record.parent import inheriting_recipe

        given = {name: value for name in ("train.init", "name", "runs_dir") if (value := flags.given(name)) is not None}
        base = inheriting_recipe(flags.recipe, given, resume=flags.resume or flags.requeue)
    config = flags.apply_deferred(parse(RunConfig, flags.options, "train", default=base))
    return _with_stage(config, flags.then) if flags.then else config


def _with_stage(config: RunConfig, schedule: str) -> RunConfig:
    """The config with a second stage after the steps that its run has; a stage that is there stays where it begins."""
    from groundup.record.run import RunDirectory

    run = RunDirectory.open(config.run_dir)
    begins = run.config.optim.stage_from or int(run.checkpoint("latest").name.removeprefix("step-"))
    config = override(config, {"optim.stage_from": begins, "optim.stage_schedule": schedule})
    check_warmup(config)
    return config


def _about() -> str:
    shipped = ", ".join(sorted(p.stem for p in recipes_dir().glob("*.toml")))
    return (
        f"Train a model. RECIPE is a TOML file or one of: {shipped}. Options override it; the last part of a name "
        f"is enough where it is unique (--d_model). --resume continues the run of the recipe's name, or RUN; "
        f"--overwrite replaces it. With --resume and more --max_iters, a run whose schedule is wsd or constant becomes "
        f"the longer run; --then linear, wsd or constant gives a finished run a second stage, up to --max_iters. "
        f"--minutes N trains for N minutes in place of --max_iters steps, and the schedule ends then. "
        f"--dry-run prints the plan (parameters, memory, disk, the time by a few timed steps) and leaves nothing "
        f"behind. --adopt-config resumes with options that have changed since the checkpoint; --force begins a run "
        f"that does not fit into memory or on the disk; --requeue puts the SLURM job back into the queue when SIGUSR1, "
        f"SIGTERM or the time limit has stopped the run, and resumes it. "
        f"The flags of the course's script work too: --train_path --val_path --vocab_path --merges_path --dataset "
        f"--checkpoint_dir --no_rope --no_rmsnorm --post_norm --ffn_silu --weight_tying --bf16 --use_amp "
        f"--use_flash --grad_accum_steps --eval_batches --generate_interval --generate_tokens."
    )
