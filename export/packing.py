"""How a sparse tensor is stored in plain ONNX: gaps, bitmask or dense, by bytes."""

from __future__ import annotations

from collections.abc import Sequence
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
    "shared_constants",
    "smallest",
]

_WORTH = 0.9  # pack only what saves a tenth: each packed tensor costs load time
AXIS, ONE, SHIFTS = "pk.axis", "pk.one", "pk.shifts"  # constants shared by all tensors


@dataclass(frozen=True, eq=False)
class Fragment:
    """Nodes and constants that rebuild one tensor, and what they weigh.

    Attributes:
        encoding: "gaps" or "bitmask".
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
    return [
        numpy_helper.from_array(np.array(0, np.int64), AXIS),
        numpy_helper.from_array(np.array(1, np.uint8), ONE),
        numpy_helper.from_array(np.arange(8, dtype=np.uint8), SHIFTS),
    ]


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


def bitmask_fragment(name: str, array: NDArray[Any], *, prefix: str) -> Fragment:
    """One bit per weight; the running count of ones points into the values.

    BitShift and BitwiseAnd need opset 18. Value 0 of the list is 0, for absent ones.
    """
    flat = array.reshape(-1)
    bits = np.packbits(flat != 0, bitorder="little").reshape(-1, 1)
    values = np.concatenate([np.zeros(1, array.dtype), flat[flat != 0]])
    m, v, s = (f"{prefix}{letter}" for letter in "mvs")
    nodes = [
        helper.make_node("BitShift", [m, SHIFTS], [f"{m}1"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", [f"{m}1", ONE], [f"{m}2"]),
        helper.make_node("Cast", [f"{m}2"], [f"{m}3"], to=TensorProto.INT32),
        helper.make_node("Reshape", [f"{m}3", f"{s}1"], [f"{m}4"]),
        helper.make_node("CumSum", [f"{m}4", AXIS], [f"{m}5"]),
        helper.make_node("Mul", [f"{m}5", f"{m}4"], [f"{m}6"]),
        helper.make_node("Gather", [v, f"{m}6"], [f"{v}1"], axis=0),
    ]
    constants = [
        numpy_helper.from_array(bits, m),
        numpy_helper.from_array(values, v),
        numpy_helper.from_array(np.array(array.shape, np.int64), s),
        numpy_helper.from_array(np.array([-1], np.int64), f"{s}1"),
    ]
    last = f"{v}1"
    if flat.size % 8:  # the last byte has bits that belong to no weight
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
    fragments: Sequence[Fragment] = (
        gaps_fragment(name, array, prefix=prefix),
        bitmask_fragment(name, array, prefix=prefix),
    )
    best = min(fragments, key=lambda fragment: fragment.size)
    return best if best.size <= _WORTH * array.nbytes else None
