"""A program without the units that a mask cuts computes what the whole one does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from beside_torch import relative_error
from torch import nn

from coordinator.algorithms.unit_masks import by_units
from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.units import without_units
from edge_sdk.sparse import Boxes, Mask, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.training.program_engine.models import CutModel
from edge_sdk.training.program_engine.narrow import cut_program
from edge_sdk.zoo import ImuNet, KeywordNet
from edge_sdk.zoo.mobilenet import MobileNetV2Cifar
from edge_sdk.zoo.resnet import ResNet20
from edge_sdk.zoo.small import DigitsNet

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")


class Normed(nn.Module):
    """A residual sum, group and instance norm, a bias on every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.b, self.own = nn.Conv2d(16, 16, 3, padding=1), nn.InstanceNorm2d(16)
        self.c = nn.Conv2d(16, 8, 3, padding=1, groups=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(x + self.own(self.b(x)))
        return self.fc(torch.nn.functional.max_pool2d(self.c(x), 2).mean((2, 3)))


class Fixed(nn.Module):
    """Its forward pass counts on a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x)).reshape(-1, 4, 2, 36)
        return self.fc(x.reshape(-1, 8 * 36))


Dense = frozenset[str]
NETS: list[tuple[Callable[[], nn.Module], tuple[int, ...], Dense]] = [
    (DigitsNet, (1, 8, 8), frozenset({"conv1.weight", "fc2.weight"})),
    (ImuNet, (6, 40), frozenset({"conv1.weight", "fc2.weight"})),
    (KeywordNet, (1, 61, 40), frozenset({"conv1.weight", "fc.weight"})),
    (ResNet20, (3, 16, 16), frozenset()),
    (MobileNetV2Cifar, (3, 16, 16), frozenset()),
    (Normed, (1, 8, 8), frozenset()),
]


def opened(
    net: Callable[[], nn.Module], shape: tuple[int, ...], dense: Dense
) -> tuple[nn.Module, TrainingProgram, Mask, Boxes]:
    torch.manual_seed(1)
    model = net()
    layers = with_units(model, layers_of(model, dense))
    family = by_units(uniform(layers), layers, (0.8, 0.2), 7)
    batch = torch.randn(3, *shape), torch.randint(0, 3, (3,))
    program = capture(model, nn.functional.cross_entropy, *batch)
    return model, program, family.masks[0.2], family.boxes[0.2]


@pytest.mark.parametrize(("net", "shape", "dense"), NETS)
def test_steps_are_the_whole_program_s_in_less_memory(
    net: Callable[[], nn.Module], shape: tuple[int, ...], dense: Dense
) -> None:
    model, program, mask, boxes = opened(net, shape, dense)
    cut = cut_program(program, mask, boxes)
    assert cut is not None
    small = CutModel(cut, mask, threads=1, reason="test")
    whole = ProgramModel(program, mask)
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    values = {n: state[n][mask[n]] for n in mask}
    rest = {n: a for n, a in state.items() if n not in mask.layers}
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, *shape)).astype(np.float32)
    y = rng.integers(0, 3, 9)
    for one in (small, whole):
        one.load(values, rest)
    assert small.backward(x, y) == pytest.approx(whole.backward(x, y), rel=1e-4)
    pairs = [
        (found.ravel(), whole.gradients[name][tuple(map(slice, found.shape))].ravel())
        for name, found in small.gradients.items()
    ]
    assert relative_error(*map(np.concatenate, zip(*pairs, strict=True))) < 1e-3
    assert {n: a.shape for n, a in small.dense().items()} == {
        n: a.shape for n, a in rest.items()
    }
    np.testing.assert_allclose(small.predict(x), whole.predict(x), atol=2e-3)
    assert small.arena_bytes(9) < 0.9 * whole.arena_bytes(9)
    assert small.weight_vector.size <= whole.weight_vector.size
    assert small.mask is mask


def test_what_counts_on_a_width_or_has_no_such_layer_stays_whole() -> None:
    torch.manual_seed(1)
    model = Fixed()
    batch = torch.randn(3, 1, 8, 8), torch.randint(0, 3, (3,))
    program = capture(model, nn.functional.cross_entropy, *batch)
    boxes = {"a.weight": (4, 1), "fc.weight": (3, 4 * 36)}
    mask = Mask({n: np.ones(s, np.bool_) for n, s in (
        ("a.weight", (8, 1, 3, 3)), ("fc.weight", (3, 288)))})  # fmt: skip
    with pytest.raises(EngineError, match="a view of a fixed width"):
        without_units(program, boxes)
    with pytest.raises(EngineError, match="layer q: the program has no such weight"):
        without_units(program, {"q": (1, 1)})
    with pytest.raises(EngineError, match="own inputs or outputs"):
        without_units(program, {"fc.weight": (2, 288)})
    assert cut_program(program, mask, boxes) is None
    assert cut_program(program, mask, {}) is None


def test_a_unit_that_is_read_after_all_is_not_cut() -> None:
    """The boxes are of another mask: it keeps what they leave out."""
    _, program, mask, boxes = opened(*NETS[0])
    assert cut_program(program, mask, boxes) is not None
    whole = Mask({n: np.ones(mask[n].shape, np.bool_) for n in mask})
    assert cut_program(program, whole, boxes) is None
