"""Modules that have been used are copied, whatever their hooks keep as attributes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of
from edge_sdk.torch_modules.copying import copy_model
from edge_sdk.training.masked import masked_model


def weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
}


class Box:
    """An object of one's own that keeps a tensor."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class Net(nn.Module):
    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.a = norm(nn.Linear(6, 8))
        self.b, self.relu = nn.Linear(8, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.relu(self.a(x)))


def used(kind: str) -> Net:
    torch.manual_seed(0)
    net = Net(KINDS[kind])
    out = net(torch.randn(3, 6))
    out.sum().backward()
    net.kept = {"out": [(out, Box(out * 2))]}
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_a_used_module_is_copied_and_the_copy_is_its_own(kind: str) -> None:
    net = used(kind)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    twin = copy_model(net)
    x = torch.randn(3, 6)
    assert torch.equal(twin.eval()(x), net.eval()(x))
    state = {name: t.clone() for name, t in net.state_dict().items()}
    twin.train()
    rate = torch.optim.SGD(twin.parameters(), lr=0.5)
    twin(x).square().sum().backward()
    rate.step()
    assert all(torch.equal(net.state_dict()[n], t) for n, t in state.items())
    assert not torch.equal(twin.eval()(x), net.eval()(x))
    out, box = twin.kept["out"][0]
    assert out.grad_fn is None
    assert torch.equal(box.value, net.kept["out"][0][1].value)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_the_masked_engine_trains_beside_weights_that_hooks_make(kind: str) -> None:
    net = used(kind)
    layers = layers_of(net)
    normed = ["a.weight_v"] if kind == "weight_norm" else []
    assert [layer.name for layer in layers] == [*normed, "b.weight"]
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.5), 1)
    dense = copy_model(net)
    with torch.no_grad():
        for name in mask:
            dense.get_parameter(name).mul_(torch.from_numpy(np.array(mask[name])))
    x = torch.randn(5, 6)
    expected = dense.eval()(x)
    masked = masked_model(copy_model(dense), mask, reason="test")
    masked.train(False)
    torch.testing.assert_close(masked(x), expected)
    masked.train()
    masked(x).sum().backward()
    made = [p for n, p in masked.named_parameters() if n.startswith("a.weight")]
    assert made
    assert all(p.grad is not None for p in made)
