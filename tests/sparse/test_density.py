from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_sdk.errors import DensityError
from edge_sdk.sparse import (
    LayerShape,
    check_density,
    erk,
    erk_rescaled,
    exact_counts,
    nested_counts,
    uniform,
)

positive = st.floats(1e-6, 1e3)
targets = st.floats(0.001, 1.0)


@st.composite
def stacks(draw: st.DrawFn) -> list[LayerShape]:
    """Linear, convolutional, grouped and depthwise layers."""
    layers = []
    for index in range(draw(st.integers(1, 5))):
        groups = draw(st.sampled_from([1, 1, 2, 3]))
        out = groups * draw(st.integers(1, 8))
        kernel = draw(st.sampled_from([(), (1, 1), (3, 3), (5,)]))
        shape = (out, draw(st.integers(1, 16)), *kernel)
        layers.append(LayerShape(f"layer{index}", shape, groups))
    return layers


@given(stacks(), st.data())
def test_counts_are_exact_and_above_every_floor(
    layers: list[LayerShape], data: st.DataObject
) -> None:
    size = sum(s.numel for s in layers)
    floors = sum(min(s.floor, s.numel) for s in layers)
    budget = data.draw(st.integers(2 * floors, max(size, 2 * floors)))
    assume(budget <= size)
    profile = np.array([data.draw(positive) for _ in layers])
    counts = exact_counts(profile, layers, budget / size)
    assert sum(counts.values()) == budget
    assert list(counts) == [s.name for s in layers]
    for layer in layers:
        assert layer.floor <= counts[layer.name] <= layer.numel


def test_floors_of_inputs_do_not_become_the_profile() -> None:
    """MNISTNet's 5,120 inputs of fc1 would take 98 % of the budget at d = .02."""
    layers = LayerShape("conv2", (20, 10, 5, 5)), LayerShape("fc1", (50, 5120))
    profile = np.array([1.0, 0.03])
    conv2 = [exact_counts(profile, layers, d)["conv2"] for d in (0.05, 0.03, 0.02)]
    assert conv2 == sorted(conv2, reverse=True)
    assert conv2[-1] > 1500
    assert exact_counts(profile, layers, 0.05)["fc1"] >= 5120


@given(stacks(), st.data())
def test_below_the_floors_every_output_unit_still_has_one(
    layers: list[LayerShape], data: st.DataObject
) -> None:
    size = sum(s.numel for s in layers)
    budget = data.draw(st.integers(sum(s.shape[0] for s in layers), size))
    counts = exact_counts(erk(layers), layers, budget / size)
    assert sum(counts.values()) == budget
    assert all(counts[s.name] >= s.shape[0] for s in layers)


@given(stacks(), st.lists(targets, min_size=1, max_size=4), st.data())
def test_counts_of_smaller_densities_nest(
    layers: list[LayerShape], densities: list[float], data: st.DataObject
) -> None:
    least = sum(s.shape[0] for s in layers) / sum(s.numel for s in layers)
    densities = [least + (1 - least) * d for d in densities]
    profile = data.draw(st.sampled_from([uniform, erk]))(layers)
    family = nested_counts(profile, layers, densities)
    assert list(family) == sorted(set(densities), reverse=True)
    for larger, smaller in zip(
        list(family.values())[:-1], list(family.values())[1:], strict=True
    ):
        assert all(smaller[s.name] <= larger[s.name] for s in layers)


def test_too_low_a_density_names_the_lowest_one() -> None:
    layers = [LayerShape("fc", (10, 100))]
    with pytest.raises(DensityError, match=r"smallest density is 0\.0100"):
        exact_counts(uniform(layers), layers, 0.005)
    assert exact_counts(uniform(layers), layers, 0.01) == {"fc": 10}


def test_more_than_the_outer_mask_holds_is_refused() -> None:
    layers = [LayerShape("fc", (10, 100))]
    with pytest.raises(DensityError, match="must nest in"):
        exact_counts(uniform(layers), layers, 0.5, within={"fc": 100})


@pytest.mark.parametrize("target", [0.29, 0.57, 0.58, 0.14, 0.28])
def test_a_decimal_density_keeps_the_count_a_person_expects(target: float) -> None:
    """0.29 * 100 is 28.999999999999996 in binary."""
    layers = [LayerShape("fc", (10, 10))]
    counts = exact_counts(uniform(layers), layers, target)
    assert counts == {"fc": round(100 * target)}


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, float("nan")])
def test_a_density_outside_its_range_is_refused_by_name(density: float) -> None:
    with pytest.raises(DensityError, match=r"run density .* outside \(0, 1\]"):
        check_density(density, what="run density")


def test_erk_makes_small_layers_denser() -> None:
    layers = [LayerShape("big", (64, 64, 3, 3)), LayerShape("small", (10, 64))]
    big, small = erk(layers)
    assert big == pytest.approx((64 + 64 + 3 + 3) / (64 * 64 * 9))
    assert small == pytest.approx((10 + 64) / 640)


@given(st.floats(0.3, 1.0))
def test_feddst_scales_the_sparsities(target: float) -> None:
    """Its authors' arithmetic, written out: s = (1 - erk) * S * sum(n) / sum(s * n)."""
    shapes = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc": (50, 320)}
    sparsity = {
        "conv1": 1 - (10 + 1 + 5 + 5) / 250,
        "conv2": 1 - (20 + 10 + 5 + 5) / 5000,
        "fc": 1 - (50 + 320) / 16000,
    }
    size = {"conv1": 250, "conv2": 5000, "fc": 16000}
    whole = sum(sparsity[n] * size[n] for n in size)
    factor = (1 - target) * sum(size.values()) / whole
    layers = [LayerShape(n, s) for n, s in shapes.items()]
    found = erk_rescaled(layers, target)
    for density, name in zip(found, size, strict=True):
        assert density == pytest.approx(1 - factor * sparsity[name])
    total = sum(d * n for d, n in zip(found, size.values(), strict=True))
    assert total == pytest.approx(target * sum(size.values()))


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=4, unique=True))
def test_a_profile_of_the_density_gives_nested_exact_counts(
    wanted: list[float],
) -> None:
    layers = [LayerShape("a", (10, 4, 3, 3)), LayerShape("b", (20, 90))]
    size = sum(s.numel for s in layers)
    outer = None
    for density, counts in nested_counts(
        lambda target: erk_rescaled(layers, target), layers, wanted
    ).items():
        assert sum(counts.values()) == int(np.floor(density * size + 1e-9))
        assert outer is None or all(counts[n] <= outer[n] for n in counts)
        outer = counts
