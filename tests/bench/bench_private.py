"""Accuracy against epsilon, dense against sparse masks, at delta 1e-5.

    python tests/bench/bench_private.py --data MNIST --json bench/private.json
    python tests/bench/bench_private.py --watch WHEEL --json bench/private-watch.json

MNIST (four idx files in one folder), its images averaged to 14 x 14, shared out by
chance: 1,000 devices of 10 examples each, an MLP of 196-32-10. Or a smart watch's
motion (seglearn's wheel), its windows averaged to 20 steps of six axes: a device for
each of ten subjects with 100 examples, an MLP of 120-32-7, a fifth of the windows as
the test set. All devices are in each of 10 rounds, with local steps of 5 examples.
Masks, first weights (`equal-counts-scaled`), clip, noise, division and accountant are
the product's own; devices are trained side by side by `torch.func` in place of by
agents, with plain SGD, and updates are not quantised. Learning rate and clip of each
density are chosen at epsilon 4 on a seed of their own, by training examples that no
device has; epsilon does not count that choice. Each cell is written when it is done,
and the same command goes on.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Contribution, Model
from coordinator.algorithms.privacy import PrivateMean, noise_for
from coordinator.algorithms.slots import named_slots
from coordinator.rounds.round_step import findings_at_hand, first_model
from coordinator.rounds.tasks import mask_seed
from edge_sdk.datasets.shipped import load_idx_folder
from edge_sdk.datasets.watch import read_watch
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.wire.values import Values

BATCH, ROUNDS, DELTA, HIDDEN, BLOCK = 5, 10, 1e-5, 32, 200
EPSILONS, DENSITIES = (8.0, 4.0, 2.0, 1.0), (1.0, 0.2, 0.1, 0.05, 0.02)
TUNED_AT, TUNING_SEED = 4.0, 100
Arrays = dict[str, torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Shared:
    """Examples that devices have.

    Attributes:
        inputs: float32 (devices, examples, values).
        targets: int64 (devices, examples).
        held: What nobody has: it chooses.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    held: Pair


@dataclass(frozen=True)
class DataSet:
    """A data set, and how it is looked at.

    Attributes:
        share: Shares it out by a seed.
        test: What models are judged on.
        classes: How many.
        rates: Learning rates that are tried.
        clips: Likewise.
    """

    share: Callable[[int], Shared]
    test: Pair
    classes: int
    rates: tuple[float, ...]
    clips: tuple[float, ...]


def nothing(_: Path) -> Examples:
    raise NotImplementedError


def images(examples: Examples) -> Pair:
    fours = examples.inputs.reshape(-1, 14, 2, 14, 2).astype(np.float32)
    share = fours.mean((2, 4)).reshape(len(fours), 196) / np.float32(255)
    return torch.from_numpy((share - 0.1307) / 0.3081), torch.from_numpy(
        examples.targets.astype(np.int64)
    )


def of_mnist(folder: Path, devices: int = 1000, each: int = 10) -> DataSet:
    train, test = (images(part) for part in load_idx_folder(folder))

    def share(seed: int) -> Shared:
        places = torch.from_numpy(
            np.random.default_rng(seed).permutation(len(train[0]))
        )
        held, given = places[:5000], places[5000:][: devices * each]
        x = train[0][given].reshape(devices, each, -1)
        y = train[1][given].reshape(devices, each)
        return Shared(x, y, (train[0][held], train[1][held]))

    return DataSet(share, test, 10, (1.0, 3.0), (1.0, 2.0))


def of_watch(wheel: Path, each: int = 100) -> DataSet:
    """A device for each subject; axes are scaled to a deviation of about 1."""
    found = read_watch(wheel)
    steps = found.examples.inputs.reshape(-1, 6, 20, 5).mean(3)
    steps /= np.array([1, 1, 1, 3, 3, 3], np.float32)[:, None]  # g, and rad/s
    x = torch.from_numpy(steps.reshape(-1, 120))
    y = torch.from_numpy(found.examples.targets)
    of = [np.flatnonzero(found.groups == one) for one in np.unique(found.groups)]
    rest = [one[np.arange(len(one)) % 5 != 0] for one in of]
    test = torch.from_numpy(np.concatenate([one[::5] for one in of]))

    def share(seed: int) -> Shared:
        rng = np.random.default_rng(seed)
        places = [torch.from_numpy(rng.permutation(one)) for one in rest]
        given = torch.stack([one[:each] for one in places])
        held = torch.cat([one[each:] for one in places])
        return Shared(x[given], y[given], (x[held], y[held]))

    return DataSet(share, (x[test], y[test]), 7, (0.1, 0.3, 1.0), (0.1, 0.3, 1.0))


