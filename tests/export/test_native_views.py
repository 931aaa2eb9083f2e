"""Moves that are joined into one copy give the values that they give one by one."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from native_graphs import RNG
from torch import nn

import export
from edge_sdk.errors import CheckpointError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import Kind, Operation, Program, Shape, Weight
from export.native.views import join_moves

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
SIZES = strategies.sampled_from([1, 2, 3, 4, 6, 7, 12, 16, 20])


def sizes(shape: Shape) -> tuple[int, int, int]:
    return shape.channels, shape.height, shape.width


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@strategies.composite
def moves(draw: strategies.DrawFn) -> Program:
    """Two to six moves and products, each of what the one before gives."""
    shapes = [Shape(draw(SIZES), draw(SIZES), draw(SIZES))]
    operations: list[Operation] = []
    weights: list[Weight] = []
    for at in range(draw(strategies.integers(2, 6))):
        old = shapes[-1]
        kind = draw(
            strategies.sampled_from(
                [Kind.TRANSPOSE, Kind.RESHAPE, Kind.TAKE, Kind.CROP, Kind.AFFINE]
            )
        )
        made, new = Operation(kind, at, at + 1), old
        if kind is Kind.TRANSPOSE:
            order = draw(strategies.integers(0, 5))
            new = Shape(*(sizes(old)[i] for i in ORDERS[order]))
            made = replace(made, extra=order)
        elif kind is Kind.RESHAPE:
            all_values = prod(sizes(old))
            first = draw(strategies.sampled_from(divisors(all_values)))
            second = draw(strategies.sampled_from(divisors(all_values // first)))
            new = Shape(first, second, all_values // first // second)
        elif kind is Kind.TAKE:
            count = draw(strategies.integers(1, old.channels))
            begin = draw(strategies.integers(0, old.channels - count))
            groups = draw(strategies.sampled_from(divisors(count)))
            new = Shape(count, old.height, old.width)
            made = replace(made, extra=begin, groups=groups)
        elif kind is Kind.CROP:
            parts = []
            for size in (old.height, old.width):
                pad = draw(strategies.integers(0, size - 1))
                step = draw(strategies.integers(1, 3))
                parts.append((pad, step, (size - pad - 1) // step + 1))
            rows, columns = parts
            new = Shape(old.channels, rows[2], columns[2])
            made = replace(
                made, pad=(rows[0], columns[0]), stride=(rows[1], columns[1])
            )
        else:
            factor = np.full((old.channels, 1), 2.0 ** (at - 3), np.float32)
            weights.append(Weight(f"w{at}", factor, np.zeros(old.channels, np.float32)))
            made = replace(made, weight=len(weights) - 1)
        shapes.append(new)
        operations.append(made)
    return Program(tuple(shapes), tuple(operations), tuple(weights), len(operations))


def run(program: Program) -> np.ndarray:
    native = NativeModel(write(program, {}))
    values = np.arange(prod(native.input_shape), dtype=np.float32)
    return native.run(values.reshape(1, *native.input_shape)) + 0.0


@given(moves())
def test_joined_moves_give_the_same_bits(program: Program) -> None:
    joined = join_moves(program)
    assert len(joined.operations) <= len(program.operations)
    assert run(joined).tobytes() == run(program).tobytes()


@pytest.mark.parametrize("isa", ["v4", "v3", "base"])
def test_each_kernel_set_turns_and_copies(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What attention takes out of one result: rows, turned rows, and a factor."""
    monkeypatch.setenv("FLSP_ISA", isa)
    shapes = (Shape(15, 1, 34), Shape(3, 5, 34), Shape(5, 3, 34), Shape(34, 5, 3))
    operations = (
        Operation(Kind.RESHAPE, 0, 1),
        Operation(Kind.TRANSPOSE, 1, 2, extra=2),
        Operation(Kind.TRANSPOSE, 2, 3, extra=4),
    )
    for last in (2, 3):
        program = Program(shapes[: last + 1], operations[:last], (), last)
        joined = join_moves(program)
        assert [o.kind for o in joined.operations] == [Kind.VIEW]
        assert run(joined).tobytes() == run(program).tobytes()


class Attention(nn.Module):
    """One layer gives queries, keys and values of all heads, as in most libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.given = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, rows, _ = x.shape
        parts = self.taken(x).reshape(n, rows, 3, 4, 6).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.given(found.transpose(1, 2).reshape(n, rows, 24))


def test_attention_moves_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Program] = []

    def remember(program: Program) -> Program:
        seen.append(join_moves(program))
        return seen[-1]

    monkeypatch.setattr("export.targets.native.join_moves", remember)
    examples = RNG.standard_normal((8, 9, 24)).astype(np.float32)
    assert list(export.build(Attention(), formats=("native",), calibration=examples))
    kinds = [o.kind for o in seen[0].operations]
    assert kinds.count(Kind.VIEW) == 4  # queries, keys, values, and their result
    assert not {Kind.TAKE, Kind.RESHAPE, Kind.AFFINE} & set(kinds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": -1}, "first value"),
        ({"extra": 1}, "values outside"),
        ({"stride": (-1, 1)}, "steps"),
        ({"pad": (0, 2**31 - 1)}, "values outside"),
        ({"groups": 0}, "groups"),
        ({"groups": 3}, "groups"),
        ({"input_scale": float("inf")}, "factor"),
        ({"input_scale": float("nan")}, "factor"),
    ],
)
def test_a_view_outside_its_buffer_is_no_file(
    change: dict[str, object], message: str
) -> None:
    view = Operation(Kind.VIEW, 0, 1, pad=(0, 16), stride=(4, 1))
    shape = Shape(4, 4, 4)
    NativeModel(write(Program((shape, shape), (view,), (), 1), {}))
    bad = replace(view, **change)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=message):
        NativeModel(write(Program((shape, shape), (bad,), (), 1), {}))
