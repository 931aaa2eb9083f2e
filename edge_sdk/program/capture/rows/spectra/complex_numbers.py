"""Arithmetic of complex numbers: each is two tensors, its real and imaginary parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows import arithmetic, matrices
from edge_sdk.program.capture.rows.angles import angle_of
from edge_sdk.program.capture.rows.rearranged import copies, elements, joins, places
from edge_sdk.program.capture.rows.rearranged.copies import piece
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.reductions import ROWS as REDUCTIONS
from edge_sdk.program.capture.steps import combined, expanded, reshaped, root, unary

__all__ = ["ROWS", "of_complex"]

Row = Callable[[Builder, Node], None]
# What acts on both parts alike.
_ALIKE: Final[dict[str, Row]] = {
    name: {
        **copies.ROWS, **elements.ROWS, **joins.ROWS, **places.ROWS, **REDUCTIONS,
        **arithmetic.ROWS,
    }[name]
    for name in (
        *("permute", "transpose", "t", "slice", "select", "flip", "expand"),
        *("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"),
        *("contiguous", "clone", "alias", "cat", "concat", "stack", "roll", "repeat"),
        *("index", "index_select", "sum", "mean", "neg"),
    )
}  # fmt: skip
_FACTORS: Final[dict[str, tuple[Row, str, str]]] = {
    "mul": (arithmetic.ROWS["mul"], "self", "other"),
    "multiply": (arithmetic.ROWS["mul"], "self", "other"),
    "bmm": (matrices.ROWS["bmm"], "self", "mat2"),
    "mm": (matrices.ROWS["mm"], "self", "mat2"),
}


def _is_complex(node: Any) -> bool:
    """Tell whether a call's result is complex."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.is_complex()


def of_complex(builder: Builder, call: Node, name: str) -> bool:
    """Emits a call that takes complex numbers; tells whether it does.

    Raises:
        EngineError: If it mixes them with others as programs do not.
    """
    given = [n for n in _nodes(call) if _is_complex(n)]
    if not given or name.startswith(("fft_", "istft", "stft")):
        return False
    if name in _OWN:
        _OWN[name](builder, call)
    elif name in _FACTORS:
        _multiplied(builder, call, *_FACTORS[name])
    elif name == "pow" and call["exponent"] == 2:
        _squared(builder, call, *builder.spectra[call["self"]])
    elif name in {"add", "sub"}:
        _added(builder, call, name)
    elif name in {"div", "true_divide"} and not _is_complex(call["other"]):
        _by_parts(builder, call, arithmetic.ROWS["div"], given)
    elif name in _ALIKE:
        _by_parts(builder, call, _ALIKE[name], given)
    else:  # smaller calls, or a row that asks for a value and refuses complex ones
        return False
    return True


