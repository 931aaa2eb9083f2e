"""Examples out of a generator, the newest of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from edge_sdk.datasets.growing.timed import TimedExamples
from edge_sdk.errors import DataError

__all__ = ["stream_examples"]


def stream_examples(rows: Iterable[tuple[Any, ...]], *, most: int) -> TimedExamples:
    """The last examples that a generator gives; never more than `most` in memory.

    Args:
        rows: Gives (input, target) or (input, target, seconds since 1970), and ends.
        most: How many are kept; the oldest are overwritten.

    Raises:
        DataError: If it gives none, or rows of different shapes.
    """
    inputs = targets = times = None
    given, timed = 0, True
    for value, target, *time in rows:
        own, wanted = np.asarray(value), np.asarray(target)
        if inputs is None or targets is None or times is None:
            inputs = np.empty((most, *own.shape), own.dtype)
            targets = np.empty((most, *wanted.shape), wanted.dtype)
            times = np.empty(most, np.float64)
        if own.shape != inputs.shape[1:] or wanted.shape != targets.shape[1:]:
            raise DataError(
                f"example {given} has shape {own.shape}, the first {inputs.shape[1:]}"
            )
        at = given % most
        inputs[at], targets[at] = own, wanted
        timed = timed and bool(time)
        times[at] = time[0] if time else 0.0
        given += 1
    if inputs is None or targets is None or times is None:
        raise DataError("the generator gives no examples")
    if given <= most:
        cut = slice(0, given)
        inputs, targets, times = inputs[cut], targets[cut], times[cut]
    else:  # the oldest first again, in place
        for array in (inputs, targets, times):
            _turn(array, given % most)
    return TimedExamples(inputs, targets, times=times if timed else None)


def _turn(array: np.ndarray, by: int) -> None:
    """Rotates rows to the front in place: three reversals need no second array."""
    for part in (array[:by], array[by:], array):
        half = len(part) // 2
        if half:
            front = part[:half].copy()
            part[:half] = part[: -half - 1 : -1]
            part[-half:] = front[::-1]
