"""Clearing of the messages that a revoked device has retained at the broker.

A broker keeps one retained message per topic for ever, and an access list that ends a
device's rights does not take back what it wrote before. A session that it left open is
ended elsewhere, by the clean session of `coordinator.identity.revocation`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics

__all__ = ["Wiping"]

log = logging.getLogger(__name__)
AGAIN_S = 5.0  # until a second look: the device's link is cut by then
LISTEN_S = 60.0  # for what is retained to arrive, also over a slow link
MOST = 100_000  # topics of one device that are cleared


@dataclass
class _Work:
    """One device's wiping: until when, and which topics were cleared in this look."""

    again: float | None
    until: float
    cleared: set[str] = field(default_factory=set)
    before: int = 0


class Wiping:
    """Listens for what is retained under a device's topics, and clears it.

    Args:
        federation: The federation's name.
        transport: The coordinator's link.
        clock: Monotonic seconds.
    """

    def __init__(
        self, federation: str, transport: Transport, clock: Callable[[], float]
    ) -> None:
        self._federation, self._transport, self._clock = federation, transport, clock
        self._work: dict[str, _Work] = {}

    def begin(self, device: str) -> None:
        """A device was revoked."""
        now = self._clock()
        self._work[device] = _Work(now + AGAIN_S, now + LISTEN_S)
        self._look(device)

    def saw(self, topic: str, payload: bytes) -> None:
        """Clears a topic if a device writes there, or wrote, that is wiped."""
        device = topics.device_of(topic, self._federation)
        work = None if device is None else self._work.get(device)
        if work is None or not payload or topic in work.cleared:
            return
        inbox = topics.inbox(self._federation, str(device))  # we write that, unretained
        if topic != inbox and len(work.cleared) < MOST:
            work.cleared.add(topic)
            self._transport.publish(topic, b"", retain=True)

    def tick(self) -> None:
        """Looks a second time, and ends what was listened for long enough."""
        now = self._clock()
        for device, work in list(self._work.items()):
            if work.again is not None and work.again <= now:
                work.again = None
                work.before += len(work.cleared)
                work.cleared.clear()
                self._look(device)
            if work.until <= now:
                del self._work[device]
                self._transport.unsubscribe(topics.below(self._federation, device))
                count = work.before + len(work.cleared)
                if count:
                    log.info(
                        "cleared %d retained messages of %s from the broker",
                        *(count, device),
                        extra={"device": device},
                    )

    def _look(self, device: str) -> None:
        """Asked again for topics, a broker says again what it keeps there.

        What all devices say is heard anyway, but not what was retained before.
        """
        self._transport.subscribe(topics.below(self._federation, device))
