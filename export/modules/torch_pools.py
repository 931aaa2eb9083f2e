"""Translation of torch's average pools to a size, which need not divide the input's.

The exporter writes uneven ones as lookups, a mask and sums; here it is a matrix of
shares along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnxscript import opset18

__all__ = ["POOLS", "regions"]

op: Any = opset18  # its types are of arrays, lists are made constants


def regions(size: int, count: int) -> list[tuple[int, int]]:
    """Begin and end of each part of an axis, as torch cuts it."""
    return [(n * size // count, -((n + 1) * size // -count)) for n in range(count)]


def _shares(size: int, count: int) -> NDArray[np.float32]:
    """The share of each place in each part: (size, count)."""
    found = np.zeros((size, count), np.float32)
    for part, (begin, end) in enumerate(regions(size, count)):
        found[begin:end, part] = 1 / (end - begin)
    return found


def _averages(axes: int) -> Callable[..., Any]:
    """The translation of ``aten::adaptive_avg_pool`` over so many axes."""

    def translated(inputs: Any, output_size: Sequence[int]) -> Any:
        rank = len(inputs.shape)
        if rank == axes + 1:  # one example without a batch
            batch = op.Unsqueeze(inputs, [0])
            batch.shape = ir.Shape([1, *inputs.shape])
            return op.Squeeze(translated(batch, output_size), [0])
        sizes = [int(n) for n in inputs.shape[rank - axes :]]
        if all(count == 1 for count in output_size):
            return op.ReduceMean(inputs, list(range(-axes, 0)))
        even = [
            size // count if size % count == 0 else 1
            for size, count in zip(sizes, output_size, strict=True)
        ]
        made = inputs
        if any(window > 1 for window in even):
            made = op.AveragePool(made, kernel_shape=even, strides=even)
        for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True)):
            if size % count:
                made = _along(made, rank, rank - axes + axis, _shares(size, count))
        return made

    return translated


def _along(values: Any, rank: int, axis: int, matrix: NDArray[np.float32]) -> Any:
    """An axis of values times a matrix (before, after)."""
    constant = op.Constant(value=ir.tensor(matrix))
    if axis == rank - 1:
        return op.MatMul(values, constant)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    turned = op.MatMul(op.Transpose(values, perm=order), constant)
    return op.Transpose(turned, perm=order)


_aten = torch.ops.aten
POOLS: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten.adaptive_avg_pool1d.default: _averages(1),
    _aten.adaptive_avg_pool2d.default: _averages(2),
    _aten.adaptive_avg_pool3d.default: _averages(3),
}
