"""Memory that a step frees stays with the process, for the next step."""

from __future__ import annotations

import ctypes
import functools
import platform

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Make malloc keep large blocks that are freed, instead of giving them back to the system.

    A training step on a CPU makes and drops the same tensors of some megabytes over and over. By default glibc takes
    each from the system anew, which clears it page by page: a sixth of a step. The process stays as large as it was at
    its largest; where the C library is another one, nothing happens.

    Returns:
        Whether it took effect.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
