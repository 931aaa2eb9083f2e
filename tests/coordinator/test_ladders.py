"""Ladders of densities on small models: masks that work, or the nearest that do."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import coordinator
from coordinator.algorithms import unit_masks
from coordinator.algorithms.unit_masks import by_units, widths
from coordinator.cli import app
from edge_sdk import Examples, Task
from edge_sdk.errors import DensityError
from edge_sdk.sparse import LayerShape, check_ladder, nested_counts, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.terminal.exits import Exit


def thin(width: int, depth: int) -> list[nn.Module]:
    return [one for _ in range(depth) for one in (nn.Linear(width, width), nn.ReLU())]


def head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


NETS: dict[str, Callable[[], nn.Module]] = {
    "one unit": lambda: nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 3)),
    "two units": lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
    "bottleneck": lambda: nn.Sequential(
        nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 10)
    ),
    "one output": lambda: nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1)),
    "no hidden layer": lambda: nn.Sequential(nn.Linear(20, 3)),
    "many classes": lambda: nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 500)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 16, 1), *head(16, 5),
    ),
    "groups": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4), *head(12, 5),
    ),
    "one norm group": lambda: nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.GroupNorm(1, 7), nn.ReLU(), nn.Flatten(),
        nn.Linear(7 * 36, 4),
    ),
    "narrow": lambda: nn.Sequential(
        nn.Linear(32, 4), nn.ReLU(), *thin(4, 2), nn.Linear(4, 32), nn.ReLU(),
        nn.Linear(32, 3),
    ),
    "thin": lambda: nn.Sequential(*thin(8, 3), nn.Linear(8, 2)),
    "prime widths": lambda: nn.Sequential(
        nn.Linear(8, 13), nn.ReLU(), nn.Linear(13, 7), nn.LayerNorm(7), nn.ReLU(),
        nn.Linear(7, 3),
    ),
    "one channel": lambda: nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(162, 3)
    ),
    "thin and deep": lambda: nn.Sequential(*thin(3, 6), nn.Linear(3, 2)),
}  # fmt: skip
LADDERS = [
    (0.05, 0.1, 0.2), (0.1, 0.2, 0.4), (0.01, 0.02), (0.001, 0.5), (0.3, 0.9, 1.0),
    (0.05, 0.0500001, 0.2), (1e-6, 0.1),
]  # fmt: skip


def layers_for(net: str) -> tuple[LayerShape, ...]:
    model = NETS[net]()
    return with_units(model, layers_of(model, frozenset()))


def equal(layers: tuple[LayerShape, ...]) -> np.ndarray:
    return np.array([1 / s.numel for s in layers])


def connected(layers: tuple[LayerShape, ...], pattern: dict[str, np.ndarray]) -> bool:
    """Whether every layer of a chain gives something that depends on the input."""
    signal = np.ones(layers[0].shape[1])
    for layer in layers:
        kept = pattern[layer.name].astype(float)
        signal = np.repeat(signal, kept.shape[1] // len(signal)) @ kept.T
        if not signal.any():
            return False
    return True


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("net", NETS)
def test_a_ladder_works_or_the_nearest_that_does_is_named(
    net: str, ladder: tuple[float, ...]
) -> None:
    layers, size = layers_for(net), sum(s.numel for s in layers_for(net))
    units = sum(s.least for s in layers)
    if min(ladder) * size + 1e-9 < units:
        with pytest.raises(DensityError, match="nearest ladder") as caught:
            check_ladder(layers, ladder)
        told = str(caught.value).partition("that works is ")[2]
        nearest = tuple(float(d) for d in told.split(", "))
        assert {d for d in ladder if d * size >= units} <= {*nearest}
        ladder = nearest
    check_ladder(layers, ladder)
    nested_counts(uniform(layers), layers, ladder)
    family = by_units(equal(layers), layers, ladder, 3)
    assert [m.nnz for m in family.masks.values()] == [
        int(d * size + 1e-9) for d in sorted(set(ladder), reverse=True)
    ]
    for larger, smaller in pairwise(family.masks.values()):
        assert smaller.issubset(larger)
    widths(layers, ladder, None, 3)


@pytest.mark.parametrize(
    ("net", "ladder", "seed"),
    [("thin", (0.13, 0.2, 0.4), 11), ("narrow", (0.15, 0.3, 0.6), 8)],
)
def test_a_prefix_of_units_that_cuts_the_network_is_widened(
    net: str, ladder: tuple[float, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_for(net)
    for mask in by_units(uniform(layers), layers, ladder, seed).masks.values():
        assert connected(layers, {n: mask[n] for n in mask})
    monkeypatch.setattr(unit_masks, "_is_cut", lambda *_: False)
    family = by_units(uniform(layers), layers, ladder, seed)
    assert not all(
        connected(layers, {n: mask[n] for n in mask}) for mask in family.masks.values()
    )


def test_every_density_that_is_too_low_is_in_the_one_sentence() -> None:
    layers = (LayerShape("fc", (10, 100)),)
    with pytest.raises(
        DensityError, match=r"0\.002.* ladder that works is 0\.01, 0\.5"
    ):
        nested_counts(uniform(layers), layers, (0.5, 0.002, 0.001))
    with pytest.raises(DensityError, match=r"outside \(0, 1\]"):
        check_ladder(layers, (0.5, float("nan")))


class Recurrent(nn.Module):
    """One cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 1, batch_first=True), nn.Linear(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Queries, keys and values in one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(x, x, x, need_weights=False)[0]
        return self.head(mixed.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (Recurrent, r"takes 11, of which layer cell\.weight_\w+ takes 4, so the"),
        (Attention, r"takes 27, of which layer mix\.in_proj_weight takes 18, so the"),
    ],
)
def test_the_layer_that_takes_most_is_named(
    net: Callable[[], nn.Module], told: str
) -> None:
    model = net()
    layers = with_units(model, layers_of(model, frozenset()))
    with pytest.raises(DensityError, match=told) as caught:
        by_units(uniform(layers), layers, (0.5, 0.001), 3)
    ladder = str(caught.value).partition("that works is ")[2].split(", ")
    assert by_units(uniform(layers), layers, tuple(map(float, ladder)), 3).masks


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(24, 8)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 3, 24))


