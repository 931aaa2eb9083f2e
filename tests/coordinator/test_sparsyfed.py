"""SparsyFed against plain numpy, cut off in the middle, and what the gate refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from torch import nn

from coordinator.algorithms.base import ANYONE, MaskFamily
from coordinator.algorithms.mean import Contribution, Model
from coordinator.algorithms.methods.pruning.sparsyfed import sparsyfed
from coordinator.rounds.round_step import next_step
from coordinator.rounds.validation import Refusal, check_payload
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.local import Stopped, batches
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import TopK
from edge_sdk.wire.values import Values, pack_values, unpack_moved

Array = NDArray[np.float64]
LAYERS = (LayerShape("0.weight", (3, 5)),)
RNG = np.random.default_rng(8)
INPUTS = RNG.normal(size=(22, 5))
LABELS = np.argmax(INPUTS[:, :3], axis=1)
BETA = 1.25
PLAN = Training(
    epochs=2, batch_size=4, learning_rate=0.3, momentum=0.5, weight_decay=0.01,
    seed=5, power=BETA,
)  # fmt: skip
RULE = TopK(density=0.4, power=BETA)


def examples(_: Path = Path()) -> Examples:
    return Examples(INPUTS.astype(np.float32), LABELS)


TASK = Task(
    name="toy",
    model=lambda: nn.Sequential(nn.Linear(5, 3)),
    loss=nn.functional.cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(5,),
)


def base_on(mask: Mask) -> Values:
    start = np.random.default_rng(1).normal(size=mask.nnz).astype(np.float32)
    return Values(mask.digest, {"0.weight": start}, {"0.bias": np.zeros(3, np.float32)})


def order_on(mask: Mask, base: bytes) -> TaskOrder:
    return TaskOrder(
        id="1-a", round_no=1, density=1.0, base=manifest_of(base),
        mask=MaskRecipe(3, dict(mask.counts), mask.digest), rule=RULE, training=PLAN,
        ttl_ms=1000, shard=0, codec="fp32", moves=True,
    )  # fmt: skip


def dense_training(w: Array, share: float) -> tuple[Array, Array]:
    """Every weight trained as a power, zeros too; backward the largest inputs."""
    theta, b = np.sign(w) * np.abs(w) ** (1 / BETA), np.zeros(3)
    past = {"w": np.zeros_like(theta), "b": np.zeros(3)}
    for _, index in batches(len(INPUTS), PLAN):
        x, y = INPUTS[index], LABELS[index]
        logits = x @ (np.sign(theta) * np.abs(theta) ** BETA).T + b
        slope = np.exp(logits - logits.max(1, keepdims=True))
        slope /= slope.sum(1, keepdims=True)
        slope[np.arange(len(index)), y] -= 1
        slope /= len(index)
        few = x.copy()
        for row in few:
            row[np.argsort(-np.abs(row))[round(share * 5) :]] = 0
        gradient = (slope.T @ few) * BETA * np.abs(theta) ** (BETA - 1)
        past["w"] = 0.5 * past["w"] + gradient + 0.01 * theta
        past["b"] = 0.5 * past["b"] + slope.sum(0) + 0.01 * b
        theta, b = theta - 0.3 * past["w"], b - 0.3 * past["b"]
    return np.sign(theta) * np.abs(theta) ** BETA, b


@pytest.mark.parametrize("kept", [15, 9], ids=["the first round", "a union"])
def test_a_device_trains_the_whole_model_as_published(kept: int) -> None:
    """Training under the mask is training all weights: those that are 0 stay 0."""
    mask = MaskFamily.draw(LAYERS, {0.6: {"0.weight": kept}}, 3).top
    base = base_on(mask)
    packed = pack_values(base, mask)
    found = TaskRunner(TASK, examples(), "masked").run(
        order_on(mask, packed), packed, lambda: False
    )
    moved, change = unpack_moved(found.payload, mask)
    w = np.zeros((3, 5))
    w[mask["0.weight"]] = base.masked["0.weight"]
    after, b = dense_training(w, kept / 15)
    assert not after[~mask["0.weight"]].any()
    largest = np.sort(np.abs(after).reshape(-1))[-6:]
    assert moved.nnz == 6  # .4 of 15
    got = w[moved["0.weight"]] + change.masked["0.weight"]
    np.testing.assert_allclose(np.sort(np.abs(got)), largest, rtol=1e-4)
    np.testing.assert_allclose(got, after[moved["0.weight"]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(change.dense["0.bias"], b, rtol=1e-4, atol=1e-6)


def test_the_server_averages_zeros_in_and_keeps_the_union() -> None:
    algorithm = sparsyfed()
    family = algorithm.plan(LAYERS, [0.4], None, 1)
    ones = np.ones(15, np.float32)
    model = Model(family.top, {"0.weight": ones}, {"0.bias": np.zeros(3, np.float32)})
    sent = []
    for device, seed in (("a", 1), ("b", 2)):
        mask = MaskFamily.draw(LAYERS, {0.4: {"0.weight": 6}}, seed).top
        change = {"0.weight": np.arange(1, 7, dtype=np.float32)}
        dense = {"0.bias": np.zeros(3, np.float32)}
        sent.append(Contribution(device, mask, 1.0, Values(mask.digest, change, dense)))
    after, masks, _ = next_step(algorithm, model, family, sent)
    whole = np.zeros((3, 5))
    for one in sent:
        whole[one.mask["0.weight"]] += (1 + one.change.masked["0.weight"]) / 2
    np.testing.assert_allclose(after.full("0.weight"), whole)
    union = masks.own[ANYONE]
    assert (union["0.weight"] == (whole != 0)).all()
    assert masks.of("anybody", 1.0) is union
    deployed = masks.masks[0.4]
    assert deployed.nnz == 6
    assert np.abs(whole[deployed["0.weight"]]).min() >= np.sort(whole.reshape(-1))[-6]


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_device_killed_in_its_task_sends_the_same_bytes(
    tmp_path: Path, steps: int
) -> None:
    mask = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}}, 3).top
    packed = pack_values(base_on(mask), mask)
    order = order_on(mask, packed)
    whole = TaskRunner(TASK, examples(), "masked").run(order, packed, lambda: False)
    place = Progress(tmp_path, every_s=0.0)
    left = iter(range(steps))
    with pytest.raises(Stopped):
        TaskRunner(TASK, examples(), "masked", progress=place).run(
            order, packed, lambda: next(left, None) is None
        )
    assert place.path.exists()
    again = TaskRunner(TASK, examples(), "masked", progress=place).run(
        order, packed, lambda: False
    )
    assert again.payload == whole.payload


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[1, 1, 1, 1, 1], [0] * 5, [0, 0, 0, 0, 1]], "leaves 0 of 5"),
        ([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], "keeps 5"),
    ],
)
def test_the_gate_refuses_what_the_rule_cannot_give(rows: Any, why: str) -> None:
    layers = tuple(LayerShape(f"{n}.weight", (1, 5)) for n in range(3))
    mask = Mask.full(layers)
    base = Values(mask.digest, {n: np.zeros(5, np.float32) for n in mask}, {})
    order = structs.replace(
        order_on(mask, pack_values(base, mask)), rule=TopK(density=0.4)
    )
    moved = Mask({n: np.array([row], bool) for n, row in zip(mask, rows, strict=True)})
    kept = {n: np.ones(k, np.float32) for n, k in moved.counts.items()}
    payload = pack_values(Values(moved.digest, kept, {}), moved, structure=True)
    found = check_payload(payload, order, mask, {}, examples=5)
    assert isinstance(found, Refusal)
    assert why in found.why


@pytest.mark.parametrize("power", [1.0, 0.5, 9.0])
def test_a_power_under_which_zeros_would_move_is_refused(power: float) -> None:
    with pytest.raises(SettingsError, match="above 1"):
        sparsyfed(power=power)
