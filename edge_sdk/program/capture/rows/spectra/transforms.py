"""Fourier transforms and their inverses: products with constant cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.rows.rearranged.copies import strided, transposed
from edge_sdk.program.capture.steps import combined

__all__ = ["ROWS", "along", "check_size", "turned", "waves"]

# Entries of a transform's matrix, of which the program's file has two: `rfft` of 1,024.
_MOST_TURNS = 513 * 1024

# Real and imaginary parts; there is no second one of real values.
Parts = tuple[int, int | None]


def check_size(builder: Builder, call: Node, count: int, bins: int) -> None:
    """Refuses a transform whose matrices are too large for a program's file.

    Raises:
        EngineError: If it is; names layer and source line.
    """
    if count * bins > _MOST_TURNS:
        raise builder.refused(
            call,
            f"a transform of {count} values in {bins} bins: programs have up to 1024 "
            "real or 724 complex values",
        )


def waves(rows: int, columns: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of row times column turns out of `count`, float64."""
    turns = torch.outer(torch.arange(rows), torch.arange(columns)) % count
    angles = turns.double() * (2 * math.pi / count)
    sines = angles.sin().masked_fill(2 * turns % count == 0, 0.0)  # of half turns
    return angles.cos(), sines


def along(
    builder: Builder, call: Node, source: int, axis: int, rows: torch.Tensor
) -> int:
    """An axis of a tensor by a constant matrix."""
    rank = len(builder.tensors[source].shape)
    last = [*(a for a in range(rank) if a != axis), axis]
    source = transposed(builder, call, source, last)
    shape = (*builder.tensors[source].shape[:-1], len(rows))
    held = builder.constants.hold(rows.float())
    found = builder.step(call, "linear", (source,), shape, parameters=(held, -1))
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return transposed(builder, call, found, back)


def turned(
    builder: Builder, call: Node, parts: Parts, axis: int,
    cosines: torch.Tensor, sines: torch.Tensor,
) -> tuple[int, int]:  # fmt: skip
    """Parts by a complex matrix: cosines, and sines as its imaginary part."""
    real, imaginary = parts
    found = [along(builder, call, real, axis, m) for m in (cosines, sines)]
    if imaginary is not None:
        more = [along(builder, call, imaginary, axis, m) for m in (sines, cosines)]
        found = [
            combined(builder, call, name, one, two)
            for name, one, two in zip(("subtract", "add"), found, more, strict=True)
        ]
    return found[0], found[1]


def _scale(norm: str | None, count: int, *, inverse: bool) -> float:
    if norm == "ortho":
        return 1 / math.sqrt(count)
    return 1 / count if (norm == "forward") != inverse else 1.0


def _given(builder: Builder, call: Node) -> tuple[Parts, Layout]:
    given: fx.Node = call["self"]
    if given in builder.spectra:
        *parts, layout = builder.spectra[given]
        return (parts[0], parts[1]), layout
    real, layout = builder.value(call, given)
    return (real, None), layout


def _axis(builder: Builder, call: Node, layout: Layout, dim: int) -> int:
    axis = layout.axis_of(dim % len(call["self"].meta["val"].shape))
    if axis is None:
        raise builder.refused(call, "works along the batch")
    return axis


def _one(
    builder: Builder, call: Node, parts: Parts, axis: int, count: int | None,
    *, half: bool, inverse: bool,
) -> tuple[int, int]:  # fmt: skip
    """A transform along one axis; `count` cuts it or fills it with zeros."""
    own = builder.tensors[parts[0]].shape[axis]
    count = own if count is None else count
    bins = count // 2 + 1 if half else count
    check_size(builder, call, count, bins)
    parts = _cut(builder, call, parts, axis, count)
    cosines, sines = waves(bins, min(own, count), count)
    scale = _scale(call.get("norm"), count, inverse=inverse)
    sign = 1.0 if inverse else -1.0
    return turned(builder, call, parts, axis, scale * cosines, sign * scale * sines)


