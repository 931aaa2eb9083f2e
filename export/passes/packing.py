"""Storage of a sparse tensor in plain ONNX: gaps, nibbles, bitmask or dense.

onnxruntime computes the nodes once, when it loads the model. Only operators that it
folds are used (not NonZero, not Compress: the weight would be rebuilt on every run),
and of those the quick ones: GatherElements takes a twentieth of Gather's time on single
values, and BitShift a quarter where it broadcasts along rows, so bits and nibbles lie
in planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "Fragment",
    "bitmask_fragment",
    "gap_list",
    "gaps_fragment",
    "nibble_list",
    "nibbles_fragment",
    "shared_constants",
    "smallest",
]

_WORTH = 0.9  # pack only what saves a tenth: each packed tensor costs load time
# Constants shared by all tensors.
AXIS, ONE, STEP, FLAT = "k.axis", "k.one", "k.step", "k.flat"
PLANES, HALVES, LOW, BRIDGE = "k.planes", "k.halves", "k.low", "k.bridge"


@dataclass(frozen=True, eq=False)
class Fragment:
    """Nodes and constants that rebuild one tensor, and what they weigh.

    Attributes:
        encoding: "gaps", "nibbles" or "bitmask".
        nodes: In topological order; the last one's output is the tensor.
        constants: Their initializers, without the shared ones.
    """

    encoding: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]

    @property
    def size(self) -> int:
        """Bytes in the file, with 4 per entry for protobuf's tags."""
        nodes = sum(node.ByteSize() + 4 for node in self.nodes)
        return int(nodes + sum(t.ByteSize() + 4 for t in self.constants))


def shared_constants() -> list[onnx.TensorProto]:
    """Constants that any number of packed tensors share."""
    values: dict[str, NDArray[Any]] = {
        AXIS: np.array(0, np.int64),
        FLAT: np.array([-1], np.int64),
        STEP: np.array(1, np.int32),
        ONE: np.array(1, np.uint8),
        LOW: np.array(15, np.uint8),
        BRIDGE: np.array(15, np.int32),  # int32: onnxruntime 1.15 compares no bytes
        PLANES: np.arange(8, dtype=np.uint8).reshape(8, 1),
        HALVES: np.array([[0], [4]], np.uint8),
    }
    return [numpy_helper.from_array(array, name) for name, array in values.items()]


