"""HeteroFL and FjORD: widths of a network, and what each device trains of it."""

from __future__ import annotations

import numpy as np
import pytest

import coordinator
from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import MaskFamily, RoundContext
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.round_step import first_model, next_step
from edge_sdk.errors import DensityError
from edge_sdk.sparse.units import in_box
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.rules import Frozen, Nested
from edge_sdk.wire.values import Values

TASK = load_task("digits")
MODEL = TASK.model()
LAYERS = with_units(MODEL, layers_of(MODEL, TASK.dense_layers))
DENSITIES = [0.05, 0.2, 0.4]
both = pytest.mark.parametrize("name", ["heterofl", "fjord"])


def family_of(name: str) -> MaskFamily:
    return ALGORITHMS[name].plan(LAYERS, DENSITIES, None, 1)


@both
def test_members_are_widths_whose_weights_are_all_but_whole(name: str) -> None:
    """The largest, too; unstructured masks of .2 would keep a fifth of each box."""
    family = family_of(name)
    assert list(family.masks) == [0.4, 0.2, 0.05]
    total = sum(s.numel for s in LAYERS)
    for density, mask in family.masks.items():
        assert mask.nnz == int(density * total + 1e-9)
        boxes = family.boxes[density]
        room = 0
        for layer in LAYERS:
            cut = in_box(layer, boxes)
            pattern = np.ones(layer.shape, np.bool_) if cut is None else cut
            assert not (mask[layer.name] & ~pattern).any()
            room += int(pattern.sum())
        # One unit more or less of a small network is many weights.
        assert mask.nnz / room > 0.6, (density, mask.nnz / room)
    masks = list(family.masks.values())
    assert masks[2].issubset(masks[1])
    assert masks[1].issubset(masks[0])


@both
def test_a_density_that_no_width_reaches_is_named(name: str) -> None:
    with pytest.raises(DensityError, match="the smallest density is"):
        ALGORITHMS[name].plan(LAYERS, [0.4, 0.001], None, 1)


def changes(family: MaskFamily, model: Model, density: float, value: float) -> Values:
    mask = family.masks[density]
    kept = {n: np.full(k, value, np.float32) for n, k in mask.counts.items()}
    dense = {
        n: np.full(a.shape, value, a.dtype) if a.dtype.kind == "f" else np.zeros_like(a)
        for n, a in model.dense.items()
    }
    return Values(mask.digest, kept, dense)


@both
def test_each_weight_is_the_mean_of_those_who_hold_it(name: str) -> None:
    algorithm, family = ALGORITHMS[name], family_of(name)
    base = first_model(algorithm, TASK, 1, family, None)
    sent = [
        Contribution("a", family.masks[0.2], 3.0, changes(family, base, 0.2, 0.5)),
        Contribution("b", family.masks[0.05], 1.0, changes(family, base, 0.05, 2.0)),
    ]
    after, same, _ = next_step(algorithm, base, family, sent)
    assert same is family
    power = 1.0 if name == "heterofl" else 0.0
    assert base.gain == power
    for layer in LAYERS:
        total = np.zeros(layer.shape)
        weight = np.zeros(layer.shape)
        rows = {
            d: np.maximum(m[layer.name].reshape(layer.shape[0], -1).sum(1), 1)
            for d, m in family.masks.items()
        }
        for density, examples, value in ((0.2, 3.0, 0.5), (0.05, 1.0, 2.0)):
            held = family.masks[density][layer.name]
            # A device's weights are larger by (top inputs / own inputs), as its change.
            factor = (rows[0.4] / rows[density]) ** power
            factor = factor.reshape(-1, *[1] * (len(layer.shape) - 1))
            total += held * examples * value / factor
            weight += held * examples
        before = base.full(layer.name)
        step = np.divide(total, weight, where=weight > 0, out=np.zeros(layer.shape))
        want = (before + step) * family.top[layer.name]
        np.testing.assert_allclose(after.full(layer.name), want, atol=1e-5)
        bare = family.top[layer.name] & (weight == 0)
        assert bare.any() or layer.shape[0] < 16
        np.testing.assert_array_equal(after.full(layer.name)[bare], before[bare])


def test_heterofls_scaler_is_in_what_a_narrower_device_gets() -> None:
    family = family_of("heterofl")
    model = first_model(coordinator.heterofl(), TASK, 1, family, None)
    for density in (0.2, 0.05):
        mask = family.masks[density]
        values = model.on(mask)
        for layer in LAYERS:
            own = mask[layer.name].reshape(layer.shape[0], -1).sum(1)
            top = family.top[layer.name].reshape(layer.shape[0], -1).sum(1)
            spots = mask.within(model.mask, layer.name)
            plain = model.masked[layer.name][spots]
            factor = np.repeat(top / np.maximum(own, 1), own)
            np.testing.assert_allclose(
                values.masked[layer.name], plain * factor, rtol=1e-5
            )


def test_fjord_trains_each_width_up_to_its_own_as_often() -> None:
    local, family = coordinator.fjord().local, family_of("fjord")
    inside = [len(family.members(mask)) for mask in family.masks.values()]
    assert inside == [2, 1, 0]
    found = [local(RoundContext(1, 9, 0.4, n)) for n in inside]
    assert found == [Nested(share=2 / 3), Nested(share=1 / 2), Frozen()]
