"""Requeueing of the SLURM job that this process belongs to. Imports no torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping

from groundup.errors import ConfigError

REQUEUED_AFTER = (signal.SIGUSR1, signal.SIGTERM)
"""Signals that a scheduler sends before it ends a job. After Ctrl-C or a closed terminal a job is not requeued."""
_PATIENCE = 60.0


def slurm_job(environment: Mapping[str, str] = os.environ) -> str:
    """The id of the SLURM job that this process belongs to.

    Raises:
        ConfigError: it belongs to no job, or ``scontrol`` is not on the PATH.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if not job:
        raise ConfigError("--requeue needs a SLURM job, but SLURM_JOB_ID is not set; leave --requeue out")
    if shutil.which("scontrol", path=environment.get("PATH")) is None:
        raise ConfigError("--requeue needs SLURM's command scontrol, which is not on the PATH; add it, or leave it out")
    return job


def requeue(job: str) -> str:
    """Put a job back into the queue; return a message on success or failure."""
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot requeue job {job}: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"cannot requeue job {job}: {said[0] if said else f'scontrol ended with {done.returncode}'}"
    return f"job {job} is in the queue again"
