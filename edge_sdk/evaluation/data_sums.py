"""`DataSums`: statistics of examples that add up over batches and devices.

Mean and squares are Welford's: parts are joined by the update of Chan, Golub and
LeVeque (1979), which loses no digits where the mean is large beside the deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.holdout import is_classes

__all__ = ["MOST_CLASSES", "DataSums", "summed_axes", "sums_of"]

MOST_CLASSES = 1024  # counted where a task names no labels


@dataclass(frozen=True, eq=False)
class DataSums:
    """Statistics of some examples.

    Attributes:
        examples: How many; shares of classes are of them.
        values: How many numbers each mean is of; a float once devices were capped.
        mean: float64 of the statistic's shape.
        squares: Likewise: sums of squared distances from the mean.
        classes: (c,) float64 counts; empty where targets are no classes.
        histogram: (bins + 2,) float64 counts: below, the bins, above; or empty.
    """

    examples: float
    values: float
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    classes: NDArray[np.float64]
    histogram: NDArray[np.float64]

    def plus(self, other: DataSums) -> DataSums:
        """The statistics of both together.

        Example:
            >>> both = sums_of(np.array([1.0, 2.0])).plus(sums_of(np.array([6.0])))
            >>> float(both.mean), float(both.squares)
            (3.0, 14.0)
        """
        if not other.values:
            mean, squares = self.mean, self.squares
        elif not self.values:
            mean, squares = other.mean, other.squares
        else:
            away = other.mean - self.mean
            share = other.values / (self.values + other.values)
            mean = self.mean + away * share
            squares = self.squares + other.squares + away**2 * self.values * share
        return DataSums(
            self.examples + other.examples,
            self.values + other.values,
            mean,
            squares,
            _padded_sum(self.classes, other.classes),
            _padded_sum(self.histogram, other.histogram),
        )

    def scaled(self, by: float) -> DataSums:
        """The same examples, counting so many times."""
        return DataSums(
            self.examples * by,
            self.values * by,
            self.mean,
            self.squares * by,
            self.classes * by,
            self.histogram * by,
        )

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation over all values; 0 of none."""
        found: NDArray[np.float64] = np.sqrt(self.squares / max(self.values, 1.0))
        return found

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each class; empty where none were counted."""
        whole = self.classes.sum()
        return self.classes / whole if whole else self.classes


def summed_axes(shape: Sequence[int], example: Sequence[int]) -> tuple[int, ...]:
    """The axes of an array of examples, the first aside, that a statistic sums over.

    Args:
        shape: Of the statistic.
        example: Of one prepared example.

    Raises:
        ValueError: If the one does not broadcast to the other.

    Example:
        >>> summed_axes((3, 1, 1), (3, 8, 8)), summed_axes((), (4,))
        ((2, 3), (1,))
    """
    full = (1,) * (len(example) - len(shape)) + tuple(shape)
    if len(full) != len(example) or any(
        own not in (1, there) for own, there in zip(full, example, strict=True)
    ):
        raise ValueError(f"{tuple(shape)} does not broadcast to {tuple(example)}")
    return tuple(
        axis + 1
        for axis, (own, there) in enumerate(zip(full, example, strict=True))
        if own != there or (own == 1 and there == 1)
    )


def sums_of(
    inputs: NDArray[Any],
    targets: NDArray[Any] | None = None,
    *,
    shape: Sequence[int] = (),
    classes: int = 0,
    edges: tuple[float, float, int] | None = None,
) -> DataSums:
    """Statistics of a batch.

    Args:
        inputs: (n, ...) prepared; finite.
        targets: (n, ...) of them; None to count no classes.
        shape: Of mean and deviation.
        classes: Most that are counted; 0 for none.
        edges: Lower and upper end and number of a histogram's bins; None for none.

    Raises:
        ValueError: If the shape does not fit, or a target is no class below `classes`.
    """
    wide = np.asarray(inputs, np.float64)
    axes = (0, *summed_axes(shape, wide.shape[1:]))
    values = int(np.prod([wide.shape[axis] for axis in axes]))
    mean = wide.mean(axis=axes, keepdims=True)
    squares = ((wide - mean) ** 2).sum(axis=axes)
    counted = np.zeros(0)
    if classes and targets is not None and is_classes(targets):
        flat = targets.reshape(-1).astype(np.int64)
        if len(flat) and not 0 <= flat.min() <= flat.max() < classes:
            raise ValueError(f"targets go from {flat.min()} to {flat.max()}")
        counted = np.bincount(flat).astype(np.float64)
    return DataSums(
        len(wide),
        values,
        mean.reshape(tuple(shape)),
        squares.reshape(tuple(shape)),
        counted,
        np.zeros(0) if edges is None else _histogram(wide, *edges),
    )


def _histogram(
    wide: NDArray[np.float64], low: float, high: float, bins: int
) -> NDArray[np.float64]:
    inside, _ = np.histogram(wide, bins=bins, range=(low, high))
    below, above = np.count_nonzero(wide < low), np.count_nonzero(wide > high)
    found: NDArray[np.float64] = np.array([below, *inside, above], np.float64)
    return found


def _padded_sum(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    longer, shorter = sorted((one, other), key=len, reverse=True)
    found: NDArray[np.float64] = longer.copy()
    found[: len(shorter)] += shorter
    return found
