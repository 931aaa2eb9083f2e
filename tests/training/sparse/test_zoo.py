"""The shipped models: each becomes a twin that computes what the model does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edge_sdk.training.sparse import sparsify
from edge_sdk.zoo.resnet import ResNet18Cifar, ResNet20
from edge_sdk.zoo.small import DigitsNet, FemnistCnn, McMahanCnn, MnistNet

SHIPPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits": (DigitsNet, (1, 8, 8)),
    "femnist": (FemnistCnn, (1, 28, 28)),
    "mcmahan": (McMahanCnn, (1, 28, 28)),
    "mnistnet": (MnistNet, (1, 28, 28)),
    "resnet18": (ResNet18Cifar, (3, 16, 16)),
    "resnet18-group": (lambda: ResNet18Cifar(norm="group"), (3, 16, 16)),
    "resnet20": (ResNet20, (3, 16, 16)),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_twin_of_a_shipped_model_agrees_and_stays_blocked(zoo, name: str) -> None:
    """One way in, one way out: nothing in between falls back to torch's layout."""
    torch.manual_seed(0)
    model = SHIPPED[name][0]()
    mask = zoo.mask(model, 0.2)
    twin, dense = sparsify(model, mask), zoo.masked_twin(model, mask)
    gen = torch.Generator().manual_seed(0)
    x = torch.randn((6, *SHIPPED[name][1]), generator=gen)
    ours, theirs = twin(x), dense(x)
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)
    kinds = [
        type(twin.get_submodule(str(n.target))).__name__
        for n in twin.graph.nodes
        if n.op == "call_module"
    ]
    assert kinds.count("ToBlocked") == 1
    assert kinds.count("FromBlocked") == 1
