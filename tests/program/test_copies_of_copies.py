"""Copies that read copies become one, and side by side they fill one gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from beside_torch import Case, loaded, mask_of, relative_error, three_steps
from torch import nn

from edge_sdk.program.capture import capture
from edge_sdk.program.graph import Graph, Parameter
from edge_sdk.program.passes import optimized
from edge_sdk.program.schedule import Schedule, schedule

Cut = Callable[[torch.Tensor], torch.Tensor]


def heads(x: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values of two heads, as attention takes them apart."""
    q, k, v = x.reshape(-1, 4, 3, 2, 1).permute(2, 0, 3, 1, 4)
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).flatten(1)


def covered(x: torch.Tensor) -> torch.Tensor:
    a, b, c = x.chunk(3, 1)
    return torch.cat([a * b, c.tanh()], 1)


def part_of_it(x: torch.Tensor) -> torch.Tensor:
    return x[:, :5] * x[:, 9:14].sigmoid()


def one_reaches_no_loss(x: torch.Tensor) -> torch.Tensor:
    a, b, c = x.reshape(-1, 4, 6).transpose(1, 2).unbind(1)[:3]
    return a * c + 0 * b.detach()


def overlapping(x: torch.Tensor) -> torch.Tensor:
    return x[:, :9] * x[:, 6:15]


def also_read_whole(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :8] * x[:, 8:16], x.cos()], 1)


def across_rows(x: torch.Tensor) -> torch.Tensor:
    """A slice of a transposed matrix that no six steps can say."""
    turned = x.reshape(-1, 4, 6).transpose(1, 2).reshape(-1, 24)
    return turned[:, 3:15] * turned[:, 12:24]


def backwards(x: torch.Tensor) -> torch.Tensor:
    turned = x.reshape(-1, 4, 6).flip(2).transpose(1, 2)
    return (turned[:, 1::2] * turned[:, ::2]).flatten(1)


CUTS: dict[str, tuple[Cut, int, int]] = {  # copies left, sums of gradients
    "heads": (heads, 3, 0),
    "covered": (covered, 3, 0),
    "part of it": (part_of_it, 2, 0),
    "one reaches no loss": (one_reaches_no_loss, 3, 0),
    "overlapping": (overlapping, 2, 1),
    "also read whole": (also_read_whole, 2, 2),
    "across rows": (across_rows, 3, 1),
    "backwards": (backwards, 2, 0),
}


class Model(nn.Module):
    """What a layer makes is cut into pieces."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut, self.first = cut, nn.Linear(7, 24)
        width = cut(torch.zeros(2, 24)).shape[1]
        self.last = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.cut(self.first(x)))
        return out


def case(name: str) -> Case:
    torch.manual_seed(3)
    inputs, targets = torch.randn(19, 7), torch.randint(0, 5, (19,))
    return Case(Model(CUTS[name][0]), inputs, targets)


def steps_of(graph: Graph, parameters: tuple[Parameter, ...]) -> Schedule:
    return schedule(graph, parameters, train=True)


@pytest.mark.parametrize("name", CUTS)
def test_updates_are_torchs(name: str) -> None:
    own = case(name)
    assert three_steps(own, mask_of(own.model, 0.6), "momentum") <= 1e-5


@pytest.mark.parametrize("name", CUTS)
def test_no_value_moves_twice(name: str) -> None:
    own = case(name)
    program = capture(own.model, own.loss, own.inputs, own.targets)
    graph = optimized(program.training)
    _, copies, sums = CUTS[name]
    assert [o.name for o in graph.operations].count("copy") == copies
    steps = steps_of(graph, program.parameters).steps
    added = [s for s in steps if s.kernel == "add" and s.operation is None]
    assert len(added) == sums
    before = steps_of(program.training, program.parameters)
    after = steps_of(graph, program.parameters)
    assert sum(after.sizes) <= sum(before.sizes)


@pytest.mark.parametrize("name", ["covered", "part of it", "one reaches no loss"])
def test_zeros_are_written_only_where_no_copy_writes(name: str) -> None:
    own = case(name)
    program = capture(own.model, own.loss, own.inputs, own.targets)
    steps = steps_of(optimized(program.training), program.parameters).steps
    fills = [s.ints[-1] for s in steps if s.kernel == "copy" and s.backward]
    assert fills == {"covered": [0, 0, 0]}.get(name, [1, 0])


def test_gradients_do_not_depend_on_what_a_step_before_left() -> None:
    own = case("part of it")
    model = loaded(own, mask_of(own.model, 0.6))
    inputs, targets = own.inputs.numpy(), own.targets.numpy()
    model.backward(inputs, targets)
    first = np.array(model.gradient_vector)
    model.backward(1e6 * inputs, targets)
    model.backward(inputs, targets)
    assert relative_error(model.gradient_vector, first) == 0.0
