"""The native runtime computes what onnxruntime does, on any layer and processor."""

import os
import struct
import subprocess
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classify_program import emulator, link, program
from fuzz import native_fuzzer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import CheckpointError, DataError, EngineError, ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.infer.build import build
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.fuse import fuse
from export.native.lower import lower
from export.runtime import open_session, predict

ISAS = ["vnni", "v4", "v3", "base"] if this_machine() == "x86_64" else ["base"]
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def model_of(
    nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], shape: tuple[int, ...]
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    given_ = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])
    made = onnx.ValueInfoProto()
    made.name = "output"
    graph = helper.make_graph(nodes, "g", [given_], [made], constants)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def native_bytes(model: onnx.ModelProto, **options: Any) -> bytes:
    program = fuse(lower(model))
    given = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    shapes = {"input_shape": given[1:], "output_shape": list(program.output_shape)}
    return write(program, shapes, **options)


def compare(
    model: onnx.ModelProto, shape: tuple[int, ...], *, threads: int = 1, seed: int = 0
) -> None:
    rng = np.random.default_rng(seed)
    batch = rng.standard_normal((2, *shape), np.float32)
    expected = predict(open_session(model.SerializeToString()), batch)
    native = NativeModel(native_bytes(model), threads=threads)
    assert native.input_shape == shape
    outputs = native.run(batch)
    assert outputs.shape == expected.shape
    scale = np.abs(expected).max() or 1.0
    np.testing.assert_allclose(outputs / scale, expected / scale, atol=1e-5, rtol=0)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    inputs, outputs = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if draw(st.booleans()):  # depth-wise, as mobile networks have it
        groups, inputs, outputs = inputs, 1, draw(st.sampled_from([1, 1, 2]))
        kernel = draw(st.sampled_from([(3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (2, 4)]))
        stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    return {
        "groups": groups,
        "inputs": groups * inputs,
        "outputs": groups * outputs,
        "size": (draw(st.integers(1, 40)), draw(st.sampled_from([*range(1, 41), 70]))),
        "kernel": kernel,
        "stride": stride,
        "pads": draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)),
        "dilation": draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 3)])),
        "density": draw(st.sampled_from([0.02, 0.2, 0.6, 0.8, 1.0])),
        "residual": draw(st.booleans()),
        "relu": draw(st.sampled_from(["no", "relu", "clip"])),
        "threads": draw(st.sampled_from([1, 1, 2, 3])),
        "isa": draw(st.sampled_from(ISAS)),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(case=convolutions())
