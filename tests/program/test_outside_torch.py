"""What a forward pass does outside torch is refused, not made a constant of."""

from __future__ import annotations

import random  # noqa: TID251 - what is refused
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_models import classes
from torch import nn

from edge_sdk.program.capture import compiled

GENERATOR = np.random.default_rng(0)
Factor = Callable[[Any], float]


def counted(m: Any) -> float:
    m.steps += 1
    return 0.9**m.steps


CASES: dict[str, tuple[Factor, str]] = {
    "random": (lambda m: random.random(), r"test_outside_torch.py:\d+"),  # noqa: S311
    "randint": (lambda m: random.randint(1, 3), r"test_outside_torch.py:\d+"),  # noqa: S311
    "numpy": (lambda m: np.random.beta(0.4, 0.4), "np.random"),  # noqa: NPY002
    "a generator": (lambda m: float(GENERATOR.normal()), "GENERATOR"),
    "an attribute": (counted, "changes its attribute steps in forward"),
}


class Scaled(nn.Module):
    """A layer times what a function of the model says."""

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor, self.layer, self.steps = factor, nn.Linear(5, 4), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x) * self.factor(self)
        return found


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_by_name(name: str) -> None:
    factor, said = CASES[name]
    case = classes(Scaled(factor), 5)
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert not told.file
    assert re.search(said, told.reason), told.reason
