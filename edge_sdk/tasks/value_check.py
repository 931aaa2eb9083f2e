"""Check that every value of the examples is finite and distinct in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.tasks.arrays import blocks, native, not_finite
from edge_sdk.tasks.batch import prepared
from edge_sdk.tasks.task import Examples, Task

__all__ = ["check_finite", "check_precision"]

# Rounding to fewer bits may move a value by so much of what its feature varies by.
_LOST = 1e-3
# What varies by less, relative to its size, is the noise of float64 itself.
_NOISE = 1e-12
_SHOWN = 64  # examples that are prepared to see whether `prepare` mends them


def check_finite(
    task: Task,
    examples: Examples,
    where: str,
    loss_on: Callable[[NDArray[np.int64]], float],
) -> None:
    """Refuses NaN and infinity, unless `prepare` or the loss deals with them.

    Args:
        task: Whose `prepare`.
        examples: All of them.
        where: Which, for the message.
        loss_on: Positions -> the loss on these examples.

    Raises:
        DataError: If prepared inputs or the loss are not finite; says how many.
    """
    found = not_finite(examples.inputs)
    if found.size:
        some = prepared(task, examples.inputs[found[:_SHOWN]])
        if not torch.isfinite(some).all():
            raise _infinite(where, "inputs", found, len(examples))
    found = not_finite(examples.targets)
    if found.size:
        # Beside sound ones: a loss that leaves out what is missing has to have others.
        sound = np.setdiff1d(np.arange(min(len(examples), _SHOWN + found.size)), found)
        shown = np.concatenate([found[:_SHOWN], sound[:_SHOWN]]).astype(np.int64)
        if not np.isfinite(loss_on(shown)):
            raise _infinite(where, "targets", found, len(examples))


def check_precision(task: Task, examples: Examples, where: str) -> None:
    """Refuses floats that the model's dtype cannot tell apart, such as timestamps.

    Ordinary float64 data loses nothing that matters in float32 and passes.

    Raises:
        DataError: If a feature's values round to far fewer, or to infinity.
    """
    casts = examples.casts
    if casts is None:
        return
    made: dict[str, Callable[[NDArray[np.generic]], torch.Tensor]] = {
        "inputs": lambda raw: prepared(task, raw),
        "targets": lambda raw: torch.from_numpy(native(raw)),
    }
    for name, rows_of in made.items():
        to: torch.dtype = getattr(casts, name)
        stored: NDArray[np.generic] = getattr(examples, name)
        if not _narrows(rows_of(stored[:1]).dtype, to):
            continue
        rows = (rows_of(part) for _, part in blocks(stored))
        complaint = _rounded_away(rows, to)
        if complaint:
            dtype, why = complaint
            raise DataError(
                f"{where}: {name} are {dtype}, the model is {_name(to)}: {why}",
                remedy="Subtract an offset, or scale them, in the task's prepare or "
                "where it reads its data.",
            )


def _rounded_away(
    rows: Iterator[torch.Tensor], to: torch.dtype
) -> tuple[str, str] | None:
    """(dtype, what is lost) where a cast does harm."""
    count, dtype = 0, ""
    total = square = worst = origin = None
    for part in rows:
        dtype = _name(part.dtype)
        values = part.reshape(len(part), -1).double()
        rounded = part.to(to).reshape(len(part), -1).double()
        if not to.is_floating_point:
            if bool((values != rounded).any()):
                return dtype, "they are not whole numbers"
            continue
        if bool((~torch.isfinite(rounded) & torch.isfinite(values)).any()):
            return dtype, f"{float(values.abs().max()):.3g} is above its range"
        values, rounded = values.nan_to_num(0, 0, 0), rounded.nan_to_num(0, 0, 0)
        if origin is None:
            origin = values[:1].clone()
        off = values - origin  # about the first example: no cancellation
        lost = (values - rounded).abs().amax(0)
        worst = lost if worst is None else torch.maximum(worst, lost)
        total = off.sum(0) if total is None else total + off.sum(0)
        square = (off**2).sum(0) if square is None else square + (off**2).sum(0)
        count += len(part)
    if worst is None or total is None or square is None or origin is None:
        return None
    mean = total / count
    spread = (square / count - mean**2).clamp(min=0).sqrt()
    size = (origin[0] + mean).abs()
    real = spread > _NOISE * size
    harmed = (real & (worst > _LOST * spread)).nonzero().reshape(-1)
    if not len(harmed):
        return None
    at = int(harmed[0])
    return dtype, (
        f"feature {at} of {len(spread)} varies by {float(spread[at]):.3g} around "
        f"{float(size[at]):.6g}, and rounding moves it by {float(worst[at]):.3g}"
    )


def _narrows(have: torch.dtype, to: torch.dtype) -> bool:
    """Return whether a cast can change a value."""
    if have == to or have is torch.bool or not have.is_floating_point:
        # Integers are exact in float32 up to 2 ** 24; beyond they round like float64.
        wide = have in {torch.int32, torch.int64} and to.is_floating_point
        return wide and have != to
    if not to.is_floating_point:
        return True
    return torch.finfo(have).bits > torch.finfo(to).bits


def _infinite(where: str, what: str, found: NDArray[np.int64], count: int) -> DataError:
    return DataError(
        f"{where}: {found.size} of {count} {what} hold a NaN or an infinity, the "
        f"first is example {found[0]}",
        remedy="Leave these examples out, or fill them in, where the task reads them.",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
