"""Stft and istft: windows of a row, their transforms, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.rows.rearranged.copies import strided, transposed
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.spectra.transforms import (
    along,
    check_size,
    turned,
    waves,
)
from edge_sdk.program.capture.steps import combined, constant, expanded, unary

__all__ = ["ROWS"]


class _Form:
    """Sizes of a transform of windows: only where its window is, is anything computed.

    Attributes:
        size: Values that each transform is of.
        width: Of the window, which lies in the middle of these.
        left: Values before it.
        hop: Between two windows.
        bins: Of each transform.
    """

    def __init__(self, builder: Builder, call: Node) -> None:
        self.size = int(call["n_fft"])
        self.width = int(call.get("win_length") or self.size)
        self.left = (self.size - self.width) // 2
        self.hop = int(call.get("hop_length") or self.size // 4)
        halved = call.get("onesided", True)
        self.bins = self.size // 2 + 1 if halved else self.size
        check_size(builder, call, self.size, self.bins)

    def waves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (bins, width) where the window is."""
        cosines, sines = waves(self.bins, self.size, self.size)
        own = slice(self.left, self.left + self.width)
        return cosines[:, own], sines[:, own]


def _window(builder: Builder, call: Node, form: _Form) -> torch.Tensor | None:
    """The window's values, float64; None if it is a buffer, a parameter or computed."""
    given = call.get("window")
    if given is None:
        return torch.ones(form.width, dtype=torch.float64)
    if given in builder.constants:
        return builder.constants.tensor(given).double()
    return None


def _weighted(builder: Builder, call: Node, frames: int) -> int:
    """Windows times a window that the program does not hold."""
    given, shape = call["window"], builder.tensors[frames].shape
    number = builder.parameters.get(given, -1)
    if number >= 0:
        return builder.step(
            call, "multiply_parameter", (frames,), shape, parameters=(number,)
        )
    return combined(builder, call, "multiply", frames, _own(builder, call))


def _own(builder: Builder, call: Node) -> int:
    tensor, layout = builder.value(call, "window")
    if layout != ALONE:
        raise builder.refused(call, "a window that differs by sample")
    return tensor


def _row(builder: Builder, call: Node) -> tuple[int, Layout]:
    """The row that windows are cut from: the last axis, which the batch is not."""
    source, layout = builder.value(call, "self")
    last = len(call["self"].meta["val"].shape) - 1
    if layout.axis == last:
        raise builder.refused(call, "works along the batch")
    return source, layout


def _stft(builder: Builder, call: Node) -> None:
    if call["self"] in builder.spectra:
        raise builder.refused(call, "windows of complex values; give it real ones")
    if call.get("center", default=False):  # torch pads before this call
        raise builder.refused(call, "pads within; pad before it, with center=False")
    form, window = _Form(builder, call), _window(builder, call, _Form(builder, call))
    source, layout = _row(builder, call)
    *outer, length = builder.tensors[source].shape
    span = length - form.size + form.width  # windows of the middles alone
    source = strided(builder, call, source, len(outer), form.left, count=span)
    count = (span - form.width) // form.hop + 1
    frames = builder.step(
        *(call, "windows", (source,), (*outer, count, form.width)),
        ints=(form.width, form.hop),
    )
    scale = form.size**-0.5 if call.get("normalized") else 1.0
    cosines, sines = form.waves()
    if window is None:
        frames = _weighted(builder, call, frames)
    else:
        cosines, sines = cosines * window, sines * window
    axis = len(outer) + 1
    parts = turned(
        *(builder, call, (frames, None), axis, scale * cosines, -scale * sines)
    )
    order = [*range(len(outer)), axis, axis - 1]
    real, imaginary = (transposed(builder, call, p, order) for p in parts)
    builder.spectra[call.node] = (real, imaginary, layout)


def _istft(builder: Builder, call: Node) -> None:
    """Each window back by its transform, added up, over the sum of squared windows."""
    if call["self"] not in builder.spectra:
        raise builder.refused(call, "takes what is not complex: use view_as_complex")
    if call.get("return_complex"):
        raise builder.refused(call, "gives complex values; programs give real ones")
    form, window = _Form(builder, call), _window(builder, call, _Form(builder, call))
    real, imaginary, layout = builder.spectra[call["self"]]
    *outer, bins, count = builder.tensors[real].shape
    if bins != form.bins or layout.axis is None or layout.axis >= len(call.shape) - 1:
        raise builder.refused(call, f"{bins} bins of {form.bins}")
    axis = len(outer) + 1
    order = [*range(len(outer)), axis, axis - 1]
    parts = [transposed(builder, call, p, order) for p in (real, imaginary)]
    scale = form.size**-0.5 if call.get("normalized") else 1 / form.size
    twice = torch.full((bins, 1), scale, dtype=torch.float64)
    twice[1 : (form.size + 1) // 2] *= 2
    twice[form.size // 2 + 1 :] = 0  # torch reads one side alone of both, too
    cosines, sines = (twice * m for m in form.waves())
    if window is not None:
        cosines, sines = cosines * window, sines * window
    pieces = [along(builder, call, parts[0], axis, cosines.T)]
    pieces.append(along(builder, call, parts[1], axis, sines.T))
    frames = combined(builder, call, "subtract", *pieces)
    if window is None:
        frames = _weighted(builder, call, frames)
    length = form.width + form.hop * (count - 1)
    row = _added_up(builder, call, frames, length, form.hop)
    start = (form.size // 2 if call.get("center", default=True) else 0) - form.left
    wanted = call.get("length")
    end = form.left + length - form.size // 2 if call.get("center", True) else length
    end = end if wanted is None else start + int(wanted)
    if start < 0 or start >= length:
        raise builder.refused(call, "begins where no window is; use center=True")
    kept = min(end, length)
    row = strided(builder, call, row, len(outer), start, count=kept - start)
    row = _over_squares(builder, call, row, window, form, (count, start, kept))
    if end > kept:
        zeros = constant(builder, call, torch.zeros(*outer, end - kept))
        row = joined(builder, call, [row, zeros], len(outer))
    builder.put(call, row, layout)


def _added_up(builder: Builder, call: Node, frames: int, length: int, hop: int) -> int:
    shape = (*builder.tensors[frames].shape[:-2], length)
    return builder.step(call, "overlap_add", (frames,), shape, ints=(length, hop))


def _over_squares(
    builder: Builder, call: Node, row: int, window: torch.Tensor | None,
    form: _Form, places: tuple[int, int, int],
) -> int:  # fmt: skip
    """The row over what squared windows add up to from one place to another."""
    count, start, end = places
    length = form.width + form.hop * (count - 1)
    if window is not None:
        total = torch.zeros(length, dtype=torch.float64)
        for at in range(0, length - form.width + 1, form.hop):
            total[at : at + form.width] += window**2
        over = builder.constants.hold(total[start:end].reciprocal().float())
        shape = builder.tensors[row].shape
        return builder.step(
            call, "multiply_parameter", (row,), shape, parameters=(over,)
        )
    own = _own(builder, call)
    squares = combined(builder, call, "multiply", own, own)
    squares = expanded(builder, call, squares, (count, form.width))
    found = _added_up(builder, call, squares, length, form.hop)
    found = strided(builder, call, found, 0, start, count=end - start)
    over = unary(builder, call, "reciprocal", found)
    return combined(builder, call, "multiply", row, over)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "stft": _stft,
    "istft": _istft,
}
