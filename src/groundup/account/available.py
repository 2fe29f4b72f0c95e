"""Memory that a process of this machine can still get, by Linux's own accounts."""

from __future__ import annotations

import math
import os
from pathlib import Path

_UNLIMITED = 2**60
"""cgroup v1 has no word for "no limit", but a number above this one."""


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process can have, with those that it has already.

    The least of what the system calls available (free, or cache that it can drop), with free swap, and of what the
    limits of the process's control groups leave (containers, SLURM, systemd). Elsewhere than on Linux, all memory.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    own = _resident(root)
    available = [limit - used + own for limit, used in _control_groups(root)]
    if system := _meminfo(root):
        available.append(system + own)
    return max(0, min(available)) if available else _all_memory()


def _meminfo(root: Path) -> int:
    fields = _numbers(root / "proc" / "meminfo")
    if "MemAvailable:" not in fields:
        return 0
    return 1024 * (fields["MemAvailable:"] + fields.get("SwapFree:", 0))


def _resident(root: Path) -> int:
    return 1024 * _numbers(root / "proc" / "self" / "status").get("VmRSS:", 0)


def _numbers(path: Path) -> dict[str, int]:
    """First and second word of each line, where the second is a number."""
    try:
        words = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _control_groups(root: Path) -> list[tuple[int, int]]:
    """Limit and use of each control group of this process that has a limit, with those above it."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for hierarchy, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        mount = root / "sys" / "fs" / "cgroup"
        version = 2 if hierarchy == "0" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            place = mount / ("memory" if version == 1 else "unified" if (mount / "unified").is_dir() else "") / folder
            if (limits := _limit_and_use(place, version)) is not None:
                found.append(limits)
    return found


def _limit_and_use(folder: Path, version: int) -> tuple[int, int] | None:
    limit_file, use_file, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    try:
        limit = int((folder / limit_file).read_text())
        used = int((folder / use_file).read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
    # Cache of files that are no longer read is dropped before the limit is enforced.
    return (limit, used - _numbers(folder / "memory.stat").get(cache, 0)) if limit < _UNLIMITED else None


def _all_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return math.inf
