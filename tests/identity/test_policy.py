from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.identity.policy import (
    DAY_S,
    RESERVED,
    TokenRow,
    check_clock,
    check_new_name,
    free_names,
    is_guarded,
    redeem,
    renewal_due,
)
from edge_sdk.errors import IdentityError

MINE, THEIRS = b"k" * 32, b"t" * 32


@given(until=st.integers(0, 100), now=st.integers(0, 100))
def test_a_fresh_token_is_good_until_its_end(until: int, now: int) -> None:
    row = TokenRow("pi-1", until)
    if now < until:
        assert redeem(row, MINE, now) == "new"
    else:
        with pytest.raises(IdentityError, match="for pi-1 is too old"):
            redeem(row, MINE, now)


@given(now=st.integers(0, 100))
def test_a_used_token_is_good_for_its_own_key_only_and_for_ever(now: int) -> None:
    """Whoever did not hear the answer asks again; everybody else is refused."""
    row = TokenRow("pi-1", 50, MINE)
    assert redeem(row, MINE, now) == "again"
    with pytest.raises(IdentityError, match="used already, to enrol pi-1"):
        redeem(row, THEIRS, now)


def test_an_unknown_token_allows_nothing() -> None:
    with pytest.raises(IdentityError, match="not known here"):
        redeem(None, MINE, 0)


def test_a_taken_or_reserved_name_is_refused() -> None:
    check_new_name("pi-2", {"pi-1"})
    with pytest.raises(IdentityError, match="taken") as caught:
        check_new_name("pi-1", {"pi-1"})
    assert "revoke" in caught.value.help
    for name in RESERVED:
        with pytest.raises(IdentityError, match="reserved"):
            check_new_name(name, set())


@given(st.sets(st.integers(1, 30)), st.integers(0, 20))
def test_bulk_names_are_new_distinct_and_the_first_that_are_free(
    used: set[int], count: int
) -> None:
    taken = {f"device-{n:03d}" for n in used}
    names = free_names("device", count, taken)
    assert len(set(names)) == count
    assert not taken & set(names)
    assert list(names) == sorted(names)
    everything = taken | set(names)
    assert all(f"device-{n:03d}" in everything for n in range(1, count + 1))


def test_a_coordinator_in_1970_dates_nothing() -> None:
    check_clock(1_800_000_000)
    with pytest.raises(IdentityError, match="clock was never set"):
        check_clock(3600)


def test_a_certificate_is_renewed_in_its_last_third() -> None:
    life = 90 * DAY_S
    assert not renewal_due(life, 59 * DAY_S, life)
    assert renewal_due(life, 61 * DAY_S, life)
    assert renewal_due(life, 95 * DAY_S, life)


@pytest.mark.parametrize(
    ("insecure", "local", "enrolled", "guarded"),
    [
        (False, True, False, False),  # one machine, nobody enrolled
        (False, True, True, True),
        (False, False, False, True),
        (False, False, True, True),
        (True, True, True, False),
        (True, True, False, False),
    ],
)
def test_a_run_is_plain_on_one_machine_only(
    insecure: bool, local: bool, enrolled: bool, guarded: bool
) -> None:
    assert is_guarded(insecure=insecure, local=local, enrolled=enrolled) == guarded


@pytest.mark.parametrize("enrolled", [False, True])
def test_plain_mqtt_is_refused_where_others_can_listen(enrolled: bool) -> None:
    with pytest.raises(IdentityError, match="insecure = true") as caught:
        is_guarded(insecure=True, local=False, enrolled=enrolled)
    assert "flash-coordinator enroll" in caught.value.help
