"""Numbers of a `.flsp` file that kernels would trust: refused in words, or harmless."""

from __future__ import annotations

import json
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from fuzz.flsp_patch import patched
from fuzz.native_fuzzer import convolution, matrix, seed_files

from edge_sdk.errors import CheckpointError, DataError, EngineError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import (
    ElementFunction,
    Kind,
    Operation,
    Program,
    Reduction,
    Shape,
    Weight,
)

INF, NAN = float("inf"), float("nan")
ISAS = (
    ["vnni", "v4", "avxvnni", "avx2", "v3", "base"]
    if this_machine() == "x86_64"
    else ["base"]
)
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)

SEEDS = seed_files()
WINDOW = "the output is (larger|smaller)"
FUNCTIONS = len(ElementFunction)
REFUSED = {
    "padding": ("vectors-float", {"op.0.pad_left": 255}, WINDOW),
    "padding beyond all bounds": ("narrow-float", {"op.0.pad_top": 4097}, "padding"),
    "negative padding": ("narrow-float", {"op.0.pad_left": -1}, "padding"),
    "kernel": ("narrow-float", {"op.0.kernel_h": 0}, "window"),
    "stride": ("narrow-float", {"op.0.stride_w": 4000}, WINDOW),
    "dilation": ("narrow-float", {"op.0.dilation_h": 4000}, WINDOW),
    "overflowing dilation": ("narrow-float", {"op.0.dilation_h": 2**31 - 1}, "window"),
    "groups": ("narrow-float", {"op.0.groups": 4}, "groups"),
    "no groups": ("narrow-float", {"op.0.groups": 0}, "groups"),
    "kind": ("ends-float", {"op.0.kind": 99}, "unknown kind"),
    "a weight of an operation without": ("ends-float", {"op.0.weight": 0}, "weight"),
    "no weight": ("narrow-float", {"op.0.weight": -1}, "weight"),
    "one weight twice": ("residual-float", {"op.1.weight": 0}, "another's"),
    "input": ("narrow-float", {"op.0.in": 2}, "buffer"),
    "in place": ("ends-float", {"op.0.out": 0}, "overlaps its input"),
    "a second buffer of a pool": ("whole-float", {"op.1.in2": 0}, "nothing reads"),
    "clip": ("narrow-float", {"op.0.low": 7.0}, "clip"),
    "clip that is no number": ("narrow-float", {"op.0.high": float("nan")}, "clip"),
    "an input scale of a pool": ("whole-int8", {"op.1.input_scale": 0.1}, "another fo"),
    "an input scale of floats": ("dense-float", {"op.0.input_scale": 0.1}, "not int8"),
    "no input scale": ("bytes-int8", {"op.0.input_scale": -0.1}, "input scale"),
    "an endless input scale": ("bytes-int8", {"op.0.input_scale": INF}, "input scale"),
    "a scale that is no number": ("bytes-int8", {"op.0.input_scale": NAN}, "input sca"),
    "a zero point": ("bytes-int8", {"op.0.extra": 256}, "input scale"),
    "a zero point below": ("bytes-int8", {"op.0.extra": -1}, "input scale"),
    "reserved of a buffer": ("narrow-float", {"buffer.0.reserved": 1}, "another form"),
    "concat": ("whole-float", {"op.4.extra": 5}, "concat"),
    "function": ("whole-float", {"op.2.extra": 5}, "function"),
    "softmax over pixels": ("whole-float", {"op.2.extra": 3}, "softmax"),
    "channels": ("narrow-float", {"buffer.0.channels": 0}, "out of range"),
    "many channels": ("narrow-float", {"buffer.0.channels": 2**31 - 1}, "out of range"),
    "a side": ("narrow-float", {"buffer.1.width": 65537}, "out of range"),
    "an offset": ("narrow-float", {"buffer.1.offset": 8}, "outside the arena"),
    "an offset around": ("narrow-float", {"buffer.1.offset": 2**64 - 16}, "outside"),
    "an arena": ("narrow-float", {"arena": 2**20}, "its buffers take"),
    "the largest arena": ("narrow-float", {"arena": 2**29}, "its buffers take"),
    "an arena of too little": ("narrow-float", {"arena": 16}, "outside the arena"),
    "read after it was lost": ("residual-float", {"buffer.2.offset": 0}, "malformed"),
    "encoding": ("narrow-float", {"weight.0.encoding": 3}, "unknown encoding"),
    "value type": ("narrow-float", {"weight.0.type": 2}, "unknown value type"),
    "rows": ("narrow-float", {"weight.0.rows": -1}, "shape is out of range"),
    "columns": ("narrow-float", {"weight.0.columns": 2**30}, "shape is out of range"),
    "entries": ("narrow-float", {"weight.0.entries": 2**40}, "shape is out of range"),
    "entries of a dense weight": ("dense-float", {"weight.0.entries": 5}, "wrong numb"),
    "counts": ("narrow-float", {"weight.0.entries": 1}, "row counts"),
    "a function of values": ("values-float", {"op.0.extra": FUNCTIONS}, "function"),
    "how often a second value counts": ("values-float", {"op.1.extra": 66}, "function"),
    "a second value per channel": ("values-float", {"op.3.extra": 2}, "second shape"),
    "no second value": ("values-float", {"op.1.in2": -1}, "two inputs"),
    "a slope per channel": ("values-float", {"weight.0.rows": 3}, "wrong number"),
    "channels taken": ("values-float", {"op.5.extra": 1}, "channels outside"),
    "channels in turn": ("values-float", {"op.5.groups": 3}, "groups"),
    "pixels apart": ("values-float", {"op.6.pad_top": 3}, "pixels outside"),
    "pixels far apart": ("values-float", {"op.6.stride_w": 2**31 - 1}, "stride"),
    "pixels cropped": ("values-float", {"op.7.pad_left": 4}, "pixels outside"),
    "no stride": ("values-float", {"op.7.stride_h": 0}, "stride"),
    "copies": ("values-float", {"op.8.stride_w": 3}, "upsampled"),
    "axes": ("values-float", {"op.9.extra": 6}, "axes"),
    "other axes": ("values-float", {"op.9.extra": 0}, "transposed shape"),
    "fewer values": ("values-float", {"op.10.out": 12, "op.10.kind": 19,
                                      "buffer.12.width": 17}, "malformed"),
    "epsilon": ("values-float", {"op.11.low": 0.0}, "epsilon"),
    "epsilon that is no number": ("values-float", {"op.11.low": float("nan")}, "clip"),
    "matrices": ("values-float", {"op.15.in2": 13}, "matrices"),
    "a cell": ("values-float", {"op.19.extra": 4}, "cell"),
    "gates": ("values-float", {"op.19.extra": 1}, "gates"),
    "a reduction": ("values-float", {"op.16.extra": len(Reduction)}, "reduced"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_number_that_the_rest_contradicts_is_refused(name: str) -> None:
    seed, numbers, message = REFUSED[name]
    NativeModel(SEEDS[seed])
    with pytest.raises(CheckpointError, match=message):
        NativeModel(patched(SEEDS[seed], numbers))


def test_a_buffer_that_is_needed_may_not_be_overwritten() -> None:
    """Found by fuzzing: the kernel sets differed in what they left beside a row."""
    shape = Shape(4, 9, 17)
    operations = (
        Operation(Kind.ACTIVATION, 0, 1),
        Operation(Kind.ACTIVATION, 1, 2),
        Operation(Kind.ADD, 0, 3, 2),
    )
    content = write(Program((shape,) * 4, operations, (), 3), {})
    (buffers_at,) = struct.unpack_from("<Q", content, 40)
    (taken,) = struct.unpack_from("<Q", content, buffers_at + 16)
    with pytest.raises(CheckpointError, match="it reads what is not there"):
        NativeModel(patched(content, {"buffer.2.offset": taken}))


# ----------------------------------------------------------------- any padding, legal


def reference(program: Program, example: np.ndarray) -> np.ndarray:
    """The convolution of `convolution`, by its definition."""
    (operation,), (weight,) = program.operations, program.weights
    given, made = program.shapes
    kernel = weight.matrix.reshape(made.channels, -1, *operation.kernel)
    out = np.zeros((made.channels, made.height, made.width))
    own = kernel.shape[1]
    for y in range(made.height):
        for x in range(made.width):
            for ky in range(operation.kernel[0]):
                for kx in range(operation.kernel[1]):
                    row, column = (
                        at * operation.stride[i]
                        + k * operation.dilation[i]
                        - operation.pad[i]
                        for i, (at, k) in enumerate(((y, ky), (x, kx)))
                    )
                    if not (0 <= row < given.height and 0 <= column < given.width):
                        continue
                    part = example[:, row, column].reshape(operation.groups, own)
                    parts = kernel[:, :, ky, kx].reshape(operation.groups, -1, own)
                    out[:, y, x] += np.einsum("gi,gri->gr", part, parts).reshape(-1)
    out += weight.bias[:, None, None]
    return np.clip(out, operation.low, operation.high)


WIDE = {
    "rows of padding alone": (Shape(3, 4, 4), (1, 1), (64, 0), (1, 1)),
    "columns of padding alone": (Shape(3, 2, 16), (1, 1), (0, 112), (1, 1)),
    "both": (Shape(2, 3, 5), (3, 3), (33, 40), (1, 1)),
    "a causal sequence": (Shape(4, 1, 64), (1, 3), (0, 512), (1, 512)),
    "an even wider one": (Shape(2, 1, 32), (1, 3), (0, 1024), (1, 700)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.4, 1.0])
@pytest.mark.parametrize("name", WIDE)
def test_padding_wider_than_the_input_is_computed(
    name: str, density: float, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch allows it, and networks over sequences use it: dilation and padding 512."""
    given, kernel, pad, dilation = WIDE[name]
    program = convolution(given, 6, kernel, density=density, pad=pad, dilation=dilation)
    shape = (given.channels, given.height, given.width)
    example = np.random.default_rng(3).standard_normal(shape, np.float32)
    monkeypatch.setenv("FLSP_ISA", isa)
    found = NativeModel(write(program, {})).run(example[None])[0]
    np.testing.assert_allclose(found, reference(program, example), atol=1e-4)


# ------------------------------------------------------------------------ shapes


def said(facts: dict[str, object]) -> bytes:
    return write(convolution(Shape(1, 1, 12), 3, (1, 3), pad=(0, 1)), facts)


def test_metadata_may_leave_out_axes_of_one_pixel() -> None:
    model = NativeModel(said({"input_shape": [1, 12], "output_shape": [3, 1, 12]}))
    assert (model.input_shape, model.output_shape) == ((1, 12), (3, 1, 12))
    assert model.run(np.ones((2, 1, 12), np.float32)).shape == (2, 3, 1, 12)


@pytest.mark.parametrize(
    "shape",
    [[1], [], [12], [1, 1, 13], [1, 12, 1], [3, 1, 12, 1], [1.0, 12.5], "1, 12", 12,
     {"0": 1}, [[1, 12]], [-1, -12], [1, "12"], [2**70]],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("key", ["input_shape", "output_shape"])
def test_a_shape_that_the_program_does_not_have_is_refused(
    key: str, shape: object
) -> None:
    """Once, output_shape [1] gave three numbers more than there was memory for."""
    with pytest.raises(CheckpointError, match=f"its metadata gives {key}"):
        NativeModel(said({key: shape}))


def test_shapes_cannot_be_set() -> None:
    model = NativeModel(said({}))
    for name in ("input_shape", "output_shape"):
        with pytest.raises(AttributeError):
            setattr(model, name, (1,))
    with pytest.raises(DataError, match="the model takes"):
        model.run(np.ones((1, 1), np.float32))


def with_metadata(text: bytes) -> bytes:
    content = bytearray(write(convolution(Shape(1, 1, 12), 3, (1, 3)), {}))
    at = struct.unpack_from("<Q", content, 64)[0]
    struct.pack_into("<Q", content, 72, len(text))
    content[at:] = text
    struct.pack_into("<Q", content, 8, len(content))
    return patched(bytes(content), {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe\xfd", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\0"}', "no text"),
    ],
    ids=lambda v: str(v[:12]),
)
def test_metadata_that_is_no_json_object_is_refused_in_words(
    text: bytes, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        NativeModel(with_metadata(text))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe without a writer was waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / ("é" * 100)):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            NativeModel(path)


# ------------------------------------------------------------------ work at opening


def test_a_deep_program_that_shares_bytes_is_refused() -> None:
    """Weights that name the same bytes cost more than the file holds."""
    linear = Operation(Kind.LINEAR, 0, 1, weight=0)
    shapes, weight = (Shape(64), Shape(40)), matrix(40, 64, 0.3)
    second = Operation(Kind.LINEAR, 1, 2, weight=1)
    program = Program(
        (*shapes, Shape(64)), (linear, second), (weight, matrix(64, 40, 0.3)), 2
    )
    content = write(program, {})
    (weights_at,) = struct.unpack_from("<Q", content, 48)
    # As many records as fit, all of the first weight's bytes.
    count = 5000
    record = content[weights_at : weights_at + 64]
    grown = bytearray(content) + bytes(-len(content) % 64)
    struct.pack_into("<Q", grown, 48, len(grown))
    grown += record * count
    struct.pack_into("<Q", grown, 8, len(grown))
    with pytest.raises(CheckpointError, match="weights overlap"):
        NativeModel(patched(bytes(grown), {"weights": count}))


def test_a_layer_that_stores_nothing_may_not_ask_for_large_tables() -> None:
    side = 4096
    weight = Weight("w", np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    shapes = (Shape(1, 8, 16), Shape(1, 8, 16))
    operation = Operation(Kind.CONV, 0, 1, weight=0)
    content = write(Program(shapes, (operation,), (weight,), 1), {})
    numbers = {
        "op.0.kernel_h": side, "op.0.kernel_w": side, "op.0.pad_top": side - 1,
        "op.0.pad_left": side - 1, "weight.0.columns": side * side,
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="too large for what it stores"):
        NativeModel(patched(content, numbers))


def test_memory_to_run_is_bounded_by_input_and_file() -> None:
    """A pixel that is padded to 8,193 x 8,193 of 4 channels takes a GiB."""
    program = convolution(Shape(1, 1, 1), 4, (1, 1), density=1.0, pad=(4096, 4096))
    with pytest.raises(CheckpointError, match="bytes of memory to run"):
        NativeModel(write(program, {}))


def test_a_session_that_the_machine_cannot_hold_is_refused() -> None:
    """Scratch is per thread; the operating system would end the process instead."""
    given, kernel = Shape(12_000, 1100, 3), 1024
    weight = Weight(
        "w", np.zeros((1, 12_000 * kernel), np.float32), np.zeros(1, np.float32)
    )
    operation = Operation(Kind.CONV, 0, 1, weight=0, kernel=(kernel, 1))
    shapes = (given, Shape(1, 1100 - kernel + 1, 3))
    content = write(Program(shapes, (operation,), (weight,), 1), {"pad": " " * 2**21})
    model = NativeModel(content, threads=256)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    if 200 * 12_000 * kernel * 3 * 4 < machine:
        pytest.skip("this machine holds the 28 GiB")
    with pytest.raises(EngineError, match="the machine has"):
        model.run(np.zeros((0, 12_000, 1100, 3), np.float32))


def test_opening_does_not_touch_memory_that_is_only_declared() -> None:
    """2 x 64 MiB of activations: their pages come when an operation writes them."""
    program = convolution(Shape(1, 4096, 4096), 1, (1, 1), density=1.0, pad=(0, 0))
    content = write(program, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    NativeModel(content).run(np.zeros((0, 1, 4096, 4096), np.float32))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 << 10  # KiB


def test_metadata_is_what_the_exporter_wrote() -> None:
    facts = {"task": "t", "labels": ["a", "b"]}
    assert NativeModel(said(facts)).metadata == json.loads(json.dumps(facts))
