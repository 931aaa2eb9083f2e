"""Convolutions of int8 weights on rounded inputs: the same bits on every processor."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from classify_program import emulator, program
from fuzz.flsp_patch import patched
from fuzz.native_fuzzer import convolution
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import export
from edge_sdk.errors import CheckpointError, ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import quantised, write
from export.native.input_scales import read
from export.native.program import Kind, Operation, Program, Shape, Weight

ISAS = (
    ["vnni", "v4", "avxvnni", "avx2", "v3", "base"]
    if this_machine() == "x86_64"
    else ["dot", "neon", "base"]
)
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def outputs(program: Program, batch: np.ndarray, isa: str, threads: int) -> np.ndarray:
    """What a file of the program gives on one kernel set."""
    made = program.shapes[program.output]
    facts = {"output_shape": [made.channels, made.height, made.width]}
    before = os.environ.get("FLSP_ISA")
    os.environ["FLSP_ISA"] = isa
    try:
        content = write(program, facts, int8=True)
        return NativeModel(content, threads=threads).run(batch)
    finally:
        os.environ.pop("FLSP_ISA")
        if before is not None:
            os.environ["FLSP_ISA"] = before


def expected(program: Program, batch: np.ndarray) -> np.ndarray:
    """Whole sums, scaled, biased and clipped in float32, one rounding at a time."""
    (operation,), (weight,) = program.operations, program.weights
    scale, zero = np.float32(operation.input_scale), operation.extra
    values, scales = quantised(weight.matrix)
    inputs = np.rint(np.clip(batch * (np.float32(1) / scale), -zero, 255 - zero))
    shape = (len(values), program.shapes[0].channels, *operation.kernel)
    sums = torch.nn.functional.conv2d(
        torch.from_numpy(inputs.astype(np.float64)),
        torch.from_numpy(values.astype(np.float64).reshape(shape)),
        stride=operation.stride,
        padding=operation.pad,
        dilation=operation.dilation,
    ).numpy()
    each = (-1, 1, 1)
    scaled = sums.astype(np.float32) * (scales * scale).reshape(each)
    found = scaled + weight.bias.reshape(each)
    return np.clip(found, np.float32(operation.low), np.float32(operation.high))


@settings(max_examples=30, deadline=None)
@given(
    channels=st.tuples(st.integers(3, 90), st.integers(12, 40)),
    size=st.tuples(st.integers(2, 14), st.integers(2, 18)),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 5)]),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]),
    dilation=st.sampled_from([(1, 1), (1, 1), (2, 1)]),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    zero=st.sampled_from([0, 0, 90, 255]),
    threads=st.integers(1, 3),
)
def test_every_kernel_set_gives_the_bits_of_whole_sums(
    channels: tuple[int, int], size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], dilation: tuple[int, int], density: float, zero: int,
    threads: int,
) -> None:  # fmt: skip
    if channels[0] * channels[1] * kernel[0] * kernel[1] < 1024:
        channels = (90, 40)
    height, width = (n + (k - 1) * d for n, k, d in zip(size, kernel, dilation,
                                                       strict=True))  # fmt: skip
    program = convolution(
        Shape(channels[0], height, width), channels[1], kernel, stride=stride,
        dilation=dilation, density=density, input_scale=0.013, zero=zero,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    batch = 2 * rng.standard_normal((2, channels[0], height, width), np.float32)
    batch[0, 0, 0, :2] = 1e30, np.inf  # above what a byte holds
    wanted = expected(program, batch)
    for isa in ISAS:
        found = outputs(program, batch, isa, threads)
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


def joined(first: Program, second: Program, *, read_twice: bool = False) -> Program:
    """One program of two layers; with `read_twice` their sum."""
    (one,), (two,) = first.operations, second.operations
    two = replace(two, source=1, out=2, weight=1)
    shapes, operations = (*first.shapes, second.shapes[1]), (one, two)
    if read_twice:
        operations = (*operations, Operation(Kind.ADD, 2, 3, second=1))
        shapes = (*shapes, second.shapes[1])
    weights = (*first.weights, *second.weights)
    return Program(shapes, operations, weights, len(shapes) - 1)


@settings(max_examples=15, deadline=None)
@given(
    channels=st.tuples(*[st.integers(36, 70)] * 3),
    size=st.tuples(st.integers(2, 9), st.integers(2, 18)),
    kernel=st.sampled_from([(1, 1), (3, 3)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    read_twice=st.booleans(),
    threads=st.integers(1, 3),
)
def test_bytes_between_two_layers_are_those_of_rounding(
    channels: tuple[int, int, int], size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], read_twice: bool, threads: int,
) -> None:  # fmt: skip
    """Also where a third operation reads what is between, which then stays float32."""
    given_, inner, last = channels
    first = convolution(
        Shape(given_, *size), inner, density=0.4, input_scale=0.013, zero=90
    )
    second = convolution(
        first.shapes[1], inner if read_twice else last, kernel,
        stride=(1, 1) if read_twice else stride, pad=(kernel[0] // 2,) * 2,
        density=0.4, input_scale=0.02, zero=7,
    )  # fmt: skip
    both = joined(first, second, read_twice=read_twice)
    rng = np.random.default_rng(1)
    batch = 2 * rng.standard_normal((2, given_, *size), np.float32)
    between = expected(first, batch)
    wanted = expected(second, between)
    if read_twice:
        wanted = wanted + between
    for isa in ISAS:
        found = outputs(both, batch, isa, threads)
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize(
    ("cpu", "isas"), [("cortex-a53", ["", "base"]), ("cortex-a76", ["", "neon"])]
)
def test_boards_give_the_same_bits(cpu: str, isas: list[str], tmp_path: Path) -> None:
    """Emulated: a Cortex-A53 stops at a dot product, which it does not have."""
    qemu = emulator()
    tool = program(tmp_path, "aarch64", ("-static",))
    files = [tmp_path / "layer.flsp", tmp_path / "input.f32"]
    first = convolution(Shape(64, 9, 11), 40, density=0.3, input_scale=0.013, zero=90)
    second = convolution(
        first.shapes[1], 30, (1, 1), density=0.2, input_scale=0.02, zero=255
    )
    both = joined(first, second)
    made = both.shapes[2]
    facts = {"output_shape": [made.channels, made.height, made.width]}
    files[0].write_bytes(write(both, facts, int8=True))
    batch = np.random.default_rng(1).standard_normal((1, 64, 9, 11), np.float32)
    files[1].write_bytes(batch.tobytes())
    wanted = expected(second, expected(first, batch)).ravel()
    for isa in isas:
        said = subprocess.run(
            [qemu, "-cpu", cpu, tool, *files],
            env={"FLSP_ISA": isa}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found = np.array(said.split(), np.float32)
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.skipif(this_machine() != "x86_64", reason="of AVX2 alone")
def test_weights_whose_pairs_would_overflow_are_parted() -> None:
    """The largest weights of one sign on the largest inputs: 16 bits hold no pair."""
    layer = convolution(Shape(64, 6, 16), 16, (1, 1), density=1.0, input_scale=1.0)
    for sign in (1, -1):
        flat = Weight("w", np.full((16, 64), sign, np.float32), layer.weights[0].bias)
        same = replace(layer, weights=(flat,))
        batch = np.full((1, 64, 6, 16), 255, np.float32)
        wanted = expected(same, batch)
        for isa in ISAS:
            np.testing.assert_array_equal(outputs(same, batch, isa, 1), wanted)


def test_no_number_is_the_least_on_every_kernel_set() -> None:
    program = convolution(Shape(40, 6, 8), 24, input_scale=0.02, zero=100)
    batch = np.full((1, 40, 6, 8), np.nan, np.float32)
    least = np.full_like(batch, -9)
    for isa in ISAS:
        np.testing.assert_array_equal(
            outputs(program, batch, isa, 1), outputs(program, least, isa, 1)
        )


def test_sums_that_float32_does_not_hold_are_refused() -> None:
    program = convolution(Shape(64, 4, 4), 16, density=1.0)
    flat = Weight("w", np.ones((16, 576), np.float32), np.zeros(16, np.float32))
    content = write(replace(program, weights=(flat,)), {}, int8=True)
    with pytest.raises(CheckpointError, match="sums beyond float32"):
        NativeModel(patched(content, {"op.0.input_scale": 0.1}))


# ------------------------------------------------------------------ export


class Pair(nn.Module):
    """Two convolutions, the second on values of both signs, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (
            nn.Conv2d(24, 24, 3, padding=1, bias=bias) for bias in (True, False)
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.second(self.first(x)) + x)
        return self.head(inner.mean((2, 3)))


