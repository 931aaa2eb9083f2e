"""Translation of operations that torch's exporter has no form for in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import inf
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18

from export.modules.torch_pools import regions

__all__ = ["MORE"]

op: Any = opset18  # its types are of arrays, lists are made constants


def _distances(x1: Any, x2: Any, p: float, compute_mode: Any = None) -> Any:
    """`torch.cdist`: of each row to each row."""
    apart = op.Sub(op.Unsqueeze(x1, [-2]), op.Unsqueeze(x2, [-3]))
    far = op.Abs(apart)
    if p == 0:
        return op.ReduceSum(op.Sign(far), [-1], keepdims=0)
    if p == 1:
        return op.ReduceSum(far, [-1], keepdims=0)
    if p == 2:
        return op.ReduceL2(apart, [-1], keepdims=0)
    if p == inf:
        return op.ReduceMax(far, [-1], keepdims=0)
    total = op.ReduceSum(op.Pow(far, _number(p)), [-1], keepdims=0)
    return op.Pow(total, _number(1 / p))


def _number(value: float) -> Any:
    return op.Constant(value=ir.tensor(np.float32(value)))


def _hypotenuse(x: Any, other: Any) -> Any:
    return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(other, other)))


def _largest_of_parts(inputs: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
    """`adaptive_max_pool2d`: the largest of each part of an image, and its place."""
    height, width = (int(n) for n in inputs.shape[-2:])
    rows, columns = (
        regions(size, count)
        for size, count in zip((height, width), output_size, strict=True)
    )
    values, places = [], []
    for (top, bottom), (left, right) in product(rows, columns):
        part = op.Slice(inputs, [top, left], [bottom, right], [-2, -1])
        at = np.arange(height * width).reshape(height, width)[top:bottom, left:right]
        flat = op.Reshape(part, [0] * (len(inputs.shape) - 2) + [-1])
        values.append(op.ReduceMax(flat, [-1], keepdims=1))
        own = op.Constant(value=ir.tensor(at.reshape(-1)))
        places.append(op.Gather(own, op.ArgMax(flat, axis=-1, keepdims=1)))
    shape = [0] * (len(inputs.shape) - 2) + [int(n) for n in output_size]
    made = (op.Concat(*parts, axis=-1) for parts in (values, places))
    whole, where = (op.Reshape(one, shape) for one in made)
    return whole, where


def _running_product(x: Any, dim: int, dtype: Any = None) -> Any:
    """`cumprod`, in as many steps as the length has bits: each doubles the reach."""
    rank = len(x.shape)
    axis = dim % rank
    size, reach = int(x.shape[axis]), 1
    while reach < size:
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = reach, -reach
        x = op.Mul(x, op.Pad(x, pads, _number(1.0)))
        reach *= 2
    return x


def _middle(x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:  # noqa: FBT001, FBT002
    """`median` along an axis: the lower one of two in the middle, and its place."""
    axis = dim % len(x.shape)
    count = (int(x.shape[axis]) - 1) // 2 + 1
    values, places = op.TopK(x, [count], axis=axis, largest=0, sorted=1)
    last = [op.Slice(one, [count - 1], [count], [axis]) for one in (values, places)]
    if not keepdim:
        last = [op.Squeeze(one, [axis]) for one in last]
    return last[0], last[1]


def _even_slope(
    x: Any,
    noise: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,  # noqa: FBT001, FBT002
    generator: Any = None,
) -> tuple[Any, Any]:
    """`rrelu` in evaluation: the mean of its slopes."""
    return op.LeakyRelu(x, alpha=(lower + upper) / 2), noise


_aten = torch.ops.aten
MORE: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten._cdist_forward.default: _distances,  # noqa: SLF001 - as torch names it
    _aten.adaptive_max_pool2d.default: _largest_of_parts,
    _aten.cumprod.default: _running_product,
    _aten.hypot.default: _hypotenuse,
    _aten.median.dim: _middle,
    _aten.rrelu_with_noise_functional.default: _even_slope,
}
