"""Sums, means, variances and norms over axes, and over the batch in a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE
from edge_sdk.program.capture.steps import (
    combined,
    constant,
    over_batch,
    reshaped,
    root,
    unary,
)
from edge_sdk.program.graph import Shape

__all__ = ["ROWS", "axes_of", "count_of", "mean_loss", "put_reduced", "summed"]

Row = Callable[[Builder, Node], None]


def _places(builder: Builder, call: Node) -> tuple[list[int], bool]:
    """Axes per sample that a call works along, and whether it works along the batch.

    All of them where it names none.
    """
    layout = builder.value(call, "self")[1]
    rank, given = len(call["self"].meta["val"].shape), call.get("dim")
    dims = [given] if isinstance(given, int) else list(given or range(rank))
    dims = [d % rank for d in dims] if rank else []
    axes = {layout.axis_of(d) for d in dims}
    over = layout.axis in dims
    if over and layout.extra:
        axes.add(layout.axis)
    return sorted(a for a in axes if a is not None), over


def axes_of(builder: Builder, call: Node) -> list[int]:
    """Axes per sample that a call works along."""
    axes, over = _places(builder, call)
    if over:
        raise builder.refused(call, "works along the batch")
    return axes


def _runs(axes: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of axes that lie beside each other, the last ones first."""
    runs: list[tuple[int, int]] = []
    for axis in axes:
        if runs and runs[-1][1] == axis - 1:
            runs[-1] = (runs[-1][0], axis)
        else:
            runs.append((axis, axis))
    return runs[::-1]


def summed(
    builder: Builder, call: Node, source: int, axes: Sequence[int], factor: float
) -> int:
    """A sum over axes, times a factor; the axes stay as ones."""
    for first, last in _runs(axes):
        shape = builder.tensors[source].shape
        kept = (*shape[:first], *[1] * (last + 1 - first), *shape[last + 1 :])
        source = builder.step(
            *(call, "sum", (source,), kept), ints=(first, last, 1), reals=(factor,)
        )
        factor = 1.0
    return source


def count_of(shape: Shape, axes: Sequence[int]) -> int:
    """Number of values along axes."""
    count = 1
    for axis in axes:
        count *= shape[axis]
    return count


def put_reduced(
    builder: Builder, call: Node, found: int, *, over: bool = False
) -> None:
    """The result without its axes of one, where the call does not keep them."""
    if over:
        builder.put(call, reshaped(builder, call, found, call.shape), ALONE)
        return
    layout = builder.value(call, "self")[1]
    given = call.get("dim")
    dims = [given] if isinstance(given, int) else list(given or ())
    if not call.get("keepdim", False):
        rank = len(call["self"].meta["val"].shape)
        for dim in sorted((d % rank for d in dims), reverse=True):
            layout = layout.without(dim)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


