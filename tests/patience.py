"""How long to wait here: what a time limit becomes on a machine that is slow or busy.

A limit guards against what hangs, so it is written as for an idle machine, and every
one goes through `patience`: measured speed, and the load of the moment.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time

__all__ = ["patience", "slowness"]

REFERENCE_S = 0.02  # for the work below on an idle core of 2020
MOST = 40.0


def patience(seconds: float) -> float:
    """Seconds to wait for what takes so long at most on an idle machine."""
    return seconds * slowness(_speed(), _load())


def slowness(speed: float, load: float) -> float:
    """How many times slower than an idle machine; never below 1.

    Args:
        speed: Times longer that a fixed work took here.
        load: Programs that want to run, per core.
    """
    return min(max(1.0, speed, load), MOST)


@functools.cache
def _speed() -> float:
    """Once per session; the best of three, as one may be interrupted."""
    block = bytes(1 << 20)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(20):
            hashlib.blake2b(block).digest()
        times.append(time.perf_counter() - began)
    return min(times) / REFERENCE_S


def _load() -> float:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return os.getloadavg()[0] / max(cores, 1)
