"""Moves and layers of volumes of the native runtime equal onnxruntime's."""

import numpy as np
import pytest
from native_graphs import array, compare, ints, model_of, node, one

from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.lower import lower

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
IMAGE, ROWS, VOLUME = (6, 5, 7), (5, 12), (4, 5, 6, 7)
NONE = np.zeros(0, np.float32)
BLOCKS = (12, 4, 6)  # channels of 2 x 2 blocks


def padded(mode: str, *pads: int, value: float = 0.0):
    return one("Pad", IMAGE, ints(*pads), np.float32(value), mode=mode)


def resized(shape: tuple[int, ...], scales: list[float], **how: object):
    return one("Resize", shape, NONE, np.float32(scales), **how)


def pair(kind: str, first: tuple[int, ...], second: tuple[int, ...], whole: int):
    """Two values of these shapes, from the input's first values."""
    nodes = [node("Tanh", ["input"], ["x"])]
    arrays = {"axis": ints(1), "zero": ints(0)}
    for name, sizes in (("a", first), ("b", second)):
        arrays |= {f"{name}n": ints(int(np.prod(sizes))), f"{name}s": ints(1, *sizes)}
        nodes += [
            node("Slice", ["x", "zero", f"{name}n", "axis"], [f"{name}x"]),
            node("Reshape", [f"{name}x", f"{name}s"], [name]),
        ]
    nodes.append(node(kind, ["a", "b"], ["output"]))
    return nodes, arrays, (whole,)


def letters(equation: str, *shapes: tuple[int, ...]):
    """Einsum of the input's first values, in the shapes that are given."""
    names = [f"v{i}" for i in range(len(shapes))]
    nodes = [node("Tanh", ["input"], ["x"])]
    arrays = {"axis": ints(1), "zero": ints(0)}
    for name, sizes in zip(names, shapes, strict=True):
        arrays |= {f"{name}n": ints(int(np.prod(sizes))), f"{name}s": ints(*sizes)}
        nodes += [
            node("Slice", ["x", "zero", f"{name}n", "axis"], [f"{name}x"]),
            node("Reshape", [f"{name}x", f"{name}s"], [name]),
        ]
    nodes.append(node("Einsum", names, ["output"], equation=equation))
    return nodes, arrays, (max(int(np.prod(s)) for s in shapes),)


