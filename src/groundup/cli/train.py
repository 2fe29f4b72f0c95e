"""`groundup train`."""

from __future__ import annotations

from groundup.cli.flags import Flags, check_together, read_flags, resolve
from groundup.config import RunConfig
from groundup.errors import ConfigError, GroundupError
from groundup.system.command import command
from groundup.system.launch import Launch
from groundup.system.slurm import REQUEUED_AFTER, requeue, slurm_job
from groundup.system.threads import choose_wait_policy


def train(arguments: list[str]) -> int:
    """Train from a recipe, or resume a run; return 0, or 128 + the signal that stopped it.

    A run that reaches its time limit returns 0. Under torchrun a signal returns 0 too: torchrun takes any other code
    for a failure, and would start the job again.
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
    from groundup.record.run import RunDirectory
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
        talk = ["--chat"] if RunDirectory(result.run_dir).is_chat else []
        display.note(f"done: {found}read what it writes with\n  {command('generate', result.run_dir, *talk)}")
        return 0
    display.note(f"resume with\n  {command('train', '--resume', result.run_dir)}")
    on_purpose = result.signal is None and result.summary["step"] == config.train.stop_at
    if job and launch.is_main and not on_purpose and (result.signal is None or result.signal in REQUEUED_AFTER):
        display.note(requeue(job))
    return 128 + result.signal if result.signal and not launch.by_torchrun else 0


def _is_begun(config: RunConfig, flags: Flags) -> bool:
    """Whether the job began this run before it was requeued."""
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
