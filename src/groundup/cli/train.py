"""`groundup train`."""

from __future__ import annotations

import dataclasses

from groundup.cli.flags import Flags, read_flags
from groundup.cli.parse import parse
from groundup.config import RunConfig, load_recipe
from groundup.config.recipe import recipes_dir
from groundup.errors import ConfigError, GroundupError
from groundup.system.command import command
from groundup.system.launch import Launch
from groundup.system.slurm import REQUEUED_AFTER, requeue, slurm_job
from groundup.system.threads import choose_wait_policy


def train(arguments: list[str]) -> int:
    """Train from a recipe, or resume a run; returns 0, or 128 + the signal that stopped it.

    A run that stops at its limit of time has done what it was told, and returns 0.

    Under torchrun it is 0 after a signal too: torchrun takes anything else for a failure, and would start the job
    again.
    """
    launch = Launch.from_environment()
    choose_wait_policy()
    try:
        flags = read_flags(arguments)
        check_together(flags)
        job = slurm_job() if flags.requeue else ""
        config = resolve(flags)
        if flags.dry_run and launch.ranks > 1:
            raise ConfigError(f"--dry-run plans one process, but torchrun started {launch.ranks}; leave torchrun out")
    except GroundupError:
        if launch.is_first_here:
            raise
        return 2
    if flags.dry_run:
        return _dry_run(config, flags)

    from groundup.display.console import ConsoleDisplay
    from groundup.record.sinks import Silent
    from groundup.train import AnotherRankError
    from groundup.train import train as run_training

    display = ConsoleDisplay() if launch.is_main else Silent()
    try:
        result = run_training(
            config,
            resume=flags.resume or _is_begun(config, flags),
            overwrite=flags.overwrite,
            display=display,
            adopt_config=flags.adopt_config,
            force=flags.force,
        )
    except AnotherRankError:
        return 2
    if result.finished:
        loss = result.summary["best_val_loss"]
        found = f"best validation loss {loss:.4f} at step {result.summary['best_step']}; " if loss is not None else ""
        display.note(f"done: {found}read what it writes with\n  {command('generate', result.run_dir)}")
        return 0
    display.note(f"go on with\n  {command('train', '--resume', result.run_dir)}")
    if job and launch.is_main and (result.signal is None or result.signal in REQUEUED_AFTER):
        display.note(requeue(job))
    return 128 + result.signal if result.signal and not launch.by_torchrun else 0


def check_together(flags: Flags) -> None:
    """Refuse flags that contradict each other."""
    if flags.resume and flags.overwrite:
        raise ConfigError("--resume and --overwrite contradict each other; leave one out")
    if flags.requeue and flags.overwrite:
        raise ConfigError(
            "--requeue starts the same command again, and --overwrite would then delete what the run has done; "
            "leave one out"
        )
    if flags.adopt_config and not (flags.resume or flags.requeue):
        raise ConfigError("--adopt-config changes options of a run that is resumed; add --resume, or leave it out")


def _is_begun(config: RunConfig, flags: Flags) -> bool:
    """Whether --requeue has come to a run that its job began before."""
    from groundup.record.run import RunDirectory

    return flags.requeue and not RunDirectory(config.run_dir).is_untouched()


def _dry_run(config: RunConfig, flags: Flags) -> int:
    from groundup.display.console import make_console, print_section
    from groundup.train import dry_run

    console = make_console()
    for section in dry_run(
        config, resume=flags.resume, overwrite=flags.overwrite, adopt_config=flags.adopt_config, force=flags.force
    ):
        print_section(console, *section)
    return 0


def resolve(flags: Flags) -> RunConfig:
    """The config: recipe or resumed run, then the command line over it."""
    if flags.help:
        parse(
            RunConfig,
            ["--help"],
            "train [RECIPE] [--resume [RUN]] [--overwrite] [--dry-run] [--adopt-config] [--force] [--requeue]",
            description=_about(),
        )
    if flags.resume_run is not None:
        if flags.recipe is not None:
            raise ConfigError(f"--resume {flags.resume_run} has its recipe already; leave out {flags.recipe!r}")
        from groundup.record.run import RunDirectory

        run = RunDirectory.open(flags.resume_run)
        # The folder may have been renamed or moved since.
        base = dataclasses.replace(run.config, name=run.path.name, runs_dir=str(run.path.parent))
    elif flags.recipe is not None:
        base = load_recipe(flags.recipe)
    elif flags.resume and not any(option.startswith("--name") for option in flags.options):
        raise ConfigError("--resume needs to know which run: `groundup train --resume RUN`, or a recipe with it")
    else:
        base = RunConfig()
    config = parse(RunConfig, flags.options, "train", default=base)
    return flags.apply_deferred(config)


def _about() -> str:
    shipped = ", ".join(sorted(p.stem for p in recipes_dir().glob("*.toml")))
    return (
        f"Train a model. RECIPE is a TOML file or one of: {shipped}. Options override it; the last part of a name "
        f"is enough where it is unique (--d_model). --resume continues the run of the recipe's name, or RUN; "
        f"--overwrite replaces it. --dry-run prints the plan (parameters, memory, disk, the time by a few timed "
        f"steps) and leaves nothing behind. --adopt-config resumes with options that have changed since the "
        f"checkpoint; --force begins a run that does not fit into memory or on the disk; --requeue puts the SLURM "
        f"job back into the queue when SIGUSR1, SIGTERM or the time limit has stopped the run, and goes on with it. "
        f"The flags of the course's script work too: --train_path --val_path --vocab_path --merges_path --dataset "
        f"--checkpoint_dir --no_rope --no_rmsnorm --post_norm --ffn_silu --weight_tying --bf16 --use_amp "
        f"--use_flash --grad_accum_steps --eval_batches --generate_interval --generate_tokens."
    )
