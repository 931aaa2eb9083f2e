"""SWAT: which weights and activations take part, and that all weights learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.local import train
from edge_sdk.training.rules.swat import largest, swat_model
from edge_sdk.wire.messages import Training

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
FULL = Mask({s.name: np.ones(s.shape, np.bool_) for s in LAYERS})


class One(nn.Module):
    """A single layer, so that its gradients can be written down."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found


def full(model: nn.Module) -> Mask:
    shape = tuple(model.get_parameter("layer.weight").shape)
    return Mask({"layer.weight": np.ones(shape, np.bool_)})


@given(st.integers(1, 9), st.integers(0, 99))
def test_the_largest_magnitudes_of_each_row_stay(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(3, 2, 4)).astype(np.float32))
    found = largest(rows, count)
    for row, kept in zip(rows.flatten(1), found.flatten(1), strict=True):
        assert np.count_nonzero(kept) == min(count, 8)
        assert torch.equal(kept[kept != 0], row[kept != 0])
        least = kept[kept != 0].abs().min()
        assert (row[kept == 0].abs() <= least).all()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 6)),
        (nn.Linear(6, 4, bias=False), (5, 3, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (5, 4, 7, 8)),
        (nn.Conv1d(3, 4, 5, dilation=2, padding=2, bias=False), (5, 3, 12)),
    ],
)
def test_its_gradients_are_those_of_autograd_on_what_takes_part(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    """Forward and towards the input: largest weights; towards the weights: inputs."""
    torch.manual_seed(1)
    x, share = torch.randn(shape, requires_grad=True), 0.4
    weight, kept = layer.get_parameter("weight"), layer.get_parameter("weight").numel()
    kept //= 3
    thin = largest(weight.detach()[None], kept)[0].requires_grad_(True)
    count = max(1, round(share * x[0].numel()))
    few = largest(x.detach(), count)
    rest = {n: p for n, p in layer.named_parameters() if n != "weight"}
    call = torch.func.functional_call
    expected = call(layer, {**rest, "weight": thin}, (x,))
    slope = torch.randn_like(expected)
    (dx,) = torch.autograd.grad(expected, x, slope)
    (dw,) = torch.autograd.grad(
        call(layer, {**rest, "weight": thin}, (few,)), thin, slope
    )

    net = One(layer)
    model = swat_model(net, full(net), {"layer.weight": kept}, {"layer.weight": share})
    found = model(x)
    torch.testing.assert_close(found, expected)
    parameter = next(iter(model.parameters()))
    own_dx, own_dw = torch.autograd.grad(found, [x, parameter], slope)
    torch.testing.assert_close(own_dx, dx)
    torch.testing.assert_close(own_dw.view_as(dw), dw, atol=1e-5, rtol=1e-4)
    assert np.count_nonzero(own_dw) > kept  # weights that took no part learn too


def digits(micro_batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, 17, size=(40, 1, 8, 8)).astype(np.uint8)
    examples = Examples(inputs, rng.integers(0, 10, size=40))
    kept = exact_counts(uniform(LAYERS), LAYERS, 0.1)
    model = swat_model(TASK.model(), FULL, kept, dict.fromkeys(FULL, 0.1))
    state = initial_state(TASK, 1)
    masked = {n: state.pop(n).reshape(-1) for n in FULL}
    model.load(masked, state)
    plan = Training(epochs=1, batch_size=8, learning_rate=0.1, seed=3)
    train(model, TASK, examples, plan, micro_batch=micro_batch)
    return model.values()


def test_micro_batches_give_the_same_update() -> None:
    whole, parts = digits(0), digits(3)
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)


def test_with_everything_taking_part_it_is_plain_training() -> None:
    from edge_sdk.training.masked import masked_model

    torch.manual_seed(1)
    layer = nn.Conv2d(2, 3, 3)
    x = torch.randn(2, 2, 5, 5)
    plain = masked_model(One(layer), full(One(layer)))
    swat = swat_model(
        One(nn.Conv2d(2, 3, 3)),
        full(One(layer)),
        {"layer.weight": 54},
        {"layer.weight": 1},
    )
    swat.load(plain.values(), plain.dense())
    torch.testing.assert_close(swat(x), plain(x))


def test_a_layer_that_it_cannot_run_is_named() -> None:
    net = One(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    with pytest.raises(EngineError, match=r"weight layer\.weight has no sparse passes"):
        swat_model(net, full(net), {"layer.weight": 4}, {"layer.weight": 0.5})


def test_a_weight_normed_layer_is_named_with_its_remedy() -> None:
    net = One(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    (layer,) = layers_of(net)
    mask = Mask({layer.name: np.ones(layer.shape, np.bool_)})
    with pytest.raises(EngineError, match=r"sparse passes: .*normed") as caught:
        swat_model(net, mask, {layer.name: 3}, {layer.name: 0.5})
    assert "remove_parametrizations" in caught.value.help
