"""How the threads of a process wait for each other; needs no torch, and comes before it."""

from __future__ import annotations

import os
import sys

_BUSY = 0.5
"""Running processes a core, from which on a machine counts as busy."""


def wait_asleep_where_busy() -> bool:
    """Let threads that wait for each other sleep, where others use the machine too.

    By default they wait awake, which on an idle machine is quicker. Where a core is taken by somebody else, each of
    the thousand small operations of a step then waits for a thread that does not run, by keeping a core from it:
    steps of 285 to 5,600 ms where 87 to 180 were possible (docs/LAB.md). OpenMP reads the variable when torch is
    loaded, so that this must come first; one that the user has set stays. Results are the same bit for bit.

    Returns:
        Whether it took effect.
    """
    if "OMP_WAIT_POLICY" in os.environ or "torch" in sys.modules or not hasattr(os, "getloadavg"):
        return False
    if os.getloadavg()[0] < _BUSY * (os.cpu_count() or 1):
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True
