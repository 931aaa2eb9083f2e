"""A model without the units that its mask cuts trains as the whole one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.algorithms.unit_masks import by_units
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.program.file import pack_program
from edge_sdk.sparse import Boxes, LayerShape, Mask, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.torch_engine.narrow import NarrowedModel, narrowed
from edge_sdk.training.torch_engine.program import program_model
from edge_sdk.wire.messages import Training
from edge_sdk.zoo import ImuNet, KeywordNet
from edge_sdk.zoo.resnet import ResNet20
from edge_sdk.zoo.small import DigitsNet, MnistNet

PLAN = Training(epochs=2, batch_size=4, learning_rate=0.05, momentum=0.9, seed=3)


class Normed(nn.Module):
    """Residual, group norm, a bias on every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(x + self.b(x))
        return self.fc(self.c(x).mean((2, 3)))


class Fixed(nn.Module):
    """Its forward pass counts on a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(x)).view(-1, 8 * 36))


NETS = [
    (DigitsNet, (1, 8, 8), {"conv1.weight", "fc2.weight"}),
    (MnistNet, (1, 28, 28), {"conv1.weight", "fc2.weight"}),
    (ImuNet, (6, 40), {"conv1.weight", "fc2.weight"}),
    (KeywordNet, (1, 61, 40), {"conv1.weight", "fc.weight"}),
    (ResNet20, (3, 32, 32), set()),
    (Normed, (1, 8, 8), set()),
]


def cut(net: nn.Module, dense: set[str]) -> tuple[tuple[LayerShape, ...], Mask, Boxes]:
    layers = with_units(net, layers_of(net, frozenset(dense)))
    family = by_units(uniform(layers), layers, (0.8, 0.2), 7)
    return layers_of(net, frozenset(dense)), family.masks[0.2], family.boxes[0.2]


def trained(model: TrainingModel, task: Task, data: Examples, start: nn.Module) -> None:
    state = {n: t.numpy() for n, t in start.state_dict().items()}
    masked = {n: state.pop(n)[model.mask[n]] for n in model.mask}
    model.load(masked, state)
    train(model, task, data, PLAN)


@pytest.mark.parametrize("engine", ["masked", "program"])
@pytest.mark.parametrize(("net", "shape", "dense"), NETS)
def test_it_trains_as_the_whole_model_does(net, shape, dense, engine) -> None:
    if engine == "program" and unavailable_reason():
        pytest.skip("no kernels")
    torch.manual_seed(1)
    start, rng = net(), np.random.default_rng(1)
    layers, mask, boxes = cut(start, dense)
    data = Examples(
        rng.normal(size=(12, *shape)).astype(np.float32), rng.integers(0, 3, 12)
    )

    def read(_: Path) -> Examples:
        return data

    task = Task(
        name="toy", model=net, loss=nn.functional.cross_entropy, train_data=read,
        eval_data=read, input_shape=shape,
    )  # fmt: skip
    make: Callable[[nn.Module, Mask], TrainingModel]
    make = masked_model
    if engine == "program":  # captured of the whole model, as the coordinator does
        batch = torch.from_numpy(data.inputs[:4]), torch.from_numpy(data.targets[:4])
        file = pack_program(capture(net(), task.loss, *batch))

        def make(module: nn.Module, own: Mask) -> TrainingModel:
            return program_model(module, own, file, batch[0], reason="test")

    example = torch.from_numpy(data.inputs[:2])
    small = narrowed(net(), mask, layers, boxes, example, make)
    assert isinstance(small, NarrowedModel)
    whole = make(net(), mask)
    for model in (small, whole):
        trained(model, task, data, start)
    for name, values in whole.values().items():
        assert np.allclose(small.values()[name], values, atol=2e-4), name
    inner, found = small.dense(), whole.dense()
    assert inner.keys() == found.keys()
    if engine != "program":
        weights = sum(p.numel() for p in small.parameters())
        assert weights < sum(p.numel() for p in whole.parameters())
    before = start.state_dict()
    for name, entry in found.items():
        assert inner[name].shape == entry.shape
        changed = inner[name] != before[name].numpy()
        # What was cut comes back as it came; the rest is as the whole model has it.
        assert np.allclose(inner[name][changed], entry[changed], atol=2e-4), name


def test_a_forward_pass_that_counts_on_a_width_keeps_it() -> None:
    layers, mask, boxes = cut(Fixed(), set())
    model = narrowed(
        Fixed(), mask, layers, boxes, torch.randn(2, 1, 8, 8), masked_model
    )
    assert not isinstance(model, NarrowedModel)
    assert model(torch.randn(4, 1, 8, 8)).shape == (4, 3)


def test_a_mask_without_boxes_leaves_the_model_alone() -> None:
    net = DigitsNet()
    layers, mask, _ = cut(net, set())
    model = narrowed(net, mask, layers, {}, torch.randn(2, 1, 8, 8), masked_model)
    assert model.module is net
