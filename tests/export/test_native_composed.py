"""Operations made of others, Fourier transforms and cells equal onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from native_graphs import array, compare, ints, model_of, node, one
from torch import nn

import export
from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.lower import lower
from export.native.program import Binary

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
IMAGE, ROWS = (4, 6, 5), (7, 12)


def of_whole(kind: str, *constants: float, **how: Any) -> Any:
    """An operation of whole numbers on both sides of zero, perhaps with constants."""
    nodes = [
        node("Mul", ["input", "many"], ["m"]),
        node("Cast", ["m"], ["x"], to=7),
        node("Slice", ["x", "from", "to", "axes"], ["y"]),
        node("Abs", ["y"], ["z"]),
        node("Add", ["z", "one"], ["below"]),
        node(kind, ["x", "c" if constants else "below"], ["w"], **how),
        node("Cast", ["w"], ["output"], to=1),
    ]
    arrays: dict[str, np.ndarray] = {
        "many": np.float32(400), "from": ints(0), "to": ints(1), "axes": ints(2),
        "one": ints(1), "c": ints(*map(int, constants)),
    }  # fmt: skip
    return nodes, arrays, IMAGE


def not_of_bits() -> Any:
    nodes = [
        node("Mul", ["input", "many"], ["m"]),
        node("Cast", ["m"], ["x"], to=7),
        node("BitwiseNot", ["x"], ["w"]),
        node("Cast", ["w"], ["output"], to=1),
    ]
    return nodes, {"many": np.float32(400)}, IMAGE


def shifted(direction: str) -> Any:
    """Bits of whole numbers above zero, by others."""
    nodes = [
        node("Mul", ["input", "many"], ["m"]),
        node("Abs", ["m"], ["a"]),
        node("Cast", ["a"], ["x"], to=13),
        node("BitShift", ["x", "by"], ["w"], direction=direction),
        node("Cast", ["w"], ["output"], to=1),
    ]
    by = np.array([0, 1, 3, 7, 9], np.uint64)
    return nodes, {"many": np.float32(400), "by": by}, IMAGE


def bounded(kind: str, factor: float, shift: float) -> Any:
    """A function that takes numbers of a part of the line."""
    nodes = [
        node("Tanh", ["input"], ["t"]),
        node("Mul", ["t", "factor"], ["m"]),
        node("Add", ["m", "shift"], ["x"]),
        node(kind, ["x"], ["output"]),
    ]
    arrays = {"factor": np.float32(factor), "shift": np.float32(shift)}
    return nodes, arrays, IMAGE


def truths() -> Any:
    nodes = [
        node("Greater", ["input", "zero"], ["a"]),
        node("Less", ["input", "one"], ["b"]),
        node("Xor", ["a", "b"], ["c"]),
        node("Cast", ["c"], ["output"], to=1),
    ]
    return nodes, {"zero": np.float32(0), "one": np.float32(0.5)}, IMAGE


def spectrum(axis: int, size: int | None, parts: int = 1, **how: int) -> Any:
    """Along an axis of an image, of real or complex numbers."""
    last = (*IMAGE, 1) if parts == 1 else (4, 3, 5, 2)
    named = ["x", "size" if size else ""]
    nodes = [
        node("Reshape", ["input", "parts"], ["x"]),
        node("DFT", [*named, "axis"], ["output"], **how),
    ]
    return nodes, {"parts": ints(1, *last), "size": ints(size or 0)[0],
                   "axis": ints(axis)[0]}, IMAGE  # fmt: skip


def frames(window: bool, **how: int) -> Any:
    names = ["input", "step", "w" if window else "", "length"]
    arrays: dict[str, np.ndarray] = {"step": ints(5)[0], "length": ints(16)[0]}
    if window:
        arrays["w"] = np.hanning(16).astype(np.float32)
    return [node("STFT", names, ["output"], **how)], arrays, (60, 1)


def resized(mode: str, outside: int) -> Any:
    nodes = [
        node(
            *("Resize", ["input", "", "", "sizes"], ["output"]),
            mode=mode,
            antialias=1,
            exclude_outside=outside,
        )
    ]
    return nodes, {"sizes": ints(1, 4, 5, 13)}, (4, 11, 9)


CASES: dict[str, Any] = {
    "whole mod": of_whole("Mod"),
    "whole mod of a constant": of_whole("Mod", 49),
    "whole mod of a negative one": of_whole("Mod", -7),
    "whole rest": of_whole("Mod", fmod=1),
    "whole quotient": of_whole("Div"),
    **{
        f"{kind} {constants}": of_whole(kind, *constants)
        for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
        for constants in ((), (0,), (12,), (-7,), (3, -1, 0, 2**24 - 1, -(2**24)))
    },
    "not of bits": not_of_bits(),
    "bits to the left": shifted("LEFT"),
    "bits to the right": shifted("RIGHT"),
    "whole quotient of a constant": of_whole("Div", 3),
    "float rest": one("Mod", IMAGE, np.float32(0.7), fmod=1),
    "xor": truths(),
    "log sum": one("ReduceLogSumExp", ROWS, ints(2)),
    "log sum of channels": one("ReduceLogSumExp", IMAGE, ints(1), keepdims=0),
    "product": one("ReduceProd", ROWS, ints(2)),
    "product of two axes": one("ReduceProd", IMAGE, ints(1, 3)),
    "upper": one("Trilu", IMAGE),
    "lower": one("Trilu", IMAGE, ints(-1)[0], upper=0),
    "asin": bounded("Asin", 0.9, 0),
    "acos": bounded("Acos", 0.9, 0),
    "atan": bounded("Atan", 5, 0),
    "sinh": bounded("Sinh", 3, 0),
    "cosh": bounded("Cosh", 3, 0),
    "asinh": bounded("Asinh", 5, 0),
    "acosh": bounded("Acosh", 2, 3.1),
    "atanh": bounded("Atanh", 0.9, 0),
    "spectrum": spectrum(3, None),
    "first half": spectrum(2, None, onesided=1),
    "longer": spectrum(1, 9),
    "shorter": spectrum(2, 4, onesided=1),
    "complex": spectrum(2, None, parts=2),
    "back": spectrum(3, None, parts=2, inverse=1),
    "frames": frames(window=True, onesided=1),
    "frames, whole": frames(window=False, onesided=0),
    "smoothed": resized("linear", 0),
    "smoothed inside": resized("linear", 1),
    "smoothed by cubes": resized("cubic", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_made_of_others_equals_onnxruntimes(case: str) -> None:
    nodes, arrays, shape = CASES[case]
    compare(model_of(nodes, arrays, shape), shape, limit=5e-6)


def test_a_product_of_many_is_refused() -> None:
    nodes, arrays, shape = one("ReduceProd", (2, 300), ints(2))
    with pytest.raises(ExportError, match=r"300 factors: up to 256"):
        lower(model_of(nodes, arrays, shape))


class Spectra(nn.Module):
    """Speech: powers of frames, of bands, and a transform there and back.

    Neither 50 nor 200 is a power of two.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Conv1d(5, 3, 3)
        self.register_buffer("window", torch.hann_window(50))
        self.register_buffer("bands", torch.rand(5, 26))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.stft(x, 50, 10, window=self.window, return_complex=True)
        power = (self.bands @ found.abs().square() + 1e-5).log()
        near = torch.fft.irfft(torch.fft.rfft(x) * 0.5, n=x.shape[1])
        return self.out(power).mean(-1), near


class States(nn.Module):
    """An LSTM whose last states and cells are results, both ways and stacked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found, (states, cells) = self.lstm(x)
        return found, states.transpose(0, 1), cells.transpose(0, 1)


@pytest.mark.parametrize(
    ("make", "shape"), [(Spectra, (200,)), (States, (7, 5))], ids=["speech", "cells"]
)
def test_models_of_them_pass_the_gates(make: Any, shape: tuple[int, ...]) -> None:
    for format_ in ("onnx-sparse", "native"):
        parity = export.build(make(), format=format_, input_shape=shape).findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5


def test_a_table_of_two_rows_is_looked_up_by_any_axis() -> None:
    nodes = [
        node("ArgMax", ["input"], ["places"], axis=2, keepdims=0),
        node("Gather", ["table", "places"], ["output"], axis=1),
    ]
    compare(model_of(nodes, {"table": array(3, 12)}, ROWS), ROWS)


def test_an_and_of_two_computed_values_is_one_operation() -> None:
    nodes, arrays, shape = of_whole("BitwiseAnd")
    program = lower(model_of(nodes, arrays, shape))
    kinds = [operation.extra for operation in program.operations]
    assert kinds.count(int(Binary.BIT_AND)) == 1
    assert len(kinds) < 20
