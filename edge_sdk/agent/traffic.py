"""A device's account of itself: bytes that it moved, and what its journal keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from edge_sdk.session import Session
from edge_sdk.storage.journal import KEEP_FINISHED, JournalRecord
from edge_sdk.transport.base import Traffic

__all__ = ["Marks", "TrafficCounter", "record_after"]


class Marks(NamedTuple):
    """(boot, highest sequence number) heard of the coordinator; absent before any.

    Attributes:
        heard: Of what it said to this device.
        announced: Of what it said to all.
    """

    heard: tuple[int, int] | UnsetType = UNSET
    announced: tuple[int, int] | UnsetType = UNSET


class TrafficCounter:
    """Bytes both ways over all the device's lives, and since local midnight.

    Args:
        record: What the lives before this one have kept.
    """

    def __init__(self, record: JournalRecord) -> None:
        self._carried = Traffic(record.sent, record.received)
        self._day = record.day, record.before_day
        self._live: Callable[[], Traffic] = lambda: Traffic(0, 0)

    def watch(self, live: Callable[[], Traffic]) -> None:
        """Adds what the transport of this life has moved so far."""
        self._live = live

    @property
    def totals(self) -> Traffic:
        """Bytes of all lives."""
        live = self._live()
        return Traffic(
            self._carried.sent + live.sent, self._carried.received + live.received
        )

    @property
    def day(self) -> tuple[str, int]:
        """The local date that was last counted on, and bytes moved before it."""
        return self._day

    def moved_on(self, date: str) -> int:
        """Bytes both ways on a local date, which is the present one."""
        moved = sum(self.totals)
        if date != self._day[0]:
            self._day = date, moved
        return moved - self._day[1]


def record_after(
    past: JournalRecord,
    session: Session,
    finished: tuple[str, str] | None,
    meter: TrafficCounter,
    marks: Marks,
) -> JournalRecord:
    """The next journal record of a session.

    Args:
        past: What it keeps so far.
        session: The epoch, the order and the offer to promise.
        finished: (task id, verdict) of the task that has just ended, if one has.
        meter: The bytes moved.
        marks: What was heard of the coordinator.
    """
    ended = list(past.finished)
    if finished is not None and finished[0]:
        ended.append(finished)
    made, offer = list(past.packed), session.offer
    if offer is not None and (not made or made[-1][0] != offer.task_id):
        made.append((offer.task_id, offer.manifest.sha256))
    totals, (day, before_day) = meter.totals, meter.day
    return JournalRecord(
        epoch=session.epoch,
        order=session.order,
        offer=session.offer,
        sent=totals.sent,
        received=totals.received,
        finished=ended[-KEEP_FINISHED:],
        packed=made[-KEEP_FINISHED:],
        day=day,
        before_day=before_day,
        heard=marks.heard,
        announced=marks.announced,
    )
