"""Who is here, and which statuses decide that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from coordinator.rounds.deadlines import Advance, advanced, extended_s, latest_s
from coordinator.rounds.state import TaskPhase
from coordinator.rounds.warm_up_attempts import ATTEMPTS, next_attempt
from coordinator.server.devices.presence import (
    SEEN_S,
    Presence,
    Said,
    is_news,
    speaks_again,
)
from coordinator.server.devices.standing import (
    FRESH,
    MOST,
    Standing,
    after_failure,
    after_hello,
)
from edge_sdk.identity.signatures import Recent
from edge_sdk.wire.codec import Header
from edge_sdk.wire.messages import Status


def header(seq: int, boot: int = 1, epoch: int = 5) -> Header:
    return Header("status", "home", "pi-1", "coordinator", epoch, seq, boot)


def status(online: bool, link: int = 0) -> Status:
    return Status(online=online, phase="idle", link=link or UNSET)


@given(
    st.lists(
        st.tuples(st.sampled_from(["heard", "expect"]), st.floats(0, 1e4)), max_size=20
    )
)
def test_what_a_device_says_never_shortens_its_presence(
    said: list[tuple[str, float]],
) -> None:
    presence, now, until = Presence(), 0.0, 0.0
    presence.heard("pi-1", now)
    for kind, seconds in said:
        if kind == "heard":
            now += seconds / 100
            presence.heard("pi-1", now)
        else:
            presence.expect("pi-1", now + seconds)
            until = max(until, now + seconds)
        until = max(until, now)
        assert presence.here(until + SEEN_S) == {"pi-1"}
        assert presence.here(until + SEEN_S + 1e-3 + 1e-9 * until) == set()
    presence.gone("pi-1")
    assert presence.here(now) == set()
    presence.expect("pi-1", now + 100)
    assert presence.here(now) == set()


def test_a_will_counts_once_and_only_of_the_link_that_there_is() -> None:
    last: Said | None = None

    def news(seq: int, message: Status, boot: int = 1) -> bool:
        nonlocal last
        said = is_news(last, header(seq, boot), message)
        last = said or last
        return said is not None

    assert news(3, status(online=True, link=1))
    assert news(1, status(online=False, link=1))
    assert not news(1, status(online=False, link=1))  # said again
    assert news(9, status(online=True, link=2))
    assert not news(1, status(online=False, link=1))  # of the link before
    assert not news(3, status(online=True, link=1))
    assert news(8, status(online=False, link=2))
    assert news(20, status(online=True, link=3))
    assert news(21, status(online=False, link=3))  # a goodbye
    assert news(2, status(online=True, link=1), boot=7)  # another life
    # 0.1.0 has one will for all links, of a number before all others.
    assert news(2, status(online=True), boot=8)
    assert news(1, status(online=False), boot=8)


def test_a_will_that_was_overtaken_by_the_next_life_decides_nothing() -> None:
    """A will waits for its acknowledgement; a status without one does not wait."""
    last = is_news(None, header(3, boot=1), status(online=True, link=1))
    assert last is not None
    last = is_news(last, header(2, boot=2), status(online=True, link=1))
    assert last is not None
    assert is_news(last, header(1, boot=1), status(online=False, link=1)) is None
    assert is_news(last, header(9, boot=1), status(online=False, link=1)) is None
    assert speaks_again(last, header(9, boot=1)) is None
    gone = is_news(last, header(1, boot=2), status(online=False, link=1))
    assert gone is not None
    assert not gone.online
    assert is_news(gone, header(9, boot=1), status(online=True, link=1)) is None


def test_any_message_shows_that_a_device_is_here_whose_status_was_lost() -> None:
    here = is_news(None, header(3), status(online=True, link=1))
    assert here is not None
    assert speaks_again(here, header(4)) is None  # as known
    gone = is_news(here, header(1), status(online=False, link=1))
    assert gone is not None
    assert speaks_again(gone, header(2)) is None  # said before its last status
    back = speaks_again(gone, header(5))
    assert back is not None
    assert back.online
    reborn = speaks_again(gone, header(1, boot=2))
    assert reborn == Said(2, 0, 0, online=True, ended=(1,))
    assert is_news(reborn, header(2, boot=2), status(online=True, link=1)) is not None


def test_what_was_recorded_before_a_coordinators_start_takes_no_life_s_place() -> None:
    """It knows of other lives then; the epoch in what they said tells them apart."""
    recent = Recent()
    assert recent.take(header(40, boot=2, epoch=9))
    assert not recent.take(header(7, boot=1, epoch=8))  # an earlier life, repeated
    assert recent.is_over(header(8, boot=1, epoch=8))
    assert recent.take(header(41, boot=2, epoch=9))
    assert recent.take(header(1, boot=3, epoch=9))  # it has started anew
    assert not recent.take(header(42, boot=2, epoch=9))


def test_failures_in_a_row_keep_a_device_out_for_longer_and_bounded() -> None:
    standing, no, gaps = FRESH, 1, []
    for _ in range(10):
        standing = after_failure(standing, no, "full")
        assert standing.until is not None
        gaps.append(standing.until - no - 1)
        no = standing.until
        assert standing.may_be_asked(no)
        assert not standing.may_be_asked(no - 1)
    assert gaps[:4] == [1, 2, 4, 8]
    assert max(gaps) == MOST


def test_a_late_device_sits_out_only_when_it_is_late_again_and_again() -> None:
    standing = FRESH
    for _ in range(3):
        standing = after_failure(standing, 4, "late", weight=0.25)
        assert standing.may_be_asked(5)
    assert not after_failure(standing, 4, "late", weight=0.25).may_be_asked(5)


def test_who_cannot_comes_back_by_another_hello_or_once_by_a_new_start() -> None:
    out = after_failure(FRESH, 3, "one example", lasting=True)
    assert not out.may_be_asked(10**6)
    same = after_hello(out, 9, changed=False, rebooted=False)
    assert same == out
    assert after_hello(FRESH, 9, changed=True, rebooted=True) == FRESH
    for changed, rebooted in ((True, False), (False, True)):
        once = after_hello(out, 9, changed=changed, rebooted=rebooted)
        assert once == Standing(1.0, 9, "one example")
        assert once.may_be_asked(9)
        assert once.why  # not counted on


def test_who_says_something_else_each_time_keeps_what_failed() -> None:
    standing = FRESH
    for no in range(1, 6):
        standing = after_failure(standing, no, "full")
        standing = after_hello(standing, no + 1, changed=True, rebooted=False)
        assert standing.may_be_asked(no + 1)
    assert standing == Standing(5.0, 6, "failed 5 times in a row: full")


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30),
    st.floats(1.0, 1e6),
)
def test_a_deadline_is_never_extended_beyond_its_cap(
    shares: list[float], first_s: float
) -> None:
    rng = np.random.default_rng(len(shares))
    known, at = None, 0.0
    for share in shares:
        at += float(rng.uniform(0.1, first_s))
        known = advanced(known, share, at)
        until = extended_s(at, first_s, 1, [known])
        assert until is None or at < until <= latest_s(first_s) <= 24 * 3600


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_only_as_many_as_the_quorum_lacks_extend_a_deadline(missing: int) -> None:
    """One that claims to advance holds up nobody's round alone."""
    found = extended_s(100.0, 90.0, missing, [Advance(0.5, 95.0), Advance(0.9, 99.0)])
    assert (found is not None) == (missing <= 2)


def test_who_stands_still_or_will_be_too_late_extends_nothing() -> None:
    assert extended_s(500.0, 90.0, 1, [Advance(0.5, 95.0)]) is None
    assert extended_s(100.0, 90.0, 1, [Advance(0.001, 99.0)]) is None
    assert extended_s(1000.0, 900.0, 1, [Advance(0.5, 800.0, gap_s=150.0)]) is not None


def test_a_warm_up_asks_others_then_once_the_same_then_nobody() -> None:
    late, out = TaskPhase.EXPIRED, TaskPhase.FAILED
    assert next_attempt(0, {}, ["a", "b"]).able == {"a", "b"}
    assert next_attempt(1, {"a": late, "b": out}, ["a", "b", "c"]).able == {"c"}
    assert next_attempt(1, {"a": late, "b": out}, ["a", "b"]).able == {"a"}
    assert next_attempt(2, {"a": late, "b": out}, ["a", "b"]).able == set()
    assert next_attempt(ATTEMPTS, {"a": late}, ["z"]).able == set()
    assert next_attempt(1, {"a": TaskPhase.ACCEPTED}, ["a"]).kept == ("a",)
