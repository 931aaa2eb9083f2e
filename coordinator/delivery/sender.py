"""Delivers: tells devices of their bundle until each has said what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from coordinator.delivery.store import PENDING, Delivery, DeliveryStore
from coordinator.protocol.publisher import KEPT, Publisher
from edge_sdk.errors import RunError, StateError
from edge_sdk.wire.messages import Install, Manifest, Running

__all__ = ["DeliverySender"]

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often the store is looked at
AGAIN_S = 20.0  # a device that does not answer is told again


class DeliverySender:
    """Deliveries of one coordinator.

    Args:
        store: What is to be delivered.
        publisher: Sends.
        clock: Monotonic seconds.
    """

    def __init__(
        self, store: DeliveryStore, publisher: Publisher, clock: Callable[[], float]
    ) -> None:
        self._store, self._publisher, self._clock = store, publisher, clock
        self._pending: dict[str, Delivery] = {}
        self._published: dict[
            str, Manifest
        ] = {}  # packed bundles that are on the broker
        self._told: dict[str, float] = {}  # device -> when
        self._live: dict[str, tuple[bytes | None, str]] = {}
        self._version = (-1, -1)
        self._look_at = clock()

    def pending(self) -> Collection[str]:
        """Devices whose delivery is not over."""
        return self._pending.keys()

    def tick(self, online: Callable[[], Collection[str]]) -> None:
        """Looks for new deliveries; tells devices that are here and do not answer."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if self._store.version() != self._version:
            self._version = self._store.version()
            self._read()
        if not self._pending:
            return
        for device in sorted(self._pending.keys() & set(online())):
            if now - self._told.get(device, -AGAIN_S) >= AGAIN_S:
                self._tell(self._pending[device])

    def greeted(self, device: str) -> None:
        """A device said hello: it may have forgotten what it was told."""
        if device in self._pending:
            self._tell(self._pending[device])

    def told(self, device: str, running: Running) -> None:
        """A device says what it runs and what became of its latest delivery."""
        if self._live.get(device) != (running.live, running.label):
            self._live[device] = running.live, running.label
            self._store.runs(device, running)
        mine = self._pending.get(device)
        if mine is None or mine.no != running.no or not running.verdict:
            if running.verdict == "refused":
                log.warning("%s: %s", device, running.why, extra={"device": device})
            return
        self._store.end(mine.no, device, running.verdict, running.why)
        level = logging.INFO if running.verdict == "live" else logging.WARNING
        why = f": {running.why}" if running.why else ""
        log.log(
            level,
            "%s on %s is %s%s",
            *(mine.label, device, running.verdict, why),
            extra={"device": device},
        )
        del self._pending[device]
        self._clear()

    def _read(self) -> None:
        latest = self._store.latest()
        found = {d: row for d, row in latest.items() if row.verdict == PENDING}
        for device, row in found.items():
            if self._pending.get(device) != row:
                self._told.pop(device, None)
        self._pending = found
        for row in list(found.values()):
            if row.blob not in self._published:
                self._publish_bundle(row)
        self._clear()

    def _publish_bundle(self, row: Delivery) -> None:
        try:
            content = self._store.content(row.blob)
            self._published[row.blob] = self._publisher.shelve(content, KEPT)
        except (RunError, StateError) as error:  # the run goes on without it
            log.error("%s cannot be delivered: %s", row.label, error)  # noqa: TRY400
            for device in [d for d, p in self._pending.items() if p.blob == row.blob]:
                self._store.end(row.no, device, "failed", str(error))
                del self._pending[device]

    def _tell(self, row: Delivery) -> None:
        self._told[row.device] = self._clock()
        blob = self._published[row.blob]
        self._publisher.tell(row.device, Install(row.no, blob, row.digest, row.key))

    def _clear(self) -> None:
        """Remove blobs that no device waits for from the broker and the disk."""
        wanted = {row.blob for row in self._pending.values()}
        gone = self._published.keys() - wanted
        for blob in gone:
            self._publisher.unshelve(blob)
            del self._published[blob]
        if gone:
            self._store.forget()
