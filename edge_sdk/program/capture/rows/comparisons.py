"""Comparisons, what is logical, and choices between two values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.operands import layout_of, number_of, operand
from edge_sdk.program.capture.steps import combined, constant, expanded, reshaped, unary

__all__ = ["ROWS", "larger"]

Row = Callable[[Builder, Node], None]


def _opposite(builder: Builder, call: Node, source: int) -> int:
    """1 where it is 0, 0 where it is 1."""
    return unary(builder, call, "affine", source, -1.0, 1.0)


def _compared(name: str) -> Row:
    def row(builder: Builder, call: Node) -> None:
        number = number_of(builder, call["other"])
        if number is not None:
            tensor, layout = builder.value(call, "self")
        else:
            both = call["self"], call["other"]
            layout = layout_of(builder, call, list(both))
            one, two = (operand(builder, call, n, layout) for n in both)
            tensor, number = combined(builder, call, "subtract", one, two), 0.0
        if name in {"lt", "ge"}:
            tensor, number = unary(builder, call, "affine", tensor, -1.0), -number
        kind = "equal" if name in {"eq", "ne"} else "greater"
        found = unary(builder, call, kind, tensor, number)
        if name in {"ne", "ge", "le"}:
            found = _opposite(builder, call, found)
        shape = builder.sample(call, layout)
        builder.put(call, expanded(builder, call, found, shape), layout)

    return row


def _logical(name: str) -> Row:
    def row(builder: Builder, call: Node) -> None:
        if call.node.meta["val"].dtype != torch.bool:
            raise builder.refused(call, "arithmetic on bits")
        if name == "not":
            tensor, layout = builder.value(call, "self")
            builder.put(call, _opposite(builder, call, tensor), layout)
            return
        layout = layout_of(builder, call, [call["self"], call["other"]])
        one, two = (operand(builder, call, call[n], layout) for n in ("self", "other"))
        kind = "multiply" if name == "and" else "add"
        found = combined(builder, call, kind, one, two)
        builder.put(call, unary(builder, call, "greater", found), layout)

    return row


def _choice(
    builder: Builder, call: Node, which: fx.Node, both: tuple[Any, Any]
) -> None:
    nodes = [n for n in (which, *both) if isinstance(n, fx.Node)]
    layout = layout_of(builder, call, nodes)
    shape = builder.sample(call, layout)
    found = []
    for each in (which, *both):
        if isinstance(each, fx.Node):
            tensor = operand(builder, call, each, layout)
        else:
            tensor = constant(builder, call, torch.tensor(float(each)))
        found.append(expanded(builder, call, tensor, shape))
    builder.put(call, builder.step(call, "choice", tuple(found), shape), layout)


def _where(builder: Builder, call: Node) -> None:
    if "self" not in call.arguments:
        raise builder.refused(
            call,
            "how many places it gives depends on values",
            remedy="Compute all values and multiply those that do not count by zero; "
            "until then the torch engine trains this model.",
        )
    _choice(builder, call, call["condition"], (call["self"], call["other"]))


def _masked_fill(builder: Builder, call: Node) -> None:
    _choice(builder, call, call["mask"], (call["value"], call["self"]))


def _index_put(builder: Builder, call: Node) -> None:
    """Numbers at listed places, or where a mask says, which may lack the last axes."""
    given = list(call["indices"])
    number = number_of(builder, call["values"])
    listed = all(n is None or n in builder.constants for n in given)
    mask = given[0]
    is_mask = len(given) == 1 and mask.meta["val"].dtype == torch.bool
    if number is None or call.get("accumulate") or not (listed or is_mask):
        raise builder.refused(
            call,
            "writes several values to listed or computed places",
            remedy="Programs write to slices, and one number to listed places or where "
            "a mask is true (torch.where, scatter); until then the torch engine trains "
            "this model.",
        )
    layout = layout_of(builder, call, [call["self"]])
    shape = builder.sample(call, layout)
    if listed:
        which = _listed(builder, call, given, layout)
    else:
        own = Node(call.node, {}, call.shape[: mask.meta["val"].dim()])
        which = operand(builder, own, mask, layout_of(builder, own, [mask]))
        ones = (1,) * (len(call.shape) - len(own.shape))
        which = reshaped(builder, call, which, (*builder.tensors[which].shape, *ones))
    found = [which, constant(builder, call, torch.tensor(number))]
    found.append(operand(builder, call, call["self"], layout))
    found = [expanded(builder, call, t, shape) for t in found]
    builder.put(call, builder.step(call, "choice", tuple(found), shape), layout)


def _listed(
    builder: Builder, call: Node, given: list[fx.Node | None], layout: Layout
) -> int:
    """Ones at places that are known beforehand, the same in each sample."""
    places = tuple(
        slice(None) if n is None else builder.constants.tensor(n) for n in given
    )
    which = torch.zeros(call.shape)
    which[places] = 1.0
    if layout.axis is not None:
        first = which.select(layout.axis, 0)
        if layout.extra or not bool((which == first.unsqueeze(layout.axis)).all()):
            raise builder.refused(call, "places that differ by sample")
        which = first
    return constant(builder, call, which)


def _is_number(builder: Builder, call: Node) -> tuple[int, int, Layout]:
    """The tensor, ones where it is a number (infinite, too), and its layout."""
    tensor, layout = builder.value(call, "self")
    size = unary(builder, call, "abs", tensor)
    return tensor, unary(builder, call, "greater", size, -1.0), layout


def _isnan(builder: Builder, call: Node) -> None:
    _, numbers, layout = _is_number(builder, call)
    builder.put(call, _opposite(builder, call, numbers), layout)


def _nan_to_num(builder: Builder, call: Node) -> None:
    """Another number for what is none, and the largest ones for infinities."""
    tensor, numbers, layout = _is_number(builder, call)
    shape = builder.tensors[tensor].shape
    other = constant(builder, call, torch.full(shape, float(call.get("nan", 0.0))))
    found = builder.step(call, "choice", (numbers, tensor, other), shape)
    most = float(torch.finfo(torch.float32).max)
    low, high = float(call.get("neginf", -most)), float(call.get("posinf", most))
    builder.put(call, unary(builder, call, "hardtanh", found, low, high), layout)


def larger(*, maximum: bool) -> Row:
    """The row of the larger, or smaller, of two tensors."""

    def row(builder: Builder, call: Node) -> None:
        both = call["self"], call["other"]
        layout = layout_of(builder, call, list(both))
        shape = builder.sample(call, layout)
        one, two = (
            expanded(builder, call, operand(builder, call, n, layout), shape)
            for n in both
        )
        difference = combined(builder, call, "subtract", one, two)
        first = unary(builder, call, "greater", difference)
        order = (one, two) if maximum else (two, one)
        found = builder.step(call, "choice", (first, *order), shape)
        builder.put(call, found, layout)

    return row


ROWS: Final[dict[str, Row]] = {
    **{name: _compared(name) for name in ("gt", "ge", "lt", "le", "eq", "ne")},
    **{
        f"{kind}_{name}": _logical(name)
        for kind in ("logical", "bitwise")
        for name in ("not", "and", "or")
    },
    "where": _where,
    "masked_fill": _masked_fill,
    "index_put": _index_put,
    "isnan": _isnan,
    "nan_to_num": _nan_to_num,
    "maximum": larger(maximum=True),
    "minimum": larger(maximum=False),
}
