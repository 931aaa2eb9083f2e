"""Translation of embedding bags and running extremes, which ONNX has no form for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18

__all__ = ["BAGS"]

op: Any = opset18  # its types are of arrays, lists are made constants

_MEAN, _LARGEST = 1, 2  # modes, as torch numbers them
_TYPES = {ir.DataType.INT64: np.int64, ir.DataType.INT32: np.int32}


def _bags(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,  # noqa: FBT001, FBT002
    mode: int = 0,
    sparse: bool = False,  # noqa: FBT001, FBT002
    per_sample_weights: Any = None,
    include_last_offset: bool = False,  # noqa: FBT001, FBT002
    padding_idx: int | None = None,
) -> tuple[Any, Any, Any, Any]:
    """`EmbeddingBag` of bags of one length, as an input of two axes has them.

    Bags of several lengths give other outputs, which no file passes its check with.
    """
    bags = op.Shape(offsets)
    if include_last_offset:
        bags = op.Sub(bags, _whole([1]))
    form = op.Concat(bags, _whole([-1]), axis=0)
    rows = op.Reshape(op.Cast(indices, to=ir.DataType.INT64), form)
    picked = op.Gather(weight, rows)
    if per_sample_weights is not None:
        own = op.Unsqueeze(op.Reshape(per_sample_weights, form), [-1])
        picked = op.Mul(picked, own)
    padded = padding_idx is not None and padding_idx >= 0
    kept = op.Unsqueeze(op.Not(op.Equal(rows, _whole(padding_idx or 0))), [-1])
    some = op.Cast(kept, to=ir.DataType.FLOAT)
    if padded:
        empty = _number(-np.inf if mode == _LARGEST else 0.0)
        picked = op.Where(kept, picked, empty)
    if mode == _LARGEST:
        found = op.ReduceMax(picked, [1], keepdims=0)
    else:
        reduce = op.ReduceMean if mode == _MEAN else op.ReduceSum
        found = reduce(picked, [1], keepdims=0)
    if padded and mode == _MEAN:
        share = op.ReduceMean(some, [1], keepdims=0)
        found = op.Div(
            found, op.Where(op.Equal(share, _number(0.0)), _number(1.0), share)
        )
    if padded and mode == _LARGEST:  # a bag of padding alone
        there = op.ReduceMax(some, [1], keepdims=0)
        found = op.Where(op.Equal(there, _number(0.0)), _number(0.0), found)
    # The others, which torch keeps for gradients, have shapes of their own.
    return found, op.Shape(rows), op.Shape(rows), op.Shape(rows)


def _number(value: float) -> Any:
    return op.Constant(value=ir.tensor(np.float32(value)))


def _whole(values: Any) -> Any:
    return op.Constant(value=ir.tensor(np.asarray(values, np.int64)))


def _running(*, largest: bool) -> Callable[[Any, int], tuple[Any, Any]]:
    """The translation of `cummax` or `cummin`: values, and the last places of them.

    In as many steps as the length has bits: each doubles the reach.
    """

    def translated(x: Any, dim: int) -> tuple[Any, Any]:
        rank = len(x.shape)
        axis = dim % rank
        size, reach = int(x.shape[axis]), 1
        if size == 1:
            return op.Identity(x), op.ArgMax(x, axis=axis, keepdims=1)
        whole = _TYPES.get(x.dtype)
        limits: Any = np.array([-np.inf, np.inf], np.float32)
        if whole is not None:
            limits = np.array([np.iinfo(whole).min, np.iinfo(whole).max], whole)
        worst = op.Constant(value=ir.tensor(np.asarray(limits[0 if largest else 1])))
        form = [size if a == axis else 1 for a in range(rank)]
        places = op.Constant(value=ir.tensor(np.arange(size).reshape(form)))
        nowhere = op.Constant(value=ir.tensor(np.asarray(0)))
        better = op.GreaterOrEqual if largest else op.LessOrEqual
        while reach < size:
            pads = [0] * (2 * rank)
            pads[axis], pads[rank + axis] = reach, -reach
            before, where = op.Pad(x, pads, worst), op.Pad(places, pads, nowhere)
            own = better(x, before)
            x, places = op.Where(own, x, before), op.Where(own, places, where)
            reach *= 2
        return x, places

    return translated


_aten = torch.ops.aten
BAGS: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten.embedding_bag.default: _bags,
    _aten.embedding_bag.padding_idx: _bags,
    _aten._embedding_bag_forward_only.default: _bags,  # noqa: SLF001 - torch's name
    _aten.cummax.default: _running(largest=True),
    _aten.cummin.default: _running(largest=False),
}
