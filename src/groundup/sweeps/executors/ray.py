"""Trials as Ray tasks, on a cluster whose machines share the sweep's directory."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

from groundup.config import override
from groundup.errors import ConfigError, MissingExtraError
from groundup.sweeps.attempt import Job, Outcome, attempt
from groundup.train.build import absolute_paths

_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_WAIT = 1.0
_DEFAULT_PORT = 6379


class RayExecutor:
    """Runs each job as a Ray task. A task whose worker or machine dies is "lost"; the sweep submits its trial again,
    which resumes from its latest checkpoint on any machine.

    Args:
        address: of a running cluster, as ``host:port``, ``ray://host:port`` or ``auto``; None starts a local cluster.
        workers: trials at once on a local cluster.
        threads: CPU threads of each trial, which Ray counts as its CPUs.
        gpus: GPUs of each trial; by default one if the machines have any.

    Raises:
        MissingExtraError: the package ray is not installed.
        ConfigError: no cluster answers at the address.
    """

    def __init__(self, address: str | None = None, *, workers: int = 2, threads: int = 1, gpus: float | None = None):
        try:
            import ray
        except ImportError:
            raise MissingExtraError.for_package("ray", "ray", "--executor ray") from None
        self._ray, self._threads = ray, threads
        if address is None:
            ray.init(num_cpus=workers * threads, include_dashboard=False, log_to_driver=False, logging_level="error")
        else:
            _connect(ray, address)
        self._gpus = float(ray.cluster_resources().get("GPU", 0) > 0) if gpus is None else gpus
        self._check_room()
        # The memory of other machines is unknown here.
        self.memory_shares: int | None = None if address is not None else 1 if self._gpus else workers
        needs = {"num_cpus": threads, "num_gpus": self._gpus, "max_retries": 0}
        self._task = ray.remote(**needs)(_run)
        # With a time limit, a warm process would have more time to train.
        self._timed_task = ray.remote(**needs, max_calls=1)(_run)
        self._jobs: dict[Any, Job] = {}

    @property
    def slots(self) -> int:
        """Number of trials that fit on the machines in the cluster now; more machines may join."""
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self._threads)
        if self._gpus:
            room = min(room, int(there.get("GPU", 0) // self._gpus))
        return max(1, room)

    def _check_room(self) -> None:
        """Refuse trials that no machine is large enough for; Ray would wait forever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= self._threads and node.get("GPU", 0) >= self._gpus for node in nodes):
            return
        cpus, gpus = (max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU"))
        self._ray.shutdown()
        raise ConfigError(
            f"a trial takes {self._threads} CPUs and {self._gpus:g} GPUs of Ray, and no machine has that many (at most "
            f"{cpus:g} and {gpus:g}); choose fewer --threads or --gpus"
        )

    def submit(self, job: Job) -> None:
        # Ray's workers run in other working directories.
        there = replace(job, config=override(job.config, absolute_paths(job.config)))
        task = self._timed_task if job.config.train.max_minutes or job.config.train.minutes else self._task
        self._jobs[task.remote(there.to_json(), self._threads)] = job

    def next(self) -> Outcome | None:
        ended, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=_SECONDS_TO_WAIT)
        if not ended:
            return None
        job = self._jobs.pop(ended[0])
        try:
            return Outcome.from_json(self._ray.get(ended[0]))
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            return Outcome(trial=job.trial, ending="lost", message=f"{type(error).__name__}: {reason}")

    def close(self) -> None:
        self._ray.shutdown()


def _run(job: dict[str, Any], threads: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    return attempt(Job.from_json(job)).to_json()


def _connect(ray: Any, address: str) -> None:
    """Join a cluster. Without this check, Ray waits for minutes for a missing cluster, then ends the process."""
    if address not in ("auto", "local"):
        host, port = _host_and_port(address)
        try:
            socket.create_connection((host, port), _SECONDS_TO_CONNECT).close()
        except OSError as error:
            raise ConfigError(
                f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or leave "
                f"--address out for a local one"
            ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        raise ConfigError(
            f"cannot join the Ray cluster at {address}: {' '.join(str(error).split())[:200]}; start one with "
            f"`ray start --head`, or leave --address out for a local one"
        ) from None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        host, port = port, str(_DEFAULT_PORT)
    if not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address}; expected auto, HOST:PORT or ray://HOST:PORT")
    return host, int(port)
