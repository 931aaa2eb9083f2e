from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edge_sdk.errors import SparsityError
from edge_sdk.sparse import LayerShape, draw, select, top_k


@st.composite
def layers(draw: st.DrawFn) -> LayerShape:
    """One layer: linear, convolutional, grouped or depthwise."""
    groups = draw(st.sampled_from([1, 2, 3, 6]))
    out = groups * draw(st.integers(1, 6))
    kernel = draw(st.sampled_from([(), (3,), (3, 3)]))
    return LayerShape("conv.weight", (out, draw(st.integers(1, 9)), *kernel), groups)


seeds = st.integers(0, 2**63)


def keyed_order(layer: LayerShape, seed: int) -> NDArray[np.int64]:
    """The whole order, as it is defined: what `draw` takes prefixes of."""
    rank = select._stream(layer, seed, b"order").random_raw(layer.numel)
    cover = select._cover(layer, seed)
    kernel = layer.numel // (layer.shape[0] * layer.shape[1])
    spots = cover[:, None] * kernel + np.arange(kernel)
    chosen = spots[np.arange(cover.size), rank[spots].argmin(axis=1)]
    order = np.argsort(rank, kind="stable")
    first = np.zeros(layer.numel, np.bool_)
    first[chosen] = True
    return np.concatenate([chosen, order[~first[order]]])


# A released order never changes: a device and a coordinator of other versions draw it.
GOLDEN = [
    (LayerShape("fc.weight", (3, 4)), 1, [0, 11, 5, 2, 9, 1, 7, 4, 8, 3, 6, 10]),
    (LayerShape("fc.weight", (3, 4)), 2, [8, 1, 7, 10, 9, 4, 5, 6, 3, 11, 0, 2]),
    (LayerShape("fc2.weight", (3, 4)), 1, [0, 9, 6, 3, 5, 4, 8, 1, 7, 10, 2, 11]),
    (
        LayerShape("dw.weight", (4, 1, 2, 2), 4),
        7,
        [3, 5, 8, 14, 13, 1, 2, 6, 12, 10, 11, 15, 4, 9, 0, 7],
    ),
    (
        LayerShape("conv.weight", (4, 2, 3), 2),
        7,
        [
            10,
            2,
            19,
            15,
            5,
            1,
            16,
            14,
            8,
            17,
            7,
            22,
            9,
            18,
            20,
            12,
            3,
            21,
            6,
            4,
            23,
            13,
            0,
            11,
        ],
    ),
]


@pytest.mark.parametrize(("layer", "seed", "order"), GOLDEN)
def test_keyed_orders_are_golden(
    layer: LayerShape, seed: int, order: list[int]
) -> None:
    assert keyed_order(layer, seed).tolist() == order


@given(layers(), seeds)
def test_a_keyed_order_is_a_permutation(layer: LayerShape, seed: int) -> None:
    order = keyed_order(layer, seed)
    assert np.array_equal(np.sort(order), np.arange(layer.numel))
    assert np.array_equal(order, keyed_order(layer, seed))


@given(layers(), seeds, st.data(), st.sampled_from([1, 7, 1 << 18]))
def test_a_mask_is_a_prefix_of_the_keyed_order(
    layer: LayerShape, seed: int, data: st.DataObject, block: int
) -> None:
    """Whatever the blocks that the ranks are drawn in."""
    count = data.draw(st.integers(0, layer.numel))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "BLOCK", block)
        kept = draw([layer], {layer.name: count}, seed)[layer.name]
    expected = np.sort(keyed_order(layer, seed)[:count])
    assert np.array_equal(np.flatnonzero(kept), expected)


def test_ranks_that_share_a_bin_are_cut_by_rank_and_then_by_position() -> None:
    layer = LayerShape("fc.weight", (200, 300))
    whole = keyed_order(layer, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "BIN_BITS", 2)  # fifteen thousand in each of four
        for count in (0, 299, 300, 301, 15_000, 30_001, 59_999, 60_000):
            kept = draw([layer], {"fc.weight": count}, 5)["fc.weight"]
            assert np.array_equal(np.flatnonzero(kept), np.sort(whole[:count]))


