"""Batches that fill no whole block: lanes behind the samples do no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, relative_error
from plain_models import N, Plain, classes, tokens
from torch import nn

from edge_sdk.sparse import Mask


def shared_out(h: torch.Tensor) -> torch.Tensor:
    """Each value's share of what its example has: 0 / 0 where that is nothing."""
    flat = h.flatten(1)
    size = flat.abs().sum(1, keepdim=True)
    return flat / size + torch.log(size)


def behind(norm: nn.Module) -> Callable[[], Case]:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head(shared_out(m.norm(m.body(x))))

    layers = {"body": nn.Conv1d(2, 6, 3), "norm": norm, "head": nn.Linear(30, 4)}
    return lambda: classes(Plain(run, **layers), 2, 7)


def depthwise() -> Case:
    body = nn.Sequential(
        nn.Conv2d(2, 6, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.BatchNorm2d(6),
    )
    run = lambda m, x: m.head(shared_out(m.body(x)))  # noqa: E731
    return classes(Plain(run, body=body, head=nn.Linear(96, 4)), 2, 6, 6)


def looked_up() -> Case:
    run = lambda m, x: m.head(shared_out(m.table(x)))  # noqa: E731
    return tokens(Plain(run, table=nn.Embedding(5, 6), head=nn.Linear(24, 4)), 4, 5)


def mixture() -> Case:
    """Two of four experts, by weights that are put where they belong."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, which = F.softmax(m.gate(x), 1).topk(2, 1)
        gates = torch.zeros(len(x), 4).scatter(1, which, share)
        gates = gates / gates.sum(1, keepdim=True)
        found = torch.einsum("nd,edh->neh", x, m.experts)
        return (gates.unsqueeze(2) * found).sum(1)

    experts = nn.Parameter(torch.randn(4, 6, 4))
    return classes(Plain(run, gate=nn.Linear(6, 4), experts=experts), 6)


MODELS: dict[str, Callable[[], Case]] = {
    "layer norm": behind(nn.LayerNorm([6, 5])),
    "group norm": behind(nn.GroupNorm(2, 6)),
    "batch norm": behind(nn.BatchNorm1d(6)),
    "batch norm and ReLU": behind(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())),
    "instance norm": behind(nn.InstanceNorm1d(6)),
    "depth-wise": depthwise,
    "embedding": looked_up,
    "mixture of experts": mixture,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_finite_for_the_examples_has_finite_gradients(name: str) -> None:
    assert N % 4
    torch.manual_seed(3)
    case = MODELS[name]()
    ours = loaded(case, Mask({}))
    ours.backward(case.inputs.numpy(), case.targets.numpy())
    case.loss(case.model(case.inputs), case.targets).backward()  # type: ignore[no-untyped-call]
    for parameter, tensor in case.model.named_parameters():
        assert tensor.grad is not None
        own = ours.gradients[parameter]
        assert np.isfinite(own).all(), parameter
        if float(tensor.grad.abs().max()) > 1e-3:  # behind a norm a bias has none
            assert relative_error(own, tensor.grad.numpy()) < 1e-4, parameter
