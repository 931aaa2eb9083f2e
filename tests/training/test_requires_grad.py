"""What a user's model has with requires_grad = False stays, bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from edge_sdk.errors import TaskError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.memory_limit import EngineName
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.evidence import unpack_evidence
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import (
    Controlled,
    Frozen,
    LocalRule,
    Member,
    Nested,
    OneStep,
    Proximal,
    Regrow,
    Rewire,
    Sandwich,
    Score,
    Swat,
    TopK,
    WarmUp,
)
from edge_sdk.wire.values import (
    Values,
    mask_in,
    pack_values,
    unpack_moved,
    unpack_values,
)

# A masked weight with a trained bias, a norm, one whole layer, and a dense one.
FROZEN = {"0.weight", "1.bias", "3.weight", "3.bias", "4.weight", "4.bias", "7.bias"}
DENSE = frozenset({"7.weight"})


def network(frozen: set[str] = FROZEN) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1),
        nn.Flatten(), nn.Linear(4 * 16, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(40, 1, 4, 4)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 3, size=40))


def task_of(frozen: set[str] = FROZEN) -> Task:
    return Task(
        name="frozen",
        model=partial(network, frozen),
        loss=cross_entropy,
        train_data=examples,
        eval_data=examples,
        input_shape=(1, 4, 4),
        dense_layers=DENSE,
    )


TASK = task_of()
LAYERS = layers_of(network(), DENSE)
RULES: list[LocalRule] = [
    Frozen(), OneStep(), Rewire(prune_rate=0.5), Regrow(share=0.5),
    Swat(density=0.4, sent=0.4), TopK(density=0.3), Proximal(mu=0.5),
    Nested(
        share=0.9,
        members=[Member(exact_counts(uniform(LAYERS), LAYERS, 0.3))],
    ),
    Sandwich(members=[Member(exact_counts(uniform(LAYERS), LAYERS, 0.3))]),
    Controlled(),
]  # fmt: skip


def mask_at(density: float) -> Mask:
    return draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, density), 5)


def base_of(mask: Mask) -> Values:
    state = initial_state(TASK, 1)
    masked = {n: state.pop(n)[mask[n]] for n in mask}
    return Values(mask.digest, masked, state)


def run(
    rule: LocalRule, engine: EngineName = "masked", **training: Any
) -> tuple[Mask, Values, bytes]:
    mask = mask_at(1.0 if isinstance(rule, Swat) else 0.4)
    base = base_of(mask)
    packed = pack_values(base, mask)
    plan: dict[str, Any] = {
        "epochs": 2, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.9,
        "weight_decay": 0.1, "seed": 3,
    } | training  # fmt: skip
    order = TaskOrder(
        id="1-a",
        round_no=1,
        density=mask.density,
        base=manifest_of(packed),
        mask=MaskRecipe(5, dict(mask.counts), mask.digest),
        rule=rule,
        training=Training(**plan),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
    )
    made = TaskRunner(TASK, examples(), engine).run(order, packed, lambda: False)
    return mask, base, made.payload


def held(change: dict[str, NDArray[Any]], frozen: set[str] = FROZEN) -> None:
    """What is frozen did not move at all, and everything else did."""
    for name, moved in change.items():
        if name in frozen:
            assert not moved.any(), name
        elif name.endswith(("weight", "bias")):
            assert moved.any(), name


@pytest.mark.parametrize(
    "training", [{}, {"power": 2.0, "clip": 1.0}], ids=["plain", "power and clip"]
)
@pytest.mark.parametrize("engine", ["masked", "program"])
def test_a_frozen_parameter_does_not_move_on_any_engine(
    engine: EngineName, training: dict[str, Any]
) -> None:
    if engine == "program" and unavailable_reason():
        pytest.skip("no kernels")
    mask, _, payload = run(Frozen(), engine, **training)
    change = unpack_values(payload, mask)
    held({**change.masked, **change.dense})


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_frozen_parameter_does_not_move_under_any_rule(rule: LocalRule) -> None:
    mask, base, payload = run(rule)
    moved, change = mask, None
    if mask_in(payload, LAYERS) is not None:
        moved, change = unpack_moved(payload, mask)
    change = change or unpack_values(payload, moved)
    held({**change.masked, **change.dense})
    if isinstance(rule, Rewire | Regrow):
        for name in mask:  # its mask stays, too: a weight that is dropped is lost
            same = bool((moved[name] == mask[name]).all())
            assert same == (name in FROZEN), name
    assert set(change.dense) == set(base.dense)


def test_the_warm_up_leaves_a_frozen_layers_share_alone() -> None:
    mask, _, payload = run(WarmUp(prune_rate=0.5))
    sizes = {name: mask[name].size for name in mask}
    counts = unpack_evidence(payload, sizes).counts
    assert counts["0.weight"] == mask.counts["0.weight"]
    assert counts["3.weight"] == mask.counts["3.weight"]
    assert sum(counts.values()) == mask.nnz
    assert any(counts[n] != mask.counts[n] for n in counts)


def test_a_frozen_weight_is_scored_by_its_use_not_as_useless() -> None:
    """Else a mask by saliency would empty the layer that may not train."""
    mask, _, payload = run(Score(2))
    scores = unpack_values(payload, mask).masked
    assert scores["3.weight"].max() > 0


def test_a_model_in_which_nothing_trains_is_refused_at_the_door() -> None:
    names = {n for n, _ in network().named_parameters()}
    with pytest.raises(TaskError, match=r"no parameter .* requires_grad") as why:
        TaskRunner(task_of(names), examples(), "masked")
    assert "requires_grad" in why.value.help


def test_buffers_of_a_frozen_norm_are_batch_norms_as_in_torch() -> None:
    """`requires_grad` is about parameters; running statistics follow the data."""
    mask, _, payload = run(Frozen())
    change = unpack_values(payload, mask).dense
    assert change["4.running_mean"].any()
    model = network()
    model.train()
    model(torch.from_numpy(np.array(examples().inputs)))
    assert model[4].running_mean.any()  # type: ignore[union-attr]
