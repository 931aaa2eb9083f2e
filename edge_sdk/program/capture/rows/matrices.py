"""Products of matrices that no layer holds: attention, computed weights, spectra."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows.losses.pairs import paired
from edge_sdk.program.capture.rows.rearranged.copies import transposed
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.steps import combined, expanded, reshaped, root, unary

__all__ = ["ROWS", "multiplied"]

# Entries of a transform's matrix, of which the program's file has two: `rfft` of 1,024.
_MOST_TURNS = 513 * 1024


def multiplied(builder: Builder, call: Node, one: int, two: int) -> int:
    """The product (..., rows, depth) by (..., depth, columns) of two tensors."""
    shape = (*builder.tensors[one].shape[:-1], builder.tensors[two].shape[-1])
    return builder.step(call, "product", (one, two), shape)


def _product(builder: Builder, call: Node) -> None:
    """Bmm and mm: of the batch's own matrices, or with the same for every sample."""
    if paired(builder, call):
        return
    places = [builder.value(call, n) for n in ("self", "mat2")]
    (one, left), (two, right) = places
    rank = len(call.shape)
    layout = left if left != ALONE else right
    if ALONE not in {left, right} and left != right:
        raise builder.refused(call, "the batch is at another axis of each")
    both = left == right
    inside = (
        {rank - 2, rank - 1} if both else {rank - 1 if layout == left else rank - 2}
    )
    if layout.axis in inside and layout != ALONE:
        raise builder.refused(call, "works along the batch")
    # Both as (matrices, rows, columns) of a sample.
    one = _matrices(builder, call, one, left, rank)
    two = _matrices(builder, call, two, right, rank)
    count = max(builder.tensors[t].shape[0] for t in (one, two))
    one, two = (
        expanded(builder, call, t, (count, *builder.tensors[t].shape[1:]))
        for t in (one, two)
    )
    found = multiplied(builder, call, one, two)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


def _matrices(
    builder: Builder, call: Node, tensor: int, layout: Layout, rank: int
) -> int:
    """(matrices, rows, columns); the batch's own axis of one has gone or comes back."""
    shape = builder.tensors[tensor].shape
    at = layout.axis
    if at is not None and not layout.extra:
        shape = (*shape[:at], 1, *shape[at:])
    if rank == 2:
        shape = (1, *shape)
    return reshaped(builder, call, tensor, shape)


def _plus_product(builder: Builder, call: Node) -> None:
    """Addmm and baddbmm with both factors one."""
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1:
        raise builder.refused(call, "a product with factors")
    names = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2")
    first, second = (call[n] for n in names)
    own = Node(call.node, {"self": first, "mat2": second}, call.shape)
    _product(builder, own)
    layout, found = builder.layouts[call.node], builder.place[call.node]
    layout_of(builder, call, [call["self"], first, second])  # they agree
    more = operand(builder, call, call["self"], layout)
    builder.put(call, combined(builder, call, "add", found, more), layout)


def _transformed(builder: Builder, call: Node, *, half: bool) -> None:
    """A Fourier transform along one axis: products with cosines and sines."""
    given: Any = call["self"]
    pair = builder.spectra.get(given)
    real, layout = builder.value(call, given) if pair is None else (pair[0], pair[2])
    dim = call.get("dim", -1) % len(given.meta["val"].shape)
    axis = layout.axis_of(dim)
    if axis is None:
        raise builder.refused(call, "works along the batch")
    count = builder.tensors[real].shape[axis]
    bins = count // 2 + 1 if half else count
    if call.get("n") not in {None, count} or count * bins > _MOST_TURNS:
        raise builder.refused(call, f"{call.get('n') or count} values of {count}")
    turns = torch.outer(torch.arange(bins), torch.arange(count)) % count
    angles = turns.double() * (2 * math.pi / count)
    scale = {"ortho": count**-0.5, "forward": 1 / count}.get(call.get("norm"), 1.0)
    cosines, sines = (scale * angles.cos()).float(), (-scale * angles.sin()).float()
    parts = [_along(builder, call, real, axis, m) for m in (cosines, sines)]
    if pair is not None:
        turned = [_along(builder, call, pair[1], axis, m) for m in (sines, cosines)]
        parts = [
            combined(builder, call, name, one, two)
            for name, one, two in zip(("subtract", "add"), parts, turned, strict=True)
        ]
    builder.spectra[call.node] = (parts[0], parts[1], layout)


def _along(
    builder: Builder, call: Node, source: int, axis: int, rows: torch.Tensor
) -> int:
    """An axis of a tensor by a constant matrix."""
    rank = len(builder.tensors[source].shape)
    last = [*(a for a in range(rank) if a != axis), axis]
    source = transposed(builder, call, source, last)
    shape = (*builder.tensors[source].shape[:-1], len(rows))
    held = builder.constants.hold(rows)
    found = builder.step(call, "linear", (source,), shape, parameters=(held, -1))
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return transposed(builder, call, found, back)


def _size(builder: Builder, call: Node) -> None:
    """The absolute value; of a complex number the root of its squares."""
    if call["self"] not in builder.spectra:
        tensor, layout = builder.value(call, "self")
        builder.put(call, unary(builder, call, "abs", tensor), layout)
        return
    real, imaginary, layout = builder.spectra[call["self"]]
    squares = [combined(builder, call, "multiply", t, t) for t in (real, imaginary)]
    found = root(builder, call, combined(builder, call, "add", *squares))
    builder.put(call, found, layout)


def _part(builder: Builder, call: Node, *, which: int) -> None:
    """The real or imaginary part of complex numbers."""
    if call["self"] not in builder.spectra:
        raise builder.refused(call, "a part of numbers that are not complex")
    *parts, layout = builder.spectra[call["self"]]
    builder.put(call, parts[which], layout)


def _both(builder: Builder, call: Node) -> None:
    """Complex numbers as pairs of real ones, on a further axis."""
    *parts, layout = builder.spectra[call["self"]]
    shape = builder.tensors[parts[0]].shape
    pairs = [reshaped(builder, call, part, (*shape, 1)) for part in parts]
    builder.put(call, joined(builder, call, pairs, len(shape)), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "bmm": _product,
    "mm": _product,
    "addmm": _plus_product,
    "baddbmm": _plus_product,
    "fft_rfft": partial(_transformed, half=True),
    "fft_fft": partial(_transformed, half=False),
    "abs": _size,
    "real": partial(_part, which=0),
    "imag": partial(_part, which=1),
    "view_as_real": _both,
}
