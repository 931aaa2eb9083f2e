"""Masks by units: exact, nested, drawn from numbers on either side."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from coordinator.algorithms.trimmed_mean import trimmed_mean
from coordinator.algorithms.unit_masks import by_units
from coordinator.rounds.round_step import next_step
from edge_sdk.errors import DensityError, MaskMismatchError, SparsityError
from edge_sdk.sparse import LayerShape, Units, draw, erk, nested_counts, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import MaskRecipe
from edge_sdk.wire.recipe import mask_of
from edge_sdk.wire.values import Values
from edge_sdk.zoo import ImuNet, KeywordNet
from edge_sdk.zoo.small import DigitsNet, MnistNet

DENSITIES = (0.2, 0.1, 0.05)
NETS = [
    (DigitsNet, {"conv1.weight", "fc2.weight"}),
    (MnistNet, {"conv1.weight", "fc2.weight"}),
    (ImuNet, set()),
    (KeywordNet, {"conv1.weight", "fc.weight"}),
]


def layers_for(net: type, dense: set[str]) -> tuple[LayerShape, ...]:
    model = net()
    return with_units(model, layers_of(model, frozenset(dense)))


def equal(layers: tuple[LayerShape, ...]) -> NDArray[np.float64]:
    return np.array([1 / s.numel for s in layers])


@pytest.mark.parametrize("profile", [uniform, erk, equal])
@pytest.mark.parametrize(("net", "dense"), NETS)
def test_counts_are_exact_and_masks_nest(net, dense, profile) -> None:
    layers = layers_for(net, dense)
    family = by_units(profile(layers), layers, DENSITIES, 7)
    size = sum(s.numel for s in layers)
    for density, mask in family.masks.items():
        assert mask.nnz == int(density * size + 1e-9)
    for larger, smaller in pairwise(family.masks.values()):
        assert smaller.issubset(larger)
    assert family.boxes.keys() == {0.1, 0.05}


@pytest.mark.parametrize(("net", "dense"), NETS)
def test_a_device_draws_the_same_mask_from_the_recipe(net, dense) -> None:
    layers = layers_for(net, dense)
    family = by_units(uniform(layers), layers, DENSITIES, 7)
    plain = layers_of(net(), frozenset(dense))  # a device knows of no units
    for mask in family.masks.values():
        recipe = unpack(pack(family.recipe(mask)), MaskRecipe)
        assert mask_of(recipe, plain).digest == recipe.digest == mask.digest
        assert recipe.structure is None


def test_a_recipe_without_boxes_has_the_bytes_it_had() -> None:
    assert b"boxes" not in pack(MaskRecipe(1, {"a": 2}, bytes(32)))


def test_what_is_written_down_gives_the_family_again() -> None:
    layers = layers_for(*NETS[0])
    family = by_units(uniform(layers), layers, DENSITIES, 7)
    again = MaskFamily.planned(layers, json.loads(json.dumps(family.plan())), 7)
    assert {d: m.digest for d, m in again.masks.items()} == {
        d: m.digest for d, m in family.masks.items()
    }
    assert again.boxes == family.boxes


def test_layers_whose_units_are_unknown_lose_weights_alone() -> None:
    layers = (LayerShape("a", (20, 30)), LayerShape("b", (10, 20)))
    family = by_units(uniform(layers), layers, DENSITIES, 7)
    plain = MaskFamily.draw(layers, family.counts, 7)
    assert family.boxes == {}
    assert {m.digest for m in family.masks.values()} == {
        m.digest for m in plain.masks.values()
    }


def test_a_ladder_that_no_whole_number_of_units_expresses_is_made_up_of_weights() -> (
    None
):
    layers = layers_for(*NETS[0])
    ladder = (0.2, 0.19, 0.18, 0.173, 0.0501)
    family = by_units(uniform(layers), layers, ladder, 7)
    assert [m.nnz for m in family.masks.values()] == [
        int(d * 12_800 + 1e-9) for d in ladder
    ]


def test_a_density_below_one_weight_per_unit_names_the_smallest_that_works() -> None:
    layers = layers_for(*NETS[0])
    with pytest.raises(DensityError, match=r"the smallest density is 0\.0075"):
        by_units(uniform(layers), layers, (0.2, 0.0001), 7)


@pytest.mark.parametrize("box", [(0, 3), (9, 3), (2, 0), (2, 7)])
def test_a_box_that_does_not_fit_is_named(box: tuple[int, int]) -> None:
    layer = LayerShape("w", (8, 6))
    with pytest.raises(SparsityError, match="w of 8 output units"):
        draw((layer,), {"w": 1}, 1, {"w": box})
    recipe = MaskRecipe(1, {"w": 1}, bytes(32), boxes={"w": box})
    with pytest.raises(SparsityError, match="w of 8 output units"):
        mask_of(recipe, (layer,))


def test_a_count_beyond_the_box_is_named() -> None:
    with pytest.raises(SparsityError, match="cannot keep 7 of 6 weights"):
        draw((LayerShape("w", (8, 6)),), {"w": 7}, 1, {"w": (2, 3)})


def test_a_device_that_ignores_boxes_notices() -> None:
    layers = layers_for(*NETS[0])
    family = by_units(uniform(layers), layers, DENSITIES, 7)
    recipe = family.recipe(family.masks[0.05])
    old = MaskRecipe(recipe.seed, recipe.counts, recipe.digest)
    with pytest.raises(MaskMismatchError):
        mask_of(old, layers)


def test_boxes_hold_across_the_blocks_of_a_large_layer() -> None:
    layer = LayerShape("w", (600, 900))  # beyond one block of ranks
    inside = draw((layer,), {"w": 9_000}, 3, {"w": (300, 450)})["w"]
    assert inside.sum() == 9_000
    assert not inside[300:].any()
    assert not inside[:, 450:].any()
    whole = draw((layer,), {"w": 100_000}, 3)["w"]
    assert int((whole & ~whole[:1, :1]).sum()) >= 0
    held = int(whole[:300, :450].sum())
    nested = draw((layer,), {"w": held}, 3, {"w": (300, 450)})["w"]
    assert np.array_equal(nested, whole & nested)


@pytest.mark.parametrize("mean", [coverage_mean, "trimmed"])
def test_what_a_device_says_of_cut_units_does_not_count(mean) -> None:
    layers = layers_for(*NETS[3])
    family = by_units(uniform(layers), layers, (0.2, 0.05), 7)
    state = {
        n: t.detach().numpy().astype(np.float32) if t.ndim else t.numpy()
        for n, t in KeywordNet().state_dict().items()
    }
    top, weak = family.masks[0.2], family.masks[0.05]
    masked = {n: state[n][top[n]] for n in top}
    base = Model(top, masked, {n: a for n, a in state.items() if n not in top.layers})

    def update(device: str, mask, by: float) -> Contribution:
        dense = {n: np.full_like(a, by) for n, a in base.dense.items()}
        values = {n: np.full(mask.counts[n], by, np.float32) for n in mask}
        return Contribution(device, mask, 1.0, Values(mask.digest, values, dense))

    algorithm = ALGORITHMS["hetero-flash"]
    if mean == "trimmed":
        from dataclasses import replace
        from functools import partial

        algorithm = replace(algorithm, aggregate=partial(trimmed_mean, trim=0.0))
    sent = [update("a", top, 1.0), update("b", weak, 5.0)]
    after, _, _ = next_step(algorithm, base, family, sent)
    name = "blocks.0.norm1.bias"
    cut = family.idle(weak)[name]
    assert 0 < cut.sum() < cut.size
    assert np.allclose((after.dense[name] - base.dense[name])[cut], 1.0)
    assert np.allclose((after.dense[name] - base.dense[name])[~cut], 3.0)
    only_weak, _, _ = next_step(algorithm, base, family, sent[1:])
    assert np.array_equal(only_weak.dense[name][cut], base.dense[name][cut])
    if mean != "trimmed":
        variance = "blocks.0.norm1.running_var"
        assert np.allclose(
            (only_weak.dense[variance] - base.dense[variance])[cut], 0.0, atol=1e-6
        )


@pytest.mark.parametrize("seed", range(40))
def test_whatever_ladder_nested_weights_can_have_units_can_have(seed: int) -> None:
    """No layer is cut off, no count is off, whatever widths, blocks and densities."""
    rng = np.random.default_rng(seed)
    widths = [int(w) for w in rng.integers(1, 13, size=rng.integers(2, 5))]
    layers = []
    for at, (inputs, rows) in enumerate(pairwise([4, *widths])):
        before = layers[-1].outputs if layers else None
        block = int(rng.choice([b for b in (1, 2, 3) if rows % b == 0]))
        cut = at + 1 < len(widths) and rows > block and rng.random() < 0.8
        units = Units(f"l{at}", rows, block) if cut else None
        layers.append(LayerShape(f"l{at}", (rows, inputs), 1, units, before))
    ladder = sorted({float(d) for d in rng.uniform(0.02, 1.0, size=3)}, reverse=True)
    profile = rng.uniform(0.01, 1.0, size=len(layers))
    try:
        family = by_units(profile, layers, ladder, seed)
    except DensityError as error:
        with pytest.raises(DensityError, match=re.escape(str(error))):
            nested_counts(profile, layers, ladder)
        return
    size = sum(layer.numel for layer in layers)
    for density, mask in family.masks.items():
        assert mask.nnz == int(density * size + 1e-9)
        for layer in layers:
            rows = family.boxes.get(density, {}).get(layer.name, layer.shape)[0]
            assert mask.counts[layer.name] >= rows
    for larger, smaller in pairwise(family.masks.values()):
        assert smaller.issubset(larger)
