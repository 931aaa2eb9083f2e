"""What an entry of a model can be, kind by kind: checked before and after the sum.

The values of a state have meanings that their type does not say: a variance is not
negative, a counter of batches counts up by at most the batches there were, an integer
fits its type, a float is finite. Pure; names are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.mean import Model

__all__ = ["impossible_change", "impossible_model"]

# A base and a change that are each rounded may miss 0 by so much of the base.
ROUNDING = 1e-6
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def impossible_change(
    base: Mapping[str, NDArray[Any]],
    change: Mapping[str, NDArray[Any]],
    *,
    batches: int,
) -> str:
    """The first entry that a change would make impossible, in words; empty if none.

    Args:
        base: The dense remainder that the change is to.
        change: Of the same names, shapes and kinds.
        batches: Most batches that the device can have trained on.
    """
    for name, step in change.items():
        why = _impossible_step(name, base[name], step, batches)
        if why:
            return f"entry {name} {why}"
    return ""


def impossible_model(model: Model) -> str:
    """The first entry of a model that cannot be, in words; empty if there is none."""
    for name, values in (*model.masked.items(), *model.dense.items()):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"entry {name} is not finite"
        if _is_variance(name) and values.size and float(values.min()) < -ROUNDING:
            return f"entry {name} has a negative variance, {float(values.min()):.3g}"
    return ""


def _impossible_step(
    name: str, base: NDArray[Any], step: NDArray[Any], batches: int
) -> str:
    if step.size == 0:
        return ""
    if step.dtype.kind == "f":
        return _impossible_floats(name, base, base.astype(np.float64) + step)
    low, high = int(step.min()), int(step.max())
    if name.endswith("num_batches_tracked") and not 0 <= low <= high <= batches:
        counted = low if low < 0 else high
        return f"would count {counted} batches; from 0 to {batches} were asked for"
    if not _stays_in_range(base, step):
        return f"would leave the range of {base.dtype}"
    return ""


def _stays_in_range(base: NDArray[Any], step: NDArray[Any]) -> bool:
    """Whether every sum is a value of the entry's dtype, which may be bool."""
    whole = base.dtype.kind == "b"
    low, high = (0, 1) if whole else _limits(base.dtype)
    # Python's integers: 64 bits and a change of 64 bits would wrap around.
    pairs = np.nonzero(step.reshape(-1))[0]
    now, by = base.reshape(-1)[pairs].tolist(), step.reshape(-1)[pairs].tolist()
    return all(low <= int(a) + b <= high for a, b in zip(now, by, strict=True))


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    room = np.iinfo(dtype)
    return int(room.min), int(room.max)


def _impossible_floats(name: str, base: NDArray[Any], after: NDArray[Any]) -> str:
    if float(np.abs(after).max()) > _FLOAT32_MAX:
        return "would pass the largest float32"
    least = -ROUNDING * np.maximum(np.abs(base), 1.0)
    if _is_variance(name) and (after < least).any():
        return f"would be a negative variance, {float(after.min()):.3g}"
    return ""


def _is_variance(name: str) -> bool:
    return name.endswith("running_var")
