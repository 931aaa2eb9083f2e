from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from device_profiles import Caps, ProfileError, parse_profile
from device_profiles.hours import common, minutes_until_closed, minutes_until_open

clocks = st.builds(lambda m: f"{m // 60:02d}:{m % 60:02d}", st.integers(0, 1439))
windows = (
    st.tuples(clocks, clocks)
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: f"{pair[0]}-{pair[1]}")
)
lists = st.lists(windows, min_size=1, max_size=3).map(tuple)


def opened(hours: tuple[str, ...]) -> set[int]:
    """Walks the clock of each window, minute by minute."""
    found: set[int] = set()
    for window in hours:
        start, end = (60 * int(t[:2]) + int(t[3:]) for t in window.split("-"))
        while start != end:
            found.add(start)
            start = (start + 1) % 1440
    return found


@given(lists, lists)
@example(("00:00-12:00", "12:00-00:00"), ("06:00-05:00", "04:00-07:00"))
def test_two_lists_share_exactly_the_minutes_open_in_both(
    mine: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    both = opened(mine) & opened(theirs)
    shared = common(mine, theirs)
    if len(both) == 1440:
        assert shared == ()
    else:
        assert opened(shared) == (both or {0})


@given(lists, st.integers(0, 1439))
def test_after_the_wait_it_is_open(hours: tuple[str, ...], minute: int) -> None:
    wait = minutes_until_open(hours, minute)
    assert wait is not None
    assert minutes_until_open(hours, (minute + wait) % 1440) == 0
    assert all(minutes_until_open(hours, (minute + w) % 1440) for w in range(wait))


@given(lists, st.integers(0, 1439))
def test_it_is_open_until_the_end_and_shut_then(
    hours: tuple[str, ...], minute: int
) -> None:
    left = minutes_until_closed(hours, minute)
    if left is None:
        assert all(minutes_until_open(hours, m) == 0 for m in range(1440))
        return
    assert minutes_until_open(hours, (minute + left) % 1440)
    assert not any(minutes_until_open(hours, (minute + m) % 1440) for m in range(left))


def test_no_windows_are_always_open() -> None:
    assert all(minutes_until_open((), minute) == 0 for minute in range(1440))
    assert common((), ("01:00-02:00",)) == ("01:00-02:00",)


@pytest.mark.parametrize("window", ["25:00-06:00", "22-06", "06:00-06:00", "a", ""])
def test_a_window_that_cannot_be_is_refused_with_its_key(window: str) -> None:
    with pytest.raises(ValueError, match="hours must be like"):
        Caps(hours=(window,))
    with pytest.raises(ProfileError, match="hours must be like"):
        parse_profile({"caps": {"hours": [window]}, "board": "x"}, file="mine.toml")


def test_every_cap_tightens_to_the_stricter_side() -> None:
    owner = Caps(bytes_per_day=100, metered=True, battery_percent=30, celsius=70.0)
    run = Caps(bytes_per_day=50, metered=False, battery_percent=50, celsius=75.0)
    both = owner.tighten(run)
    assert both == run.tighten(owner)
    assert (both.bytes_per_day, both.metered) == (50, False)
    assert (both.battery_percent, both.celsius) == (50, 70.0)