def _real(
    builder: Builder, call: Node, parts: Parts, axis: int, count: int | None
) -> int:
    """The real values whose half spectrum is given."""
    own = builder.tensors[parts[0]].shape[axis]
    count = 2 * (own - 1) if count is None else count
    bins = count // 2 + 1
    check_size(builder, call, count, bins)
    real, imaginary = _cut(builder, call, parts, axis, bins)
    cosines, sines = waves(count, min(own, bins), count)
    twice = torch.full((min(own, bins),), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if count % 2 == 0 and own >= bins:
        twice[bins - 1] = 1.0
    twice *= _scale(call.get("norm"), count, inverse=True)
    found = along(builder, call, real, axis, twice * cosines)
    if imaginary is None:
        return found
    less = along(builder, call, imaginary, axis, twice * sines)
    return combined(builder, call, "subtract", found, less)


def _cut(builder: Builder, call: Node, parts: Parts, axis: int, count: int) -> Parts:
    """The first values of an axis."""
    if builder.tensors[parts[0]].shape[axis] <= count:
        return parts
    real, imaginary = (
        None if p is None else strided(builder, call, p, axis, 0, count=count)
        for p in parts
    )
    assert real is not None  # noqa: S101 - for mypy
    return real, imaginary


def _dims(call: Node, default: Sequence[int] | None) -> list[int]:
    rank = len(call["self"].meta["val"].shape)
    given = call.arguments.get("dim", default)
    found = [*range(rank)] if given is None else [*given]
    sizes = call.get("s")
    if call.arguments.get("dim") is None and sizes is not None:
        found = [*range(rank - len(sizes), rank)]
    return [d % rank for d in found]


def _transformed(builder: Builder, call: Node, *, half: bool, inverse: bool) -> None:
    """Fft, ifft and rfft."""
    parts, layout = _given(builder, call)
    axis = _axis(builder, call, layout, call.get("dim", -1))
    n = call.get("n")
    found = _one(builder, call, parts, axis, n, half=half, inverse=inverse)
    builder.spectra[call.node] = (*found, layout)


def _to_real(builder: Builder, call: Node) -> None:
    """Irfft."""
    parts, layout = _given(builder, call)
    axis = _axis(builder, call, layout, call.get("dim", -1))
    builder.put(call, _real(builder, call, parts, axis, call.get("n")), layout)


def _over_axes(
    builder: Builder, call: Node, *, half: bool, inverse: bool, default: Any
) -> None:
    """Transforms of several axes, the last one first, or last if it becomes real."""
    parts, layout = _given(builder, call)
    dims = _dims(call, default)
    sizes = call.get("s") or [None] * len(dims)
    axes = [_axis(builder, call, layout, d) for d in dims]
    pairs = [*zip(axes, sizes, strict=True)]
    last, rest = pairs[-1], pairs[:-1]
    if not inverse or not half:
        parts = _one(builder, call, parts, *last, half=half, inverse=inverse)
    for axis, count in reversed(rest):
        parts = _one(builder, call, parts, axis, count, half=False, inverse=inverse)
    if inverse and half:
        builder.put(call, _real(builder, call, parts, *last), layout)
        return
    assert parts[1] is not None  # noqa: S101 - for mypy
    builder.spectra[call.node] = (parts[0], parts[1], layout)


_BOTH: Final = (-2, -1)
ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "fft_rfft": partial(_transformed, half=True, inverse=False),
    "fft_fft": partial(_transformed, half=False, inverse=False),
    "fft_ifft": partial(_transformed, half=False, inverse=True),
    "fft_irfft": _to_real,
    **{
        f"fft_{'i' * inverse}{'r' * half}fft{several}": partial(
            _over_axes, half=half, inverse=inverse, default=default
        )
        for half in (False, True)
        for inverse in (False, True)
        for several, default in (("2", _BOTH), ("n", None))
    },
}
