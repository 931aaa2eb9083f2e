"""Fused graphs: fewer steps, less memory, the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, three_steps
from torch import nn

from edge_sdk.program import model as model_module
from edge_sdk.program.capture import capture
from edge_sdk.program.check import check
from edge_sdk.program.passes import optimized
from edge_sdk.program.schedule import schedule
from edge_sdk.sparse import Mask


class Block(nn.Module):
    """A residual block with a convolved shortcut, and an output used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.inner = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.cut, self.outer = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.first(x)))
        y = F.relu(self.inner(self.second(y)) + self.outer(self.cut(x)))
        z = F.max_pool2d(F.relu(self.second(y)), 2)
        out: torch.Tensor = self.head(z.mean((2, 3)) + y.mean((2, 3)))
        return out


def case() -> Case:
    torch.manual_seed(3)
    return Case(Block(), torch.randn(13, 3, 6, 8), torch.randint(0, 5, (13,)))


def test_norms_take_in_residuals_and_activations() -> None:
    own = case()
    program = capture(own.model, own.loss, own.inputs, own.targets)
    fused = replace(
        program,
        training=optimized(program.training),
        evaluation=optimized(program.evaluation),
    )
    check(fused)
    names = [o.name for o in fused.training.operations]
    assert names.count("relu") == 0
    assert names.count("add") == 1  # of the two means
    before, after = (
        len(schedule(p.training, p.parameters, train=True).steps)
        for p in (program, fused)
    )
    assert after == before - 7


def test_fused_and_plain_steps_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    own = case()
    found = []
    for each in (optimized, lambda graph: graph):
        monkeypatch.setattr(model_module, "optimized", each)
        model = loaded(own, Mask({}))
        loss = model.backward(own.inputs.numpy(), own.targets.numpy())
        found.append((loss, model.gradient_vector.copy(), model.arena_bytes(13)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)
    assert found[0][2] < found[1][2]


def test_a_fused_model_takes_torch_s_steps() -> None:
    assert three_steps(case(), Mask({}), "momentum") < 1e-4


def test_a_value_that_goes_outside_is_not_fused_away() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(x)
            return out

    own = Case(Outside(), torch.randn(9, 4), torch.randn(9, 4), F.mse_loss)
    expected = own.model.eval()(own.inputs).detach().numpy()
    np.testing.assert_allclose(
        loaded(own, Mask({})).predict(own.inputs.numpy()), expected, atol=1e-6
    )
