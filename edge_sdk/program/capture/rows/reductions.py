"""Sums, means, variances, norms and extremes over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE
from edge_sdk.program.capture.rows.comparisons import larger
from edge_sdk.program.capture.steps import combined, reshaped, unary
from edge_sdk.program.graph import Shape

__all__ = ["ROWS", "summed"]

Row = Callable[[Builder, Node], None]
_FEWEST_BYTES = 255  # a winner's place is one byte


def _axes(builder: Builder, call: Node) -> list[int]:
    """Axes per sample that a call works along; all of them where it names none."""
    shape = builder.shape(call, "self")
    given = call.get("dim")
    dims = [given] if isinstance(given, int) else list(given or ())
    if not dims:
        if builder.value(call, "self")[1].axis is not None:
            raise builder.refused(call, "works along the batch")
        return [*range(len(shape))]
    return sorted(builder.axis(call, "self", d) for d in dims)


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


def _count(shape: Shape, axes: Sequence[int]) -> int:
    count = 1
    for axis in axes:
        count *= shape[axis]
    return count


def _put(builder: Builder, call: Node, found: int, name: str = "self") -> None:
    """The result without its axes of one, where the call does not keep them."""
    layout = builder.value(call, name)[1]
    given = call.get("dim")
    dims = [given] if isinstance(given, int) else list(given or ())
    if not call.get("keepdim", False):
        rank = len(call[name].meta["val"].shape)
        for dim in sorted((d % rank for d in dims), reverse=True):
            layout = layout.without(dim)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


def _reduction(*, mean: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        if not call.shape and builder.value(call, "self")[1].axis is not None:
            _whole(builder, call, mean=mean)
            return
        axes = _axes(builder, call)
        source = builder.value(call, "self")[0]
        shape = builder.tensors[source].shape
        behind = axes == [*range(axes[0], len(shape))]
        if mean and behind:
            ones = (*shape[: axes[0]], *[1] * len(axes))
            found = builder.step(call, "mean", (source,), ones, ints=(len(axes), 1))
        else:
            factor = 1 / _count(shape, axes) if mean else 1.0
            found = summed(builder, call, source, axes, factor)
        _put(builder, call, found)

    return row


def _whole(builder: Builder, call: Node, *, mean: bool) -> None:
    """A mean over the batch: a loss. A sum is one times the values it is over."""
    source = builder.value(call, "self")[0]
    builder.emit_loss(call, "mean_loss", (source,), reals=(1.0,))
    (number,) = builder.scalars[call.node]
    if not mean:
        builder.scalars[call.node] = {number: float(builder.tensors[source].size)}
        builder.summed.add(number)


def _variance(*, root: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        axes, source = _axes(builder, call), builder.value(call, "self")[0]
        count = _count(builder.tensors[source].shape, axes)
        correction = call.get("correction", int(call.get("unbiased", True)))
        if count <= correction:
            raise builder.refused(call, "the variance of too few values")
        mean = summed(builder, call, source, axes, 1 / count)
        apart = combined(builder, call, "subtract", source, mean)
        square = combined(builder, call, "multiply", apart, apart)
        found = summed(builder, call, square, axes, 1 / (count - correction))
        if root:
            found = unary(builder, call, "sqrt", found)
        _put(builder, call, found)

    return row


def _norm(builder: Builder, call: Node) -> None:
    order = call.get("ord", call.get("p", 2))
    axes, source = _axes(builder, call), builder.value(call, "self")[0]
    if order not in {1, 2}:
        raise builder.refused(call, f"a norm of order {order}")
    if order == 1:
        found = summed(builder, call, unary(builder, call, "abs", source), axes, 1.0)
    else:
        square = combined(builder, call, "multiply", source, source)
        found = unary(builder, call, "sqrt", summed(builder, call, square, axes, 1.0))
    _put(builder, call, found)


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
    found_root = unary(builder, call, "sqrt", total)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found_root, shape), layout)


def _largest(builder: Builder, call: Node, source: int, axes: Sequence[int]) -> int:
    """The largest value over axes, which stay as ones."""
    for axis in axes:
        shape = builder.tensors[source].shape
        kept = (*shape[:axis], 1, *shape[axis + 1 :])
        image = (_count(shape, range(axis)), shape[axis],
                 _count(shape, range(axis + 1, len(shape))))  # fmt: skip
        plane = reshaped(builder, call, source, image)
        window = (shape[axis], 1, 1, 1, 0, 0)
        if shape[axis] < _FEWEST_BYTES:
            name, ints = "max_pool", (*window, 0)
        else:
            name, ints = "region_max", (*window, 1, 1, 0, 0, 0, 0)  # type: ignore[assignment]
        found = builder.step(call, name, (plane,), (image[0], 1, image[2]), ints=ints)
        source = reshaped(builder, call, found, kept)
    return source


def _extreme(*, largest: bool) -> Row:
    def row(builder: Builder, call: Node) -> None:
        if "other" in call.arguments:
            larger(maximum=largest)(builder, call)
            return
        if call.get("dim") is None:
            raise builder.refused(call, "works along the batch")
        axes, source = _axes(builder, call), builder.value(call, "self")[0]
        if not largest:
            source = unary(builder, call, "affine", source, -1.0)
        found = _largest(builder, call, source, axes)
        if not largest:
            found = unary(builder, call, "affine", found, -1.0)
        several = isinstance(call.node.meta["val"], tuple | list)
        if not several:
            _put(builder, call, found)
            return
        for user in call.node.users:
            if user.args[1] == 1 and user.users:
                raise builder.refused(call, "the place of the extreme is read")
        values = Node(call.node, call.arguments, tuple(call.node.meta["val"][0].shape))
        _put(builder, values, found)
        builder.many[call.node] = (builder.place.pop(call.node),) * 2

    return row


def _log_sum_exp(builder: Builder, call: Node) -> None:
    axes, source = _axes(builder, call), builder.value(call, "self")[0]
    most = _largest(builder, call, source, axes)
    apart = combined(builder, call, "subtract", source, most)
    total = summed(builder, call, unary(builder, call, "exp", apart), axes, 1.0)
    logarithm = unary(builder, call, "log", total)
    _put(builder, call, combined(builder, call, "add", logarithm, most))


ROWS: Final[dict[str, Row]] = {
    "mean": _reduction(mean=True),
    "sum": _reduction(mean=False),
    "var": _variance(root=False),
    "std": _variance(root=True),
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "amax": _extreme(largest=True),
    "amin": _extreme(largest=False),
    "max": _extreme(largest=True),
    "min": _extreme(largest=False),
    "logsumexp": _log_sum_exp,
    "cdist": _distances,
}
