"""How much one update may count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms.mean import Contribution, Model, clipped, coverage_mean
from coordinator.rounds.contribution_limits import ContributionLimit, shares
from edge_sdk.sparse import Mask
from edge_sdk.wire.values import Values

Norms = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)
FREE = {"clip": 0.0, "weight": 0.0, "influence": 0.0}
KEPT = {"clip": 5.0, "weight": 10.0, "influence": 1.0}  # as a run starts with


@given(norms=Norms, past=st.lists(st.floats(1e-6, 1e6), max_size=20))
def test_nothing_counts_for_more_than_the_bound_and_the_short_half_is_untouched(
    norms: list[float], past: list[float]
) -> None:
    found = shares(norms, [10] * len(norms), past, **FREE | {"clip": 3.0})
    ranked = sorted([*norms, *past])
    median = ranked[(len(ranked) - 1) // 2]
    for norm, share in zip(norms, found, strict=True):
        assert norm * share.scale <= 3.0 * median * (1 + 1e-12)
        assert (share.scale == 1.0) == (norm <= 3.0 * median)
        assert bool(share.why) == (share.scale < 1.0)


@given(
    honest=st.lists(st.floats(1.0, 2.0), min_size=3, max_size=9),
    lie=st.floats(1e3, 1e300),
)
def test_a_minority_cannot_raise_the_bound(honest: list[float], lie: float) -> None:
    liars = [lie] * ((len(honest) - 1) // 2)
    found = shares(
        [*honest, *liars],
        [5] * (len(honest) + len(liars)),
        [],
        **FREE | {"clip": 5.0},
    )
    for share in found[len(honest) :]:
        assert lie * share.scale <= 10.0 * (1 + 1e-12)
    assert all(share.scale == 1.0 for share in found[: len(honest)])


@given(
    norms=st.lists(st.floats(0, 1e30), min_size=3, max_size=50),
    data=st.data(),
)
def test_no_influence_passes_the_medians_and_no_weight_that_of_all_others(
    norms: list[float], data: st.DataObject
) -> None:
    examples = data.draw(
        st.lists(st.integers(1, 10**8), min_size=len(norms), max_size=len(norms))
    )
    found = shares(norms, examples, [], **KEPT)
    influence = [n * s.scale * s.weight for n, s in zip(norms, found, strict=True)]
    before = sorted(influence)
    assert max(influence) <= before[(len(norms) - 1) // 2] * (1 + 1e-9) or (
        before[(len(norms) - 1) // 2] == 0.0
    )
    for share, count in zip(found, examples, strict=True):
        assert 0 < share.weight <= count
    middle = sorted(examples)[(len(examples) - 1) // 2]
    assert max(s.weight for s in found) <= max(1, len(norms) // 2) * middle


TOP = Mask({"fc": np.ones((1, 4), bool)})
BASE = Model(TOP, {"fc": np.zeros(4, np.float32)}, {})
WAY = np.array([0.5, 0.5, 0.5, 0.5])


def step_of(changes: list[np.ndarray], examples: list[int]) -> np.ndarray:
    """The mean's step, counted as a coordinator counts."""
    sent = [Values(TOP.digest, {"fc": c.astype(np.float32)}, {}) for c in changes]
    norms = [change.norm() for change in sent]
    cohort = [
        Contribution(str(place), TOP, share.weight, clipped(change, share.scale))
        for place, (change, share) in enumerate(
            zip(sent, shares(norms, examples, [], **KEPT), strict=True)
        )
    ]
    model, _ = coverage_mean(BASE, cohort)
    return np.asarray(model.masked["fc"], np.float64)


lies = st.tuples(st.floats(1e-6, 1e30), st.integers(1, 10**8))


@given(
    honest=st.lists(
        st.tuples(st.floats(1e-3, 1e3), st.integers(1, 10**5)), min_size=2, max_size=49
    ),
    lie=lies,
)
def test_one_liar_of_three_or_more_never_turns_the_mean(
    honest: list[tuple[float, int]], lie: tuple[float, int]
) -> None:
    """Whatever the others differ in: lengths by a million, examples by 10^5."""
    changes = [length * WAY for length, _ in honest] + [-lie[0] * WAY]
    step = step_of(changes, [count for _, count in honest] + [lie[1]])
    assert step @ WAY > 0


