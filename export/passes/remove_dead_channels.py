"""Removes channels that nothing reads, or that are always zero: exact, and rare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.passes import PassResult
from export.passes.graph import attribute, consumers, read_array, replace_array

__all__ = ["Kept", "RemoveDeadChannels"]

Kept = dict[str, list[tuple[int, NDArray[np.int64]]]]

# They work channel by channel, and keep a zero a zero.
_THROUGH = {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"}


@dataclass(frozen=True)
class _Pair:
    """Two layers with only channel-wise operations between them.

    Attributes:
        first: The layer whose output channels may go.
        second: The only one that reads them.
        relu: Whether a Relu stands right behind the first.
        pixels: Inputs of the second per channel: 1, or more behind a flattening.
    """

    first: onnx.NodeProto
    second: onnx.NodeProto
    relu: bool
    pixels: int


@dataclass(frozen=True)
class RemoveDeadChannels:
    """Drops output channels of a Conv or Gemm that cannot change the result.

    A channel is dead if every weight that reads it is zero, or if all of its own
    weights are zero and so is what its bias gives (it is 0, or negative before a Relu).
    Residual branches and grouped convolutions keep theirs. Masks drawn by this project
    keep every unit connected, so their models have none; models pruned elsewhere may.
    Runs after `FoldBatchNorm` and `CanonicalZeros`.

    Attributes:
        kept: Filled while running: weight name to (axis, positions that stayed), for
            the mask gate.
    """

    kept: Kept = field(default_factory=dict)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Removes until nothing is left to remove."""
        count = 0
        while now := sum(self._shrink(model, pair) for pair in list(_pairs(model))):
            count += now
        return PassResult(model, count > 0, f"{count} dead channels removed")

    def _shrink(self, model: onnx.ModelProto, pair: _Pair) -> int:
        weight = read_array(model, pair.first.input[1])
        after = read_array(model, pair.second.input[1])
        bias = None if weight is None else _bias(model, pair.first, len(weight))
        if weight is None or after is None or bias is None:
            return 0
        rows = weight.reshape(len(weight), -1)
        readers = np.moveaxis(after, 1, 0).reshape(len(rows), -1)
        silent = bias <= 0 if pair.relu else bias == 0
        dead = ~readers.any(axis=1) | (~rows.any(axis=1) & silent)
        if dead.all():
            dead[0] = False  # a layer without channels cannot be written
        if not dead.any():
            return 0
        keep = np.flatnonzero(~dead)
        columns = (keep[:, None] * pair.pixels + np.arange(pair.pixels)).reshape(-1)
        self._take(model, pair.first.input[1], 0, keep)
        if len(pair.first.input) > 2 and pair.first.input[2]:
            replace_array(model, pair.first.input[2], bias[keep])
        self._take(model, pair.second.input[1], 1, columns)
        return int(dead.sum())

    def _take(
        self, model: onnx.ModelProto, name: str, axis: int, keep: NDArray[np.int64]
    ) -> None:
        array = read_array(model, name)
        assert array is not None  # noqa: S101 - the caller read it
        replace_array(model, name, np.take(array, keep, axis=axis))
        self.kept.setdefault(name, []).append((axis, keep))


def _pairs(model: onnx.ModelProto) -> Iterator[_Pair]:
    readers = consumers(model)
    outputs = {value.name for value in model.graph.output}
    for first in model.graph.node:
        if not _plain(model, first, readers):
            continue
        relu, flat, name, index = False, False, first.output[0], 0
        while len(readers[name]) == 1 and name not in outputs:
            node = readers[name][0]
            if _plain(model, node, readers) and node.input[0] == name:
                yield from _fitting(model, first, node, relu=relu, flat=flat)
                break
            through = node.op_type in _THROUGH and not flat
            if not through and not (node.op_type == "Flatten" and not flat):
                break
            relu |= node.op_type == "Relu" and index == 0
            flat |= node.op_type == "Flatten"
            name, index = node.output[0], index + 1


def _fitting(
    model: onnx.ModelProto,
    first: onnx.NodeProto,
    second: onnx.NodeProto,
    *,
    relu: bool,
    flat: bool,
) -> Iterator[_Pair]:
    before, after = (read_array(model, n.input[1]) for n in (first, second))
    if before is None or after is None:
        return
    pixels, rest = divmod(after.shape[1], before.shape[0])
    if rest == 0 and (pixels == 1 or flat):
        yield _Pair(first, second, relu, pixels)


def _plain(model: onnx.ModelProto, node: onnx.NodeProto, readers: Any) -> bool:
    """A layer whose weight is (out, in, ...), its own, and not grouped."""
    if node.op_type == "Conv":
        fits = attribute(node, "group", 1) == 1
    elif node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        fits = plain and attribute(node, "transB", 0) == 1
        fits = fits and not attribute(node, "transA", 0)
    else:
        return False
    known = {tensor.name for tensor in model.graph.initializer}
    own = all(n in known and len(readers[n]) == 1 for n in node.input[1:] if n)
    return bool(fits and own)


def _bias(
    model: onnx.ModelProto, node: onnx.NodeProto, size: int
) -> NDArray[np.float32] | None:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(size, np.float32)
    bias = read_array(model, node.input[2])
    return bias if bias is not None and bias.shape == (size,) else None
