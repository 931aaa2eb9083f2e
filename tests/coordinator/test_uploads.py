from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.handlers import TaskHandlers
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.uploads import (
    BUDGET,
    CREDIT,
    CREDIT_BYTES,
    SENDING_S,
    SLOTS,
    UploadQueue,
    unasked_bytes,
)
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.blob import (
    CHUNK_SIZE,
    LARGEST_CHUNK,
    chunk_of,
    manifest_of,
    positions,
)
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
    intake, offered = UploadQueue(Clock()), offer(content=content)
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


@given(
    size=st.integers(1, 40 << 20),
    chunk_size=st.sampled_from([1000, CHUNK_SIZE, 130_048, LARGEST_CHUNK]),
)
def test_a_device_is_asked_for_no_more_than_a_megabyte_at_a_time(
    size: int, chunk_size: int, offer: Offers
) -> None:
    """It holds all of it in packets; and for one chunk at least."""
    size = min(size, 2048 * chunk_size)
    first = offer("1-a")
    count = -(-size // chunk_size)
    manifest = msgspec.structs.replace(
        first.manifest,
        size=size,
        chunk_size=chunk_size,
        chunks=first.manifest.chunks[:1] * count,
    )
    offered = msgspec.structs.replace(first, manifest=manifest)
    need = UploadQueue(Clock()).offer("pi", offered)
    assert need is not None
    assert 1 <= need.credit <= CREDIT
    assert need.credit * chunk_size <= CREDIT_BYTES
    assert need.credit == min(CREDIT, CREDIT_BYTES // chunk_size)


def sized(offer: Offers, task_id: str, size: int) -> Offer:
    """An offer that says it is so large; nothing of it is ever sent."""
    first = offer(task_id)
    chunks = -(-size // CHUNK_SIZE)
    manifest = msgspec.structs.replace(
        first.manifest,
        size=size,
        chunk_size=CHUNK_SIZE,
        chunks=first.manifest.chunks[:1] * chunks,
    )
    return msgspec.structs.replace(first, manifest=manifest)


def test_large_updates_are_pulled_from_so_many_devices_and_a_quiet_one_loses_its_place(
    offer: Offers,
) -> None:
    clock = Clock()
    intake = UploadQueue(clock, patience_s=20)
    for i in range(SLOTS):
        assert intake.offer(f"pi-{i}", sized(offer, f"1-{i}", BUDGET)) is not None
    late = sized(offer, "1-late", BUDGET)
    assert intake.offer("late", late) is None
    again = sized(offer, "1-0", BUDGET)
    assert intake.offer("pi-0", again) is not None  # repeating is free
    clock.now += 15
    intake.offer("pi-0", again)
    assert intake.called() == []
    clock.now += 10
    ((device, need),) = intake.called()
    assert (device, need.blob) == ("late", "1-late")
    assert intake.data("pi-1", Data("1-1", 0, b"X")) == (None, None)


def test_small_updates_are_pulled_from_as_many_as_fit_and_the_next_is_called(
    offer: Offers,
) -> None:
    size = 250_000
    intake, fit = UploadQueue(Clock()), BUDGET // size
    offers = {f"pi-{i}": sized(offer, f"1-{i}", size) for i in range(fit + 3)}
    asked = [device for device, one in offers.items() if intake.offer(device, one)]
    assert asked == list(offers)[:fit]
    assert intake.waiting == 3
    waiting = list(offers)[fit:]
    assert intake.offer(waiting[1], offers[waiting[1]]) is None  # keeps its turn
    small = offer("1-small", content=b"x")
    assert intake.offer("small", small) is None  # nobody overtakes
    intake._remove("1-0")
    assert [device for device, _ in intake.called()] == waiting[:1]
    intake._remove("1-1")
    assert [device for device, _ in intake.called()] == waiting[1:2]
    intake._remove("1-2")
    assert [device for device, _ in intake.called()] == [*waiting[2:], "small"]
    assert intake.waiting == 0


def test_a_new_update_for_the_same_task_starts_over(offer: Offers) -> None:
    intake = UploadQueue(Clock())
    intake.offer("pi", offer(content=b"aaaa"))
    intake.data("pi", chunk(offer(content=b"aaaa"), b"aaaa", 0))
    need = intake.offer("pi", offer(content=b"bbbb"))
    assert need is not None
    assert need.ranges == [(0, 4)]


def test_chunks_of_anothers_task_or_damaged_ones_are_refused(offer: Offers) -> None:
    intake, offered = UploadQueue(Clock()), offer()
    intake.offer("pi", offered)
    with pytest.raises(RemoteProtocolError, match="evil sends chunks of pi's task"):
        intake.data("evil", chunk(offered, b"update", 0))
    with pytest.raises(RemoteProtocolError, match="beyond"):
        intake.data("pi", Data(offered.task_id, 99, b"X"))
    assert intake.data("pi", Data("9-unknown", 0, b"X")) == (None, None)


def test_a_damaged_chunk_is_found_with_the_last_one_and_asked_for_again(
    offer: Offers,
) -> None:
    intake, offered = UploadQueue(Clock()), offer()
    intake.offer("pi", offered)
    last = len(offered.manifest.chunks) - 1
    intake.data("pi", Data(offered.task_id, 2, b"X"))
    for index in range(last):
        intake.data("pi", chunk(offered, b"update", index))
    with pytest.raises(RemoteProtocolError, match="chunk 2 does not have its digest"):
        intake.data("pi", chunk(offered, b"update", last))
    need = intake.offer("pi", offered)
    assert need is not None
    assert need.ranges == [(2, 3)]
    upload, _ = intake.data("pi", chunk(offered, b"update", 2))
    assert upload is not None
    assert upload.assembly.content() == b"update"


def test_a_round_that_is_over_forgets_its_uploads(offer: Offers) -> None:
    intake = UploadQueue(Clock())
    intake.offer("pi", offer())
    intake.forget()
    assert intake.data("pi", chunk(offer(), b"update", 0)) == (None, None)
    assert intake.called() == []
    assert intake._held == 0


def test_who_offers_again_and_sends_nothing_keeps_no_place_for_ever(
    offer: Offers,
) -> None:
    """One that sends a chunk now and then, over the slowest link, does."""
    clock = Clock()
    intake = UploadQueue(clock, patience_s=20)
    size = 2 * CHUNK_SIZE * CREDIT
    content = bytes(size)
    slow, *idle = (sized(offer, f"1-{n}", size) for n in range(SLOTS))
    slow = msgspec.structs.replace(slow, manifest=manifest_of(content))
    for one in (slow, *idle):
        assert intake.offer(one.task_id, one) is not None
    honest = sized(offer, "1-honest", BUDGET)
    assert intake.offer("honest", honest) is None
    for turn in range(24):
        clock.now += 10
        for one in (slow, *idle):
            if intake.offer(one.task_id, one) is None:
                continue
        if turn % 6 == 0:
            intake.data(slow.task_id, chunk(slow, content, turn // 6))
        if any(device == "honest" for device, _ in intake.called()):
            break
    else:
        pytest.fail("it was never called")
    need = intake.offer(slow.task_id, slow)
    assert need is not None
    assert need.ranges[0][0] > 0  # what it sent is kept


def test_a_device_sends_until_its_last_chunk_or_for_a_second(offer: Offers) -> None:
    clock, content = Clock(), bytes(3)
    intake = UploadQueue(clock)
    assert not intake.sending
    offered = offer(content=content)
    intake.offer("pi", offered)
    for index in range(3):
        assert intake.sending
        intake.data("pi", chunk(offered, content, index))
    assert not intake.sending
    intake.offer("pi", offered)
    clock.now += SENDING_S
    assert not intake.sending
    intake.data("pi", chunk(offered, content, 0))
    assert intake.sending
    intake.forget()
    assert not intake.sending


@given(devices=st.integers(0, 1 << 30))
def test_what_a_round_sends_unasked_fits_the_budget(devices: int) -> None:
    assert devices * unasked_bytes(devices) <= BUDGET
    assert 0 <= unasked_bytes(devices) <= LARGEST_CHUNK


def test_an_update_that_follows_its_offer_waits_for_nobody(offer: Offers) -> None:
    """Others that wait go on waiting; what was lost of it is asked for."""
    intake = UploadQueue(Clock())
    for number in range(SLOTS):
        assert intake.offer("pi", sized(offer, f"1-{number}", BUDGET)) is not None
    assert intake.offer("pi-w", sized(offer, "1-w", BUDGET)) is None
    content = bytes(range(90))
    small = offer("1-s", content=content)
    assert not intake.knows("1-s")
    assert intake.offer("pi-s", small, follows=True) is not None
    assert intake.knows("1-s")
    assert intake.sending
    for index in range(1, 90):
        assert intake.data("pi-s", chunk(small, content, index))[0] is None
    need = intake.offer("pi-s", small, follows=True)  # it was quiet, and says it again
    assert need is not None
    assert list(need.ranges) == [(0, 1)]
    whole, _ = intake.data("pi-s", chunk(small, content, 0))
    assert whole is not None
    assert whole.assembly.content() == content
    assert intake.waiting == 1
    assert not intake.called()  # the large ones still have all places


def test_only_a_chunk_that_was_missing_is_progress(offer: Offers) -> None:
    """What a device sends again and again moves no deadline."""

    class Recorded:
        chunks: ClassVar[list[int]] = []

        def advances(self, device: str, data: Data) -> None:
            self.chunks.append(data.index)

        def tell(self, device: str, message: object) -> None:
            pass

    content, rounds = bytes(range(9)), Recorded()
    offered, stranger = offer(content=content), offer(task_id="1-b", content=content)
    handlers = TaskHandlers(rounds, cast("Publisher", None), Clock())  # type: ignore[type-var]
    handlers._intake.offer("pi", offered)
    for index in (0, 0, 3, 0, 3, 5):
        handlers.data("pi", chunk(offered, content, index))
    handlers.data("pi", chunk(stranger, content, 1))
    assert rounds.chunks == [0, 3, 5]