CASES = {
    "uneven rows": one("Gather", IMAGE, ints(3, 0, 1, 1, 4), axis=2),
    "uneven channels": one("Gather", IMAGE, ints(5, -6, 2), axis=1),
    "a table of columns": one("Gather", ROWS, ints(0, 3, 1, 4).reshape(2, 2), axis=2),
    "pixels by number": one(
        "GatherND", (4, 5), np.array([[0, 3, 1], [0, 0, 4], [0, -1, 0]], np.int64)
    ),
    "rows by number": one("GatherND", (4, 5), np.array([[[0, 3]], [[0, 1]]], np.int64)),
    "backwards": one("Slice", IMAGE, ints(-1), ints(-99), ints(3), ints(-1)),
    "backwards by two": one("Slice", ROWS, ints(4), ints(0), ints(1), ints(-2)),
    "split rows": (
        [
            node("Tanh", ["input"], ["x"]),
            node("Split", ["x", "parts"], ["a", "b"], axis=2),
            node("Concat", ["b", "a"], ["output"], axis=2),
        ],
        {"parts": ints(1, 4)},
        IMAGE,
    ),
    "expanded": one("Expand", (6, 1, 7), ints(1, 6, 5, 7)),
    "expanded at both ends": one("Expand", (1, 5, 1), ints(1, 4, 5, 3)),
    "tiled": one("Tile", IMAGE, ints(1, 2, 1, 3)),
    "reflected": padded("reflect", 0, 0, 2, 1, 0, 0, 4, 3),
    "edges": padded("edge", 0, 0, 2, 1, 0, 0, 0, 9),
    "wrapped": padded("wrap", 0, 0, 0, 2, 0, 0, 1, 3),
    "padded by a value": padded("constant", 0, 1, 0, 2, 0, 0, 1, 3, value=0.5),
    "cropped and reflected": padded("reflect", 0, 0, -1, 2, 0, 0, 2, -1),
    "depth to space": one("DepthToSpace", BLOCKS, blocksize=2),
    "depth to space by column": one("DepthToSpace", BLOCKS, blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", BLOCKS, blocksize=2),
    "running sum": one("CumSum", ROWS, np.array(1, np.int64)),
    "running sum from the end": one(
        "CumSum", ROWS, np.array(-1, np.int64), reverse=1, exclusive=1
    ),
    "columns to an image": one(
        "Col2Im", (12, 16), ints(7, 8), ints(2, 3), strides=[2, 1], pads=[1, 0, 0, 0],
        dilations=[1, 2],
    ),
    "cubic": resized(IMAGE, [1, 1, 2, 1.5], mode="cubic"),
    "cubic by corners": resized(
        IMAGE, [1, 1, 1.6, 3], mode="cubic", cubic_coeff_a=-0.5,
        coordinate_transformation_mode="align_corners",
    ),
    "volume of linear steps": resized(VOLUME, [1, 1, 2, 1.5, 2], mode="linear"),
    "volume twice as large": resized(
        VOLUME, [1, 1, 2, 1, 3], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "larger by copies and steps": resized(
        (6, 4, 7), [1, 1, 2, 1.5], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "sum over both": pair("Add", (4, 1), (1, 6), 30),
    "difference over both": pair("Sub", (3, 1, 5), (4, 1), 30),
    "product between axes": pair("Mul", (4, 3, 5), (4, 1, 5), 60),
    "quotient between axes": pair("Div", (4, 1, 5), (4, 3, 5), 60),
    "channels by two axes": pair("Add", (4, 3, 5), (4, 1, 1), 60),
    "norm": one("ReduceL2", IMAGE, ints(1)),
    "sum of sizes": one("ReduceL1", ROWS, ints(2), keepdims=0),
    "sum of squares": one("ReduceSumSquare", IMAGE, ints(2, 3)),
    "heads of attention": letters("bthd,bshd->bhts", (1, 5, 2, 3), (1, 4, 2, 3)),
    "three operands": letters(
        "bhts,bshd,hdo->bto", (1, 2, 5, 4), (1, 4, 2, 3), (2, 3, 6)
    ),
    "sums on one side": letters("bij,bk->bk", (1, 3, 4), (1, 5)),
    "outer product": letters("bi,bj->bij", (1, 3), (1, 4)),
    "dots": letters("...ij,...jk->...ik", (1, 2, 3, 4), (1, 2, 4, 5)),
    "no arrow": letters("bij,bjk", (1, 3, 4), (1, 4, 2)),
    "pool that rounds up": one(
        "AveragePool", (6, 6, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "pool that rounds up and counts": one(
        "AveragePool", (6, 6, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
        pads=[1, 0, 1, 1], count_include_pad=1,
    ),
    "sequence's pool that rounds up": one(
        "AveragePool", (5, 12), kernel_shape=[3], strides=[2], ceil_mode=1,
        pads=[1, 1], count_include_pad=1,
    ),
    "volume": one(
        "Conv", VOLUME, array(6, 4, 3, 3, 3, density=0.3), array(6), pads=[1] * 6
    ),
    "volume by steps": one(
        "Conv", VOLUME, array(6, 4, 2, 3, 2, density=0.3), strides=[2, 1, 2],
        pads=[0, 1, 0, 1, 1, 0],
    ),
    "volume of groups": one(
        "Conv", VOLUME, array(6, 2, 3, 3, 1, density=0.6), group=2,
        pads=[1, 0, 0, 1, 0, 0],
    ),
    "volume by channels": one(
        "Conv", VOLUME, array(4, 1, 3, 3, 3), group=4, pads=[1] * 6
    ),
    "dilated volume": one(
        "Conv", VOLUME, array(3, 4, 2, 2, 3), array(3), dilations=[3, 2, 1],
        pads=[1, 0, 1, 1, 0, 1],
    ),
    "volume of one pixel": one("Conv", VOLUME, array(3, 4, 2, 6, 7, density=0.4)),
    "volume to one value": one("Conv", VOLUME, array(3, 4, 5, 6, 7, density=0.4)),
    "volume of slices": one("Conv", VOLUME, array(3, 4, 1, 3, 3, density=0.4)),
    "turned volume": one(
        "ConvTranspose", VOLUME, array(4, 3, 2, 3, 2, density=0.4), array(3),
        strides=[2, 1, 2], pads=[0, 1, 0, 1, 1, 0], output_padding=[1, 0, 0],
    ),
    "turned volume of groups": one(
        "ConvTranspose", VOLUME, array(4, 2, 2, 2, 2), group=2, strides=[2, 2, 2]
    ),
    "largest of volumes": one(
        "MaxPool", VOLUME, kernel_shape=[2, 3, 2], strides=[2, 1, 2],
        pads=[1, 1, 0, 0, 1, 0],
    ),
    "mean of volumes": one(
        "AveragePool", VOLUME, kernel_shape=[3, 2, 2], pads=[1, 0, 1, 1, 1, 0],
    ),
    "mean of padded volumes": one(
        "AveragePool", VOLUME, kernel_shape=[3, 2, 2], pads=[1, 0, 1, 1, 1, 0],
        count_include_pad=1, strides=[2, 2, 2],
    ),
    "means of images in the batch": (
        [
            node("Reshape", ["input", "images"], ["x"]),
            node("GlobalAveragePool", ["x"], ["y"]),
            node("Reshape", ["y", "flat"], ["output"]),
        ],
        {"images": ints(4, 3, 5, 7), "flat": ints(1, 4, 3)},
        (4, 3, 5, 7),
    ),
    "mean of a whole volume": one("GlobalAveragePool", VOLUME),
    "largest of a whole volume": one("GlobalMaxPool", VOLUME),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_move_or_volume_equals_onnxruntimes(name: str) -> None:
    nodes, arrays, shape = CASES[name]
    compare(model_of(nodes, arrays, shape), shape)


REFUSED = {
    "an axis twice": (letters("bii->bi", (1, 4, 4)), "names an axis twice"),
    "a large table": (
        one("Gather", (20000,), np.random.default_rng(0).permutation(20000), axis=1),
        "uneven places",
    ),
    "a volume that pads and rounds up": (
        one("AveragePool", VOLUME, kernel_shape=[2] * 3, strides=[2] * 3, pads=[1] * 6,
            count_include_pad=1, ceil_mode=1),
        "counts a volume's padding",
    ),
    "deep volumes": (
        one("Conv", (1, 300, 2, 2), array(1, 1, 3, 1, 1)), "makes 298 slices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    (nodes, arrays, shape), said = REFUSED[name]
    with pytest.raises(ExportError, match=said):
        lower(model_of(nodes, arrays, shape))