GIVEN = np.random.default_rng(0).normal(size=(60, 24, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bytes") / "pair.flsp"
    report = export.build(Pair(), format="native-int8", out=out, calibration=GIVEN)
    assert "2 layers computed in int8" in report.notes
    return out


def test_scales_are_measured_on_examples_and_kept_in_the_file(built: Path) -> None:
    scales = json.loads(export.load(built).facts["input_scales"])
    assert len(scales) == 2
    assert all(0 < zero < 255 and scale > 0 for scale, zero in scales.values())
    plain = Pair().eval()
    with torch.no_grad():
        wanted = plain(torch.from_numpy(GIVEN)).numpy()
    found = NativeModel(built).run(GIVEN)
    assert np.abs(found - wanted).max() <= 0.03 * np.abs(wanted).max()


def test_verify_builds_with_the_scales_of_the_file(built: Path) -> None:
    assert export.verify(built, Pair(), input_shape=(24, 8, 8)).format == "native-int8"
    found = export.verify(built, Pair(), calibration=GIVEN[:20])
    assert "2 layers computed in int8" in found.notes


def test_verify_finds_another_scale(built: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.flsp"
    bad.write_bytes(patched(built.read_bytes(), {"op.0.input_scale": 0.09}))
    with pytest.raises(ExportError, match="is not what exporting this module gives"):
        export.verify(bad, Pair(), input_shape=(24, 8, 8))


@pytest.mark.parametrize("scales", ["[1]", '{"a": 1}', '{"a": ["x", 2]}', "{"])
def test_scales_that_make_no_sense_are_none(scales: str) -> None:
    assert read(scales) == {}


def test_without_examples_layers_are_computed_in_float32(tmp_path: Path) -> None:
    out = tmp_path / "pair.flsp"
    report = export.build(Pair(), format="native-int8", out=out, input_shape=(24, 8, 8))
    assert "0 layers computed in int8" in report.notes
    assert "input_scales" not in export.load(out).facts
    export.verify(out, Pair(), calibration=GIVEN)