class Trainer:
    """Trains and scores one network on one data set."""

    def __init__(self, data: DataSet) -> None:
        inputs, self.data = data.test[0].shape[1], data
        self._network = partial(network, inputs, data.classes)
        self._net = self._network()
        self._step = vmap(grad(self._loss))
        self._task = Task(
            name="private", model=self._network, loss=nn.functional.cross_entropy,
            train_data=nothing, eval_data=nothing, input_shape=(inputs,),
        )  # fmt: skip

    def _loss(self, params: Arrays, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = functional_call(self._net, params, (x,))
        return nn.functional.cross_entropy(found, y)

    def _updates(
        self, base: Model, given: Shared, rate: float
    ) -> Iterator[Contribution]:
        """What all devices of a round send."""
        x, y = given.inputs, given.targets
        start = {n: torch.from_numpy(base.full(n)) for n in base.mask}
        start |= {n: torch.from_numpy(np.array(a)) for n, a in base.dense.items()}
        masks = {n: torch.from_numpy(np.array(base.mask[n])) for n in base.mask}
        for first in range(0, len(x), BLOCK):
            some = slice(first, first + BLOCK)
            count = len(x[some])
            own = {n: a.expand(count, *a.shape).clone() for n, a in start.items()}
            for at in range(0, x.shape[1], BATCH):
                batch = slice(at, at + BATCH)
                step = self._step(own, x[some, batch], y[some, batch])
                for n, g in step.items():
                    own[n] -= rate * (g * masks[n] if n in masks else g)
            moved = {n: (own[n] - start[n]).numpy() for n in own}
            for i in range(count):
                change = Values(
                    base.mask.digest,
                    {n: moved[n][i][base.mask[n]] for n in base.mask},
                    {n: moved[n][i] for n in base.dense},
                )
                name = f"d{first + i:04}"
                yield Contribution(name, base.mask, x.shape[1], change)

    def accuracy(self, model: Model, pair: Pair) -> float:
        params = {n: torch.from_numpy(model.full(n)) for n in model.mask}
        params |= {n: torch.from_numpy(np.array(a)) for n, a in model.dense.items()}
        with torch.no_grad():
            found = functional_call(self._net, params, (pair[0],)).argmax(1)
        return float((found == pair[1]).float().mean())

    def trained(
        self, density: float, epsilon: float, rate: float, clip: float, seed: int
    ) -> tuple[Model, Pair]:
        """The model after all rounds, and the examples that nobody has."""
        algorithm = load_algorithm("equal-counts-scaled")
        layers = layers_of(self._net)
        found = findings_at_hand(algorithm, self._task, layers, [density], seed)
        at = mask_seed(seed, warm_up=False)
        family = named_slots(algorithm).plan(layers, [density], found, at)
        model = first_model(algorithm, self._task, seed, family, found)
        given = self.data.share(seed)
        noise = noise_for(epsilon, ROUNDS, DELTA) if epsilon else 0.0
        mean = PrivateMean(clip, noise, len(given.inputs), b"bench %d" % seed)
        for no in range(ROUNDS):
            now = rate * 0.1 ** (no / (ROUNDS - 1))
            model, _ = mean(model, self._updates(model, given, now))
        return model, given.held


def network(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of MNIST")
    parser.add_argument("--watch", type=Path, help="seglearn's wheel, in its place")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--until", default="", help="HH:MM (UTC) to stop at")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if (given.data is None) == (given.watch is None):
        parser.error("give --data or --watch")
    data = of_watch(given.watch) if given.watch else of_mnist(given.data)
    trainer = Trainer(data)
    told: dict[str, Any] = {"tuned": {}, "cells": {}}
    if given.json.exists():
        told = json.loads(given.json.read_text())

    def keep() -> None:
        given.json.write_text(json.dumps(told, indent=1))
        if given.until and dt.datetime.now(dt.timezone.utc).strftime("%H:%M") >= (
            given.until
        ):
            raise SystemExit

    for density, rate, clip in itertools.product(DENSITIES, data.rates, data.clips):
        name = f"{density:g} {rate:g} {clip:g}"
        if name not in told["tuned"]:
            began = time.perf_counter()
            model, held = trainer.trained(density, TUNED_AT, rate, clip, TUNING_SEED)
            told["tuned"][name] = trainer.accuracy(model, held)
            print(
                name,
                told["tuned"][name],
                round(time.perf_counter() - began, 1),
                flush=True,
            )
            keep()
    for seed, density, epsilon in itertools.product(
        range(1, given.seeds + 1), DENSITIES, (*EPSILONS, 0.0)
    ):
        name = f"{density:g} {epsilon:g} {seed}"
        if name not in told["cells"]:
            mine = {
                k: v for k, v in told["tuned"].items() if k.split()[0] == f"{density:g}"
            }
            rate, clip = (float(v) for v in max(mine, key=mine.__getitem__).split()[1:])
            model, _ = trainer.trained(density, epsilon, rate, clip, seed)
            told["cells"][name] = trainer.accuracy(model, data.test)
            print(name, rate, clip, told["cells"][name], flush=True)
            keep()


if __name__ == "__main__":
    main()
