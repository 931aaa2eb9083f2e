"""What the user has frozen stays at its start, whatever devices send and masks do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm, keep_masks
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.round_step import first_model, next_step
from edge_sdk.sparse import Mask
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.wire.values import Values

FROZEN = {"0.weight", "0.bias", "2.weight"}


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(),
                          nn.Linear(8, 4))  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in FROZEN)
    return model


def nothing(_: Path) -> Examples:
    raise AssertionError


TASK = Task(name="fixed", model=network, loss=cross_entropy, train_data=nothing,
            eval_data=nothing, input_shape=(12,))  # fmt: skip
LAYERS = layers_of(network())
START = initial_state(TASK, 7)


def findings(family_top: Mask) -> WarmUpResult:
    rng = np.random.default_rng(0)
    warm = Model(
        family_top,
        {n: normal(rng, k) for n, k in family_top.counts.items()},
        {n: a for n, a in START.items() if n not in family_top},
    )
    return WarmUpResult(
        kept={s.name: 0.4 * s.numel for s in LAYERS},
        saliency={s.name: rng.random(s.shape) for s in LAYERS},
        model=warm,
        losses=[0.7, 0.5],
    )


def normal(rng: np.random.Generator, shape: Any) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def hostile(device: str, mask: Mask, model: Model) -> Contribution:
    """A change of everything, the frozen included."""
    rng = np.random.default_rng([*device.encode()])
    change = {n: normal(rng, k) for n, k in mask.counts.items()}
    dense = {n: normal(rng, a.shape) for n, a in model.dense.items()}
    return Contribution(device, mask, 3, Values(mask.digest, change, dense))


def check(model: Model) -> None:
    for name in FROZEN:
        if name in model.dense:
            np.testing.assert_array_equal(model.dense[name], START[name])
        else:
            kept = START[name][model.mask[name]]
            np.testing.assert_array_equal(model.masked[name], kept)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
def test_what_is_frozen_stays_at_its_start_in_every_algorithm(
    algorithm: Algorithm, moved_mask: Callable[[Mask, int], Mask]
) -> None:
    fixed = fixed_weights(TASK, 7)
    assert set(fixed) == FROZEN
    top = Mask({s.name: np.ones(s.shape, np.bool_) for s in LAYERS})
    found = findings(top)
    family = algorithm.plan(LAYERS, [0.5, 0.2], found, 1)
    model = first_model(algorithm, TASK, 7, family, found)
    check(model)
    moves = algorithm.revise is not keep_masks
    for turn in range(3):
        masks = [family.top, list(family.masks.values())[-1]]
        if moves:
            masks.append(moved_mask(family.top, turn))
        sent = [hostile(f"{no}-{turn}", m, model) for no, m in enumerate(masks)]
        after, family, _ = next_step(algorithm, model, family, sent)
        model = with_fixed(after, model, fixed)
        check(model)
        assert not np.array_equal(model.dense["4.bias"], START["4.bias"])


@pytest.fixture
def moved_mask() -> Callable[[Mask, int], Mask]:
    def moved(mask: Mask, seed: int) -> Mask:
        rng = np.random.default_rng(seed)
        return Mask({
            n: rng.permutation(mask[n].reshape(-1)).reshape(mask[n].shape) for n in mask
        })  # fmt: skip

    return moved


def test_without_anything_frozen_a_model_is_left_as_it_is() -> None:
    top = Mask({s.name: np.ones(s.shape, np.bool_) for s in LAYERS})
    model: Any = Model(top, {}, {})
    assert with_fixed(model, model, {}) is model
