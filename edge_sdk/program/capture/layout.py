"""`Layout`: where the batch is among the axes of a tensor of torch's.

Programs know a tensor by the shape of one sample. Torch's may have the batch at any
axis (a sequence first), within an axis (batch times heads as one), or nowhere (a
position's table): the same values of a sample in the same order, told in another way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_sdk.program.graph import Shape

__all__ = ["ALONE", "PLAIN", "Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """One axis is (outer, batch, inner); a sample's own has (outer * inner) there.

    Attributes:
        axis: Which; None for a tensor that is the same for every sample.
        outer: Values of the axis that are before the batch.
        inner: And behind it.
    """

    axis: int | None
    outer: int = 1
    inner: int = 1

    @property
    def extra(self) -> tuple[int, ...]:
        """A sample's own axes at the batch's place: one, or none."""
        size = self.outer * self.inner
        return (size,) if size > 1 else ()

    def sample(self, shape: Shape, batch: int) -> Shape | None:
        """The shape of one sample of torch's shape; None if the batch is not there."""
        if self.axis is None:
            return shape
        at = self.axis
        if at >= len(shape) or shape[at] != self.outer * batch * self.inner:
            return None
        return (*shape[:at], *self.extra, *shape[at + 1 :])

    def axis_of(self, dim: int) -> int | None:
        """A sample's axis that torch's is; None for the batch's own."""
        if self.axis is None or dim < self.axis:
            return dim
        return None if dim == self.axis else dim - 1 + len(self.extra)

    def without(self, dim: int) -> Layout:
        """The layout once an axis before or behind the batch's is gone."""
        return self._moved(-1) if self.axis is not None and dim < self.axis else self

    def with_one(self, dim: int) -> Layout:
        """The layout once there is a further axis at a place."""
        return self._moved(1) if self.axis is not None and dim <= self.axis else self

    def permuted(self, order: Sequence[int]) -> Layout:
        """The layout once axes are in another order."""
        if self.axis is None:
            return self
        return Layout([*order].index(self.axis), self.outer, self.inner)

    def viewed(self, before: Shape, after: Shape, batch: int) -> Layout | None:
        """The layout of the same values under another shape; None if there is none."""
        if self.axis is None:
            return self
        ahead = math.prod(before[: self.axis]) * self.outer
        passed = 1
        for at, size in enumerate(after):
            if ahead % passed == 0 and passed * size % (ahead * batch) == 0:
                return Layout(at, ahead // passed, passed * size // (ahead * batch))
            passed *= size
        return None

    def _moved(self, by: int) -> Layout:
        axis = None if self.axis is None else self.axis + by
        return Layout(axis, self.outer, self.inner)


PLAIN, ALONE = Layout(0), Layout(None)
