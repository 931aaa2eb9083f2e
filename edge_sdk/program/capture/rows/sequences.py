"""Layer norm, softmax, running sums, and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, PLAIN
from edge_sdk.program.capture.rows.matrices import multiplied
from edge_sdk.program.capture.rows.rearranged.copies import transposed
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, constant, reshaped, unary

__all__ = ["ROWS"]

_LARGE = 1e30  # of what attention does not see; its exponential is zero


def _layer_norm(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "input")
    axes = len(call["normalized_shape"])
    if layout.axis is not None and layout.axis >= len(call.shape) - axes:
        raise builder.refused(call, "works along the batch")
    found = builder.step(
        *(call, "layer_norm", (tensor,), builder.tensors[tensor].shape),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(axes,),
        reals=(call.get("eps", 1e-5),),
    )
    builder.put(call, found, layout)


def _rms_norm(builder: Builder, call: Node) -> None:
    tensor, layout = builder.value(call, "input")
    shape, axes = builder.tensors[tensor].shape, len(call["normalized_shape"])
    if layout.axis is not None and layout.axis >= len(call.shape) - axes:
        raise builder.refused(call, "works along the batch")
    count = 1
    for n in shape[-axes:]:
        count *= n
    square = combined(builder, call, "multiply", tensor, tensor)
    own = [*range(len(shape) - axes, len(shape))]
    mean = summed(builder, call, square, own, 1 / count)
    eps = call.get("eps", torch.finfo(torch.float32).eps)
    root = unary(builder, call, "sqrt", unary(builder, call, "affine", mean, 1.0, eps))
    scale = unary(builder, call, "reciprocal", root)
    found = combined(builder, call, "multiply", tensor, scale)
    if call.get("weight") is not None:
        weight = builder.value(call, "weight")[0]
        found = combined(builder, call, "multiply", found, weight)
    builder.put(call, found, layout)


def _softmax(name: str) -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        tensor, layout = builder.value(call, "self")
        axis = builder.axis(call, "self", call["dim"])
        shape = builder.tensors[tensor].shape
        builder.put(
            call, builder.step(call, name, (tensor,), shape, ints=(axis,)), layout
        )

    return row


def _running_sum(builder: Builder, call: Node) -> None:
    """Cumsum: the product with a triangle of ones along the axis."""
    tensor, layout = builder.value(call, "self")
    axis = builder.axis(call, "self", call["dim"])
    rank, shape = len(builder.tensors[tensor].shape), builder.tensors[tensor].shape
    order = [*(a for a in range(rank) if a != axis), axis]
    last = transposed(builder, call, tensor, order)
    triangle = builder.constants.hold(torch.ones(shape[axis], shape[axis]).tril())
    found = builder.step(
        call, "linear", (last,), builder.tensors[last].shape, parameters=(triangle, -1)
    )
    back = [order.index(a) for a in range(rank)]
    builder.put(call, transposed(builder, call, found, back), layout)


def _attention(builder: Builder, call: Node) -> None:
    if call.get("enable_gqa"):
        raise builder.refused(call, "attention with grouped queries")
    query, key, value = (builder.tensor(call, n) for n in ("query", "key", "value"))
    width = builder.tensors[query].shape[-1]
    scale, p = call.get("scale", width**-0.5), call.get("dropout_p", 0.0)
    number = len(builder.operations)
    if call.get("attn_mask") is None:
        builder.emit(
            *(call, "attention", (query, key, value)),
            ints=(int(call.get("is_causal", False)), number),
            reals=(scale, p),
        )
        return
    rank = len(builder.tensors[key].shape)
    turned = transposed(builder, call, key, [*range(rank - 2), rank - 1, rank - 2])
    scores = multiplied(builder, call, query, turned)
    scores = unary(builder, call, "affine", scores, scale)
    mask = _mask(builder, call)
    scores = combined(builder, call, "add", scores, mask)
    shape = builder.tensors[scores].shape
    weights = builder.step(call, "softmax", (scores,), shape, ints=(len(shape) - 1,))
    if p:
        weights = builder.step(
            call, "dropout", (weights,), shape, ints=(number,), reals=(p,)
        )
    builder.put(call, multiplied(builder, call, weights, value))


def _mask(builder: Builder, call: Node) -> int:
    """Summand of the scores; of a mask of truths, much less than nothing."""
    node = call["attn_mask"]
    truths = node.meta["val"].dtype == torch.bool
    if node in builder.constants:
        own = builder.constants.tensor(node)
        if own.dim() == len(call.shape):
            first = own[:1]
            if not bool((own == first).all()):
                raise builder.refused(call, "a constant that differs by sample")
            own = first.squeeze(0)
        own = torch.where(own, 0.0, -_LARGE) if truths else own
        return constant(builder, call, own)
    tensor, layout = builder.value(call, "attn_mask")
    if layout == ALONE and len(node.meta["val"].shape) == len(call.shape):
        tensor = reshaped(builder, call, tensor, builder.tensors[tensor].shape[1:])
    elif layout not in {ALONE, PLAIN} or (
        layout == PLAIN and len(node.meta["val"].shape) != len(call.shape)
    ):
        raise builder.refused(call, "the batch is not the mask's first axis")
    if truths:
        tensor = unary(builder, call, "affine", tensor, _LARGE, -_LARGE)
    return tensor


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "cumsum": _running_sum,
    "scaled_dot_product_attention": _attention,
}
