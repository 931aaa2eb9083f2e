"""Uploads are pulled: which updates are on their way, and how much may be in flight.

Rule 1. What all uploads under way may weigh is bounded, so broker and coordinator hold
        the same whatever the cohort: `BUDGET` bytes, or `SLOTS` devices if their
        updates are larger.
Rule 2. Each sends at most `CREDIT` chunks before it is asked for more, and not above
        `CREDIT_BYTES` if that is less.
Rule 3. Who has to wait is called when its turn comes, in the order of arrival.
        What is small enough for all of a round's devices at once comes behind its
        offer; it takes its place at once, and together they weigh `BUDGET` at most.
Rule 4. Who is silent loses its place to those that wait, soon; who offers again and
        sends no chunk, later: a chunk takes half a minute on the slowest links.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.blob import LARGEST_CHUNK, Assembly
from edge_sdk.wire.messages import Data, Need, Offer

__all__ = [
    "BUDGET",
    "CREDIT",
    "CREDIT_BYTES",
    "SENDING_S",
    "SLOTS",
    "Upload",
    "UploadQueue",
    "unasked_bytes",
]

BUDGET = 8 << 20  # bytes; 128 updates of one chunk, or 33 of 250 KB
SLOTS = 8  # so many may send, however large their updates are
SENDING_S = 1.0  # after its last chunk, or its offer
IDLE_TIMES = 6.0  # the patience with one that offers again and sends nothing
CREDIT = 16  # chunks
CREDIT_BYTES = 1 << 20  # of chunks above 64 KiB; a device holds what it was asked for


def unasked_bytes(devices: int) -> int:
    """Bytes of an update that need not be asked for, in a round of so many devices.

    Example:
        >>> unasked_bytes(8), unasked_bytes(100), unasked_bytes(100_000_000)
        (262144, 83886, 0)
    """
    return min(BUDGET // max(devices, 1), LARGEST_CHUNK)


@dataclass
class Upload:
    """One update on its way."""

    device: str
    offer: Offer
    assembly: Assembly
    asked: int  # chunks asked for and not yet here
    touched: float  # when it said something, monotonic seconds
    advanced: float  # when a chunk came, or the first offer


class UploadQueue:
    """The uploads in progress, and who waits for a place among them.

    Args:
        clock: Monotonic seconds.
        patience_s: A device that sends nothing for so long loses its place.

    Attributes:
        was_missing: Whether the last chunk that came was missing.
    """

    def __init__(self, clock: Callable[[], float], patience_s: float = 20.0) -> None:
        self._clock, self._patience = clock, patience_s
        self._uploads: dict[str, Upload] = {}
        self._waiting: dict[str, tuple[str, Offer]] = {}  # by task, first come first
        self._held = 0  # bytes of the uploads in progress
        self.was_missing = False

    @property
    def waiting(self) -> int:
        """Devices that have offered and were not asked yet."""
        return len(self._waiting)

    def knows(self, task_id: str) -> bool:
        """Return whether a task's update was offered before, and is not here yet."""
        return task_id in self._uploads or task_id in self._waiting

    @property
    def sending(self) -> bool:
        """True while a device sends what it was asked for: a chunk is to come."""
        since = self._clock() - SENDING_S
        return any(u.asked > 0 and u.touched > since for u in self._uploads.values())

    def offer(self, device: str, offer: Offer, *, follows: bool = False) -> Need | None:
        """The request that answers a device's offer; None while it has to wait.

        Args:
            device: Whose it is.
            offer: What it offers.
            follows: Whether the chunks are on their way: they are not asked for.

        Raises:
            RemoteProtocolError: If the manifest contradicts itself.
        """
        known = self._uploads.get(offer.task_id)
        if known is not None and known.offer.manifest == offer.manifest:
            known.touched = self._clock()
            return self._ask(known)
        assembly = _assembly(offer)  # refuses what cannot be, waiting or not
        if known is not None:
            self._remove(offer.task_id)
        ahead = self._waiting and offer.task_id not in self._waiting
        if known is None and not follows and (ahead or not self._fits(offer)):
            self._waiting[offer.task_id] = device, offer
            return None
        self._waiting.pop(offer.task_id, None)
        return self._begin(device, offer, assembly)

    def data(self, device: str, data: Data) -> tuple[Upload | None, Need | None]:
        """Takes a chunk: the upload if it is now whole, and what to ask for next.

        Raises:
            RemoteProtocolError: If the chunk is not what the manifest names, or its
                sender is not who offered.
        """
        upload, self.was_missing = self._uploads.get(data.task_id), False
        if upload is None:
            return None, None
        if upload.device != device:
            raise RemoteProtocolError(
                f"{device} sends chunks of {upload.device}'s task"
            )
        if upload.assembly.add(data.index, data.chunk):
            self.was_missing = True
            upload.asked -= 1
            upload.touched = upload.advanced = self._clock()
        if upload.assembly.complete:
            self._remove(data.task_id)
            return upload, None
        return None, self._ask(upload) if upload.asked <= 0 else None

    def called(self) -> list[tuple[str, Need]]:
        """Devices whose turn has come since the last call, each with its request."""
        calls: list[tuple[str, Need]] = []
        while self._waiting:
            task_id, (device, offer) = next(iter(self._waiting.items()))
            if not self._fits(offer):
                break
            del self._waiting[task_id]
            calls.append((device, self._begin(device, offer, _assembly(offer))))
        return calls

    def forget(self) -> None:
        """Drops every upload: the round is over."""
        self._uploads.clear()
        self._waiting.clear()
        self._held = 0

    def _begin(self, device: str, offer: Offer, assembly: Assembly) -> Need:
        now = self._clock()
        upload = Upload(device, offer, assembly, 0, touched=now, advanced=now)
        self._uploads[offer.task_id] = upload
        self._held += offer.manifest.size
        return self._ask(upload)

    def _fits(self, offer: Offer) -> bool:
        if self._has_room(offer):
            return True
        now = self._clock()
        for task_id, upload in list(self._uploads.items()):
            idle_s = now - upload.advanced
            silent = now - upload.touched > self._patience
            if silent or idle_s > IDLE_TIMES * self._patience:
                self._remove(task_id)
        return self._has_room(offer)

    def _has_room(self, offer: Offer) -> bool:
        return len(self._uploads) < SLOTS or self._held + offer.manifest.size <= BUDGET

    def _remove(self, task_id: str) -> None:
        self._held -= self._uploads.pop(task_id).offer.manifest.size

    @staticmethod
    def _ask(upload: Upload) -> Need:
        ranges = upload.assembly.missing()
        missing = sum(stop - start for start, stop in ranges)
        most = max(CREDIT_BYTES // upload.offer.manifest.chunk_size, 1)
        credit = min(CREDIT, most)
        upload.asked = min(credit, missing)
        return Need(upload.offer.task_id, ranges, credit=credit)


def _assembly(offer: Offer) -> Assembly:
    return Assembly(offer.manifest, whole=True)
