"""Drift of a device's examples, against those of its first report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_sdk.evaluation.data_sums import DataSums

__all__ = ["Drift", "Redrawn", "drift_of", "fleet_shift", "label_counts"]

TOLD = 12  # classes that a text counts one by one


@dataclass(frozen=True, slots=True)
class Drift:
    """The distance of a device's examples from its first ones.

    Attributes:
        shift: The larger of two numbers: half the sum of the differences of the class
            shares (0 to 1), and the farthest that a mean has moved, in the first
            examples' deviations.
        text: What is beyond the band, in words; empty if nothing is.
    """

    shift: float
    text: str


@dataclass(frozen=True, slots=True)
class Redrawn:
    """The fleet's drift at which masks were last drawn because of it.

    Attributes:
        round: The round whose devices measured for it; 0 before the first.
        shift: The fleet's, when it was opened.
        before: The one at which the masks before it were drawn.
    """

    round: int = 0
    shift: float = 0.0
    before: float = 0.0

    def again(
        self, no: int, shift: float, *, most: float, given_up: Collection[int]
    ) -> Redrawn | None:
        """The note of a round that draws masks again; None if it does not.

        A round that was given up, or is opened a second time, has drawn none.

        Example:
            >>> Redrawn().again(9, 0.6, most=0.5, given_up=())
            Redrawn(round=9, shift=0.6, before=0.0)
            >>> Redrawn(9, 0.6).again(10, 0.7, most=0.5, given_up=()) is None
            True
        """
        drawn = self.round != no and self.round not in given_up
        before = self.shift if drawn else self.before
        return Redrawn(no, shift, before) if abs(shift - before) > most else None


def fleet_shift(devices: Iterable[tuple[float | None, int]]) -> float:
    """The mean of the devices' shifts by their examples; 0 where none has reported.

    Args:
        devices: `Drift.shift`, None without a report, and examples of each.

    Example:
        >>> fleet_shift([(0.5, 30), (None, 100), (0.1, 10)])
        0.4
    """
    told = [(shift, count) for shift, count in devices if shift is not None]
    whole = sum(count for _, count in told)
    return sum(shift * count for shift, count in told) / whole if whole else 0.0


def drift_of(
    first: DataSums,
    now: DataSums,
    *,
    band: float,
    seen: Collection[int] = (),
    labels: Sequence[str] = (),
) -> Drift:
    """The drift of one device.

    Args:
        first: What it had.
        now: What it has.
        band: A shift up to here is not named.
        seen: Classes that the fleet had when it began; empty where none are counted.
        labels: Their names.

    Example:
        >>> from edge_sdk.evaluation.data_sums import sums_of
        >>> first, now = (
        ...     sums_of(np.array(x), np.array(y), classes=3)
        ...     for x, y in (([0.0, 2.0], [0, 1]), ([3.0, 3.0], [1, 1]))
        ... )
        >>> drift_of(first, now, band=0.2).text
        'class shares moved by 50 %; a mean moved by 2.00 deviations'
    """
    size = max(len(first.classes), len(now.classes))
    before, after = np.zeros(size), np.zeros(size)
    before[: len(first.shares)], after[: len(now.shares)] = first.shares, now.shares
    shares = 0.0
    if before.any() and after.any():
        shares = float(np.abs(before - after).sum() / 2)
    scale = np.where(first.deviation > 0, first.deviation, np.inf)
    moved = float((np.abs(now.mean - first.mean) / scale).max(initial=0.0))
    said = []
    if shares > band:
        said.append(f"class shares moved by {100 * shares:.0f} %")
    if moved > band:
        said.append(f"a mean moved by {moved:.2f} deviations")
    new = [k for k in np.flatnonzero(now.classes).tolist() if seen and k not in seen]
    said += [f"new class {_name(k, labels)}" for k in new[:TOLD]]
    return Drift(max(shares, moved), "; ".join(said))


def label_counts(now: DataSums, labels: Sequence[str] = ()) -> str:
    """Classes and their counts in words; the rarest ones of many are summed up.

    Example:
        >>> from edge_sdk.evaluation.data_sums import sums_of
        >>> label_counts(sums_of(np.zeros(3), np.array([2, 0, 2]), classes=3))
        '2: 2, 0: 1'
    """
    order = np.argsort(-now.classes, kind="stable")
    there = [k for k in order.tolist() if now.classes[k]]
    said = [f"{_name(k, labels)}: {now.classes[k]:.0f}" for k in there[:TOLD]]
    rest = sum(now.classes[k] for k in there[TOLD:])
    return ", ".join([*said, *([f"others: {rest:.0f}"] if rest else [])])


def _name(index: int, labels: Sequence[str]) -> str:
    return labels[index] if index < len(labels) else str(index)
