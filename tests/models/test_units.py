"""Which units of a model can be cut, by the wiring that says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_sdk.sparse import LayerShape, Units, draw, unit_boxes
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.zoo import ImuNet, KeywordNet
from edge_sdk.zoo.resnet import ResNet18Cifar, ResNet20
from edge_sdk.zoo.small import MnistNet


def units(
    net: nn.Module, dense: frozenset[str] = frozenset()
) -> dict[str, tuple[Units | None, Units | None]]:
    layers = with_units(net, layers_of(net, dense))
    return {s.name: (s.outputs, s.inputs) for s in layers}


def sizes(net: nn.Module, dense: frozenset[str] = frozenset()) -> dict[str, tuple]:
    return {
        n: tuple(None if u is None else (u.name, u.size, u.block) for u in pair)
        for n, pair in units(net, dense).items()
    }


class Net(nn.Module):
    """Two convolutions and a linear layer, wired by a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.fc = nn.Linear(4, 2)


class Residual(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = torch.relu(x + self.b(x))
        return self.fc(self.c(x).mean((2, 3)))


class Grouped(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.fc(self.c(self.b(x)).mean((2, 3)))


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.fc(x.view(x.size(0), -1))


class Joined(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        both = torch.cat([x[:, :4], self.b(x)[:, :4]], 1)
        return self.fc(self.c(both).mean((2, 3)))


class Branching(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if x.sum() > 0:
            x = self.b(x)
        return self.fc(self.c(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.rnn = nn.Linear(5, 6), nn.LSTM(6, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(self.a(x))[0].mean(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(torch.relu(self.a(x)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(x))) @ self.a.weight.T


def test_a_chain_is_cut_between_its_layers_and_at_neither_end() -> None:
    dense = frozenset({"conv1.weight", "fc2.weight"})
    assert sizes(MnistNet(), dense) == {
        "conv2.weight": (("conv2.weight", 20, 1), ("conv1.weight", 10, 1)),
        "fc1.weight": (None, ("conv2.weight", 20, 1)),  # fc2 reads it and has no mask
    }


def test_a_mean_over_time_gives_features() -> None:
    found = sizes(ImuNet(), frozenset({"conv1.weight", "fc2.weight"}))
    assert found["fc1.weight"] == (None, ("conv3.weight", 64, 1))


def test_what_is_added_is_cut_together() -> None:
    found = sizes(Residual())
    shared = ("b.weight", 8, 1)
    assert {u[0] for u in (found["a.weight"], found["b.weight"])} == {
        found["c.weight"][1]
    }
    assert found["b.weight"][0] == found["b.weight"][1]
    assert found["c.weight"][1][1:] == shared[1:]


def test_a_norm_group_stays_or_goes_as_one() -> None:
    assert sizes(Grouped())["a.weight"][0] == ("a.weight", 8, 4)
    assert units(Grouped())["a.weight"][0].entries == (
        "a.bias",
        "norm.weight",
        "norm.bias",
    )


def test_depth_wise_layers_follow_their_input() -> None:
    found = units(KeywordNet(), frozenset({"conv1.weight", "fc.weight"}))
    depth, point = found["blocks.0.depth.weight"], found["blocks.0.point.weight"]
    assert depth[0] == point[1]
    assert depth[1] is None
    assert "blocks.0.norm1.running_var" in depth[0].entries


def test_residual_blocks_of_a_real_network_share_their_units() -> None:
    found = units(ResNet20())
    widths = {u.size for pair in found.values() for u in pair if u is not None}
    assert widths == {16, 32, 64}
    assert found["conv1.weight"][0] is None  # a padded shortcut: not known
    assert units(ResNet18Cifar())["conv1.weight"][0] is not None


@pytest.mark.parametrize("net", [Joined, Branching, Recurrent, Tied])
def test_what_is_not_known_keeps_its_units(net: type[nn.Module]) -> None:
    found = units(net())
    first = next(iter(found))
    assert found[first] == (None, None)


def test_a_layer_that_is_called_twice_reads_its_own_units() -> None:
    # Its first input is the model's own: all columns stay, so all rows do.
    assert units(Twice())["a.weight"] == (None, None)


def test_the_batch_size_of_a_view_keeps_nothing() -> None:
    assert sizes(Viewed())["fc.weight"] == (None, ("a.weight", 4, 1))


def test_tracing_leaves_the_mode_alone() -> None:
    net = MnistNet().train()
    net.conv1.eval()
    with_units(net, layers_of(net))
    assert net.training
    assert not net.conv1.training


@pytest.mark.parametrize(
    ("net", "shape"),
    [(MnistNet, (1, 28, 28)), (ImuNet, (6, 40)), (Residual, (1, 8, 8)),
     (Grouped, (1, 8, 8)), (Viewed, (1, 8, 8)), (KeywordNet, (1, 61, 40)),
     (ResNet20, (3, 32, 32))],
)  # fmt: skip
def test_what_a_cut_unit_holds_reaches_nobody(
    net: type[nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    model = net().eval()
    layers = with_units(model, layers_of(model))
    boxes = unit_boxes(layers, 0.5)
    assert boxes
    counts = {s.name: s.numel for s in layers}
    for name, (rows, columns) in boxes.items():
        layer = next(s for s in layers if s.name == name)
        counts[name] = rows * columns * layer.numel // (layer.shape[0] * layer.shape[1])
    mask = draw(layers, counts, 1, boxes)
    state = model.state_dict()
    for name in mask:
        state[name].mul_(torch.from_numpy(mask[name].copy()))
    inputs = torch.randn(2, *shape)
    before = model(inputs)
    for layer in layers:
        for units_, kept in zip(
            (layer.outputs, layer.inputs),
            boxes.get(layer.name, layer.shape[:2]),
            strict=True,
        ):
            if units_ is None:
                continue
            width = layer.shape[0 if units_ is layer.outputs else 1]
            for entry in units_.entries:
                if entry not in mask.layers:
                    state[entry][kept * units_.size // width :] += 3.0
    assert torch.equal(before, model(inputs))


def test_a_layer_of_one_unit_keeps_it() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
    layers = with_units(net, layers_of(net))
    assert unit_boxes(layers, 0.1) == {}


def test_whole_blocks_are_kept() -> None:
    layer = LayerShape("w", (32, 4), outputs=Units("w", 32, block=8))
    assert unit_boxes((layer,), 0.3) == {"w": (16, 4)}
