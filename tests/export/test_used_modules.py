"""Modules of one's own, after a forward pass, with weights that hooks make."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import export
from edge_sdk.errors import ExportError
from export.modules import from_module


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def amounts(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.4)


def twice_pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", amount=0.2)
    prune.l1_unstructured(layer, "bias", amount=0.2)
    return amounts(layer)


class Halves(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 0.5

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def nested(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", Halves())
    nn.utils.parametrize.register_parametrization(layer, "weight", Halves())
    return layer


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": old_weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.orthogonal": parametrizations.orthogonal,
    "two parametrizations": nested,
    "prune": amounts,
    "prune, twice": twice_pruned,
    "none": lambda layer: layer,
}


class Net(nn.Module):
    """Convolutions over a sequence; keeps what it computed, as many networks do."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.a = norm(nn.Conv1d(3, 24, 3, padding=1))
        self.b = norm(nn.Conv1d(24, 24, 3, padding=2, dilation=2))
        self.out = nn.Linear(24, 4)
        self.scale = torch.tensor(0.5)  # neither parameter nor buffer
        self.seen: list[torch.Tensor] = []
        self.cache: dict[str, object] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = (
            functional.relu(self.b(functional.relu(self.a(x)))).mean(2) * self.scale
        )
        if not torch.compiler.is_exporting():
            self.seen, self.cache = [hidden], {"last": (hidden, {"x": x})}
        return self.out(hidden)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    net = Net(NORMS[request.param])
    net(torch.randn(4, 3, 12)).sum().backward()
    with torch.no_grad():
        net.out.weight[net.out.weight.abs() < 0.1] = 0
    return net


@pytest.mark.parametrize("model", NORMS, indirect=True)
@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_was_used_is_exported_and_stays_as_it_is(
    model: nn.Module, training: bool
) -> None:
    model.train(training)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    source = from_module(model, (3, 12))
    report = export.build_source(source)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert hooks == [len(m._forward_pre_hooks) for m in model.modules()]
    assert model.training is training
    assert report.findings.weights_checked == 3
    x = torch.randn(5, 3, 12)
    with torch.no_grad():
        wanted = model.eval()(x).numpy()
    np.testing.assert_allclose(source.predict(x.numpy()), wanted, atol=1e-6)


def test_a_lazy_module_is_exported_once_it_has_a_shape() -> None:
    net = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(ExportError, match="has no shape before the first batch"):
        from_module(net, (5,))
    net(torch.ones(2, 5))
    assert export.build_source(from_module(net, (5,))).findings.weights_checked == 2
