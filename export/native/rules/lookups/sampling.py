"""Lowering of GridSample: pixels between computed places of an image or a volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import prod

import onnx

from export.native.lowering import Lowering
from export.native.program import (
    Binary,
    ElementFunction,
    Kind,
    Operation,
    Shape,
    Spread,
)
from export.native.rules.arithmetic import Arithmetic
from export.native.rules.copies import picked
from export.native.rules.lookups.places import plane
from export.passes.graph import attribute

__all__ = ["RULES"]

_KEYS = -0.75  # of the cubic kernel, as torch has it


def _grid_sample(low: Lowering, node: onnx.NodeProto) -> None:
    full, places = low.full(node.input[0]), low.full(node.input[1])
    images, channels, *sizes = full
    pixels, axes = prod(places[1:-1]), len(sizes)
    sampler = _Sampler(low, node, sizes)
    own_plane = plane(channels, prod(sizes))
    every = replace(own_plane, channels=images * channels)
    source = low.view(node, node.input[0], every)
    grid = low.view(node, node.input[1], Shape(images * pixels, 1, axes))
    out = -1
    for image in range(images):
        own, at = source, grid
        if images > 1:
            own, at = (
                low.emit(Operation(Kind.TAKE, one, low.anonymous(seen), extra=begin))
                for one, seen, begin in (
                    (source, own_plane, image * channels),
                    (grid, Shape(pixels, 1, axes), image * pixels),
                )
            )
        made = sampler.sampled(own, at, plane(channels, pixels))
        if images == 1:
            out = made
        else:
            out = low.anonymous(plane(images * channels, pixels)) if out < 0 else out
            low.emit(Operation(Kind.PLACE, made, out, extra=image * channels))
    low.alias(node.output[0], out)


class _Sampler:
    """One node's way of sampling an image."""

    def __init__(
        self, low: Lowering, node: onnx.NodeProto, sizes: Sequence[int]
    ) -> None:
        self._low, self._node, self._sizes = low, node, sizes
        self._of = Arithmetic(low, node.output[0])
        self._corners = bool(attribute(node, "align_corners", 0))
        self._padding = attribute(node, "padding_mode", b"zeros").decode()
        self._mode = attribute(node, "mode", b"bilinear").decode()
        ways: dict[str, tuple[int, int]] = {
            "bilinear": (0, 2), "linear": (0, 2), "nearest": (0, 1),
            "bicubic": (-1, 4), "cubic": (-1, 4),
        }  # fmt: skip
        if self._mode not in ways:
            raise low.refused(node, f"samples by {self._mode}, which is not supported")
        self._first, self._taps = ways[self._mode]

    def sampled(self, image: int, grid: int, seen: Shape) -> int:
        """Values of the image at the places of a grid, (pixels, 1, axes): x first."""
        axes = [self._axis(grid, axis) for axis in range(len(self._sizes))]
        made = -1
        for corner in product(*reversed(axes)):  # rows before columns
            at, share = corner[0]
            for size, (column, part) in zip(self._sizes[1:], corner[1:], strict=True):
                line = self._of.line(at, float(size))
                at = self._of.pair(Binary.PLUS, line, column)
                share = self._of.pair(Binary.TIMES, share, part)
            value = self._of.picked(image, at, seen)
            value = self._of.pair(Binary.TIMES, value, share, Spread.PER_PIXEL)
            made = value if made < 0 else self._of.pair(Binary.PLUS, made, value)
        return made

    def _axis(self, grid: int, axis: int) -> list[tuple[int, int]]:
        """Places along an axis, 0 for x, that count, and what each counts."""
        of, size = self._of, self._sizes[-1 - axis]
        count = self._low.shapes[grid].channels
        at = picked(
            self._low,
            self._node,
            grid,
            Shape(count, len(self._sizes), 1),
            range(axis, axis + 1),
        )
        at = self._low.reshaped(self._node, at, plane(1, count))
        scale = (size - 1) / 2 if self._corners else size / 2
        at = of.line(at, scale, (size - 1) / 2)
        cubic = self._taps > 2
        if not cubic:
            at = self._inside(at, size)
        if self._taps == 1:
            near = of.each(ElementFunction.ROUND, at)
            return [self._place(near, size, of.line(near, 0.0, 1.0))]
        low = of.each(ElementFunction.FLOOR, at)
        over = of.pair(Binary.MINUS, at, low)
        shares: list[Callable[[], int]] = [
            lambda: of.line(over, -1.0, 1.0),
            lambda: over,
        ]
        found = []
        for tap in range(self._taps):
            near = self._first + tap
            share = self._cubic(over, near) if cubic else shares[tap]()
            place = of.line(low, 1.0, float(near)) if near else low
            if cubic:
                place = self._inside(place, size)
            found.append(self._place(place, size, share))
        return found

    def _inside(self, at: int, size: int) -> int:
        """A place of an axis brought back into it, where padding is not zeros."""
        if self._padding == "zeros":
            return at
        last = size - 1.0
        if self._padding == "border":
            return self._of.line(at, 1.0, 0.0, 0.0, last)
        begin, room = (0.0, last) if self._corners else (-0.5, float(size))
        if room == 0.0:
            return self._of.line(at, 0.0)
        # The way there and back: begin + room - |((at - begin) mod 2 room) - room|
        of, both = self._of, 2 * room
        away = of.line(at, 1.0, -begin)
        turns = of.each(ElementFunction.FLOOR, of.line(away, 1 / both))
        rest = of.pair(Binary.MINUS, away, of.line(turns, both))
        far = of.each(ElementFunction.ABS, of.line(rest, 1.0, -room))
        return of.line(far, -1.0, begin + room, 0.0, last)

    def _place(self, at: int, size: int, share: int) -> tuple[int, int]:
        """A whole place within the axis; what lies beside it counts nothing."""
        if self._padding == "zeros":
            there = self._of.within(at, 0.0, size - 1.0)
            share = self._of.pair(Binary.TIMES, share, there)
        return self._of.line(at, 1.0, 0.0, 0.0, size - 1.0), share

    def _cubic(self, over: int, near: int) -> int:
        """Keys' kernel for a place `near` from the one before, by Horner."""
        of = self._of
        x = of.each(ElementFunction.ABS, of.line(over, 1.0, -float(near)))
        inner = near in {0, 1}
        factors = (
            (_KEYS + 2, -(_KEYS + 3), 0.0, 1.0)
            if inner
            else (_KEYS, -5 * _KEYS, 8 * _KEYS, -4 * _KEYS)
        )
        made = of.line(x, factors[0], factors[1])
        for factor in factors[2:]:
            made = of.line(of.pair(Binary.TIMES, made, x), 1.0, factor)
        return made


RULES = {"GridSample": _grid_sample}
