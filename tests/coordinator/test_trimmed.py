"""The trimmed mean, and clipping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms.mean import Contribution, Model, clipped
from coordinator.algorithms.trimmed_mean import trimmed_mean
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask
from edge_sdk.wire.values import Values

TOP = Mask({"fc": np.ones((2, 3), bool)})
SMALL = Mask({"fc": np.array([[1, 0, 1], [0, 1, 0]], bool)})
BASE = Model(
    TOP,
    {"fc": np.arange(6, dtype=np.float32)},
    {"b": np.ones(2, np.float32), "n": np.array(7, np.int64)},
)


def one(mask: Mask, values: list[float], b: float = 0.0, n: int = 1) -> Contribution:
    change = Values(
        mask.digest,
        {"fc": np.array(values, np.float32)},
        {"b": np.full(2, b, np.float32), "n": np.array(n, np.int64)},
    )
    return Contribution("pi", mask, 5, change)


def test_a_liar_at_either_end_is_left_out_of_each_weight() -> None:
    honest = [one(TOP, [0.1 * k] * 6, b=0.1 * k) for k in (1, 2, 3)]
    high, low = one(TOP, [1e9] * 6, b=1e9, n=10**6), one(TOP, [-1e9] * 6, b=-1e9, n=0)
    after, coverage = trimmed_mean(BASE, [high, *honest, low], trim=0.2)
    assert np.allclose(after.masked["fc"], BASE.masked["fc"] + 0.2)
    assert np.allclose(after.dense["b"], 1.2)
    assert after.dense["n"] == 8
    assert after.dense["n"].dtype == np.int64
    assert coverage["fc"].tolist() == [5] * 6


def test_each_weight_is_trimmed_by_how_many_hold_it() -> None:
    """Two hold the outer weights (nothing is trimmed), five the others (two are)."""
    few = [one(TOP, [1.0] * 6), one(TOP, [3.0] * 6)]
    more = [one(SMALL, [9.0, 9.0, 9.0]), one(SMALL, [-50.0] * 3), one(SMALL, [2.0] * 3)]
    after, coverage = trimmed_mean(BASE, [*few, *more], trim=0.2)
    step = after.masked["fc"] - BASE.masked["fc"]
    assert step.tolist() == [2.0] * 6
    assert coverage["fc"].tolist() == [5, 2, 5, 2, 5, 2]


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_of_three_or_more_somebody_is_always_trimmed(count: int) -> None:
    honest = [one(TOP, [1.0] * 6, b=1.0, n=1) for _ in range(count - 1)]
    liar = one(TOP, [-1e30] * 6, b=-1e30, n=-(10**6))
    after, _ = trimmed_mean(BASE, [*honest, liar], trim=0.1)
    assert np.allclose(after.masked["fc"], BASE.masked["fc"] + 1.0)
    assert np.allclose(after.dense["b"], 2.0)
    assert after.dense["n"] == 8


def test_a_share_of_nothing_trims_nobody_and_two_are_averaged() -> None:
    three = [one(TOP, [value] * 6) for value in (1.0, 2.0, 9.0)]
    after, _ = trimmed_mean(BASE, three, trim=0.0)
    assert np.allclose(after.masked["fc"], BASE.masked["fc"] + 4.0)
    after, _ = trimmed_mean(BASE, three[:2], trim=0.4)
    assert np.allclose(after.masked["fc"], BASE.masked["fc"] + 1.5)


def test_a_weight_that_nobody_holds_keeps_its_value() -> None:
    after, coverage = trimmed_mean(BASE, [one(SMALL, [1.0, 1.0, 1.0])], trim=0.1)
    assert after.masked["fc"].tolist() == [1.0, 1.0, 3.0, 3.0, 5.0, 5.0]
    assert coverage["fc"].tolist() == [1, 0, 1, 0, 1, 0]


@given(seed=st.integers(0, 999), count=st.integers(1, 9), block=st.integers(1, 300))
def test_memory_order_and_iterators_do_not_change_a_bit(
    seed: int, count: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    cohort = [
        one(
            mask,
            list(rng.normal(size=mask.nnz)),
            b=rng.normal(),
            n=int(rng.integers(9)),
        )
        for mask in (TOP if rng.random() < 0.5 else SMALL for _ in range(count))
    ]
    whole, _ = trimmed_mean(BASE, cohort, trim=0.2)
    for other in (cohort, cohort[::-1], iter(cohort)):
        found, _ = trimmed_mean(BASE, other, trim=0.2, block_bytes=block)
        assert found.masked["fc"].tobytes() == whole.masked["fc"].tobytes()
        assert found.dense["b"].tobytes() == whole.dense["b"].tobytes()


def test_without_updates_there_is_no_mean() -> None:
    with pytest.raises(RunError, match="without updates"):
        trimmed_mean(BASE, [], trim=0.1)


@given(scale=st.floats(0.001, 1.0))
def test_a_clipped_change_is_as_long_as_its_scale_says(scale: float) -> None:
    change = one(TOP, [3.0, 4.0, 0.0, 0.0, 0.0, 0.0], n=9).change
    cut = clipped(change, scale)
    assert cut.norm() == pytest.approx(5.0 * scale, rel=1e-6)
    assert cut.dense["n"] == 9
    assert (cut is change) == (scale == 1.0)
