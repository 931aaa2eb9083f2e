"""How much one update may count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.limits import shares

Norms = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


@given(norms=Norms, past=st.lists(st.floats(1e-6, 1e6), max_size=20))
def test_nothing_counts_for_more_than_the_bound_and_the_short_half_is_untouched(
    norms: list[float], past: list[float]
) -> None:
    found = shares(norms, [10] * len(norms), past, clip=3.0, weight=10.0)
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
        [*honest, *liars], [5] * (len(honest) + len(liars)), [], clip=5, weight=0
    )
    for share in found[len(honest) :]:
        assert lie * share.scale <= 10.0 * (1 + 1e-12)
    assert all(share.scale == 1.0 for share in found[: len(honest)])


def test_a_huge_example_count_weighs_ten_times_the_median_at_most() -> None:
    found = shares([1.0] * 3, [50, 60, 10**12], [], clip=5.0, weight=10.0)
    assert [share.weight for share in found] == [50, 60, 600]
    assert found[2].why == "it says 1000000000000 examples; 600 count"


def test_of_two_the_smaller_is_believed_and_one_alone_counts_in_full() -> None:
    assert shares([1.0, 1e9], [1, 1], [], clip=5.0, weight=0)[1].scale == 5e-9
    assert shares([1e9], [10**9], [], clip=5.0, weight=10.0)[0].scale == 1.0
    assert shares([1e9], [1], [1.0, 1.0], clip=5.0, weight=0)[0].scale == 5e-9


def test_bounds_that_are_zero_bound_nothing() -> None:
    found = shares([1.0, 1.0, 1e9], [1, 1, 10**9], [], clip=0, weight=0)
    assert [(s.scale, s.weight, s.why) for s in found][2] == (1.0, 10**9, "")


def test_devices_that_change_nothing_bound_nobody() -> None:
    found = shares([0.0, 0.0, 3.0], [1, 1, 1], [], clip=5.0, weight=10.0)
    assert [share.scale for share in found] == [1.0, 1.0, 1.0]
