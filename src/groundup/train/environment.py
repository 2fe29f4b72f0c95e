"""Contents of ``environment.json``: versions, hardware, the state of the source tree, and the cost of a token."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from groundup.account import parameter_count, training_flops_per_token
from groundup.account.hardware import cpu_name
from groundup.config import ModelConfig
from groundup.version import VERSION, installed_version


def environment(device: str) -> dict[str, Any]:
    """Versions, hardware and git state, for ``environment.json``."""
    return {
        "groundup": VERSION,
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in ("torch", "numpy", "safetensors", "regex")},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "device_name": device_name(device),
        "cuda": torch.version.cuda,
        "git": _git_state(),
    }


def costs(model: ModelConfig) -> dict[str, Any]:
    """What a reader of the run would need torch to count: parameters, and training FLOPs per token."""
    return {"parameters": parameter_count(model), "flops_per_token": training_flops_per_token(model)}


def device_name(device: str) -> str:
    """The accelerator's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()


def _git_state() -> dict[str, Any] | None:
    source = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):  # installed inside somebody else's repository
            return None
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