task = Task(
    name="small",
    model=NETS["one unit"],
    loss=nn.functional.cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(8,),
)
WRONG = (
    r"takes 4, of which layer 2 takes 3, so .*"
    r"the nearest ladder that works is 0\.3637, 0\.5"
)


@pytest.mark.parametrize("command", ["init", "plan"])
def test_commands_name_the_nearest_ladder(tmp_path: Path, command: str) -> None:
    line = [command, "--task", f"{__name__}:task", "--density", "0.5"]
    if command == "init":
        line += [str(tmp_path / "run"), "--evaluation", str(tmp_path)]
    refused = CliRunner().invoke(app, [*line, "--density", "0.1"])
    assert refused.exit_code == Exit.SPARSITY
    assert re.search(WRONG, " ".join(refused.output.split()))
    assert not (tmp_path / "run" / "run.toml").exists()
    taken = CliRunner().invoke(app, [*line, "--density", "0.37"])
    assert taken.exit_code == 0, taken.output


def test_a_task_that_is_not_here_yet_is_left_to_the_run(tmp_path: Path) -> None:
    line = ["init", str(tmp_path / "run"), "--task", "not_here_yet:task"]
    done = CliRunner().invoke(app, [*line, "--evaluation", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "run.toml").exists()


@pytest.mark.parametrize("algorithm", ["flash-edge", "hetero-flash", "heterofl"])
def test_a_simulation_names_the_nearest_ladder(algorithm: str) -> None:
    with pytest.raises(DensityError, match=WRONG):
        coordinator.simulate(
            task,
            devices=[examples(), examples()],
            evaluation=examples(),
            algorithm=algorithm,
            rounds=1,
            densities=(0.5, 0.1),
            warm_up={"epochs": 1},
        )
