"""Lowering of Fourier transforms: products with constant sines and cosines."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape
from export.native.rules.moves import mapped, ordered
from export.passes.graph import attribute
from export.passes.spectra import LARGEST, frame_matrix, spectrum_matrix

__all__ = ["RULES"]


def _dft(low: Lowering, node: onnx.NodeProto) -> None:
    """Along one axis; the last axis has the parts of a number."""
    full, given = low.full(node.input[0]), low.constant(node, 1)
    rank, named = len(full), low.constant(node, 2)
    axis = attribute(node, "axis", 1) if named is None else int(named.reshape(()))
    axis, parts = int(axis) % rank, full[-1]
    length = full[axis] if given is None else int(given.reshape(()))
    _check_size(low, node, length * full[axis] * 4)
    matrix, made_parts = spectrum_matrix(
        *(full[axis], length, parts),
        inverse=bool(attribute(node, "inverse", 0)),
        onesided=bool(attribute(node, "onesided", 0)),
    )
    rest = [a for a in range(rank - 1) if a != axis]
    index = low.buffer(node, node.input[0])
    index = ordered(low, node, index, full, [*rest, axis, rank - 1])
    rows = prod(full[a] for a in rest)
    made = mapped(low, node, index, Shape(rows, full[axis] * parts, 1), matrix)
    sizes = (*(full[a] for a in rest), len(matrix) // made_parts, made_parts)
    back = [*range(axis), rank - 2, *range(axis, rank - 2), rank - 1]
    low.alias(node.output[0], ordered(low, node, made, sizes, back))


def _check_size(low: Lowering, node: onnx.NodeProto, numbers: int) -> None:
    if numbers > LARGEST:
        raise low.refused(
            node, f"is a matrix of {numbers:,} numbers: up to {LARGEST:,} are supported"
        )


def _stft(low: Lowering, node: onnx.NodeProto) -> None:
    """Frames of a signal, (1, values, 1), by a convolution: (1, frames, bins, 2)."""
    full, step = low.full(node.input[0]), low.constant(node, 1)
    window, given = low.constant(node, 2), low.constant(node, 3)
    if step is None or full[0] != 1 or full[2:] not in ((), (1,)):
        raise low.refused(node, "transforms anything but one real signal")
    length = 0 if given is None else int(given.reshape(()))
    length = length or (0 if window is None else window.size)
    _check_size(low, node, length**2 * 2)
    onesided = bool(attribute(node, "onesided", 1))
    matrix = frame_matrix(length, window, onesided=onesided)
    weight = low.weight(f"{node.output[0]} by {len(low.shapes)}", matrix, None)
    source = low.view(node, node.input[0], Shape(1, 1, full[1]))
    stride = int(np.reshape(step, ()))
    frames = (full[1] - length) // stride + 1
    out = low.anonymous(Shape(len(matrix), 1, frames))
    window_of: dict[str, Any] = {"kernel": (1, length), "stride": (1, stride)}
    low.emit(Operation(Kind.CONV, source, out, weight=weight, **window_of))
    low.alias(node.output[0], low.transposed(out, (2, 1, 0)))


RULES = {"DFT": _dft, "STFT": _stft}