def test_the_released_masks_of_large_layers_stay_what_they_were() -> None:
    """Digests of the first release, of masks over several blocks."""
    layers = [LayerShape("fc.weight", (2048, 784)), LayerShape("c", (64, 32, 5, 5))]
    digests = [
        draw(layers, {"fc.weight": n, "c": m}, 11).digest.hex()[:16]
        for n, m in ((80_000, 5_000), (1_000_000, 60), (1_605_631, 51_199))
    ]
    assert digests == ["17c844c03bf4f2b9", "4059aa8508fb470e", "04a667daa93892f5"]


@given(layers(), seeds, st.data())
def test_floors_leave_no_dead_unit(
    layer: LayerShape, seed: int, data: st.DataObject
) -> None:
    """Every output unit has an input, and every input unit of a group an output."""
    count = data.draw(st.integers(layer.floor, layer.numel))
    kept = draw([layer], {layer.name: count}, seed)[layer.name]
    assert np.count_nonzero(kept) == count
    flat = kept.reshape(layer.shape[0], layer.shape[1], -1)
    assert np.all(flat.sum(axis=(1, 2)) > 0)
    grouped = flat.reshape(layer.groups, -1, *flat.shape[1:])
    assert np.all(grouped.sum(axis=(1, 3)) > 0)


@given(layers(), seeds, st.data())
def test_a_smaller_counts_mask_is_a_subset(
    layer: LayerShape, seed: int, data: st.DataObject
) -> None:
    small = data.draw(st.integers(0, layer.numel))
    large = data.draw(st.integers(small, layer.numel))
    inner = draw([layer], {layer.name: small}, seed)
    outer = draw([layer], {layer.name: large}, seed)
    assert inner.issubset(outer)
    assert inner.nnz == small


@pytest.mark.parametrize("count", [-1, 13, None])
def test_a_count_that_does_not_fit_is_refused(count: int | None) -> None:
    counts = {} if count is None else {"fc": count}
    with pytest.raises(SparsityError, match="layer fc cannot keep"):
        draw([LayerShape("fc", (3, 4))], counts, 1)


scores = hnp.arrays(
    np.float64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-9, 9)
)


@given(scores, st.data())
def test_top_k_keeps_the_largest(
    score: NDArray[np.float64], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, score.size))
    kept = top_k(score, count, "layer")
    assert np.count_nonzero(kept) == count
    if 0 < count < score.size:
        assert score[kept].min() >= score[~kept].max()


@given(st.integers(0, 99), st.integers(1, 4), st.data())
def test_patterns_of_fewer_nest_whatever_is_equal(
    seed: int, kinds: int, data: st.DataObject
) -> None:
    score = np.random.default_rng(seed).integers(0, kinds, size=(7, 9)).astype(float)
    more = data.draw(st.integers(0, score.size))
    fewer = data.draw(st.integers(0, more))
    large, small = top_k(score, more, "layer"), top_k(score, fewer, "layer")
    assert not (small & ~large).any()
    assert (top_k(score, more, "layer") == large).all()


@pytest.mark.parametrize("value", [0.0, -1.0, 3.0])
def test_of_equal_scores_no_position_is_preferred(value: float) -> None:
    """By position all of them would lie in the first tenth."""
    score = np.full(5000, value)
    score[::7] = -9.0  # never kept
    places = np.flatnonzero(top_k(score, 500, "layer"))
    by_tenth = np.bincount(places * 10 // score.size, minlength=10)
    assert by_tenth.min() > 25  # 50 expected, 6.6 is a standard deviation
    others = np.flatnonzero(top_k(score, 500, "another layer"))
    assert 20 < len(np.intersect1d(places, others)) < 130  # 58 expected


def test_zeros_of_both_signs_are_equals() -> None:
    score = np.where(np.arange(2000) < 1000, 0.0, -0.0)
    assert 150 < np.count_nonzero(top_k(score, 400, "a")[1000:]) < 250


@pytest.mark.parametrize(
    ("score", "count"), [([1.0], 2), ([1.0], -1), ([np.nan, 1.0], 1)]
)
def test_top_k_of_nonsense_is_refused(score: list[float], count: int) -> None:
    with pytest.raises(SparsityError, match=r"cannot keep|not a number"):
        top_k(np.array(score), count, "layer")
