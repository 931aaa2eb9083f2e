"""Whole models: several steps of the sparse twin equal masked dense training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask
from edge_sdk.training.sparse import densify, sparse_model, sparsify
from edge_sdk.training.sparse.modules import (
    BlockedNorm,
    SparseConv2d,
    SparseLinear,
)


def optimizers(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    make = {
        "momentum": lambda: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        "nesterov-decay": lambda: torch.optim.SGD(
            parameters, 0.02, momentum=0.9, nesterov=True, weight_decay=0.01
        ),
        "adam": lambda: torch.optim.Adam(parameters, 1e-3),
        "adamw": lambda: torch.optim.AdamW(parameters, 1e-3),
    }
    return make[name]()


def train(
    model: nn.Module, zoo: object, name: str, optimizer: str, samples: int
) -> None:
    model.train()
    opt = optimizers(optimizer, list(model.parameters()))
    for step in range(4):
        x, y = zoo.batch(name, samples, seed=step)
        torch.manual_seed(step)
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()


def _vgg_forward(own: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = own.pool(F.relu(own.norm1(own.conv1(x))))
    x = F.relu(own.norm2(own.conv2(x)))
    x = F.leaky_relu(own.conv4(F.relu(own.conv3(own.pool(x)))))
    x = F.avg_pool2d(x, 2).flatten(1)
    return own.fc2(F.relu(own.fc1(x)))


@pytest.fixture(params=["momentum", "nesterov-decay", "adam", "adamw"])
def optimizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("samples", [6, 20])
def test_float64_weights_equal_masked_dense_training(
    zoo, model_name: str, optimizer: str, samples: int
) -> None:
    model = zoo.model(model_name)
    mask = zoo.mask(model)
    dense = zoo.masked_twin(model, mask)
    twin = sparsify(_no_dropout(model), mask)
    train(_no_dropout(dense), zoo, model_name, optimizer, samples)
    train(twin, zoo, model_name, optimizer, samples)
    back = densify(twin, model).state_dict()
    for name, reference in dense.state_dict().items():
        ours = back[name]
        assert torch.allclose(
            ours.double(), reference.double(), rtol=1e-10, atol=1e-10
        ), name
        if name in mask.layers:
            assert not ours[~torch.tensor(mask[name])].any(), name


def _no_dropout(model: nn.Module) -> nn.Module:
    """Dropout draws other numbers in another layout; all else must agree."""

    class Plain(type(model)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _vgg_forward(self, x)

    if type(model).__name__ == "Vgg":
        model.__class__ = Plain
    return model


@pytest.mark.parametrize("samples", [1, 3, 16, 33])
def test_evaluation_equals_the_ordinary_model(
    zoo, model_name: str, samples: int
) -> None:
    model = zoo.model(model_name, torch.float32)
    mask = zoo.mask(model)
    dense = zoo.masked_twin(model, mask).eval()
    twin = sparsify(model, mask).eval()
    x, _ = zoo.batch(model_name, samples, torch.float32)
    with torch.no_grad():
        assert torch.allclose(twin(x), dense(x), atol=2e-5, rtol=1e-4)


def test_masked_layers_hold_only_their_kept_values(zoo, model_name: str) -> None:
    model = zoo.model(model_name, torch.float32)
    mask = zoo.mask(model)
    state = sparsify(model, mask).state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        kept = (mask.counts[name],) if name in mask.layers else tuple(tensor.shape)
        assert tuple(state[name].shape) == kept


def test_to_the_twin_and_back_loses_nothing(zoo, model_name: str) -> None:
    model = zoo.model(model_name, torch.float32)
    mask = zoo.mask(model)
    twin = sparsify(model, mask)
    copied = copy.deepcopy(twin)
    copied.load_state_dict(twin.state_dict())
    back = densify(copied, zoo.model(model_name, torch.float32)).state_dict()
    for name, reference in zoo.masked_twin(model, mask).state_dict().items():
        assert torch.equal(back[name], reference)


def test_the_model_given_is_left_alone(zoo) -> None:
    model = zoo.model("resnet", torch.float32)
    before = copy.deepcopy(model.state_dict())
    twin = sparsify(model, zoo.mask(model))
    x, y = zoo.batch("resnet", 4, torch.float32)
    F.cross_entropy(twin(x), y).backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_resnet_is_fused_as_the_design_says(zoo) -> None:
    """Norm and ReLU inside a block vanish into conv2; residual and ReLU into bn2."""
    model = zoo.model("resnet", torch.float32)
    twin = sparsify(model, zoo.mask(model))
    called = [str(n.target) for n in twin.graph.nodes if n.op == "call_module"]
    assert not any("relu" in name for name in called)
    block = twin.get_submodule("layer1.0")
    assert isinstance(block.bn1, BlockedNorm)
    assert block.bn1.deferred
    assert block.conv2.relu_before
    assert block.bn2.relu_after
    assert not block.bn2.deferred


def test_every_layer_masked_first_and_last_too(zoo, model_name: str) -> None:
    model = zoo.model(model_name)
    mask = zoo.mask(model, 0.5, edges_dense=False)
    twin = sparsify(model, mask).eval()
    kinds = [type(twin.get_submodule(n.removesuffix(".weight"))) for n in mask]
    assert set(kinds) <= {SparseConv2d, SparseLinear}
    x, _ = zoo.batch(model_name, 5)
    dense = zoo.masked_twin(model, mask).eval()
    assert torch.allclose(twin(x), dense(x), atol=1e-10)


@pytest.mark.parametrize("density", [0.0, 1.0], ids=["empty", "full"])
def test_empty_and_full_layers_train(zoo, density: float) -> None:
    model = zoo.model("mixed")
    base = zoo.mask(model)
    mask = Mask({n: np.full(base[n].shape, density == 1.0) for n in base})
    dense, twin = zoo.masked_twin(model, mask), sparsify(model, mask)
    train(dense, zoo, "mixed", "momentum", 3)
    train(twin, zoo, "mixed", "momentum", 3)
    back = densify(twin, model).state_dict()
    for name, reference in dense.state_dict().items():
        assert torch.allclose(back[name], reference, atol=1e-10), name


def test_functional_dropout_follows_the_mode(zoo) -> None:
    model = zoo.model("vgg", torch.float32)
    twin = sparsify(model, zoo.mask(model))
    x, _ = zoo.batch("vgg", 4, torch.float32)
    twin.eval()
    assert torch.equal(twin(x), twin(x))
    twin.train()
    assert not torch.equal(twin(x), twin(x))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 0 else x


class Modal(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if self.training else self.conv(x) * 2


def refused() -> list[tuple[str, nn.Module, dict[str, tuple[int, ...]], str]]:
    circular = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"))
    uneven = nn.Sequential(nn.Conv2d(1, 4, 2, padding="same"))
    one_axis = nn.Sequential(nn.Conv1d(1, 4, 3))
    plain = nn.Sequential(nn.Conv2d(1, 4, 3))
    return [
        (
            "control-flow",
            Branching(),
            {"conv.weight": (4, 1, 3, 3)},
            "cannot be traced",
        ),
        ("mode", Modal(), {"conv.weight": (4, 1, 3, 3)}, "another path"),
        ("circular", circular, {"0.weight": (4, 1, 3, 3)}, "layer 0: .*circular"),
        ("uneven", uneven, {"0.weight": (4, 1, 2, 2)}, "layer 0: .*uneven"),
        ("conv1d", one_axis, {"0.weight": (4, 1, 3)}, "layer 0: Conv1d has no sparse"),
        ("unknown", plain, {"9.weight": (4, 1, 3, 3)}, "layer 9.weight"),
        ("shape", plain, {"0.weight": (4, 1, 5, 5)}, "layer 0.weight: the mask is"),
    ]


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [pytest.param(*row[1:], id=row[0]) for row in refused()],
)
def test_what_cannot_be_converted_is_named_with_its_reason(
    model: nn.Module, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    mask = Mask({name: np.ones(shape, np.bool_) for name, shape in shapes.items()})
    with pytest.raises(EngineError, match=message):
        sparse_model(model, mask)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(0, 3, 9, 11),
        torch.zeros(2, 3, 9),
        torch.zeros(2, 3, 9, 11, dtype=torch.float16),
        torch.zeros(2, 4, 9, 11),
        torch.zeros(2, 3, 1, 1),
    ],
    ids=["no-samples", "three-axes", "half", "channels", "too-small"],
)
def test_a_bad_batch_is_a_clear_error(zoo, bad: torch.Tensor) -> None:
    model = zoo.model("mixed", torch.float32)
    twin = sparse_model(model, zoo.mask(model))
    with pytest.raises(EngineError):
        twin(bad)


def test_a_non_contiguous_batch_is_right(zoo) -> None:
    model = zoo.model("mixed", torch.float32)
    twin = sparsify(model, zoo.mask(model)).eval()
    x, _ = zoo.batch("mixed", 4, torch.float32)
    strided = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(twin(strided), twin(x))
