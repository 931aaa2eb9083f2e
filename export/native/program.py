"""Native model as frozen values: buffers, weights, operations."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["INFINITY", "Function", "Kind", "Operation", "Program", "Shape", "Weight"]

INFINITY = math.inf


class Kind(enum.IntEnum):
    """Operation codes of the file format (src/format.h)."""

    CONV = 1
    LINEAR = 2
    MAX_POOL = 3
    AVERAGE_POOL = 4
    GLOBAL_AVERAGE = 5
    ADD = 6
    PLACE = 7
    ACTIVATION = 8
    AFFINE = 9
    FLATTEN = 10


class Function(enum.IntEnum):
    """Functions of `Kind.ACTIVATION`."""

    CLIP = 0
    SIGMOID = 1
    TANH = 2
    SOFTMAX = 3
    HARD_SWISH = 4


@dataclass(frozen=True)
class Shape:
    """An activation: channels x height x width."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def floats(self) -> int:
        """Floats it takes in the arena: planes start at multiples of 16."""
        plane = 1 if self.pixels == 1 else -(-self.pixels // 16) * 16
        return -(-self.channels * plane // 16) * 16


@dataclass(frozen=True, eq=False)
class Weight:
    """One matrix with its bias.

    Attributes:
        layer: Its name in the model.
        matrix: float32 (rows, columns); zeros are left out of the file.
        bias: float32 (rows,).
        output: Name of what the layer computes: layers may share a weight.
    """

    layer: str
    matrix: NDArray[np.float32]
    bias: NDArray[np.float32]
    output: str = ""


@dataclass(frozen=True)
class Operation:
    """One step; `source`, `second` and `out` number buffers.

    Attributes:
        kind: What it does.
        source: Input.
        out: Output.
        second: Added to the result before clipping (or ADD's other input); -1: none.
        weight: Index of its weight; -1: none.
        kernel: (height, width), as are stride, pad (top, left) and dilation.
        groups: Convolution groups.
        extra: See format.h.
        low: The result is clipped to low..high.
        high: See low.
    """

    kind: Kind
    source: int
    out: int
    second: int = -1
    weight: int = -1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    extra: int = 0
    low: float = -INFINITY
    high: float = INFINITY

    def reads(self) -> tuple[int, ...]:
        """Buffers it reads."""
        return (self.source,) if self.second < 0 else (self.source, self.second)


@dataclass(frozen=True, eq=False)
class Program:
    """A model for one example at a time.

    Attributes:
        shapes: Of the buffers; buffer 0 is the input.
        operations: In order.
        weights: What they refer to.
        output: The buffer that holds the result.
        output_shape: As the user sees it, without the batch axis.
    """

    shapes: tuple[Shape, ...]
    operations: tuple[Operation, ...]
    weights: tuple[Weight, ...] = field(default=())
    output: int = 0
    output_shape: tuple[int, ...] = ()