def _reduction(*, mean: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        axes, over = _places(builder, call)
        source = builder.value(call, "self")[0]
        if over and not call.shape and builder.trains:
            mean_loss(builder, call, source, whole=not mean)
            return
        put_reduced(
            builder,
            call,
            _reduced(builder, call, axes, over=over, mean=mean),
            over=over,
        )

    return row


def _reduced(
    builder: Builder, call: Node, axes: Sequence[int], *, over: bool, mean: bool
) -> int:
    """The sum or mean over axes, which stay as ones, and over the batch."""
    found = builder.value(call, "self")[0]
    shape = builder.tensors[found].shape
    behind = bool(axes) and [*axes] == [*range(axes[0], len(shape))]
    if mean and behind:
        ones = (*shape[: axes[0]], *[1] * len(axes))
        found = builder.step(call, "mean", (found,), ones, ints=(len(axes), 1))
    else:
        factor = 1 / count_of(shape, axes) if mean else 1.0
        found = summed(builder, call, found, axes, factor)
    return over_batch(builder, call, found, mean=mean) if over else found


def mean_loss(builder: Builder, call: Node, terms: int, *, whole: bool) -> None:
    """Makes a loss of terms: their mean over the batch, or their sum until divided."""
    shape = builder.tensors[terms].shape
    size = float(builder.tensors[terms].size)

    def worth(a_sum: bool) -> int:  # noqa: FBT001 - of LossTerms
        found = summed(builder, call, terms, [*range(len(shape))], 1 / size)
        found = over_batch(builder, call, found, mean=not a_sum)
        return reshaped(builder, call, found, ())

    builder.emit_loss(call, "mean_loss", (terms,), worth, reals=(1.0,))
    if whole:
        (number,) = builder.losses.scalars[call.node]
        builder.losses.scalars[call.node] = {number: size}
        builder.losses.summed.add(number)


def _variance(*, deviation: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        axes, over = _places(builder, call)
        source = builder.value(call, "self")[0]
        count = count_of(builder.tensors[source].shape, axes)
        correction = call.get("correction", int(call.get("unbiased", True)))
        if count <= correction and not over:
            raise builder.refused(call, "the variance of too few values")
        mean = _reduced(builder, call, axes, over=over, mean=True)
        apart = combined(builder, call, "subtract", source, mean)
        square = combined(builder, call, "multiply", apart, apart)
        if over:
            found = summed(builder, call, square, axes, 1.0)
            found = over_batch(builder, call, found, mean=False)
            one = constant(builder, call, torch.ones(()))
            samples = over_batch(builder, call, one, mean=False)
            fewer = unary(builder, call, "affine", samples, count, -correction)
            share = unary(builder, call, "reciprocal", fewer)
            found = combined(builder, call, "multiply", found, share)
        else:
            found = summed(builder, call, square, axes, 1 / (count - correction))
        if deviation:
            found = root(builder, call, found)
        put_reduced(builder, call, found, over=over)

    return row


def _norm(builder: Builder, call: Node) -> None:
    order = call.get("ord", call.get("p", 2))
    axes, over = _places(builder, call)
    source = builder.value(call, "self")[0]
    if order not in {1, 2}:
        raise builder.refused(call, f"a norm of order {order}")
    if order == 1:
        terms = unary(builder, call, "abs", source)
    else:
        terms = combined(builder, call, "multiply", source, source)
    found = summed(builder, call, terms, axes, 1.0)
    found = over_batch(builder, call, found, mean=False) if over else found
    found = root(builder, call, found) if order == 2 else found
    put_reduced(builder, call, found, over=over)


def _distances(builder: Builder, call: Node) -> None:
    """Cdist: of each row of one to each row of the other."""
    if call.get("p", 2.0) != 2.0:
        raise builder.refused(call, f"a distance of order {call['p']}")
    found = [builder.value(call, n) for n in ("x1", "x2")]
    layouts = {own for _, own in found if own != ALONE}
    if len(layouts) != 1:
        raise builder.refused(call, "the batch is at another axis of each")
    layout = layouts.pop()
    rank = len(call.shape)
    if layout.axis == rank - 1 or (found[1][1] == layout and layout.axis == rank - 2):
        raise builder.refused(call, "works along the batch")
    one, two = (builder.tensors[t].shape for t, _ in found)
    left = reshaped(builder, call, found[0][0], (*one[:-1], 1, one[-1]))
    right = found[1][0]
    if found[1][1] == layout:
        right = reshaped(builder, call, right, (*two[:-2], 1, *two[-2:]))
    apart = combined(builder, call, "subtract", left, right)
    square = combined(builder, call, "multiply", apart, apart)
    total = summed(builder, call, square, [len(builder.tensors[square].shape) - 1], 1.0)
    found_root = root(builder, call, total)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found_root, shape), layout)


ROWS: Final[dict[str, Row]] = {
    "mean": _reduction(mean=True),
    "sum": _reduction(mean=False),
    "var": _variance(deviation=False),
    "std": _variance(deviation=True),
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "cdist": _distances,
}
