"""Messages that a device sends: numbered, signed; its HELLO and its status."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable

from msgspec import UNSET

from edge_sdk.agent.parts import DeviceKeys, Identity
from edge_sdk.device.probe.ram import resident_mib
from edge_sdk.device.probe.sensors import hottest, read_power
from edge_sdk.own_packages import own_version
from edge_sdk.session import Session, SessionPhase
from edge_sdk.transport.base import Traffic
from edge_sdk.wire.codec import Header, encode, tag_of
from edge_sdk.wire.messages import Hello, Message, Status
from edge_sdk.wire.values import CODECS

__all__ = ["COORDINATOR", "DevicePublisher", "hello_of", "status_of"]

COORDINATOR = "coordinator"
ERROR_CHARS = 500  # of a reason that others show
STEP_S = 5.0  # between two moments that are remembered
DAY_S = 86_400.0  # what was said before is older than any answer may be


class DevicePublisher:
    """Packs what one life of a device says.

    Args:
        me: Who speaks.
        device_keys: Its keys; None signs nothing.
        clock: Monotonic seconds.
    """

    def __init__(
        self, me: Identity, device_keys: DeviceKeys | None, clock: Callable[[], float]
    ) -> None:
        self._me, self._device_keys, self._clock = me, device_keys, clock
        self._boot = int.from_bytes(os.urandom(6), "big")
        self._seq = 0
        self._said: list[tuple[int, float]] = []  # sequence number, when; ascending
        self._lock = threading.Lock()  # wills are packed on the network thread

    def age_s(self, boot: int, seq: int) -> float | None:
        """At most how long ago this life said a message; None if it never did.

        Args:
            boot: Of the life that said it.
            seq: Its sequence number.
        """
        with self._lock:
            known = bisect_right(self._said, seq, key=lambda one: one[0])
            if boot != self._boot or seq > self._seq or not known:
                return None
            return self._clock() - self._said[known - 1][1]

    def pack(self, message: Message, session: Session) -> bytes:
        """The next packet, as it is said in a session."""
        with self._lock:
            self._seq += 1
            seq = self._seq
            self._note()
        header = Header(
            type=tag_of(message),
            federation=self._me.federation,
            source=self._me.name,
            destination=COORDINATOR,
            epoch=session.epoch,
            seq=seq,
            boot=self._boot,
            round_no=session.order.round_no if session.order else 0,
        )
        return encode(
            header,
            message,
            sign=self._device_keys.seal.sign if self._device_keys else None,
        )

    def _note(self) -> None:
        now, said = self._clock(), self._said
        if not said or now - said[-1][1] >= STEP_S:
            said.append((self._seq, now))
            while now - said[0][1] > DAY_S:
                said.pop(0)


def hello_of(me: Identity, session: Session, engines: tuple[str, ...]) -> Hello:
    """The HELLO of a device: its name, its state in the round, its abilities.

    Args:
        me: Who it is.
        session: Where it stands.
        engines: Engines that can run here.
    """
    return Hello(
        phase=session.phase.value,
        task_id=session.order.id if session.order else None,
        version=own_version(),
        task=me.task,
        examples=me.examples_now,
        profile=me.profile,
        codecs=list(CODECS),
        engines=list(engines),
        free_disk_mib=0,
        evaluates=True,
        consent=me.consent or UNSET,
    )


def status_of(
    me: Identity,
    session: Session,
    totals: Traffic,
    *,
    online: bool,
    engine: str,
    pause: str,
    progress: int,
    link: int,
    open_minutes: int | None,
) -> Status:
    """The STATUS of a device: its state, traffic and sensors at this moment.

    Args:
        me: Who it is.
        session: Where it stands.
        totals: Bytes that it moved.
        online: Whether it is here; False is its will and its goodbye.
        engine: Engine of the last task.
        pause: Why it pauses, or "".
        progress: Permille of the training in hand; not told in other phases.
        link: Which of its connections this is.
        open_minutes: Until its owner's hours end; None where they do not.
    """
    celsius, power = hottest(), read_power()
    charge = power.percent if power.on_battery else None
    return Status(
        online=online,
        phase=session.phase.value,
        round_no=session.order.round_no if session.order else 0,
        engine=engine,
        detail=pause or me.note,
        sent=totals.sent,
        received=totals.received,
        rss_mib=resident_mib(),
        celsius=UNSET if celsius is None else round(celsius, 1),
        progress=progress if session.phase is SessionPhase.TRAIN else UNSET,
        link=link,
        battery=UNSET if charge is None else charge,
        open_min=UNSET if open_minutes is None else open_minutes,
        data_error=me.failing()[:ERROR_CHARS] or UNSET,
    )