def _nodes(call: Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    for value in call.arguments.values():
        several = value if isinstance(value, list | tuple) else (value,)
        found += [n for n in several if isinstance(n, fx.Node)]
    return found


@contextmanager
def _as_parts(builder: Builder, which: dict[fx.Node, int]) -> Iterator[None]:
    """Each complex call stands for one of its parts."""
    spectra = {n: builder.spectra.pop(n) for n in which if n in builder.spectra}
    known = {n: builder.constants.values[n] for n in which if n in builder.constants}
    for node, part in which.items():
        if node in spectra:
            real, imaginary, layout = spectra[node]
            builder.place[node] = imaginary if part else real
            builder.layouts[node] = layout
        elif node in known:
            own = torch.view_as_real(known[node].resolve_conj())[..., part]
            builder.constants.change(node, own)
    try:
        yield
    finally:
        for node in which:
            builder.place.pop(node, None)
            builder.layouts.pop(node, None)
        builder.spectra.update(spectra)
        for node, value in known.items():
            builder.constants.change(node, value)


def _emitted(
    builder: Builder, call: Node, row: Row, which: dict[fx.Node, int]
) -> tuple[int, Layout]:
    with _as_parts(builder, which):
        row(builder, call)
    if call.node not in builder.place:
        raise builder.refused(call, "a part of several complex results")
    return builder.place.pop(call.node), builder.layouts.pop(call.node)


def _by_parts(builder: Builder, call: Node, row: Row, given: list[fx.Node]) -> None:
    found = [
        _emitted(builder, call, row, dict.fromkeys(given, part)) for part in (0, 1)
    ]
    builder.spectra[call.node] = (found[0][0], found[1][0], found[0][1])


def _multiplied(builder: Builder, call: Node, row: Row, one: str, two: str) -> None:
    """A product; of one complex and one real factor each part's."""
    first, second = call[one], call[two]
    if isinstance(second, complex):
        _turned_by(builder, call, second)
        return
    both = [n for n in (first, second) if _is_complex(n)]
    if len(both) == 1:
        _by_parts(builder, call, row, both)
        return
    if first is second:
        _squared(builder, call, *builder.spectra[first])
        return
    found = {
        (a, b): _emitted(builder, call, row, {first: a, second: b})
        for a in (0, 1)
        for b in (0, 1)
    }
    real = combined(builder, call, "subtract", found[0, 0][0], found[1, 1][0])
    imaginary = combined(builder, call, "add", found[0, 1][0], found[1, 0][0])
    builder.spectra[call.node] = (real, imaginary, found[0, 0][1])


def _squared(
    builder: Builder, call: Node, real: int, imaginary: int, layout: Layout
) -> None:
    squares = [combined(builder, call, "multiply", t, t) for t in (real, imaginary)]
    mixed = combined(builder, call, "multiply", real, imaginary)
    found = combined(builder, call, "subtract", *squares)
    twice = unary(builder, call, "affine", mixed, 2.0)
    builder.spectra[call.node] = (found, twice, layout)


def _turned_by(builder: Builder, call: Node, factor: complex) -> None:
    real, imaginary, layout = builder.spectra[call["self"]]

    def scaled(source: int, by: float) -> int:
        return unary(builder, call, "affine", source, by)

    one = combined(
        *(builder, call, "subtract"),
        *(scaled(real, factor.real), scaled(imaginary, factor.imag)),
    )
    two = combined(
        *(builder, call, "add"),
        *(scaled(real, factor.imag), scaled(imaginary, factor.real)),
    )
    builder.spectra[call.node] = (one, two, layout)


def _added(builder: Builder, call: Node, name: str) -> None:
    """A sum or difference; a real term has no imaginary part."""
    row, second = arithmetic.ROWS[name], call["other"]
    both = [n for n in (call["self"], second) if _is_complex(n)]
    if len(both) == 2:
        _by_parts(builder, call, row, both)
        return
    if isinstance(second, complex) or call["self"] not in both:
        raise builder.refused(call, "a real number plus or minus a complex one")
    real, layout = _emitted(builder, call, row, {call["self"]: 0})
    imaginary = builder.spectra[call["self"]][1]
    shape = builder.tensors[real].shape
    imaginary = expanded(builder, call, imaginary, shape)
    builder.spectra[call.node] = (real, imaginary, layout)


def _parts(builder: Builder, call: Node, name: str = "self") -> tuple[int, int, Layout]:
    """Both parts of an argument, which may be a constant."""
    node = call[name]
    if node in builder.constants and _is_complex(node):
        found = []
        for part in (0, 1):
            with _as_parts(builder, {node: part}):
                found.append(builder.value(call, node)[0])
        return found[0], found[1], ALONE
    if node not in builder.spectra:
        raise builder.refused(call, "a part of numbers that are not complex")
    return builder.spectra[node]


def _size(builder: Builder, call: Node) -> None:
    """The absolute value: the root of the squares."""
    real, imaginary, layout = _parts(builder, call)
    squares = [combined(builder, call, "multiply", t, t) for t in (real, imaginary)]
    found = root(builder, call, combined(builder, call, "add", *squares))
    builder.put(call, found, layout)


def _part(builder: Builder, call: Node, *, which: int) -> None:
    """The real or imaginary part of complex numbers."""
    real, imaginary, layout = _parts(builder, call)
    builder.put(call, imaginary if which else real, layout)


def _both(builder: Builder, call: Node) -> None:
    """Complex numbers as pairs of real ones, on a further axis."""
    real, imaginary, layout = _parts(builder, call)
    shape = builder.tensors[real].shape
    both = real, imaginary
    pairs = [reshaped(builder, call, part, (*shape, 1)) for part in both]
    builder.put(call, joined(builder, call, pairs, len(shape)), layout)


def _of_pairs(builder: Builder, call: Node) -> None:
    """Pairs of real numbers on the last axis as complex ones."""
    tensor, layout = builder.value(call, "self")
    last = len(builder.tensors[tensor].shape) - 1
    real, imaginary = (piece(builder, call, tensor, last, k) for k in (0, 1))
    builder.spectra[call.node] = (real, imaginary, layout)


def _of_two(builder: Builder, call: Node, *, polar: bool) -> None:
    """Complex numbers of their parts, or of their sizes and angles."""
    nodes = (call["abs"], call["angle"]) if polar else (call["real"], call["imag"])
    layout = layout_of(builder, call, list(nodes))
    shape = builder.sample(call, layout)
    one, two = (
        expanded(builder, call, operand(builder, call, n, layout), shape) for n in nodes
    )
    if polar:
        waves = [unary(builder, call, name, two) for name in ("cos", "sin")]
        one, two = (combined(builder, call, "multiply", one, w) for w in waves)
    builder.spectra[call.node] = (one, two, layout)


def _conjugate(builder: Builder, call: Node) -> None:
    real, imaginary, layout = _parts(builder, call)
    other = unary(builder, call, "affine", imaginary, -1.0)
    builder.spectra[call.node] = (real, other, layout)


def _same(builder: Builder, call: Node) -> None:
    builder.spectra[call.node] = _parts(builder, call)


def _angle(builder: Builder, call: Node) -> None:
    real, imaginary, layout = _parts(builder, call)
    builder.put(call, angle_of(builder, call, imaginary, real), layout)


def _exponential(builder: Builder, call: Node) -> None:
    """A size and an angle."""
    real, imaginary, layout = _parts(builder, call)
    size = unary(builder, call, "exp", real)
    waves = [unary(builder, call, name, imaginary) for name in ("cos", "sin")]
    one, two = (combined(builder, call, "multiply", size, w) for w in waves)
    builder.spectra[call.node] = (one, two, layout)


_OWN: Final[dict[str, Row]] = {
    "abs": _size,
    "exp": _exponential,
    "real": partial(_part, which=0),
    "imag": partial(_part, which=1),
    "view_as_real": _both,
    "angle": _angle,
    **dict.fromkeys(("_conj", "conj", "conj_physical", "_conj_physical"), _conjugate),
    "resolve_conj": _same,
}
ROWS: Final[dict[str, Row]] = {  # they make complex numbers of real ones
    "view_as_complex": _of_pairs,
    "complex": partial(_of_two, polar=False),
    "polar": partial(_of_two, polar=True),
}
