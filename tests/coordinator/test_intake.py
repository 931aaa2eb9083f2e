from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.intake import CREDIT, SLOTS, Intake
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.blob import chunk_of, positions
from edge_sdk.wire.messages import Data, Need, Offer

Offers = Callable[..., Offer]


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(offer: Offer, content: bytes, index: int) -> Data:
    return Data(offer.task_id, index, chunk_of(content, offer.manifest, index))


@given(size=st.integers(1, 90), seed=st.integers(0, 999))
def test_an_update_is_pulled_over_any_loss(size: int, seed: int, offer: Offers) -> None:
    """A device answers a NEED with at most its credit; what is lost is asked again."""
    content = bytes((seed + i) % 256 for i in range(size))
    intake, offered = Intake(Clock()), offer(content=content)
    need = intake.offer("pi", offered)
    whole, rng = None, np.random.default_rng(seed)
    for _ in range(1000):
        if need is None:
            need = intake.offer("pi", offered)  # what a device does when it is quiet
        assert isinstance(need, Need)
        assert need.credit == CREDIT
        asked = list(positions(need.ranges, size))[: need.credit]
        need = None
        for index in asked:
            if rng.random() < 0.3:
                continue
            whole, more = intake.data("pi", chunk(offered, content, index))
            need = more or need
            if whole is not None:
                assert whole.assembly.content() == content
                assert intake.data("pi", chunk(offered, content, 0)) == (None, None)
                return
    raise AssertionError("never whole")


def test_only_so_many_send_at_a_time_and_a_quiet_one_loses_its_slot(
    offer: Offers,
) -> None:
    clock = Clock()
    intake = Intake(clock, patience_s=20)
    for i in range(SLOTS):
        assert intake.offer(f"pi-{i}", offer(f"1-{i}")) is not None
    assert intake.offer("late", offer("1-late")) is None
    assert intake.offer("pi-0", offer("1-0")) is not None  # repeating is free
    clock.now += 15
    intake.offer("pi-0", offer("1-0"))
    clock.now += 10
    assert intake.offer("late", offer("1-late")) is not None
    assert intake.data("pi-1", chunk(offer("1-1"), b"update", 0)) == (None, None)
    _, more = intake.data("pi-0", chunk(offer("1-0"), b"update", 0))
    assert more is None


def test_a_new_update_for_the_same_task_starts_over(offer: Offers) -> None:
    intake = Intake(Clock())
    intake.offer("pi", offer(content=b"aaaa"))
    intake.data("pi", chunk(offer(content=b"aaaa"), b"aaaa", 0))
    need = intake.offer("pi", offer(content=b"bbbb"))
    assert need is not None
    assert need.ranges == [(0, 4)]


def test_chunks_of_anothers_task_or_damaged_ones_are_refused(offer: Offers) -> None:
    intake, offered = Intake(Clock()), offer()
    intake.offer("pi", offered)
    with pytest.raises(RemoteProtocolError, match="evil sends chunks of pi's task"):
        intake.data("evil", chunk(offered, b"update", 0))
    with pytest.raises(RemoteProtocolError, match="digest"):
        intake.data("pi", Data(offered.task_id, 0, b"X"))
    with pytest.raises(RemoteProtocolError, match="beyond"):
        intake.data("pi", Data(offered.task_id, 99, b"X"))
    assert intake.data("pi", Data("9-unknown", 0, b"X")) == (None, None)


def test_a_round_that_is_over_forgets_its_uploads(offer: Offers) -> None:
    intake = Intake(Clock())
    intake.offer("pi", offer())
    intake.forget()
    assert intake.data("pi", chunk(offer(), b"update", 0)) == (None, None)
