"""Check of a round's model before it replaces its base, and search for the culprit.

Rule 1. A model with an entry that cannot be, or a loss that is not finite where the
        base's is, is not sound.
Rule 2. Nor is one that has lost what there was to lose: the base's loss was below half
        of the untrained model's, and the new one's is above twice that. An honest round
        may be worse than the one before, and under non-IID data by much; none of those
        measured came near (docs/adr/0045-a-round-is-checked-before-it-counts.md).
Rule 3. Whose update, alone, gives a model whose loss is not finite spoils it; then,
        one after the other, whose absence helps most.

Pure: losses come from a function that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from coordinator.algorithms.mean import Model
from coordinator.rounds.state import quorum_of

__all__ = [
    "ROUNDING",
    "Unsound",
    "collapsed",
    "impossible_model",
    "sound_rows",
    "spoilers",
]

# A base and a change that are each rounded may miss 0 by so much of the base.
ROUNDING = 1e-6

LEARNED, LOST = 0.5, 2.0  # of the untrained model's loss
SUSPECTS = 8  # the worst alone; leaving each one out costs an aggregate

# Devices -> loss of the model that their updates alone make; not finite if it is none.
LossOf: TypeAlias = Callable[[Collection[str]], float]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Unsound:
    """The reason why a round's model may not replace its base.

    Attributes:
        why: In words.
        devices: Whose updates spoil it; empty if it cannot be told.
    """

    why: str
    devices: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Reason that each of these devices is given."""
        return f"its update spoils the model of the round: {self.why}"


def sound_rows(
    rows: Sequence[Row],
    goal: int,
    quorum: int,
    unsound: Callable[[Sequence[Row]], Unsound | None],
    leave_out: Callable[[Unsound], Sequence[Row]],
) -> tuple[Sequence[Row], str]:
    """The updates of a round that make a sound model; who spoils it is left out.

    Args:
        rows: Updates that passed.
        goal: Updates wanted; those left out are no part of it any more.
        quorum: Updates that suffice.
        unsound: Says of updates why their model may not be the next one.
        leave_out: Takes devices' updates out, and gives the others, weighed anew.

    Returns:
        The updates, and an empty text; or none, and why the round has no model.
    """
    while (wrong := unsound(rows)) is not None:
        rows = leave_out(wrong)
        goal -= len(wrong.devices)
        if not wrong.devices or len(rows) < max(1, min(quorum, quorum_of(goal))):
            named = ", ".join(wrong.devices) or "no device can be named"
            return [], f"{wrong.why}; spoilt by: {named}"
    return rows, ""


def impossible_model(model: Model) -> str:
    """The first entry of a model that cannot be, in words; empty if there is none."""
    norms = [pair for own in model.norms.values() for pair in own.items()]
    for name, values in (*model.masked.items(), *model.dense.items(), *norms):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"entry {name} is not finite"
        if (
            name.endswith("running_var")
            and values.size
            and float(values.min()) < -ROUNDING
        ):
            return f"entry {name} has a negative variance, {float(values.min()):.3g}"
    return ""


def collapsed(first: float, before: float, after: float) -> bool:
    """Return whether a round has lost what its run had learned.

    Args:
        first: Loss of the model that training started from.
        before: Loss of the round's base.
        after: Loss of what the round made of it.

    Example:
        >>> collapsed(2.3, 0.4, 9.0), collapsed(2.3, 0.4, 2.4), collapsed(2.3, 2.2, 9.0)
        (True, False, False)
        >>> collapsed(2.3, 2.2, math.nan), collapsed(2.3, math.nan, math.nan)
        (True, False)
    """
    if not math.isfinite(before):  # nothing to compare with
        return False
    if not math.isfinite(after):
        return True
    return before < LEARNED * first and after > LOST * first


def spoilers(
    devices: Sequence[str], loss_of: LossOf, sound: Callable[[float], bool]
) -> tuple[str, ...]:
    """Devices to leave out so that the other updates make a sound model.

    Args:
        devices: Whose updates make the model that is not sound.
        loss_of: Loss of the model of some of them.
        sound: Whether a loss is that of a sound model.

    Returns:
        As few as were needed; empty if no minority's absence helps.

    Example:
        >>> bad = {"x": 9.0, "y": 9.0}
        >>> loss = lambda kept: 0.4 + sum(bad.get(d, 0.0) for d in kept)
        >>> spoilers(["a", "b", "c", "x", "y"], loss, lambda loss: loss < 1)
        ('x', 'y')
    """
    if len(devices) == 1:
        return tuple(devices)
    most = max(1, (len(devices) - 1) // 2)
    alone = {device: _number(loss_of([device])) for device in devices}
    out = [device for device in devices if alone[device] == math.inf]
    while len(out) <= most:
        rest = [device for device in devices if device not in out]
        if out and sound(loss_of(rest)):
            return tuple(out)
        if len(out) == most:
            break
        suspects = sorted(rest, key=lambda device: -alone[device])[:SUSPECTS]
        without = {
            one: _number(loss_of([device for device in rest if device != one]))
            for one in suspects
        }
        out.append(min(suspects, key=lambda one: without[one]))
    return ()


def _number(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
