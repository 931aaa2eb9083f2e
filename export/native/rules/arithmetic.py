"""`Arithmetic`: sums, products and functions of buffers of one shape, for rules."""

from __future__ import annotations

import numpy as np

from export.native.lowering import Lowering
from export.native.program import (
    INFINITY,
    Binary,
    ElementFunction,
    Kind,
    Operation,
    Shape,
    Spread,
)

__all__ = ["Arithmetic"]


class Arithmetic:
    """Operations on buffers that rules compute with, each a buffer of its own.

    Args:
        low: The program that they become a part of.
        name: Of the value that is computed, for its constants.
    """

    def __init__(self, low: Lowering, name: str) -> None:
        self._low = low
        self._name = name

    def line(
        self,
        index: int,
        factor: float,
        shift: float = 0.0,
        low: float = -INFINITY,
        high: float = INFINITY,
    ) -> int:
        """Factor times a value plus shift, within limits."""
        seen = self._low.shapes[index]
        ones = np.ones((seen.channels, 1))
        weight = self._low.weight(self._name, factor * ones, np.full(1, shift))
        return self._low.emit(
            Operation(
                *(Kind.AFFINE, index, self._low.anonymous(seen)),
                weight=weight,
                low=low,
                high=high,
            )
        )

    def pair(
        self, function: Binary, first: int, second: int, spread: Spread = Spread.EACH
    ) -> int:
        """A function of two values; the first has the shape of what is made."""
        out = self._low.anonymous(self._low.shapes[first])
        if function is Binary.PLUS and spread is Spread.EACH:
            return self._low.emit(Operation(Kind.ADD, first, out, second))
        extra = int(function) + 16 * int(spread)
        return self._low.emit(Operation(Kind.BINARY, first, out, second, extra=extra))

    def each(self, function: ElementFunction, index: int) -> int:
        """A function of each value."""
        out = self._low.anonymous(self._low.shapes[index])
        return self._low.emit(Operation(Kind.FUNCTION, index, out, extra=int(function)))

    def within(self, index: int, low: float, high: float) -> int:
        """1 where a value lies between two limits, both included; 0 elsewhere."""
        nothing = self.line(index, 0.0)
        above = self.pair(Binary.AT_LEAST, index, self.line(nothing, 1.0, low))
        below = self.pair(Binary.AT_MOST, index, self.line(nothing, 1.0, high))
        return self.pair(Binary.TIMES, above, below)

    def picked(self, index: int, places: int, seen: Shape) -> int:
        """Pixels of each channel at computed places, one plane of them for all."""
        out = self._low.anonymous(seen)
        return self._low.emit(Operation(Kind.PICK, index, out, places))

    def put(self, index: int, places: int, seen: Shape, *, adds: bool) -> int:
        """Pixels of each channel to computed places; zeros elsewhere."""
        out = self._low.anonymous(seen)
        return self._low.emit(Operation(Kind.PUT, index, out, places, extra=int(adds)))
