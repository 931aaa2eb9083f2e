"""The runtime reads the caller's input and writes the caller's output where they lie.

Inputs are on pages that only reading leaves alive, both arrays beside pages that nobody
may touch: where a kernel reads or writes beside them, the process ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fuzz.native_fuzzer import convolution, seed_files
from guarded import NativeCall, guarded, protect
from hypothesis import given, settings
from hypothesis import strategies as st
from native_graphs import array, model_of, node

from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import LEAST_INT8, write
from export.native.fuse import fuse
from export.native.lower import lower
from export.native.program import Kind, Operation, Program, Shape
from export.native.views import join_moves

pytestmark = [
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded by Linux"),
]
ISAS = (
    ["vnni", "v4", "avxvnni", "avx2", "v3", "base"]
    if this_machine() == "x86_64"
    else ["base"]
)
SEEDS = seed_files()


def same_as_copied(
    content: bytes, *, threads: int = 1, batch: int = 2, compared: bool = True
) -> None:
    """Outputs have the bits of a call that copies, and the input is as it was."""
    call = NativeCall(content, threads)
    taken, made = call.values
    values = np.random.default_rng(3).standard_normal((batch, taken), np.float32)
    wanted = call.copied(values)
    for at_end in (True, False):
        x = guarded(batch * taken, at_end=at_end)
        x[:] = values.reshape(-1)
        protect(x)
        y = guarded(batch * made, at_end=at_end)
        call.run(x, y, batch)
        assert not compared or y.tobytes() == wanted.tobytes()
    call.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_each_operation_keeps_to_the_callers_arrays(
    threads: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for name, content in SEEDS.items():
        # A view of this seed takes what lies between planes, which is anything.
        compared = not name.startswith("views")
        for batch in (1, 2):
            same_as_copied(content, threads=threads, batch=batch, compared=compared)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_keeps_to_the_callers_arrays(data: st.DataObject) -> None:
    """Depth-wise layers and others, float32 and int8, on one thread or two."""
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 0]))
    channels = draw(st.integers(1, 40))
    side = draw(st.sampled_from([1, 2, 3, 5, 7]))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = Shape(channels, draw(st.integers(side, 40)), draw(st.integers(side, 70)))
    made = draw(st.integers(1, 40)) if groups else channels
    large = groups and channels * made * side * side >= LEAST_INT8
    scale = draw(st.sampled_from([0.0, 0.05])) if large else 0.0
    program = convolution(
        shape,
        made,
        (side, side),
        density=draw(st.sampled_from([0.1, 0.5, 1.0])),
        stride=stride,
        pad=(draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))),
        groups=groups or channels,
        input_scale=scale,
    )
    if program.shapes[1].height * program.shapes[1].width == 1:
        return
    isa = draw(st.sampled_from(ISAS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLSP_ISA", isa)
        content = write(program, {}, int8=scale > 0)
        same_as_copied(content, threads=draw(st.integers(1, 2)))


SHAPE = (6, 20, 24)
POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
LAYER = ("Conv", ["input", "w"], ["c"])
GRAPHS = {
    "read again by an addition": [
        node(*LAYER, pads=[1] * 4, group=6),
        node("Add", ["c", "input"], ["output"]),
    ],
    "read by three, all in the output": [
        node(*LAYER, pads=[1] * 4, group=6),
        node("MaxPool", ["input"], ["p"], kernel_shape=[3, 3], pads=[1] * 4),
        node("Concat", ["c", "p", "input"], ["output"], axis=1),
    ],
    "read last of all": [
        node(*LAYER, pads=[1] * 4, strides=[2, 2], group=6),
        node("MaxPool", ["input"], ["p"], **POOL),
        node("Sigmoid", ["p"], ["s"]),
        node("Mul", ["s", "c"], ["output"]),
    ],
    "its own factor": [node("Mul", ["input", "input"], ["output"])],
    "its own sum": [node("Add", ["input", "input"], ["output"])],
    "handed on": [node("Concat", ["input", "input"], ["output"], axis=1)],
    "an output that a later layer reads": [
        node(*LAYER, pads=[1] * 4, group=6),
        node("GlobalAveragePool", ["c"], ["m"]),
        node("Mul", ["c", "m"], ["output"]),
    ],
    "a chain with functions": [
        node("HardSwish", ["input"], ["h"]),
        node("Conv", ["h", "w"], ["c"], pads=[1] * 4, group=6),
        node("Sigmoid", ["c"], ["output"]),
    ],
    "turned around": [node("Transpose", ["input"], ["output"], perm=[0, 2, 3, 1])],
    "softmax of rows": [node("Softmax", ["input"], ["output"], axis=-1)],
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("size", [SHAPE, (6, 7, 7), (6, 16, 32)], ids=str)
def test_an_input_or_output_with_several_users_keeps_its_bits(
    name: str, size: tuple[int, ...]
) -> None:
    content = file_of(model_of(GRAPHS[name], {"w": array(6, 1, 3, 3)}, size))
    for threads in (1, 2):
        for batch in (1, 3):
            same_as_copied(content, threads=threads, batch=batch)


def test_parts_of_the_output_are_written_by_their_convolutions() -> None:
    arrays = {"w": array(5, 6, 3, 3, density=0.3), "v": array(7, 6, 1, 1, density=0.5)}
    nodes = [
        node("Conv", ["input", "w"], ["a"], pads=[1] * 4),
        node("Conv", ["input", "v"], ["b"]),
        node("Concat", ["a", "b"], ["output"], axis=1),
    ]
    for size in ((6, 9, 9), (6, 16, 16), (6, 13, 40)):
        same_as_copied(file_of(model_of(nodes, arrays, size)), threads=2)


def test_overlapping_arrays_give_what_apart_ones_give() -> None:
    content = write(convolution(Shape(8, 24, 24), 8, density=0.6, groups=8), {})
    call = NativeCall(content)
    taken, made = call.values
    assert taken == made
    values = np.random.default_rng(1).standard_normal(taken).astype(np.float32)
    wanted = np.empty(made, np.float32)
    call.run(values, wanted, 1)
    for apart in (0, 1, 17, 24 * 24, taken - 1):
        memory = np.zeros(taken + apart, np.float32)
        memory[:taken] = values
        call.run(memory, memory[apart:], 1)
        assert memory[apart:].tobytes() == wanted.tobytes()
    call.close()


def test_an_array_at_any_address_gives_the_same_bits() -> None:
    """Also one that is no multiple of four bytes, as a slice of a file may be."""
    for name in ("depthwise-float", "strided-float", "bytes-int8"):
        model = NativeModel(SEEDS[name])
        shape = (3, *model.input_shape)
        values = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        wanted = model.run(values)
        for offset in (1, 2, 3, 4, 20, 60):
            memory = bytearray(values.nbytes + offset)
            moved = np.frombuffer(memory, np.float32, values.size, offset)
            moved[:] = values.reshape(-1)
            found = model.run(moved.reshape(shape))
            assert found.tobytes() == wanted.tobytes()
            assert moved.tobytes() == values.tobytes()
        values.flags.writeable = False
        assert model.run(values).tobytes() == wanted.tobytes()
        assert model.run(values[:0]).shape == wanted[:0].shape


def test_an_input_that_is_read_where_it_lies_takes_no_memory_of_the_runtimes() -> None:
    """Nor does the output; of the input the first and last planes are copied."""
    window = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}
    shapes = Shape(32, 512, 512), Shape(32, 256, 256)
    program = Program(shapes, (Operation(Kind.MAX_POOL, 0, 1, **window),), (), 1)
    model = NativeModel(write(program, {}))
    x = np.ones((1, *model.input_shape), np.float32)
    warm = np.ones((1, *model.output_shape), np.float32)  # numpy's own pages
    del warm
    before = resident()
    y = model.run(x)
    grown = resident() - before - y.nbytes
    assert grown < x.nbytes // 2


def resident() -> int:
    """Bytes of this process that lie in memory."""
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * 4096


def file_of(model: onnx.ModelProto) -> bytes:
    """A graph as a native file."""
    return write(join_moves(fuse(lower(model))), {})
