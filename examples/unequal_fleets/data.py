"""Five data sets cut up for devices: what trains, what chooses, what judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk import Examples
from edge_sdk.datasets.groups import hold_out
from edge_sdk.datasets.partition import by_group, lda
from edge_sdk.datasets.readers import Grouped, read_spoken_digits
from edge_sdk.datasets.shipped import load_dataset
from edge_sdk.datasets.watch import read_watch

__all__ = ["SETS", "DataSet", "Federated", "by_people", "split"]

Index = NDArray[np.int64]
HELD = 0.1  # of each device's examples: so much chooses, and so much judges at home


@dataclass(frozen=True)
class Federated:
    """A data set in devices' hands.

    Attributes:
        train: Per device, what it trains on.
        validation: Of all devices together: hyper-parameters are chosen on it.
        home: Per device, what the model that it deploys is judged on.
        test: What every model is judged on; read once.
    """

    train: list[Examples]
    validation: Examples
    home: list[Examples]
    test: Examples


@dataclass(frozen=True)
class DataSet:
    """How one data set is used.

    Attributes:
        task: Its task's name.
        rounds: Rounds after the warm-up.
        cohort: Updates per round.
        batch: Examples per step.
        read: (folder of its files, seed) -> examples in devices' hands.
        recalibrate: Of the rounds, so many last ones measure batch norm's statistics.
    """

    task: str
    rounds: int
    cohort: int
    batch: int
    read: Callable[[Path, int], Federated]
    recalibrate: int = 0


def split(
    examples: Examples, parts: list[Index], test: Examples, rng: np.random.Generator
) -> Federated:
    """Cuts each device's examples into train, validation and home.

    Args:
        examples: Those of all devices.
        parts: Per device, (n,) which of them are its own; at least three each.
        test: Examples that are no device's.
        rng: The only source of randomness.
    """
    train, validation, home = [], [], []
    for part in parts:
        mixed = rng.permutation(part)
        held = max(1, round(HELD * len(mixed)))
        validation.append(mixed[:held])
        home.append(examples.take(mixed[held : 2 * held]))
        train.append(examples.take(mixed[2 * held :]))
    return Federated(train, examples.take(np.concatenate(validation)), home, test)


def _by_classes(name: str, devices: int, folder: Path, seed: int) -> Federated:
    """Dirichlet parts, alpha 1."""
    train, test = load_dataset(name, folder)
    rng = np.random.default_rng([seed, 1])
    parts = lda(train.targets, devices, 1.0, rng)
    return split(train, parts, test, rng)


def by_people(read: Callable[[Path], Grouped], folder: Path, seed: int) -> Federated:
    """A device for each person; a fifth of everybody's examples is the test set.

    It is the same at every seed: no rate is chosen on what a model is judged on.
    """
    data, test = hold_out(read(folder), 0.2, np.random.default_rng(0))
    rng = np.random.default_rng([seed, 1])
    return split(data.examples, by_group(data.groups), test, rng)


@cache
def _watch(folder: Path) -> Grouped:
    return read_watch(folder / "watch")


@cache
def _spoken(folder: Path) -> Grouped:
    return read_spoken_digits(folder / "fsdd.npz")


SETS = {
    "digits": DataSet("digits", 40, 10, 8, partial(_by_classes, "digits", 20)),
    "watch": DataSet("watch", 40, 8, 16, partial(by_people, _watch)),
    "spoken": DataSet("spoken", 21, 6, 16, partial(by_people, _spoken), 3),
    "mnist": DataSet("mnist", 40, 10, 32, partial(_by_classes, "mnist", 100)),
    "fashion": DataSet("fashion", 40, 10, 32, partial(_by_classes, "fashion", 100)),
}
