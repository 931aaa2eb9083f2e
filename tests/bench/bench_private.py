"""Accuracy against epsilon, dense against sparse masks, at delta 1e-5.

    python tests/bench/bench_private.py --data MNIST --json bench/private.json

MNIST (four idx files in one folder), its images averaged to 14 x 14, shared out by
chance: 1,000 devices of 10 examples each, an MLP of 196-32-10, all devices in each of
10 rounds, two local steps of 5 examples. Masks, first weights (`equal-counts-scaled`),
clip, noise, division and accountant are the product's own; devices are trained side by
side by `torch.func` in place of by agents, with plain SGD, and updates are not
quantised. Learning rate and clip of each density are chosen at epsilon 4 on a seed of
their own, by 5,000 training examples that no device has; epsilon does not count that
choice. Each cell is written when it is done,
and the same command goes on.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import time
from collections.abc import Iterator
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
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.wire.values import Values

DEVICES, EACH, BATCH, ROUNDS, DELTA = 1000, 10, 5, 10, 1e-5
HELD, BLOCK, INPUTS, HIDDEN = 5000, 200, 196, 32
EPSILONS, DENSITIES = (8.0, 4.0, 2.0, 1.0), (1.0, 0.2, 0.1, 0.05, 0.02)
RATES, CLIPS, TUNED_AT, TUNING_SEED = (1.0, 3.0), (1.0, 2.0), 4.0, 100
Arrays = dict[str, torch.Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def nothing(_: Path) -> Examples:
    raise NotImplementedError


TASK = Task(
    name="private-mnist", model=network, loss=nn.functional.cross_entropy,
    train_data=nothing, eval_data=nothing, input_shape=(INPUTS,),
)  # fmt: skip
NET = network()


def loss(params: Arrays, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(functional_call(NET, params, (x,)), y)


STEP = vmap(grad(loss))


def prepared(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    fours = examples.inputs.reshape(-1, 14, 2, 14, 2).astype(np.float32)
    share = fours.mean((2, 4)).reshape(len(fours), INPUTS) / np.float32(255)
    return torch.from_numpy((share - 0.1307) / 0.3081), torch.from_numpy(
        examples.targets.astype(np.int64)
    )


def updates(
    base: Model, x: torch.Tensor, y: torch.Tensor, rate: float
) -> Iterator[Contribution]:
    """What all devices of a round send; x is (devices, examples, 196)."""
    start = {n: torch.from_numpy(base.full(n)) for n in base.mask}
    start |= {n: torch.from_numpy(np.array(a)) for n, a in base.dense.items()}
    masks = {n: torch.from_numpy(np.array(base.mask[n])) for n in base.mask}
    for first in range(0, len(x), BLOCK):
        some = slice(first, first + BLOCK)
        count = len(x[some])
        own = {n: a.expand(count, *a.shape).clone() for n, a in start.items()}
        for at in range(0, x.shape[1], BATCH):
            step = STEP(own, x[some, at : at + BATCH], y[some, at : at + BATCH])
            for n, g in step.items():
                own[n] -= rate * (g * masks[n] if n in masks else g)
        moved = {n: (own[n] - start[n]).numpy() for n in own}
        for i in range(count):
            change = Values(
                base.mask.digest,
                {n: moved[n][i][base.mask[n]] for n in base.mask},
                {n: moved[n][i] for n in base.dense},
            )
            yield Contribution(f"d{first + i:04}", base.mask, EACH, change)


def accuracy(model: Model, x: torch.Tensor, y: torch.Tensor) -> float:
    params = {n: torch.from_numpy(model.full(n)) for n in model.mask}
    params |= {n: torch.from_numpy(np.array(a)) for n, a in model.dense.items()}
    with torch.no_grad():
        return float((functional_call(NET, params, (x,)).argmax(1) == y).float().mean())


def trained(
    data: tuple[torch.Tensor, torch.Tensor],
    density: float, epsilon: float, rate: float, clip: float, seed: int,
) -> tuple[Model, torch.Tensor]:  # fmt: skip
    """The model after all rounds, and the places of the examples that nobody has."""
    algorithm = load_algorithm("equal-counts-scaled")
    layers = layers_of(NET)
    found = findings_at_hand(algorithm, TASK, layers, [density], seed)
    at = mask_seed(seed, warm_up=False)
    family = named_slots(algorithm).plan(layers, [density], found, at)
    model = first_model(algorithm, TASK, seed, family, found)
    places = torch.from_numpy(np.random.default_rng(seed).permutation(len(data[0])))
    held, given = places[:HELD], places[HELD:][: DEVICES * EACH]
    x = data[0][given].reshape(DEVICES, EACH, -1)
    y = data[1][given].reshape(DEVICES, EACH)
    noise = noise_for(epsilon, ROUNDS, DELTA) if epsilon else 0.0
    mean = PrivateMean(clip, noise, DEVICES, b"bench %d" % seed)
    for no in range(ROUNDS):
        now = rate * 0.1 ** (no / (ROUNDS - 1))
        model, _ = mean(model, updates(model, x, y, now))
    return model, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--until", default="", help="HH:MM (UTC) to stop at")
    given = parser.parse_args()
    torch.set_num_threads(1)
    (train, test) = (prepared(part) for part in load_idx_folder(given.data))
    told: dict[str, Any] = {"tuned": {}, "cells": {}}
    if given.json.exists():
        told = json.loads(given.json.read_text())

    def keep() -> None:
        given.json.write_text(json.dumps(told, indent=1))
        if given.until and dt.datetime.now(dt.timezone.utc).strftime("%H:%M") >= (
            given.until
        ):
            raise SystemExit

    for density, rate, clip in itertools.product(DENSITIES, RATES, CLIPS):
        name = f"{density:g} {rate:g} {clip:g}"
        if name not in told["tuned"]:
            began = time.perf_counter()
            model, held = trained(train, density, TUNED_AT, rate, clip, TUNING_SEED)
            told["tuned"][name] = accuracy(model, train[0][held], train[1][held])
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
            model, _ = trained(train, density, epsilon, rate, clip, seed)
            told["cells"][name] = accuracy(model, *test)
            print(name, rate, clip, told["cells"][name], flush=True)
            keep()


if __name__ == "__main__":
    main()
