"""A plan as the array of 64-bit words that the runtime reads (program.cpp)."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_sdk.program.plan import Plan

__all__ = ["words"]

_MAGIC = int.from_bytes(b"FLFEPG01", "little")
_VERSION = 1


def words(plan: Plan, number: Callable[[str], int]) -> NDArray[np.int64]:
    """The words of a plan.

    Args:
        plan: Of any schedule.
        number: Kernel's name -> the number that the runtime gives it.
    """
    steps, sizes = plan.schedule.steps, plan.schedule.sizes
    out = [
        _MAGIC,
        _VERSION,
        plan.lanes,
        plan.blocks,
        plan.reals,
        len(sizes),
        len(steps),
    ]
    for offset, size in zip(plan.offsets, sizes, strict=True):
        out += (offset, size)
    for step in steps:
        accumulate = plan.schedule.shared and step.backward
        lists = (
            *(step.inputs, step.outputs, step.stash, step.d_outputs, step.d_inputs),
            *(step.parameters, step.ints),
        )
        out += (number(step.kernel), step.backward + 2 * accumulate)
        out += (*map(len, lists), len(step.reals))
        for items in lists:
            out += items
        out += (struct.unpack("<q", struct.pack("<d", r))[0] for r in step.reals)
    return np.array(out, np.int64)