def test_any_convolution_equals_onnxruntimes(case: dict[str, Any]) -> None:
    out = [
        (case["size"][i] + case["pads"][i] + case["pads"][i + 2]
         - case["dilation"][i] * (case["kernel"][i] - 1) - 1) // case["stride"][i] + 1
        for i in (0, 1)
    ]  # fmt: skip
    assume(min(out) >= 1)
    rng = np.random.default_rng(case["seed"])
    shape = (case["outputs"], case["inputs"] // case["groups"], *case["kernel"])
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[rng.random(shape) >= case["density"]] = 0
    arrays = {"w": weight, "b": rng.standard_normal(shape[0]).astype(np.float32)}
    window = {
        "kernel_shape": case["kernel"], "strides": case["stride"],
        "pads": case["pads"], "dilations": case["dilation"], "group": case["groups"],
    }  # fmt: skip
    nodes = [helper.make_node("Conv", ["input", "w", "b"], ["y"], **window)]
    last = "y"
    if case["residual"]:
        arrays["w2"] = np.roll(weight, 1, axis=0)
        nodes.insert(0, helper.make_node("Conv", ["input", "w2"], ["r"], **window))
        nodes.append(helper.make_node("Add", ["r", "y"], ["s"]))
        last = "s"
    if case["relu"] == "relu":
        nodes.append(helper.make_node("Relu", [last], ["output"]))
    elif case["relu"] == "clip":
        arrays |= {"low": np.float32(-0.5), "high": np.float32(6)}
        nodes.append(helper.make_node("Clip", [last, "low", "high"], ["output"]))
    else:
        nodes[-1].output[0] = "output"
    input_shape = (case["inputs"], *case["size"])
    os.environ["FLSP_ISA"] = case["isa"]
    try:
        model = model_of(nodes, arrays, input_shape)
        compare(model, input_shape, threads=case["threads"], seed=case["seed"])
    finally:
        del os.environ["FLSP_ISA"]


# Inputs, outputs, size, kernel, stride, density: with more inputs than a block has.
WIDE = {
    "rows of no whole vectors": (96, 40, (14, 14), 3, 1, 0.1),
    "pixels of no whole rows": (160, 24, (7, 7), 3, 1, 0.3),
    "direct rows": (200, 4, (9, 100), 3, 1, 0.2),
    "one row of pixels": (300, 40, (13, 13), 1, 1, 0.1),
    "dense, one row of pixels": (300, 30, (13, 13), 1, 1, 1.0),
    "planes that share a cache": (200, 20, (32, 32), 1, 1, 0.2),
    "dense": (100, 10, (11, 11), 3, 1, 1.0),
    "every second column": (96, 24, (29, 31), 3, 2, 0.1),
    "one pixel": (400, 40, (1, 1), 1, 1, 0.9),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", WIDE)
def test_layers_of_many_inputs_equal_onnxruntimes(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, outputs, size, kernel, stride, density = WIDE[name]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32)
    weight[rng.random(weight.shape) >= density] = 0
    arrays = {"w": weight, "w2": np.roll(weight, 1, axis=0)}
    window = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [kernel // 2] * 4,
    }
    nodes = [
        helper.make_node("Conv", ["input", "w2"], ["r"], **window),
        helper.make_node("Conv", ["input", "w"], ["y"], **window),
        helper.make_node("Add", ["r", "y"], ["s"]),
        helper.make_node("Relu", ["s"], ["output"]),
    ]
    monkeypatch.setenv("FLSP_ISA", isa)
    shape = (inputs, *size)
    for threads in (1, 3):
        compare(model_of(nodes, arrays, shape), shape, threads=threads)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.booleans(),
    count=st.integers(0, 1),
    isa=st.sampled_from(ISAS),
)
def test_any_pool_equals_onnxruntimes(
    kind: str, size: Any, kernel: Any, stride: Any, padded: Any, count: int, isa: str
) -> None:
    pads = [k // 2 if padded else 0 for k in kernel] * 2
    extra = {"count_include_pad": count} if kind == "AveragePool" else {}
    node = helper.make_node(
        kind, ["input"], ["p"], kernel_shape=kernel, strides=stride, pads=pads, **extra
    )
    relu = helper.make_node("Relu", ["p"], ["output"])
    os.environ["FLSP_ISA"] = isa
    try:
        compare(model_of([node, relu], {}, (5, *size)), (5, *size), threads=2)
    finally:
        del os.environ["FLSP_ISA"]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    planes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6, 1.0]),
    threads=st.integers(1, 2),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 2**16),
)
def test_any_linear_layer_equals_onnxruntimes(
    rows: int, planes: Any, density: float, threads: int, isa: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = int(np.prod(planes))
    weight = rng.standard_normal((rows, columns), np.float32)
    weight[rng.random(weight.shape) >= density] = 0
    arrays = {"w": weight, "b": rng.standard_normal(rows, np.float32)}
    nodes = [
        helper.make_node("Flatten", ["input"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["output"]),
    ]
    os.environ["FLSP_ISA"] = isa
    try:
        compare(model_of(nodes, arrays, planes), planes, threads=threads, seed=seed)
    finally:
        del os.environ["FLSP_ISA"]


def rng_array(*shape: int, density: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    array = rng.standard_normal(shape, np.float32)
    return np.where(rng.random(shape) < density, array, np.float32(0))


CASES: dict[str, tuple[list[Any], dict[str, np.ndarray], tuple[int, ...]]] = {
    "linear": (
        [helper.make_node("Gemm", ["input", "w", "b"], ["output"], transB=1)],
        {"w": rng_array(30, 50, density=0.1), "b": rng_array(30)},
        (50,),
    ),
    "linear, untransposed, dense": (
        [helper.make_node("Gemm", ["input", "w"], ["output"])],
        {"w": rng_array(50, 30)},
        (50,),
    ),
    "matmul and bias": (
        [
            helper.make_node("MatMul", ["input", "w"], ["y"]),
            helper.make_node("Add", ["y", "b"], ["output"]),
        ],
        {"w": rng_array(50, 30, density=0.2), "b": rng_array(30)},
        (50,),
    ),
    "flatten of planes with gaps": (
        [
            helper.make_node("Relu", ["input"], ["x"]),
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w"], ["output"], transB=1),
        ],
        {"w": rng_array(9, 3 * 49, density=0.2)},
        (3, 7, 7),
    ),
    "a dense layer of planes with gaps": (
        [
            helper.make_node("Flatten", ["input"], ["f"]),
            helper.make_node("Gemm", ["f", "w"], ["output"], transB=1),
        ],
        {"w": rng_array(9, 3 * 49)},
        (3, 7, 7),
    ),
    "flattened output": (
        [
            helper.make_node("Sigmoid", ["input"], ["x"]),
            helper.make_node("Flatten", ["x"], ["output"]),
        ],
        {},
        (3, 7, 5),
    ),
    "concat and global pool": (
        [
            helper.make_node("Tanh", ["input"], ["x"]),
            helper.make_node("Concat", ["input", "x", "input"], ["c"], axis=1),
            helper.make_node("GlobalAveragePool", ["c"], ["output"]),
        ],
        {},
        (3, 7, 5),
    ),
    "standing batch norm and softmax": (
        [
            helper.make_node("BatchNormalization", ["input", *"sbmv"], ["n"]),
            helper.make_node("HardSwish", ["n"], ["h"]),
            helper.make_node("GlobalAveragePool", ["h"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Softmax", ["f"], ["output"], axis=1),
        ],
        {
            "s": rng_array(6),
            "b": rng_array(6),
            "m": rng_array(6),
            "v": np.abs(rng_array(6)) + 0.5,
        },
        (6, 5, 5),
    ),
    "convolution of a sequence": (
        [helper.make_node("Conv", ["input", "w"], ["output"], kernel_shape=[5])],
        {"w": rng_array(7, 4, 5, density=0.4)},
        (4, 60),
    ),
    "convolution to one pixel": (
        [helper.make_node("Conv", ["input", "w"], ["output"], pads=[1, 1, 0, 0])],
        {"w": rng_array(7, 4, 3, 3, density=0.4)},
        (4, 2, 2),
    ),
    "a branch that is read twice": (
        [
            helper.make_node("Conv", ["input", "w"], ["a"], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4),
            helper.make_node("Add", ["c", "b"], ["d"]),
            helper.make_node("Add", ["d", "a"], ["output"]),
        ],
        {"w": rng_array(5, 5, 3, 3, density=0.4)},
        (5, 9, 9),
    ),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_each_layer_equals_onnxruntimes(name: str, threads: int) -> None:
    nodes, arrays, shape = CASES[name]
    compare(model_of(nodes, arrays, shape), shape, threads=threads)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Shrink", ["input"], ["output"]), (4,)),
        (helper.make_node("Hardmax", ["input"], ["output"]), (4, 3, 3)),
        (helper.make_node("Det", ["input"], ["output"]), (4, 3, 3)),
    ],
)
def test_an_unknown_operation_is_named(node: onnx.NodeProto, shape: Any) -> None:
    with pytest.raises(ExportError, match=rf"{node.op_type} \(output 'output'\)"):
        lower(model_of([node], {}, shape))


# ------------------------------------------------------------------ whole models


@pytest.fixture(scope="module")
def built(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "m.flsp"
    export.build(checkpoint, format="native", out=path)
    return path


def test_a_checkpoint_is_exported_and_verified(
    checkpoint: Checkpoint, built: Path
) -> None:
    report = export.verify(built, checkpoint)
    assert report.format == "native"
    assert report.findings.parity.max_relative <= 1e-5
    assert report.findings.weights_checked == len(checkpoint.layers)
    model = NativeModel(built)
    assert model.metadata["labels"] == list("abcdefghij")
    assert model.metadata["mask_digest"] == checkpoint.mask.digest.hex()
    assert (model.input_shape, model.output_shape) == ((1, 12, 12), (10,))


def test_int8_is_smaller_and_gated_by_accuracy(
    digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    checkpoint, data = digits
    out = tmp_path / "m.flsp"
    plain = export.build(checkpoint, format="native")
    report = export.build(checkpoint, format="native-int8", out=out, data=data)
    assert report.findings.accuracy is not None
    assert report.findings.accuracy.lost_points <= 0.5
    assert report.file_bytes < plain.file_bytes
    assert export.verify(out, checkpoint, data=data).findings == report.findings


def test_threads_share_a_model_and_get_the_same_bits(built: Path) -> None:
    model = NativeModel(built, threads=2)
    batch = np.random.default_rng(0).standard_normal((40, 1, 12, 12), np.float32)
    expected = NativeModel(built).run(batch)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(model.run(batch)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_another_shape_or_dtype_is_refused(built: Path) -> None:
    model = NativeModel(built)
    with pytest.raises(DataError, match="the model takes float32"):
        model.run(np.zeros((1, 1, 12, 12)))
    with pytest.raises(DataError, match=r"shape \(12, 12\)"):
        model.run(np.zeros((1, 12, 12), np.float32))
    with pytest.raises(EngineError, match="1 to 256"):
        NativeModel(built, threads=0).run(np.zeros((1, 1, 12, 12), np.float32))
    assert model.run(np.zeros((0, 1, 12, 12), np.float32)).shape == (0, 10)


def test_an_isa_can_be_forced(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLSP_ISA", "base")
    assert NativeModel(built).isa == "base"


# ------------------------------------------------------------------ damaged files


def test_every_truncation_is_refused(built: Path) -> None:
    content = built.read_bytes()
    for size in {0, 1, 79, 80, 81, *range(100, len(content), 397), len(content) - 1}:
        with pytest.raises(CheckpointError):
            NativeModel(content[:size])


def test_a_flipped_bit_is_refused(built: Path) -> None:
    content = bytearray(built.read_bytes())
    for at in range(0, len(content), 211):
        content[at] ^= 16
        with pytest.raises(CheckpointError):
            NativeModel(bytes(content))
        content[at] ^= 16


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_hostile_file_with_a_right_checksum_does_no_harm(
    built: Path, data: st.DataObject
) -> None:
    """Any bytes may change: it is refused, or runs without leaving its memory."""
    content = bytearray(built.read_bytes())
    tables = struct.unpack_from("<QQQQ", content, 48)
    for _ in range(data.draw(st.integers(1, 3))):
        near = data.draw(st.sampled_from([8, 24, 48, *tables]))
        at = min(near + data.draw(st.integers(0, 200)), len(content) - 5)
        value = data.draw(st.sampled_from([0, 1, 2, 255, 2**16, 2**31 - 1, 2**32 - 1]))
        struct.pack_into("<I", content, at, value)
    struct.pack_into("<I", content, 16, zlib.crc32(content[80:]))
    try:
        model = NativeModel(bytes(content))
    except CheckpointError:
        return
    model.run(np.zeros((1, *model.input_shape), np.float32))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened"):
        NativeModel(tmp_path / "none.flsp")


# -------------------------------------------------------------- C, sanitizers, ARM


def write_input(folder: Path) -> tuple[Path, np.ndarray]:
    example = np.random.default_rng(1).standard_normal((1, 1, 12, 12), np.float32)
    path = folder / "input.f32"
    path.write_bytes(example.tobytes())
    return path, example


def test_a_short_c_program_runs_the_model(built: Path, tmp_path: Path) -> None:
    """The C interface, from C, under the address and undefined-behaviour sanitizers."""
    path, example = write_input(tmp_path)
    # The fuzzer's objects: it counts their basic blocks, this program does not.
    trace = tmp_path / "trace.c"
    trace.write_text("void __sanitizer_cov_trace_pc(void) {}\n")
    subprocess.run(["cc", "-c", trace, "-o", tmp_path / "trace.o"], check=True)
    objects = [*native_fuzzer.checked_runtime(), tmp_path / "trace.o"]
    tool = link(tmp_path, this_machine(), objects, native_fuzzer.CHECKED)
    for isa in ISAS:
        done = subprocess.run(
            [tool, built, path], capture_output=True, text=True,
            env={"FLSP_ISA": isa, "ASAN_OPTIONS": "detect_leaks=0"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outputs = np.array(done.stdout.split(), np.float32)
        np.testing.assert_allclose(
            outputs, NativeModel(built).run(example)[0], rtol=1e-5, atol=1e-6
        )
    cut = tmp_path / "cut.flsp"
    cut.write_bytes(built.read_bytes()[:-1])
    done = subprocess.run(
        [tool, cut, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the file has")


def test_it_runs_on_aarch64(built: Path, tmp_path: Path) -> None:
    """Cross-compiled and emulated: the NEON build gives the same outputs."""
    qemu = emulator()
    path, example = write_input(tmp_path)
    tool = program(tmp_path, "aarch64", ("-static",))
    done = subprocess.run(
        [qemu, tool, built, path], capture_output=True, text=True, check=True
    )
    outputs = np.array(done.stdout.split(), np.float32)
    np.testing.assert_allclose(
        outputs, NativeModel(built).run(example)[0], rtol=1e-5, atol=1e-6
    )


def test_the_library_builds_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sdk.kernels.build import BuildError

    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_first_job_of_a_new_session_takes_each_piece_once() -> None:
    """Workers are being born while it is set up; a piece run twice pools twice."""
    node = helper.make_node(
        "AveragePool", ["input"], ["output"], kernel_shape=(2, 1), pads=[1, 0, 1, 0]
    )
    content = native_bytes(model_of([node], {}, (5, 4, 40)))
    batch = np.random.default_rng(0).standard_normal((1, 5, 4, 40), np.float32)
    outputs = set()
    for _ in range(300):
        model = NativeModel(content, threads=2)
        outputs.add(model.run(batch).tobytes())
    assert len(outputs) == 1
