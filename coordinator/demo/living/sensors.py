"""Data and task of the living demo: windows of a worn sensor, made by a seed.

Each of six activities is a movement of three axes over 32 samples. A device has its own
habits (which activities, how often) and its own offset. The shift is what happens when
a fleet's sensors are mounted anew: axes turned by 40 degrees, another gain and zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.datasets.partition import load_partition
from edge_sdk.evaluation import accuracy
from edge_sdk.tasks.task import Examples, Task

__all__ = ["LABELS", "NEW", "REFERENCE", "TASK", "Wearer", "together", "wearer"]

REFERENCE = "coordinator.demo.living.sensors:TASK"
LABELS = ("rest", "walk", "run", "cycle", "stairs", "row")
NEW = LABELS.index("row")  # nobody does it before the shift
AXES, SAMPLES, NOISE = 3, 32, 1.1
_TURN = np.deg2rad(40.0)


class SensorNet(nn.Module):
    """Two linear layers on inputs that are standardised by the federation's numbers."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(AXES, 1))
        self.register_buffer("deviation", torch.ones(AXES, 1))
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(AXES * SAMPLES, 64),
            nn.ReLU(),
            nn.Linear(64, len(LABELS)),
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32) windows in sensor units -> (n, 6) scores."""
        found: torch.Tensor = self.net((windows - self.mean) / self.deviation)
        return found


@dataclass(frozen=True, eq=False)
class Wearer:
    """Habits of a device's wearer, and how its sensor sits.

    Attributes:
        shares: (6,) probabilities of the activities.
        offset: (3,) of the axes, in the scale of the movements.
    """

    shares: NDArray[np.float64]
    offset: NDArray[np.float64]

    def windows(self, count: int, seed: int, *, shifted: bool) -> Examples:
        """So many windows and their labels.

        Args:
            count: How many.
            seed: Of all that is drawn.
            shifted: Whether the sensors are mounted anew.
        """
        rng = np.random.default_rng(seed)
        labels = rng.choice(len(LABELS), count, p=self.shares)
        moved = _movements()[labels] * (1 + 0.2 * rng.normal(size=(count, 1, 1)))
        late = (np.arange(SAMPLES) - rng.integers(-2, 3, (count, 1))) % SAMPLES
        moved = np.take_along_axis(moved, late[:, None, :], axis=2)
        moved = moved + NOISE * rng.normal(size=moved.shape) + self.offset[:, None]
        if shifted:
            cos, sin = np.cos(_TURN), np.sin(_TURN)
            turned = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
            moved = 1.3 * np.einsum("ij,njt->nit", turned, moved) + 0.5
        return Examples((8 + 3 * moved).astype(np.float32), labels.astype(np.int64))


def wearer(number: int, *, rows: bool = False) -> Wearer:
    """The wearer of a device.

    Args:
        number: Of the device.
        rows: Whether the new activity is among what is done.
    """
    rng = np.random.default_rng([number, 0x11F3])
    shares = np.append(rng.dirichlet(np.ones(NEW)), 0.0)
    if rows:
        shares = 0.7 * shares + 0.3 * np.eye(len(LABELS))[NEW]
    return Wearer(shares, rng.normal(0, 0.3, AXES))


def together(parts: list[Examples]) -> Examples:
    """The examples of all parts as one set."""
    return Examples(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.targets for part in parts]),
    )


def _movements() -> NDArray[np.float64]:
    """(6, 3, 32): two sines for each axis of each activity."""
    rng = np.random.default_rng(7)
    time = np.arange(SAMPLES) / SAMPLES
    found = []
    for _ in LABELS:
        often = rng.integers(1, 5, (AXES, 2))
        far = rng.normal(0, 1, (AXES, 2))
        begins = rng.uniform(0, 2 * np.pi, (AXES, 2))
        waves = np.sin(2 * np.pi * often[..., None] * time + begins[..., None])
        found.append((far[..., None] * waves).sum(axis=1))
    return np.array(found)


def _tests(folder: Path) -> Examples:
    return load_partition(folder, part="eval")


TASK = Task(
    name="living",
    model=SensorNet,
    loss=nn.functional.cross_entropy,
    input_shape=(AXES, SAMPLES),
    train_data=load_partition,
    eval_data=_tests,
    holdout_data=_tests,
    labels=LABELS,
    metrics=[accuracy()],
    statistics={"mean": "mean", "deviation": "deviation"},
)