@given(count=st.integers(3, 50), said=st.lists(lies, min_size=24, max_size=24))
def test_an_honest_majority_of_equal_influence_keeps_its_way(
    count: int, said: list[tuple[float, int]]
) -> None:
    """floor((n - 1) / 2) lie, each as long and as heavy as it likes."""
    liars = (count - 1) // 2
    changes = [WAY] * (count - liars) + [-length * WAY for length, _ in said[:liars]]
    examples = [100] * (count - liars) + [own for _, own in said[:liars]]
    assert step_of(changes, examples) @ WAY > 0


@given(
    count=st.integers(4, 50), seed=st.integers(0, 999), said=st.lists(lies, min_size=12)
)
def test_a_quarter_of_liars_does_not_turn_what_goes_half_way_together(
    count: int, seed: int, said: list[tuple[float, int]]
) -> None:
    """Honest changes at 60 degrees to their common way, a quarter lie.

    The honest sum is at least (n - f) / 2 of a median influence, the liars' f.
    """
    rng = np.random.default_rng(seed)
    liars = min(count // 4, len(said), (count - 1) // 3)
    changes = []
    for _ in range(count - liars):
        aside = rng.normal(size=4)
        aside -= (aside @ WAY) * WAY
        aside /= np.linalg.norm(aside)
        changes.append(0.51 * WAY + np.sqrt(1 - 0.51**2) * aside)
    changes += [-length * WAY for length, _ in said[:liars]]
    examples = [100] * (count - liars) + [own for _, own in said[:liars]]
    assert step_of(changes, examples) @ WAY > 0


def test_unequal_honest_devices_make_a_step_as_long_as_theirs() -> None:
    """The influence is taken from the weight, not from the change."""
    step = step_of([WAY] * 4, [10, 10, 10, 80])
    assert step @ WAY == pytest.approx(1.0, rel=1e-6)
    step = step_of([WAY, WAY, 4 * WAY], [10, 10, 10])
    assert 1.0 < step @ WAY < 2.0


def test_a_huge_example_count_weighs_ten_times_the_median_at_most() -> None:
    many = [50] * 40
    found = shares([1.0] * 42, [*many, 60, 10**12], [], **FREE | {"weight": 10.0})
    assert [share.weight for share in found][-2:] == [60, 500]
    assert found[-1].why == "it says 1000000000000 examples; 500 count"


def test_one_of_three_weighs_no_more_than_the_others_together() -> None:
    found = shares([0.0] * 3, [50, 50, 10**12], [], **FREE | {"weight": 10.0})
    assert [share.weight for share in found] == [50, 50, 50]


def test_of_two_the_smaller_is_believed_and_one_alone_counts_in_full() -> None:
    bounds = FREE | {"clip": 5.0}
    assert shares([1.0, 1e9], [1, 1], [], **bounds)[1].scale == 5e-9
    assert shares([1e9], [10**9], [], **KEPT)[0] == ContributionLimit(1.0, 10**9, "")
    assert shares([1e9], [1], [1.0, 1.0], **bounds)[0].scale == 5e-9


def test_bounds_that_are_zero_bound_nothing() -> None:
    found = shares([1.0, 1.0, 1e9], [1, 1, 10**9], [], **FREE)
    assert found[2] == ContributionLimit(1.0, 10**9, "")


def test_devices_that_change_nothing_bound_nobody() -> None:
    found = shares([0.0, 0.0, 3.0], [1, 1, 1], [], **KEPT)
    assert [share.scale for share in found] == [1.0, 1.0, 1.0]


@given(norms=Norms, examples=st.integers(1, 10**8))
def test_equal_rows_give_equal_bits(norms: list[float], examples: int) -> None:
    counts = [examples + place for place in range(len(norms))]
    assert shares(norms, counts, norms, **KEPT) == shares(norms, counts, norms, **KEPT)
