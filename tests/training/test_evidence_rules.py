"""Gradients beside an update, and losses of candidate masks, against plain torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn

from coordinator.rounds.validation import Refusal, check_offer, check_payload
from edge_sdk.sparse import Mask, candidate_counts, draw, exact_counts, top_k, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.local import Stopped, batches
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.evidence import (
    GRADIENT,
    Evidence,
    block_of,
    pack_evidence,
    unpack_evidence,
)
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import CandidateLosses, Frozen, LocalRule, Measured
from edge_sdk.wire.values import Values, pack_values, unpack_values

RNG = np.random.default_rng(1)
INPUTS = RNG.normal(size=(24, 1, 6, 6)).astype(np.float32)
EXAMPLES = Examples(INPUTS, RNG.integers(0, 3, size=24))
PLAN = Training(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9, seed=5)


def network(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout),
        nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


TASK = Task(
    name="t",
    model=network,
    loss=nn.functional.cross_entropy,
    train_data=lambda _: EXAMPLES,
    eval_data=lambda _: EXAMPLES,
    input_shape=(1, 6, 6),
)
DROPOUT = replace(TASK, model=lambda: network(0.2))
LAYERS = layers_of(network(), frozenset())


def base_on(mask: Mask) -> Values:
    state = initial_state(TASK, 1)
    masked = {n: state.pop(n)[mask[n]] for n in mask}
    return Values(mask.digest, masked, state)


def order_for(rule: LocalRule, mask: Mask, base: bytes) -> TaskOrder:
    return TaskOrder(
        id="1-a", round_no=1, density=mask.density, base=manifest_of(base),
        mask=MaskRecipe(5, dict(mask.counts), mask.digest), rule=rule, training=PLAN,
        ttl_ms=1000, shard=0, codec="fp32",
    )  # fmt: skip


def carried_out(
    rule: LocalRule, density: float = 0.4, task: Task = TASK, **parts: Any
) -> Any:
    mask = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, density), 5)
    packed = pack_values(base_on(mask), mask)
    torch.manual_seed(9)  # dropout's
    runner = TaskRunner(task, EXAMPLES, "masked", **parts)
    order = order_for(rule, mask, packed)
    return order, mask, runner.run(order, packed, lambda: False)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("block", [0, 1])
def test_the_gradients_are_those_of_the_dense_base_and_training_is_as_ever(
    squared: bool, block: int
) -> None:
    rule = Measured(batches=2, squared=squared, block=block, blocks=2)
    order, mask, made = carried_out(rule)
    found = unpack_values(made.payload, mask)
    plain = unpack_values(carried_out(Frozen())[2].payload, mask)
    for name, values in plain.masked.items():
        np.testing.assert_array_equal(found.masked[name], values)
    assert made.offer.norm == pytest.approx(plain.norm())

    module, start = network(), base_on(mask)
    state = {n: torch.from_numpy(np.array(a)) for n, a in start.dense.items()}
    for name in mask:
        whole = np.zeros(mask[name].shape, np.float32)
        whole[mask[name]] = start.masked[name]
        state[name] = torch.from_numpy(whole)
    wanted = {n: np.zeros(mask[n].shape) for n in block_of(rule, list(mask))}
    assert set(wanted) == set(list(mask)[2:] if block else list(mask)[:2])
    module.load_state_dict(state)
    for _, index in list(batches(len(EXAMPLES), PLAN))[:2]:
        module.zero_grad()
        out = module(torch.from_numpy(INPUTS[index]))
        targets = torch.from_numpy(np.asarray(EXAMPLES.targets[index]))
        nn.functional.cross_entropy(out, targets).backward()
        for name, total in wanted.items():
            slope = module.get_parameter(name).grad
            assert slope is not None
            total[:] += slope.numpy() ** 2 / 2 if squared else slope.numpy() / 2
    assert {n for n in found.dense if n.startswith(".")} == {
        f"{GRADIENT}{n}" for n in wanted
    }
    for name, total in wanted.items():
        got = found.dense[f"{GRADIENT}{name}"]
        assert got.shape == total.shape
        assert np.count_nonzero(got[~mask[name]])  # of weights that are not kept, too
        np.testing.assert_allclose(got, total, rtol=1e-3, atol=1e-6)
    checked = check_payload(
        made.payload, order, mask, start.dense, examples=len(EXAMPLES)
    )
    assert isinstance(checked, Values)
    sizes = {n: mask[n].size for n in mask}
    told = {"max_examples": 24, "dense": start.dense, "sizes": sizes}
    assert check_offer(made.offer, order, **told) is None
    assert check_offer(
        structs.replace(made.offer, manifest=manifest_of(bytes(200_000))), order, **told
    )


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_device_killed_in_its_task_sends_the_same_bytes(
    tmp_path: Path, steps: int
) -> None:
    rule = Measured(batches=2, squared=True)
    order, mask, whole = carried_out(rule, task=DROPOUT)
    packed, place = pack_values(base_on(mask), mask), Progress(tmp_path, every_s=0.0)
    left = iter(range(steps))
    torch.manual_seed(9)
    with pytest.raises(Stopped):
        TaskRunner(DROPOUT, EXAMPLES, "masked", progress=place).run(
            order, packed, lambda: next(left, None) is None
        )
    again = carried_out(rule, task=DROPOUT, progress=place)[2]
    assert again.payload == whole.payload


def spoiled(change: Values, **entries: Any) -> Values:
    dense = {**change.dense, **entries}
    kept = {n: a for n, a in dense.items() if a is not None}
    return Values(change.mask_digest, change.masked, kept)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (None, "names other entries"),
        (np.zeros((2, 2), np.float32), "another shape"),
        (np.full((3, 16), -1.0, np.float32), "below 0"),
        (np.zeros((3, 16), np.int64), "another shape or type"),
    ],
)
def test_the_gate_refuses_gradients_that_cannot_be(wrong: Any, why: str) -> None:
    rule = Measured(squared=True, block=1, blocks=2)
    order, mask, made = carried_out(rule)
    change = unpack_values(made.payload, mask)
    payload = pack_values(spoiled(change, **{".gradient.6.weight": wrong}), mask)
    found = check_payload(payload, order, mask, base_on(mask).dense, examples=24)
    assert isinstance(found, Refusal)
    assert why in found.why


def test_a_candidates_loss_is_that_of_its_mask_on_its_own_statistics() -> None:
    rule = CandidateLosses(count=3, density=0.4, spread=0.5, seed=7, batches=2)
    mask = Mask.full(LAYERS)
    packed = pack_values(base_on(mask), mask)
    order = order_for(rule, mask, packed)
    made = TaskRunner(TASK, EXAMPLES, "masked").run(order, packed, lambda: False)
    found = unpack_evidence(made.payload, {}, candidates=3)
    state = initial_state(TASK, 1)
    index = [i for _, i in batches(len(EXAMPLES), PLAN)][:2]
    for kept, loss in zip(
        candidate_counts(LAYERS, 0.4, 3, 0.5, 7), found.losses, strict=True
    ):
        module = network()
        thin = {
            n: w * top_k(np.abs(w), kept[n], f"7 {n}") if n in kept else w
            for n, w in state.items()
        }
        module.load_state_dict(
            {n: torch.from_numpy(np.array(a)) for n, a in thin.items()}
        )
        norm = module.get_submodule("1")
        assert isinstance(norm, nn.BatchNorm2d)
        module.eval()
        conv = module.get_submodule("0")
        seen = [conv(torch.from_numpy(INPUTS[i])).detach() for i in index]
        means = [s.mean((0, 2, 3)) for s in seen]
        spreads = [s.transpose(0, 1).reshape(4, -1).var(1) for s in seen]
        norm.running_mean, norm.running_var = sum(means) / 2, sum(spreads) / 2  # type: ignore[assignment]
        total = 0.0
        for i in index:
            out = module(torch.from_numpy(INPUTS[i]))
            targets = torch.from_numpy(np.asarray(EXAMPLES.targets[i]))
            total += nn.functional.cross_entropy(out, targets).item()
        assert loss == pytest.approx(total / 2, rel=1e-5)
    assert len(set(found.losses)) == 3
    checked = check_payload(made.payload, order, mask, {}, examples=24)
    assert isinstance(checked, Evidence)
    for losses in ((1.0, 2.0), (1.0, 2.0, float("nan")), ()):
        told = pack_evidence(Evidence({}, losses))
        assert isinstance(check_payload(told, order, mask, {}, examples=24), Refusal)


def test_evidence_of_0_1_0_reads_as_before() -> None:
    """A warm-up's payload has the bytes that it had: losses are left out."""
    payload = pack_evidence(Evidence({"a": 3}))
    assert b"losses" not in payload
    assert unpack_evidence(payload, {"a": 4}).counts == {"a": 3}
