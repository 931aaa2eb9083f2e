"""Keeping training to the share of the processor that a device may use."""

from __future__ import annotations

import contextlib
import math
import os

__all__ = [
    "be_nice",
    "rest_after_s",
    "threads_for",
]


def threads_for(cores: int, cpu_share: float) -> int:
    """Training threads: whole cores of the share lent, at least one."""
    return max(1, min(cores, math.floor(cores * cpu_share + 1e-9)))


def rest_after_s(step_s: float, *, cores: int, cpu_share: float) -> float:
    """Seconds to rest after a step, so that training keeps to its share.

    Only what whole threads do not already hold back: half of four cores is two threads
    and no rest, a tenth of four is one thread and a rest of one and a half steps.
    """
    threads = threads_for(cores, cpu_share)
    busy = threads / cores
    return max(0.0, step_s * (busy / cpu_share - 1.0))


def be_nice(niceness: int) -> None:
    """Lowers this process's priority, so that what else the board does comes first.

    Args:
        niceness: Never less than the process has.
    """
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        found = max(os.getpriority(os.PRIO_PROCESS, 0), niceness)
        os.setpriority(os.PRIO_PROCESS, 0, found)
