"""Fused graphs: fewer steps, less memory, the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.errors import EngineError
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
    assert after == before - 9  # the last two: a convolution takes its norm in


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


class Chain(nn.Module):
    """Convolutions that alone read a norm, an activation, or both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.batch = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
        self.group, self.third = nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 1)
        self.plain, self.fourth = nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 5, 2)
        self.last = nn.Conv2d(5, 4, 3, padding=2, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.batch(self.first(x))))
        y = self.third(F.relu6(self.group(y)))
        y = self.fourth(self.plain(y))
        out: torch.Tensor = self.last(F.relu(y)).mean((2, 3))
        return out


def chain(samples: int = 13, dtype: torch.dtype = torch.float32) -> Case:
    torch.manual_seed(5)
    x = torch.randn(samples, 3, 9, 8, dtype=dtype)
    return Case(Chain().to(dtype), x, torch.randint(0, 4, (samples,)))


def test_a_convolution_takes_in_the_norm_and_the_activation_before_it() -> None:
    own = chain()
    program = capture(own.model, own.loss, own.inputs, own.targets)
    for graph in (program.training, program.evaluation):
        names = [o.name for o in optimized(graph).operations]
        assert names.count("norm_conv") == 4
        assert not {"norm", "relu", "hardtanh", "activation"} & {*names}


@pytest.mark.parametrize("samples", [2, 13, 33])
def test_such_a_convolution_takes_torch_s_steps(samples: int) -> None:
    own = chain(samples, torch.float64)
    mask = mask_of(own.model, 0.5)
    assert three_steps(own, mask, "momentum", double=True) < 1e-10


@pytest.mark.parametrize("frozen", ["", "first", "batch", "second"])
def test_layers_around_such_a_convolution_may_be_frozen(frozen: str) -> None:
    own = chain()
    if frozen:
        own.model.get_submodule(frozen).requires_grad_(requires_grad=False)
    assert three_steps(own, Mask({}), "sgd") < 1e-4


def test_such_a_convolution_gives_the_same_bits_on_any_threads() -> None:
    own = chain(37)
    found = []
    for threads in (1, 2, 4):
        model = loaded(own, mask_of(own.model, 0.4), threads=threads)
        loss = model.backward(own.inputs.numpy(), own.targets.numpy())
        found.append((loss, model.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]


def test_micro_batches_of_such_a_convolution_add_up() -> None:
    torch.manual_seed(5)
    layers = nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 3)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = Case(model, torch.randn(40, 3, 8, 8), torch.randint(0, 4, (40,)))
    ours = loaded(own, mask_of(model, 0.5))
    x, y = own.inputs.numpy(), own.targets.numpy()
    ours.backward(x, y)
    whole = ours.gradient_vector.copy()
    ours.backward(x, y, micro_batch=16)
    np.testing.assert_allclose(
        ours.gradient_vector, whole, atol=1e-5 * np.abs(whole).max()
    )


def test_one_example_under_a_batch_norm_that_a_convolution_took_in_is_named() -> None:
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    model = nn.Sequential(*layers, nn.Flatten())
    own = Case(model, torch.randn(4, 3, 3, 3), torch.randint(0, 4, (4,)))
    ours = loaded(own, Mask({}))
    with pytest.raises(EngineError, match=r"layer 1.* is batch norm"):
        ours.backward(own.inputs.numpy()[:1], own.targets.numpy()[:1])
