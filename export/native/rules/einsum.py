"""Lowering of Einsum: operands in pairs, each pair as a product of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Reduction, Shape
from export.native.rules.moves import ordered
from export.passes.graph import attribute

__all__ = ["RULES"]


@dataclass(frozen=True)
class _Operand:
    """A value whose axes have letters."""

    index: int
    axes: str


def _einsum(low: Lowering, node: onnx.NodeProto) -> None:
    given, result = _letters(low, node)
    sizes: dict[str, int] = {}
    for axes, name in zip(given, node.input, strict=True):
        sizes |= {a: n for a, n in zip(axes, low.full(name), strict=True) if n > 1}
    size = {letter: sizes.get(letter, 1) for letter in "".join(given)}
    parts = [
        _Operand(low.buffer(node, name), axes)
        for axes, name in zip(given, node.input, strict=True)
    ]
    for part, name in zip(parts, node.input, strict=True):
        if prod(low.full(name)) != prod(size[a] for a in part.axes):
            raise low.refused(node, "repeats an axis of one")
    while len(parts) > 1:
        first, second, *rest = parts
        wanted = set(result).union(*(part.axes for part in rest))
        parts = [_product(low, node, first, second, wanted, size), *rest]
    last = _summed(low, node, parts[0], set(result), size)
    full = [size[a] for a in last.axes]
    order = [last.axes.index(a) for a in result]
    low.alias(node.output[0], ordered(low, node, last.index, full, order))


def _letters(low: Lowering, node: onnx.NodeProto) -> tuple[list[str], str]:
    """Axes of each operand and of the result, dots as letters of their own."""
    said = attribute(node, "equation", b"").decode().replace(" ", "")
    left, arrow, right = said.partition("->")
    operands = left.split(",")
    if not arrow:
        once = {a for a in left if left.count(a) == 1 and a.isalpha()}
        right = ("..." if "..." in left else "") + "".join(sorted(once))
    dots = [
        len(low.full(name)) - len(axes.replace("...", ""))
        for axes, name in zip(operands, node.input, strict=True)
        if "..." in axes
    ]
    free = [c for c in map(chr, range(0xC0, 0x17F)) if c not in said]
    names = "".join(free[: max(dots, default=0)])
    found = []
    for axes, name in zip(operands, node.input, strict=True):
        count = len(low.full(name)) - len(axes.replace("...", ""))
        found.append(axes.replace("...", names[len(names) - count :]))
    for axes in found:
        if len(set(axes)) != len(axes):
            raise low.refused(node, "names an axis twice in one operand")
    return found, right.replace("...", names)


def _product(
    low: Lowering,
    node: onnx.NodeProto,
    first: _Operand,
    second: _Operand,
    wanted: set[str],
    size: dict[str, int],
) -> _Operand:
    """Both as (together, rows, sums) and (together, sums, columns)."""
    first = _summed(low, node, first, wanted | set(second.axes), size)
    second = _summed(low, node, second, wanted | set(first.axes), size)
    shared = [a for a in first.axes if a in second.axes]
    batch = "".join(a for a in shared if a in wanted)
    sums = "".join(a for a in shared if a not in wanted)
    rows = "".join(a for a in first.axes if a not in shared)
    columns = "".join(a for a in second.axes if a not in shared)
    many, high, inner, wide = (
        prod(size[a] for a in axes) for axes in (batch, rows, sums, columns)
    )
    left = _as(low, node, first, batch + rows + sums, Shape(many, high, inner), size)
    right = _as(
        low, node, second, batch + sums + columns, Shape(many, inner, wide), size
    )
    out = low.anonymous(low.fitting(Shape(many, high, wide), node.output[0]))
    low.emit(Operation(Kind.MATMUL, left, out, right))
    return _Operand(out, batch + rows + columns)


def _as(
    low: Lowering,
    node: onnx.NodeProto,
    part: _Operand,
    axes: str,
    shape: Shape,
    size: dict[str, int],
) -> int:
    full = [size[a] for a in part.axes]
    order = [part.axes.index(a) for a in axes]
    index = ordered(low, node, part.index, full, order)
    return low.reshaped(node, index, low.fitting(shape, node.output[0]))


def _summed(
    low: Lowering,
    node: onnx.NodeProto,
    part: _Operand,
    wanted: set[str],
    size: dict[str, int],
) -> _Operand:
    """Without the axes that nothing else names, which are added up."""
    keep = "".join(a for a in part.axes if a in wanted)
    rest = "".join(a for a in part.axes if a not in wanted)
    if not rest:
        return part
    rows, many = (prod(size[a] for a in axes) for axes in (keep, rest))
    source = _as(low, node, part, keep + rest, Shape(rows, 1, many), size)
    out = low.anonymous(Shape(rows))
    extra = int(Reduction.SUM)
    low.emit(Operation(Kind.REDUCE_ROW, source, out, extra=extra))
    return _Operand(out, keep)


RULES = {"Einsum": _einsum}
