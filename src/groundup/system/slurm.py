"""SLURM: putting the job that this process belongs to back into the queue; needs no torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping

from groundup.errors import ConfigError

REQUEUED_AFTER = (signal.SIGUSR1, signal.SIGTERM)
"""What a scheduler sends before it ends a job. A person's Ctrl-C and a closed terminal end it for good."""
_PATIENCE = 60.0


def slurm_job(environment: Mapping[str, str] = os.environ) -> str:
    """The id of the SLURM job that this process belongs to.

    Raises:
        ConfigError: it belongs to none, or there is no ``scontrol`` to requeue it with.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if not job:
        raise ConfigError("--requeue needs a SLURM job, but SLURM_JOB_ID is not set; leave --requeue out")
    if shutil.which("scontrol", path=environment.get("PATH")) is None:
        raise ConfigError("--requeue needs SLURM's command scontrol, which is not on the PATH; add it, or leave it out")
    return job


def requeue(job: str) -> str:
    """Put a job back into the queue; returns a line that says how that went."""
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot requeue job {job}: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"cannot requeue job {job}: {said[0] if said else f'scontrol ended with {done.returncode}'}"
    return f"job {job} is in the queue again"