def gap_list(
    positions: NDArray[np.int64], values: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Distances between kept positions as bytes, and values with fillers.

    A distance above 255 is bridged by fillers: distance 255, value 0. The running sum
    of the distances gives the positions back.

    Args:
        positions: int64 (nnz,); ascending.
        values: (nnz,).

    Example:
        >>> gaps, filled = gap_list(np.array([2, 3, 300]), np.array([5, 6, 7]))
        >>> gaps.tolist(), filled.tolist()
        ([2, 1, 255, 42], [5, 6, 0, 7])
    """
    distance = np.diff(positions, prepend=0)
    fillers = np.maximum(distance - 1, 0) // 255
    ends = np.cumsum(fillers + 1) - 1  # where the true entries land
    gaps = np.full(int(fillers.sum()) + positions.size, 255, np.uint8)
    filled = np.zeros(gaps.size, values.dtype)
    gaps[ends] = distance - 255 * fillers
    filled[ends] = values
    return gaps, filled


def gaps_fragment(name: str, array: NDArray[Any], *, prefix: str) -> Fragment:
    """CumSum of byte gaps, then ScatterElements into zeros.

    Reads nothing that onnxruntime cannot fold: Cast, CumSum, ConstantOfShape,
    ScatterElements and Reshape all are; NonZero is not, and would rebuild the weight
    on every run.
    """
    flat = array.reshape(-1)
    positions = np.flatnonzero(flat)
    gaps, values = gap_list(positions, flat[positions])
    zero = helper.make_tensor(
        "", helper.np_dtype_to_tensor_dtype(array.dtype), [1], [0]
    )
    g, v, n, s = (f"{prefix}{letter}" for letter in "gvns")
    nodes = (
        helper.make_node("Cast", [g], [f"{g}1"], to=TensorProto.INT32),
        helper.make_node("CumSum", [f"{g}1", AXIS], [f"{g}2"]),
        helper.make_node("ConstantOfShape", [n], [f"{n}1"], value=zero),
        helper.make_node("ScatterElements", [f"{n}1", f"{g}2", v], [f"{v}1"]),
        helper.make_node("Reshape", [f"{v}1", s], [name]),
    )
    constants = (
        numpy_helper.from_array(gaps, g),
        numpy_helper.from_array(values, v),
        numpy_helper.from_array(np.array([flat.size], np.int64), n),
        numpy_helper.from_array(np.array(array.shape, np.int64), s),
    )
    return Fragment("gaps", nodes, constants)


def nibble_list(
    flat: NDArray[Any],
) -> tuple[NDArray[np.uint8], NDArray[Any]] | None:
    """Distances between kept positions in half a byte, and the values there.

    Codes 0 to 14 step by 1 to 15 onto a kept weight, 15 steps by 15 onto none. Their
    number is even: if need be, one zero counts as kept.

    Args:
        flat: (n,).

    Returns:
        Codes, uint8 (2 m,), the first step counted from position 0, or from -1 where
        position 0 is kept; values (nnz,). None where nothing is kept, or no zero can
        make the number even.

    Example:
        >>> codes, values = nibble_list(np.array([0, 0, 5, 6, 0, 0, 7, 0]))
        >>> codes.tolist(), values.tolist()
        ([0, 0, 0, 2], [0, 5, 6, 7])
    """
    positions = np.flatnonzero(flat)
    if not positions.size:
        return None
    start = 0 if positions[0] else -1
    codes = _steps(positions, start)
    if codes.size % 2:
        distance = np.diff(positions, prepend=start)
        roomy = np.flatnonzero((distance > 1) & ((distance - 1) % 15 != 0))
        if roomy.size:  # the zero after the kept weight before
            at = int(roomy[0])
            positions = np.insert(positions, at, positions[at] - distance[at] + 1)
        elif positions[-1] + 1 < flat.size:
            positions = np.append(positions, positions[-1] + 1)
        else:
            return None
        codes = _steps(positions, start)
    return codes, flat[positions]


def _steps(positions: NDArray[np.int64], start: int) -> NDArray[np.uint8]:
    distance = np.diff(positions, prepend=start)
    bridges = (distance - 1) // 15
    codes = np.full(int(bridges.sum()) + positions.size, 15, np.uint8)
    codes[np.cumsum(bridges + 1) - 1] = distance - 15 * bridges - 1
    return codes


def nibbles_fragment(name: str, array: NDArray[Any], *, prefix: str) -> Fragment | None:
    """Half a byte per step: a running sum of steps, another of what is kept.

    Smallest for densities from about 0.05 to 0.28. Works on the kept weights, not on
    all: at density 0.2 it loads in a third of the bitmask's time.
    """
    found = nibble_list(array.reshape(-1))
    if found is None:
        return None
    codes, values = found
    half = codes.size // 2
    zero = helper.make_tensor(
        "", helper.np_dtype_to_tensor_dtype(array.dtype), [1], [0]
    )
    g, v, n, s = (f"{prefix}{letter}" for letter in "gvns")
    make = helper.make_node
    nodes = [
        make("BitShift", [g, HALVES], [f"{g}1"], direction="RIGHT"),
        make("BitwiseAnd", [f"{g}1", LOW], [f"{g}2"]),
        make("Reshape", [f"{g}2", FLAT], [f"{g}3"]),
        make("Cast", [f"{g}3"], [f"{g}4"], to=TensorProto.INT32),
        make("Less", [f"{g}4", BRIDGE], [f"{g}5"]),
        make("Cast", [f"{g}5"], [f"{v}1"], to=TensorProto.INT32),  # 1 where kept
        make("Add", [f"{g}4", f"{v}1"], [f"{g}6"]),
        make("CumSum", [f"{g}6", AXIS], [f"{g}7"]),
    ]
    positions = f"{g}7"
    if array.reshape(-1)[0]:  # counted from -1
        nodes.append(make("Sub", [positions, STEP], [f"{g}8"]))
        positions = f"{g}8"
    nodes += [
        make("CumSum", [f"{v}1", AXIS], [f"{v}2"]),
        make("Mul", [f"{v}2", f"{v}1"], [f"{v}3"]),  # 0 where a step lands on none
        make("GatherElements", [v, f"{v}3"], [f"{v}4"], axis=0),
        make("ConstantOfShape", [n], [f"{n}1"], value=zero),
        make("ScatterElements", [f"{n}1", positions, f"{v}4"], [f"{n}2"]),
        make("Reshape", [f"{n}2", s], [name]),
    ]
    constants = (
        numpy_helper.from_array((codes[:half] | codes[half:] << 4), g),
        numpy_helper.from_array(np.append(array.dtype.type(0), values), v),
        numpy_helper.from_array(np.array([array.size], np.int64), n),
        numpy_helper.from_array(np.array(array.shape, np.int64), s),
    )
    return Fragment("nibbles", tuple(nodes), constants)


def bitmask_fragment(name: str, array: NDArray[Any], *, prefix: str) -> Fragment:
    """One bit per weight; the running count of ones points into the values.

    BitShift and BitwiseAnd need opset 18. Value 0 of the list is 0, for absent ones.
    Bit k of byte j belongs to weight ``k * ceil(n / 8) + j``.
    """
    flat = array.reshape(-1)
    planes = np.zeros((8, -(-flat.size // 8)), np.uint8)
    planes.reshape(-1)[: flat.size] = flat != 0
    bits = np.packbits(planes, axis=0, bitorder="little")[0]
    values = np.append(array.dtype.type(0), flat[flat != 0])
    m, v, s = (f"{prefix}{letter}" for letter in "mvs")
    nodes = [
        helper.make_node("BitShift", [m, PLANES], [f"{m}1"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", [f"{m}1", ONE], [f"{m}2"]),
        helper.make_node("Cast", [f"{m}2"], [f"{m}3"], to=TensorProto.INT32),
        helper.make_node("Reshape", [f"{m}3", FLAT], [f"{m}4"]),
        helper.make_node("CumSum", [f"{m}4", AXIS], [f"{m}5"]),
        helper.make_node("Mul", [f"{m}5", f"{m}4"], [f"{m}6"]),
        helper.make_node("GatherElements", [v, f"{m}6"], [f"{v}1"], axis=0),
    ]
    constants = [
        numpy_helper.from_array(bits, m),
        numpy_helper.from_array(values, v),
        numpy_helper.from_array(np.array(array.shape, np.int64), s),
    ]
    last = f"{v}1"
    if flat.size % 8:  # the last bits belong to no weight
        limits = np.array([0], np.int64), np.array([flat.size], np.int64)
        constants += [
            numpy_helper.from_array(limits[0], f"{s}2"),
            numpy_helper.from_array(limits[1], f"{s}3"),
        ]
        nodes.append(helper.make_node("Slice", [last, f"{s}2", f"{s}3"], [f"{v}2"]))
        last = f"{v}2"
    nodes.append(helper.make_node("Reshape", [last, s], [name]))
    return Fragment("bitmask", tuple(nodes), tuple(constants))


def smallest(name: str, array: NDArray[Any], *, prefix: str) -> Fragment | None:
    """The smaller fragment, or None where dense is about as small.

    Args:
        name: The tensor's name, kept as the output's.
        array: Its values; zeros must be +0.0.
        prefix: Starts the names of what is added.
    """
    kept = int(np.count_nonzero(array))
    if kept * (array.itemsize + 0.125) > _WORTH * array.nbytes:
        return None
    makers: Sequence[Callable[..., Fragment | None]] = (
        gaps_fragment,
        nibbles_fragment,
        bitmask_fragment,
    )
    fragments = [make(name, array, prefix=prefix) for make in makers]
    best = min(filter(None, fragments), key=lambda fragment: fragment.size)
    return best if best.size <= _WORTH * array.nbytes else None
