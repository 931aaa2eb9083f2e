"""Comparisons, choices, lookups and rare functions of the native runtime."""

import numpy as np
import pytest
import torch
from native_graphs import array, compare, ints, lowered_run, model_of, node, one
from torch import nn

import export
from edge_sdk.errors import CheckpointError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import Kind, Operation, Program, Shape, Weight

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
IMAGE, ROWS = (6, 5, 7), (5, 12)
HALF = np.float32(0.25)


def compared(
    kind: str, limit: np.ndarray, *, at: int = 0, shape: tuple[int, ...] = IMAGE
):
    """1 and 0 of a comparison, as float32."""
    nodes, arrays, _ = one(kind, shape, limit, at=at)
    nodes[-1].output[0] = "truth"
    return [*nodes, node("Cast", ["truth"], ["output"], to=1)], arrays, shape


def chosen(other: float | np.ndarray, *more: object, shape: tuple[int, ...] = ROWS):
    """The values above a limit, and another elsewhere."""
    nodes = [
        node("Tanh", ["input"], ["x"]),
        node("Greater", ["x", "limit"], ["truth"]),
        node("Where", ["truth", "x", "other"], ["output"]),
    ]
    return nodes, {"limit": HALF, "other": np.float32(other)}, shape


LOGIC = (
    [
        node("Tanh", ["input"], ["x"]),
        node("Greater", ["x", "limit"], ["a"]),
        node("Less", ["x", "most"], ["b"]),
        node("Not", ["b"], ["c"]),
        node("And", ["a", "c"], ["d"]),
        node("Less", ["x", "least"], ["e"]),
        node("Or", ["d", "e"], ["f"]),
        node("Cast", ["f"], ["output"], to=1),
    ],
    {"limit": HALF, "most": np.float32(0.5), "least": np.float32(-0.5)},
    IMAGE,
)
MASKED = (
    [
        node("MatMul", ["input", "w"], ["s"]),
        node("Where", ["mask", "s", "low"], ["m"]),
        node("Softmax", ["m"], ["p"], axis=-1),
        node("IsNaN", ["p"], ["n"]),
        node("Where", ["n", "zero", "p"], ["output"]),
    ],
    {
        "w": array(12, 5),
        "mask": np.tri(5, 5, -1, dtype=bool),  # the first row has nothing
        "low": np.float32(-np.inf),
        "zero": np.float32(0),
    },
    ROWS,
)
CASES = {
    **{kind: compared(kind, HALF) for kind in
       ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    "number above": compared("Greater", HALF, at=1),
    "of each channel": compared("Less", array(6, 1, 1)),
    "of each column": compared("LessOrEqual", array(12), shape=ROWS),
    "logic": LOGIC,
    "masked attention": MASKED,
    "chosen or a number": chosen(-7.0),
    "chosen or minus infinity over it": (
        [*chosen(-np.inf)[0][:-1], node("Where", ["truth", "x", "other"], ["y"]),
         node("Exp", ["y"], ["output"])],
        chosen(-np.inf)[1], ROWS,
    ),
    "chosen or of each column": chosen(array(12)),
    "equal to its neighbour": (
        [
            node("Clip", ["input", "limit"], ["x"]),
            node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4),
            node("Equal", ["x", "y"], ["truth"]),
            node("Cast", ["truth"], ["t"], to=1),
            node("Mul", ["x", "t"], ["output"]),
        ],
        {"limit": HALF}, IMAGE,
    ),
    "truth of numbers": (
        [
            node("Clip", ["input", "zero"], ["x"]),
            node("Cast", ["x"], ["b"], to=9),
            node("Cast", ["b"], ["output"], to=1),
        ],
        {"zero": np.float32(0)}, IMAGE,
    ),
    "whole numbers": (
        [
            node("Mul", ["input", "ten"], ["x"]),
            node("Cast", ["x"], ["i"], to=7),
            node("Cast", ["i"], ["output"], to=1),
        ],
        {"ten": np.float32(10)}, IMAGE,
    ),
    "third power": one("Pow", IMAGE, np.float32(3)),
    "powers of columns": one("Pow", ROWS, ints(*range(12)).astype(np.float32)),
    "power of a number": one("Pow", IMAGE, np.float32(2), at=1),
    **{kind: one(kind, IMAGE) for kind in
       ("Sin", "Cos", "Tan", "Sign", "Floor", "Ceil")},
    "rounded": (
        [node("Mul", ["input", "c"], ["x"]), node("Round", ["x"], ["output"])],
        {"c": np.float32(2)}, IMAGE,
    ),
    **{
        f"{kind} of {axis}": (
            [
                node("Tanh", ["input"], ["x"]),
                node(kind, ["x"], ["i"], axis=axis, keepdims=keep),
                node("Cast", ["i"], ["output"], to=1),
            ],
            {}, IMAGE,
        )
        for kind, axis, keep in (("ArgMax", 1, 0), ("ArgMax", -1, 1), ("ArgMin", 2, 0))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_choice_or_rare_function_equals_onnxruntimes(name: str) -> None:
    nodes, arrays, shape = CASES[name]
    compare(model_of(nodes, arrays, shape), shape)


def test_halves_are_rounded_to_even() -> None:
    nodes = [node("Round", ["input"], ["output"])]
    given = np.float32([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]])
    found = lowered_run(model_of(nodes, {}, (6,)), given)
    assert found.tolist() == [[-2, -2, 0, 0, 2, 2]]


# ------------------------------------------------------------------- embeddings


class Words(nn.Module):
    """Words, their places, and how many are none: a classifier of sentences."""

    def __init__(self, density: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(300, 16, padding_idx=0)
        keep = torch.rand(300, 16) < density
        self.words.weight.data *= keep
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.block = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        none = x == 0
        y = self.block(self.words(x), src_key_padding_mask=none)
        kept = (~none).unsqueeze(-1).to(y.dtype)
        return self.head((y * kept).sum(1) / kept.sum(1).clamp(min=1))


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_words_with_padding_pass_every_gate(density: float) -> None:
    given = np.random.default_rng(1).integers(1, 300, (48, 9))
    given[::2, 6:] = 0
    formats = ("onnx", "onnx-sparse", "onnx-fp16", "native", "native-int8")
    model = Words(density).eval()
    found = export.build(model, formats=formats, calibration=given)
    parity = found["native"].findings.parity
    assert parity is not None
    assert parity.max_relative <= 1e-5


@pytest.mark.parametrize("rows", [array(7, 20), array(7, 20, density=0.1)], ids=str)
def test_a_number_without_a_row_gives_no_number(rows: np.ndarray) -> None:
    nodes = [
        node("Cast", ["input"], ["i"], to=7),
        node("Gather", ["rows", "i"], ["output"], axis=0),
    ]
    model = model_of(nodes, {"rows": rows}, (5,))
    given = np.float32([[0, 6, 7, -1, 3]])
    (found,) = lowered_run(model, given)
    found = found.reshape(5, 20)
    assert np.isnan(found[2:4]).all()
    assert (found[[0, 1, 4]] == rows[[0, 6, 3]]).all()


def test_a_table_that_is_computed_is_looked_up() -> None:
    nodes = [
        node("Cast", ["input"], ["i"], to=7),
        node("Gather", ["input", "i"], ["output"], axis=1),
    ]
    given = np.float32([[4, 0, 2, 1, 3]])
    found = lowered_run(model_of(nodes, {}, (5,)), given)
    assert found.reshape(-1).tolist() == given[0, given[0].astype(int)].tolist()


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (Shape(5), Shape(4, 1, 20)),
        (Shape(5), Shape(5, 1, 21)),
        (Shape(5), Shape(5, 2, 20)),
        (Shape(5, 1, 2), Shape(5, 1, 20)),
        (Shape(5), Shape(5, 1, 20)),
    ],
    ids=str,
)
def test_a_lookup_that_does_not_fit_is_no_file(given: Shape, made: Shape) -> None:
    """Shapes that the kernel does not look at again."""
    matrix = array(7, 20)
    table = Weight("rows", matrix, np.zeros(7, np.float32))
    operation = Operation(Kind.LOOK_UP, 0, 1, weight=0)
    content = write(Program((given, made), (operation,), (table,), 1, (1,)), {})
    if (given, made) == (Shape(5), Shape(5, 1, 20)):
        found = NativeModel(content).run(np.full((1, 5, 1, 1), 6, np.float32))
        assert (found == matrix[6]).all()
        return
    with pytest.raises(CheckpointError, match="looked up shape"):
        NativeModel(content)
