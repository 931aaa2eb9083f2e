"""Batches on smaller members of a family, against plain numpy, on both engines."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from program_models import on_program
from torch import nn

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.initial_weights import grown_from_the_smallest
from coordinator.algorithms.mask_family import MaskFamily
from coordinator.algorithms.mean import Contribution, Model
from coordinator.algorithms.unit_masks import by_units
from coordinator.rounds.blobs import publish_blobs
from coordinator.rounds.round_step import next_step
from coordinator.rounds.tasks import order_for
from coordinator.settings import RunSettings
from edge_sdk.errors import MaskMismatchError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import LayerShape, draw, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Backward, Stopped, batches, train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.rules.inner_network import InnerNetwork
from edge_sdk.training.rules.nested import (
    drawn_member,
    member_masks,
    one_member,
    sandwich,
)
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import TaskOrder, Training
from edge_sdk.wire.rules import Frozen, Member, Sandwich
from edge_sdk.wire.values import Values

Array = NDArray[np.float64]
RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(24, 8)), RNG.integers(0, 3, size=24)
LAYER = LayerShape("0.weight", (3, 8))
SEED = 5
OWN = draw((LAYER,), {"0.weight": 20}, SEED)
MEMBERS = [Member({"0.weight": 12}), Member({"0.weight": 6}, {"0.weight": (3, 4)})]
SHARE = 0.6
INNER = [draw((LAYER,), m.counts, SEED, m.boxes)["0.weight"] for m in MEMBERS]
MASK = OWN["0.weight"]
W, B = RNG.normal(size=(3, 8)) * MASK, RNG.normal(size=3)
engines = pytest.mark.parametrize("engine", ["masked", "program"])


def examples(_: Path = Path()) -> Examples:
    return Examples(X.astype(np.float32), Y)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 3))


def task_of(make: Any = network) -> Task:
    return Task(
        name="toy",
        model=make,
        loss=nn.functional.cross_entropy,
        train_data=examples,
        eval_data=examples,
        input_shape=(8,),
    )


TASK = task_of()


def loaded(engine: str) -> TrainingModel:
    if engine == "program":
        if reason := unavailable_reason():
            pytest.skip(reason)
        few = X.astype(np.float32), Y
        model: TrainingModel = on_program(network(), OWN, *few)
    else:
        model = masked_model(network(), OWN)
    model.load(
        {"0.weight": W[MASK].astype(np.float32)}, {"0.bias": B.astype(np.float32)}
    )
    return model


def ways(seed: int = 3) -> dict[str, Backward]:
    masks = member_masks(MEMBERS, OWN, (LAYER,), SEED)
    inner = [InnerNetwork(mask, OWN) for mask in masks]
    return {
        "nested": partial(one_member, SHARE, inner, seed),
        "sandwich": partial(sandwich, inner),
    }


def gradients(w: Array, b: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
    """Of the mean cross-entropy over these examples, for the weights as they are."""
    logits = X[index] @ w.T + b
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(index)), Y[index]] -= 1
    share /= len(index)
    return share.T @ X[index], share.sum(0)


@engines
@pytest.mark.parametrize("way", ["nested", "sandwich"])
def test_batches_train_the_members_against_plain_numpy(engine: str, way: str) -> None:
    plan = Training(epochs=6, batch_size=8, learning_rate=0.2, momentum=0.5, seed=3)
    model = loaded(engine)
    train(model, TASK, examples(), plan, backward=ways()[way])
    w, b, steps = W.copy(), B.copy(), count()
    speed_w, speed_b = np.zeros_like(w), np.zeros_like(b)
    networks = [MASK, *INNER]  # the largest first
    taken = set()
    for _, index in batches(24, plan):
        chosen = networks
        if way == "nested":
            member = drawn_member(SHARE, 2, plan.seed, next(steps))
            chosen = [MASK if member is None else INNER[member]]
            taken.add(member)
        slope_w = np.zeros_like(w)
        for held in chosen:  # a smaller one's replace those of a larger
            inside, slope_b = gradients(w * held, b, index)
            slope_w[held] = inside[held]
        speed_w, speed_b = 0.5 * speed_w + slope_w, 0.5 * speed_b + slope_b
        w, b = w - 0.2 * speed_w, b - 0.2 * speed_b
    assert way == "sandwich" or taken == {None, 0, 1}
    assert np.allclose(model.values()["0.weight"], w[MASK], atol=2e-5)
    assert np.allclose(model.dense()["0.bias"], b, atol=2e-5)


def test_the_smallest_member_learns_as_if_there_were_no_larger_network() -> None:
    """By `sandwich`, its values end as those of a device that holds it alone."""
    plan = Training(epochs=3, batch_size=8, learning_rate=0.2, momentum=0.9, seed=3)
    large = loaded("masked")
    train(large, TASK, examples(), plan, backward=ways()["sandwich"])
    inner = draw((LAYER,), MEMBERS[-1].counts, SEED, MEMBERS[-1].boxes)
    small = masked_model(network(), inner)
    small.load(
        {"0.weight": W[INNER[-1]].astype(np.float32)}, {"0.bias": B.astype(np.float32)}
    )
    train(small, TASK, examples(), plan)
    shared = large.values()["0.weight"][inner.within(OWN, "0.weight")]
    assert np.allclose(shared, small.values()["0.weight"], atol=1e-6)
    assert np.allclose(large.dense()["0.bias"], small.dense()["0.bias"], atol=1e-6)


def test_the_share_is_kept_and_members_take_turns() -> None:
    taken = [drawn_member(SHARE, 2, 3, step) for step in range(4000)]
    assert abs(sum(m is not None for m in taken) / 4000 - SHARE) < 0.03
    assert abs(taken.count(0) - taken.count(1)) < 200
    assert taken != [drawn_member(SHARE, 2, 4, step) for step in range(4000)]


@engines
@pytest.mark.parametrize("way", ["nested", "sandwich"])
def test_a_reboot_goes_on_with_the_same_members(
    engine: str, way: str, tmp_path: Path
) -> None:
    plan = Training(epochs=4, batch_size=4, learning_rate=0.2, momentum=0.9, seed=9)
    backward = ways(9)[way]
    whole = loaded(engine)
    train(whole, TASK, examples(), plan, backward=backward)
    progress = Progress(tmp_path, every_s=0.0)
    left = iter([False] * 7 + [True])
    cut = loaded(engine)
    with pytest.raises(Stopped):
        train(
            cut, TASK, examples(), plan, backward=backward,
            stop=lambda: next(left), progress=progress.of("t", engine),
        )  # fmt: skip
    again = loaded(engine)
    train(
        again, TASK, examples(), plan, backward=backward,
        progress=progress.of("t", engine),
    )  # fmt: skip
    assert np.array_equal(again.values()["0.weight"], whole.values()["0.weight"])
    assert np.array_equal(again.dense()["0.bias"], whole.dense()["0.bias"])


def test_norm_statistics_are_those_of_the_own_network() -> None:
    both, plan = np.arange(8), Training(1, 8, 0.1)

    def normed() -> TrainingModel:
        torch.manual_seed(1)
        return masked_model(nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)), OWN)

    alone, beside = normed(), normed()
    alone.session(TASK, examples(), plan).backward(both)
    ways()["sandwich"](beside.session(TASK, examples(), plan), 0, both)
    for name, value in alone.dense().items():
        assert np.array_equal(beside.dense()[name], value), name
    member = next(s for s in count() if drawn_member(SHARE, 2, 3, s) is not None)
    before = beside.dense()
    ways()["nested"](beside.session(TASK, examples(), plan), member, both)
    assert all(np.array_equal(beside.dense()[n], a) for n, a in before.items())


@engines
def test_a_rate_of_zero_moves_norm_statistics_alone(engine: str) -> None:
    parts = nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
    if engine == "program":
        if reason := unavailable_reason():
            pytest.skip(reason)
        net = nn.Sequential(*parts)
        model: TrainingModel = on_program(net, OWN, X.astype(np.float32), Y)
    else:
        model = masked_model(nn.Sequential(*parts), OWN)
    before, kept = model.dense(), model.values()["0.weight"].copy()
    before = {n: a.copy() for n, a in before.items()}
    plan = Training(4, 8, 0.0, momentum=0.9, weight_decay=0.1)
    train(model, TASK, examples(), plan)
    after = model.dense()
    assert model.values()["0.weight"].tobytes() == kept.tobytes()
    moved = {n for n in after if not np.array_equal(after[n], before[n])}
    assert moved == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@engines
def test_with_batch_norm_a_value_takes_the_sum_of_all_networks(engine: str) -> None:
    both, plan = np.arange(8), Training(1, 8, 0.1)
    parts = nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
    if engine == "program":
        if reason := unavailable_reason():
            pytest.skip(reason)
        net = nn.Sequential(*deepcopy(parts))
        model: TrainingModel = on_program(net, OWN, X.astype(np.float32), Y)
    else:
        model = masked_model(nn.Sequential(*deepcopy(parts)), OWN)
    session = model.session(TASK, examples(), plan)
    weight = model.values()["0.weight"].copy()
    ways()["sandwich"](session, 0, both)
    wanted: dict[str, Array] = {}
    for held in (MASK, *INNER):
        alone = nn.Sequential(*deepcopy(parts))
        whole = np.zeros(MASK.shape, np.float32)
        whole[MASK] = weight
        entries = {n: torch.from_numpy(np.array(a)) for n, a in model.dense().items()}
        entries["0.weight"] = torch.from_numpy(whole * held)
        alone.load_state_dict(entries)
        inputs, targets = torch.from_numpy(X[both].astype(np.float32)), Y[both]
        loss = nn.functional.cross_entropy(alone(inputs), torch.from_numpy(targets))
        loss.backward()
        for name, parameter in alone.named_parameters():
            assert parameter.grad is not None
            slope = parameter.grad.numpy().astype(np.float64)
            slope = slope[MASK] * held[MASK] if name == "0.weight" else slope
            wanted[name] = wanted.get(name, 0.0) + slope
    for name, found in session.gradients().items():
        assert np.allclose(found, wanted[name], atol=2e-5), name


@pytest.mark.parametrize("way", ["nested", "sandwich"])
def test_values_are_put_back_when_a_batch_breaks(way: str) -> None:
    model = loaded("masked")
    step = next(s for s in count() if drawn_member(SHARE, 2, 3, s) is not None)
    before = model.values()["0.weight"]
    session = model.session(TASK, examples(), Training(1, 8, 0.1))
    with pytest.raises(IndexError):
        ways()[way](session, step, np.array([10_000]))
    assert np.array_equal(model.values()["0.weight"], before)


def test_a_member_outside_the_mask_is_refused() -> None:
    small = draw((LAYER,), {"0.weight": 6}, SEED)
    with pytest.raises(MaskMismatchError, match="not inside its mask"):
        member_masks(MEMBERS, small, (LAYER,), SEED)


def family_of(gain: float = 0.0) -> tuple[MaskFamily, Model]:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    layers = with_units(net, layers_of(net))
    family = by_units(uniform(layers), layers, (0.8, 0.4, 0.2), SEED)
    state = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    top = family.top
    masked = {n: state[n][top[n]] for n in top}
    dense = {n: a for n, a in state.items() if n not in top.layers}
    return family, Model(top, masked, dense, gain=gain)


def order_of(density: float) -> TaskOrder:
    family, model = family_of()
    named = publish_blobs(
        lambda content, _: manifest_of(content), 1, model, family,
        {"a": family.masks[density]}, {"a": "fp32"},
    )["a"]  # fmt: skip
    settings = RunSettings(
        federation="f",
        task="digits",
        evaluation="x",
        densities=[0.2, 0.4, 0.8],
        rounds=2,
    )
    return order_for(
        "a", named, epoch=1, round_no=1, place=1, density=density,
        algorithm=ALGORITHMS["flash-edge"], settings=settings, batch_size=4, ttl_s=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(("density", "inner"), [(0.8, 2), (0.4, 1), (0.2, 0)])
def test_an_order_names_the_members_inside_its_own_mask(
    density: float, inner: int
) -> None:
    family, _ = family_of()
    order = unpack(pack(order_of(density)), TaskOrder)
    rule = order.rule
    if not inner:
        assert rule == Frozen()
        return
    assert isinstance(rule, Sandwich)
    masks = [draw(family.layers, m.counts, SEED, m.boxes) for m in rule.members]
    smaller = [m for d, m in family.masks.items() if d < density]
    assert [m.digest for m in masks] == [m.digest for m in smaller]


def test_what_a_device_of_each_density_trains_is_what_is_deployed() -> None:
    """`Model.on` is the one place where a gain is put in, and the step undoes it."""
    family, model = family_of(gain=0.5)
    for density, mask in family.masks.items():
        deployed = model.on(mask)
        for name in mask:
            rows = mask[name].sum(1), model.mask[name].sum(1)
            gain = np.sqrt(rows[1] / np.maximum(rows[0], 1))
            full = model.full(name) * gain[:, None]
            assert np.allclose(deployed.masked[name], full[mask[name]])
        change = Values(
            mask.digest,
            {n: np.ones_like(v) for n, v in deployed.masked.items()},
            {n: np.zeros_like(a) for n, a in deployed.dense.items()},
        )
        one = Contribution("a", mask, 1.0, change)
        after, _, _ = next_step(ALGORITHMS["heterofl"], model, family, [one])
        moved = after.on(mask)
        for name in mask:
            assert np.allclose(
                moved.masked[name] - deployed.masked[name], 1.0, atol=1e-5
            ), density


def test_a_member_of_an_order_is_the_model_that_its_device_gets() -> None:
    family, model = family_of()
    order = order_of(0.8)
    assert isinstance(order.rule, Sandwich)
    members = order.rule.members
    inner = member_masks(members, family.top, family.layers, SEED)
    for held, mask in zip(inner, list(family.masks.values())[1:], strict=True):
        weak, places = model.on(mask), InnerNetwork(held, family.top).places
        for name in mask:
            assert np.array_equal(model.masked[name][places[name]], weak.masked[name])


def test_a_runs_first_models_are_one_function() -> None:
    """A unit of a larger network reads as it is made; nobody listens to it yet."""
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    family, _ = family_of()
    state = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    first = grown_from_the_smallest(family, state, None)
    outputs = []
    for mask in family.masks.values():
        values = first.on(mask)
        whole = {n: np.zeros(state[n].shape, np.float32) for n in mask}
        for name in mask:
            whole[name][mask[name]] = values.masked[name]
        net.load_state_dict(
            {
                n: torch.from_numpy(np.array(a))
                for n, a in (values.dense | whole).items()
            }
        )
        outputs.append(net(torch.from_numpy(X.astype(np.float32))).detach())
    assert all(torch.allclose(outputs[0], o, atol=1e-6) for o in outputs[1:])
    grown = first.full("0.weight").any(1).sum()  # units of the top have weights
    assert grown == np.count_nonzero(family.top["0.weight"].any(1))
