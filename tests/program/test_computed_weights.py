"""Weights that a mask acts on and no operation has as its own: boards take part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, three_steps
from plain_models import Plain, classes
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture
from edge_sdk.program.check import check
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.open import open_program, program_layers
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of


class Standardised(nn.Conv2d):
    """Each filter has mean zero and deviation one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        w = w / (self.weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, groups=self.groups)


class Scaled(nn.Linear):
    """A learnt factor for each unit, and a learnt one for all."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.rand(sizes[1], 1) + 0.5)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.gain * self.scale * self.weight, self.bias)


class InOneGroup(nn.Conv1d):
    """It says that it has one group, and convolves in two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.weight, self.bias, groups=2)


def standardised() -> Case:
    model = nn.Sequential(
        Standardised(2, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        Standardised(6, 6, 3, groups=6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6 * 16, 4),
    )
    return classes(model, 2, 6, 6)


def scaled() -> Case:
    return classes(nn.Sequential(Scaled(5, 8), nn.Tanh(), Scaled(8, 4)), 5)


def crossed() -> Case:
    """Attention of some tokens to others: thirds of one weight."""
    model = Plain(
        lambda m, x: m.head(m.attend(x[:, :2], x[:, 2:], x[:, 2:])[0].mean(1)),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 4),
    )
    return classes(model, 5, 8)


def left_out() -> Case:
    """A head that the loss does not see, and one of evaluation alone."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = m.head(torch.tanh(m.body(x)))
        return found if m.training else found + m.more(x)

    layers = {
        "unused": nn.Conv2d(4, 4, 3, groups=2),
        "body": nn.Linear(5, 6),
        "head": nn.Linear(6, 4),
        "more": nn.Linear(5, 4),
    }
    return classes(Plain(run, **layers), 5)


def odd_groups() -> Case:
    layer = InOneGroup(2, 4, 3)
    return classes(nn.Sequential(nn.Conv1d(3, 4, 3), layer, nn.Flatten(),
                                 nn.Linear(16, 4)), 3, 8)  # fmt: skip


MODELS: list[Callable[[], Case]] = [standardised, scaled, crossed, left_out, odd_groups]


def program_of(case: Case) -> TrainingProgram:
    return unpack_program(
        pack_program(capture(case.model, case.loss, case.inputs, case.targets))
    )


@pytest.mark.parametrize("make", MODELS)
def test_a_program_has_each_layer_that_torch_masks_and_trains_it_alike(
    make: Callable[[], Case],
) -> None:
    torch.manual_seed(0)
    case = make()
    layers = layers_of(case.model)
    assert program_layers(program_of(case)) == layers
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.6), 3)
    assert three_steps(case, mask, "momentum") < 1e-4


def test_the_computed_weights_of_a_strangers_program_are_checked() -> None:
    program = program_of(left_out())
    assert [program.parameters[at].name for at, _ in program.computed] == [
        "unused.weight",
        "more.weight",
    ]
    bias = next(k for k, p in enumerate(program.parameters) if len(p.shape) == 1)
    for wrong in ((99, 1), (-1, 1), (bias, 1), (0, 0), (0, 3)):
        with pytest.raises(EngineError, match="computed weights do not fit"):
            check(replace(program, computed=(wrong,)))


def test_a_mask_on_what_is_no_weight_is_refused_with_its_name() -> None:
    case = standardised()
    model = nn.Sequential(*list(case.model), nn.BatchNorm1d(4))  # type: ignore[arg-type]
    case = replace(case, model=model)
    mask = Mask({"7.running_mean": torch.ones(1, 4).bool().numpy()})
    with pytest.raises(EngineError, match=r"7\.running_mean"):
        open_program(pack_program(program_of(case)), mask)
