from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of
from edge_sdk.training.masked import masked_model

OPTIMIZERS = {
    "sgd-momentum": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


class Net(nn.Module):
    """Grouped, depthwise and plain convolutions, a batch norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4, bias=False),
            nn.Flatten(),
            nn.Linear(4 * 2 * 2, 3),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(inputs)
        return found


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def mask_of(model: nn.Module, density: float) -> Mask:
    layers = layers_of(model)
    return draw(layers, exact_counts(uniform(layers), layers, density), 1)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6, 2, 6, 6, generator=source)
    return inputs, torch.randint(0, 3, (6,), generator=source)


def full(model: Any, mask: Mask) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    for name, values in model.values().items():
        found[name] = np.zeros(mask[name].shape, values.dtype)
        found[name][mask[name]] = values
    return found


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_off_mask_weights_are_exactly_zero_after_any_optimizer(make: Any) -> None:
    """Read out of the forward pass itself, not out of what the engine reports."""
    model = net()
    mask = mask_of(model, 0.4)
    ready = masked_model(model, mask)
    optimizer = make(ready.parameters())
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if f"{name}.weight" in mask:

            def hook(module: Any, _inputs: Any, name: str = name) -> None:
                seen[f"{name}.weight"] = module.weight.detach().clone()

            module.register_forward_pre_hook(hook)
    first = None
    for step in range(8):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(ready(inputs), targets))
        optimizer.step()
        for name in mask:
            weight = seen[name].numpy()
            assert not weight[~mask[name]].any()
        first = first or {n: w.numpy().copy() for n, w in seen.items()}
    assert any(not np.array_equal(first[n], seen[n].numpy()) for n in mask)  # type: ignore[index]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_trains_as_dense_weights_times_a_mask_do(make: Any) -> None:
    """In float64, against the textbook: mask weights and gradients at every step."""
    model, plain = net(1).double(), net(1).double()
    mask = mask_of(model, 0.4)
    keep = {n: torch.from_numpy(np.array(mask[n])) for n in mask}
    ready = masked_model(model, mask)
    weights = dict(plain.named_parameters())
    with torch.no_grad():
        for name, pattern in keep.items():
            weights[name].mul_(pattern)
    ours, theirs = make(ready.parameters()), make(plain.parameters())
    for step in range(6):
        inputs, targets = batch(step)
        inputs = inputs.double()
        for run, optimizer in ((ready, ours), (plain, theirs)):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(run(inputs), targets))
            if run is plain:
                for name, pattern in keep.items():
                    weights[name].grad.mul_(pattern)  # type: ignore[union-attr]
            optimizer.step()
    state = {n: t.numpy() for n, t in plain.state_dict().items()}
    for name, weight in full(ready, mask).items():
        np.testing.assert_allclose(weight, state[name], rtol=1e-12, atol=1e-14)
    for name, entry in ready.dense().items():
        np.testing.assert_allclose(entry, state[name], rtol=1e-12, atol=1e-14)


@given(st.floats(0.35, 1.0), st.integers(0, 99))
def test_values_go_in_and_come_out_as_they_were(density: float, seed: int) -> None:
    model = net(seed)
    mask = mask_of(model, density)
    ready = masked_model(model, mask)
    rng = np.random.default_rng(seed)
    values = {n: rng.normal(size=mask.counts[n]).astype(np.float32) for n in mask}
    dense = {n: a + 1 for n, a in ready.dense().items()}
    ready.load(values, dense)
    for part, wanted in ((ready.values(), values), (ready.dense(), dense)):
        assert list(part) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(part[name], array, strict=True)
    assert set(values) | set(dense) == set(model.state_dict())


def test_what_comes_out_is_a_copy() -> None:
    ready = masked_model(net(), mask_of(net(), 0.5))
    name = next(iter(ready.mask))
    ready.values()[name][:] = 99
    ready.dense()["body.1.weight"][:] = 99
    assert not (ready.values()[name] == 99).any()
    assert not (ready.dense()["body.1.weight"] == 99).any()


def test_optimizer_state_has_only_kept_entries() -> None:
    model = net()
    mask = mask_of(model, 0.4)
    ready = masked_model(model, mask)
    dense = sum(a.size for n, a in ready.dense().items() if "running" not in n) - 1
    assert sum(p.numel() for p in ready.parameters()) == mask.nnz + dense


def test_evaluation_mode_reaches_the_batch_norm() -> None:
    ready = masked_model(net(), mask_of(net(), 0.5))
    ready.train(mode=False)
    before = ready.dense()
    ready(batch(0)[0])
    for name, entry in ready.dense().items():
        np.testing.assert_array_equal(entry, before[name])
    ready.train()
    ready(batch(0)[0])
    assert ready.dense()["body.1.num_batches_tracked"] == 1


def test_a_mask_of_another_model_is_refused() -> None:
    for mask in (
        Mask({"nothing.weight": np.ones((2, 2), bool)}),
        Mask({"body.5.weight": np.ones((3, 4), bool)}),
    ):
        with pytest.raises(EngineError, match="no weight"):
            masked_model(net(), mask)


def test_entries_that_do_not_fit_are_refused_not_broadcast() -> None:
    ready = masked_model(net(), mask_of(net(), 0.5))
    values, dense = ready.values(), ready.dense()
    name = next(iter(values))
    with pytest.raises(EngineError, match="entries differ"):
        ready.load({}, dense)
    with pytest.raises(EngineError, match="entries differ"):
        ready.load(values, dense | {"more": np.zeros(1)})
    with pytest.raises(EngineError, match="has shape"):
        ready.load(values | {name: np.ones(1, np.float32)}, dense)
    with pytest.raises(EngineError, match="has shape"):
        ready.load(values, dense | {"body.1.bias": np.ones(1, np.float32)})
