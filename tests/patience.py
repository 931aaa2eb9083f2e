"""How long to wait here: what a time limit becomes on a machine that is slow or busy.

A limit guards against what hangs, so it is written as for an idle machine, and every
one goes through `patience`: measured speed, and the load of the moment.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable

__all__ = ["LOOK_S", "patience", "slowness", "waited"]

REFERENCE_S = 0.02  # for the work below on an idle core of 2020
MOST = 40.0
LOOK_S = 0.02


def patience(seconds: float) -> float:
    """Seconds to wait for what takes so long at most on an idle machine."""
    return seconds * slowness(_speed(), _load())


def waited(until: Callable[[], bool], seconds: float, look_s: float = LOOK_S) -> bool:
    """Whether something came to be so within seconds, as they are on an idle machine.

    The limit is that of each moment: a machine that gets busy meanwhile gets more.

    Args:
        until: Looks; it is asked once more after the limit.
        look_s: Seconds between two looks.
    """
    began = time.monotonic()
    while not until():
        if time.monotonic() - began > patience(seconds):
            return until()
        time.sleep(look_s)
    return True


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
    """Programs that want to run, per core; the average of a minute lags behind.

    So the tests that run beside this one count from their start, with a child each.
    """
    beside = 2 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(os.getloadavg()[0], beside) / max(cores, 1)
