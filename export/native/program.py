"""Native model as frozen values: buffers, weights, operations."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INFINITY",
    "Binary",
    "Cell",
    "ElementFunction",
    "Function",
    "Kind",
    "Operation",
    "Order",
    "Program",
    "Reduction",
    "Shape",
    "Spread",
    "Weight",
]

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
    # The rest is src/elements.h.
    BINARY = 11
    FUNCTION = 12
    SLOPE = 13
    TAKE = 14
    UPSAMPLE = 15
    SPREAD = 16
    CROP = 17
    TRANSPOSE = 18
    RESHAPE = 19
    MATMUL = 20
    SOFTMAX_ROW = 21
    NORMALIZE = 22
    COLUMN_AFFINE = 23
    REDUCE_ROW = 24
    RECURRENT = 25
    LOOK_UP = 26
    SORT_ROW = 27
    PICK = 28
    PUT = 29
    VIEW = 30


class Order(enum.IntEnum):
    """Orders of `Kind.SORT_ROW`: of values, or of the places that they have."""

    LARGEST_FIRST = 0
    SMALLEST_FIRST = 1
    WHERE_LARGEST = 2
    WHERE_SMALLEST = 3


class Function(enum.IntEnum):
    """Functions of `Kind.ACTIVATION`."""

    CLIP = 0
    SIGMOID = 1
    TANH = 2
    SOFTMAX = 3
    HARD_SWISH = 4


class Binary(enum.IntEnum):
    """Functions of `Kind.BINARY`: of a value and the second one."""

    PLUS = 0
    MINUS = 1
    TIMES = 2
    OVER = 3
    LEAST = 4
    MOST = 5
    FROM_SECOND = 6
    UNDER_SECOND = 7
    POWER = 8
    ABOVE = 9
    AT_LEAST = 10
    BELOW = 11
    AT_MOST = 12
    EQUAL = 13
    KEEP = 14
    DROP = 15
    BIT_AND = 64  # the two bits below are `Spread`'s


class Spread(enum.IntEnum):
    """Places that share one value of `Kind.BINARY`'s second input."""

    EACH = 0
    PER_CHANNEL = 1
    PER_COLUMN = 2
    PER_PIXEL = 3


class ElementFunction(enum.IntEnum):
    """Functions of `Kind.FUNCTION`."""

    SILU = 0
    GELU = 1
    GELU_TANH = 2
    ELU = 3
    SOFTPLUS = 4
    MISH = 5
    EXP = 6
    LOG = 7
    SQRT = 8
    ABS = 9
    SQUARE = 10
    RECIPROCAL = 11
    ERF = 12
    SIN = 13
    COS = 14
    TAN = 15
    SIGN = 16
    FLOOR = 17
    CEIL = 18
    ROUND = 19
    WHOLE = 20
    NOT_NUMBER = 21
    ASIN = 22
    ACOS = 23
    ATAN = 24
    SINH = 25
    COSH = 26
    ASINH = 27
    ACOSH = 28
    ATANH = 29


class Cell(enum.IntEnum):
    """Cells of `Kind.RECURRENT`; 16 more where the last step is the first.

    And 32 more where an LSTM's last cell is a result: one channel behind the steps.
    """

    GRU = 0
    LSTM = 1
    RNN_TANH = 2
    RNN_RELU = 3


class Reduction(enum.IntEnum):
    """Functions of `Kind.REDUCE_ROW`."""

    MEAN = 0
    SUM = 1
    LARGEST = 2
    SMALLEST = 3
    WHERE_MOST = 4
    WHERE_LEAST = 5


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
        rounds: Whether int8 files may round it; not what only moves values.
    """

    layer: str
    matrix: NDArray[np.float32]
    bias: NDArray[np.float32]
    output: str = ""
    rounds: bool = True


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
        input_scale: Of a convolution whose inputs are rounded to bytes, with `extra` as
            their zero point; 0: inputs are used as they are.
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
    input_scale: float = 0.0
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
