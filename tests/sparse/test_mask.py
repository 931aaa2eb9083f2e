from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge_sdk.errors import MaskMismatchError, SparsityError
from edge_sdk.sparse import LayerShape, Mask

patterns = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4))
families = st.dictionaries(st.sampled_from("abc"), patterns, max_size=3)

# A released digest never changes: masks are compared across versions by it.
EYE = "eaa8eccc9c182bf81b50a8d0def8daf7d4189dad18a6b53706d4eb6526e7cd64"
TWO = "1b1fab05f50e61f2ba836593dfffbcde596a36730e48be7101a23fe0d721538f"


def test_digests_are_golden() -> None:
    assert Mask({"fc.weight": np.eye(3, dtype=bool)}).digest.hex() == EYE
    two = {"b": np.ones((2, 2, 1, 3), bool), "a": np.arange(10).reshape(2, 5) % 3 == 0}
    assert Mask(two).digest.hex() == TWO


@given(families)
def test_the_digest_forgets_memory_order_but_not_the_order_of_layers(
    layers: dict[str, NDArray[np.bool_]],
) -> None:
    """Values travel in the layers' order, so another order is another mask."""
    same = {n: np.asfortranarray(layers[n]) for n in layers}
    assert Mask(layers).digest == Mask(same).digest
    assert hash(Mask(layers)) == hash(Mask(same))
    if len(layers) > 1:
        turned = {n: layers[n] for n in reversed(layers)}
        assert Mask(layers).digest != Mask(turned).digest


@given(families.filter(bool), st.data())
def test_one_other_bit_name_or_shape_is_another_digest(
    layers: dict[str, NDArray[np.bool_]], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(layers)))
    flipped = layers[name].copy()
    flipped.reshape(-1)[data.draw(st.integers(0, flipped.size - 1))] ^= True
    rest = {n: p for n, p in layers.items() if n != name}
    wider = layers[name].reshape(*layers[name].shape, 1)
    assert Mask(layers) != Mask(layers | {name: flipped})
    assert Mask(layers) != Mask(rest | {name: wider})
    assert Mask(layers) != Mask(rest | {name + "x": layers[name]})


@given(families)
def test_counts_agree_with_the_patterns(layers: dict[str, NDArray[np.bool_]]) -> None:
    mask = Mask(layers)
    assert mask.nnz == sum(int(p.sum()) for p in layers.values())
    assert mask.numel == sum(p.size for p in layers.values())
    assert 0 <= mask.density <= 1
    for name in mask:
        assert len(mask.flat(name)) == mask.counts[name]
    assert mask.issubset(mask)
    assert mask.jaccard_distance(mask) == 0


@given(patterns, st.data())
def test_within_finds_a_sub_masks_values_among_the_outer_ones(
    outer: NDArray[np.bool_], data: st.DataObject
) -> None:
    inner = outer & data.draw(hnp.arrays(np.bool_, outer.shape))
    weight = np.arange(outer.size, dtype=np.float32).reshape(outer.shape)
    spot = Mask({"w": inner}).within(Mask({"w": outer}), "w")
    np.testing.assert_array_equal(weight[outer][spot], weight[inner])


def test_a_mask_that_is_not_nested_has_no_place_within() -> None:
    one, other = (np.array([bits], bool) for bits in ([1, 0], [0, 1]))
    with pytest.raises(MaskMismatchError, match="layer w"):
        Mask({"w": one}).within(Mask({"w": other}), "w")


def test_masks_of_other_layers_or_shapes_are_not_subsets() -> None:
    small = Mask({"w": np.zeros((1, 2), bool)})
    assert not small.issubset(Mask({"v": np.ones((1, 2), bool)}))
    assert not small.issubset(Mask({"w": np.ones((2, 1), bool)}))


def test_a_mask_cannot_be_written_through() -> None:
    mask = Mask({"w": np.ones((2, 2), bool)})
    with pytest.raises(ValueError, match="read-only"):
        mask["w"][0, 0] = False


def test_jaccard_distance_is_the_papers() -> None:
    one = Mask({"w": np.array([[1, 1, 0, 0]], bool)})
    other = Mask({"w": np.array([[0, 1, 1, 0]], bool)})
    assert one.jaccard_distance(other) == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize(
    "pattern", [np.ones((2, 2), np.int8), np.ones(3, np.bool_)], ids=["int", "flat"]
)
def test_what_is_no_pattern_is_refused(pattern: NDArray[np.bool_]) -> None:
    with pytest.raises(SparsityError, match="the mask of w"):
        Mask({"w": pattern})


@pytest.mark.parametrize(
    ("shape", "groups"), [((3,), 1), ((0, 2), 1), ((3, 2), 2), ((2, 2), 0)]
)
def test_what_is_no_layer_is_refused(shape: tuple[int, ...], groups: int) -> None:
    with pytest.raises(SparsityError, match="layer w"):
        LayerShape("w", shape, groups)


@pytest.mark.parametrize(
    ("shape", "groups", "floor"),
    [((10, 20), 1, 20), ((20, 10, 3, 3), 1, 20), ((6, 1, 3, 3), 6, 6), ((4, 3), 2, 6)],
    ids=["linear", "conv", "depthwise", "grouped"],
)
def test_the_floor_is_one_weight_per_unit(
    shape: tuple[int, ...], groups: int, floor: int
) -> None:
    assert LayerShape("w", shape, groups).floor == floor
