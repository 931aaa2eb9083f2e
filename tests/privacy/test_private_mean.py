"""The private mean: no device moves it by more than its bound, and noise hides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coordinator.algorithms.mean import Contribution, Model
from coordinator.algorithms.privacy import PrivateMean
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
CLIP, COHORT = 2.0, 4
PLAIN = PrivateMean(CLIP, 0.0, COHORT, b"x")  # without noise, to see the sum

Many = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8),
        st.integers(1, 10**6),
    ),
    min_size=1,
    max_size=6,
)


def one(small: bool, v: list[float], examples: int = 5) -> Contribution:
    mask = SMALL if small else TOP
    change = Values(
        mask.digest,
        {"fc": np.array(v[: mask.nnz], np.float32)},
        {"b": np.array(v[6:], np.float32), "n": np.array(3, np.int64)},
    )
    return Contribution("pi", mask, examples, change)


def step(model: Model) -> np.ndarray:  # type: ignore[type-arg]
    moved = model.masked["fc"] - BASE.masked["fc"]
    return np.concatenate([moved, model.dense["b"] - BASE.dense["b"]])


@given(Many)
def test_one_device_more_moves_the_mean_by_at_most_its_bound(
    told: list[tuple[bool, list[float], int]],
) -> None:
    parts = [one(*given) for given in told]
    whole, _ = PLAIN(BASE, parts)
    without = PLAIN(BASE, parts[1:])[0] if parts[1:] else BASE
    distance = np.linalg.norm(step(whole) - step(without))
    assert distance <= CLIP / COHORT * (1 + 1e-5)
    assert whole.dense["n"] == 7  # whole numbers tell nothing


def test_short_updates_are_summed_and_shared_out_over_the_cohort() -> None:
    parts = [one(False, [0.1] * 8), one(True, [0.3] * 8)]
    model, coverage = PLAIN(BASE, parts)
    assert np.allclose(step(model)[:6], np.array([0.4, 0.1, 0.4, 0.1, 0.4, 0.1]) / 4)
    assert np.allclose(step(model)[6:], 0.1)
    assert coverage["fc"].tolist() == [2, 1, 2, 1, 2, 1]


def test_units_that_a_mask_cuts_say_nothing() -> None:
    cut = replace(
        one(True, [0.0] * 6 + [0.4, 0.4]),
        idle={"b": np.array([False, True])},
    )
    model, _ = PLAIN(BASE, [cut])
    assert np.allclose(step(model)[6:], [0.1, 0.0])


def test_the_noise_is_gaussian_of_the_wanted_deviation() -> None:
    mask = Mask({"fc": np.ones((100, 100), bool)})
    base = Model(mask, {"fc": np.zeros(10_000, np.float32)}, {})
    change = Values(mask.digest, {"fc": np.zeros(10_000, np.float32)}, {})
    mean = PrivateMean(CLIP, 1.5, COHORT, b"secret")
    model, _ = mean(base, [Contribution("pi", mask, 1, change)])
    wanted = stats.norm(0, 1.5 * CLIP / COHORT)
    assert stats.kstest(model.masked["fc"], wanted.cdf).pvalue > 1e-3


def test_a_round_that_is_repeated_has_the_same_noise_and_no_other_has() -> None:
    parts = [one(False, [0.1] * 8)]
    mean = PrivateMean(CLIP, 1.0, COHORT, b"secret")
    first, again = mean(BASE, parts)[0], mean(BASE, parts)[0]
    assert first.masked["fc"].tobytes() == again.masked["fc"].tobytes()
    others = [
        replace(mean, secret=b"other")(BASE, parts)[0],
        mean(replace(BASE, masked={"fc": BASE.masked["fc"] + 1}), parts)[0],
        mean(replace(BASE, dense={**BASE.dense, "b": np.zeros(2, np.float32)}), parts)[
            0
        ],
    ]
    noise = step(first)[:6]
    assert not any(np.allclose(step(o)[:6] % 1, noise % 1) for o in others)


def test_a_round_without_updates_has_no_model() -> None:
    with pytest.raises(RunError, match="without updates"):
        PLAIN(BASE, [])
