"""Uploads are pulled: which updates are on their way, and how much may be in flight.

At most `SLOTS` devices send at a time, `CREDIT` chunks each, so what the broker and the
coordinator hold is bounded whatever the cohort. A device that waits repeats its offer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.blob import Assembly
from edge_sdk.wire.messages import Data, Need, Offer

__all__ = ["CREDIT", "SLOTS", "Intake", "Upload"]

SLOTS = 8
CREDIT = 16  # chunks of 64 KiB: 1 MiB per device, 8 MiB in flight over all


@dataclass
class Upload:
    """One update on its way."""

    device: str
    offer: Offer
    assembly: Assembly
    asked: int  # chunks asked for and not yet here
    touched: float  # monotonic seconds


class Intake:
    """The uploads in progress.

    Args:
        clock: Monotonic seconds.
        patience_s: A device that sends nothing for so long loses its slot.
    """

    def __init__(self, clock: Callable[[], float], patience_s: float = 20.0) -> None:
        self._clock, self._patience = clock, patience_s
        self._uploads: dict[str, Upload] = {}

    def offer(self, device: str, offer: Offer) -> Need | None:
        """What to ask of a device that offers; None when all slots are taken.

        Raises:
            RemoteProtocolError: If the manifest contradicts itself.
        """
        now = self._clock()
        known = self._uploads.get(offer.task_id)
        if known is None or known.offer.manifest != offer.manifest:
            if known is None and self._busy(now) >= SLOTS:
                return None
            known = Upload(device, offer, Assembly(offer.manifest), 0, now)
            self._uploads[offer.task_id] = known
        known.touched = now
        return self._ask(known)

    def data(self, device: str, data: Data) -> tuple[Upload | None, Need | None]:
        """Takes a chunk: the upload if it is now whole, and what to ask for next.

        Raises:
            RemoteProtocolError: If the chunk is not what the manifest names, or its
                sender is not who offered.
        """
        upload = self._uploads.get(data.task_id)
        if upload is None:
            return None, None
        if upload.device != device:
            raise RemoteProtocolError(
                f"{device} sends chunks of {upload.device}'s task"
            )
        if upload.assembly.add(data.index, data.chunk):
            upload.asked -= 1
            upload.touched = self._clock()
        if upload.assembly.complete:
            del self._uploads[data.task_id]
            return upload, None
        return None, self._ask(upload) if upload.asked <= 0 else None

    def forget(self) -> None:
        """Drops every upload: the round is over."""
        self._uploads.clear()

    def _busy(self, now: float) -> int:
        for task_id, upload in list(self._uploads.items()):
            if now - upload.touched > self._patience:
                del self._uploads[task_id]
        return len(self._uploads)

    @staticmethod
    def _ask(upload: Upload) -> Need:
        ranges = upload.assembly.missing()
        missing = sum(stop - start for start, stop in ranges)
        upload.asked = min(CREDIT, missing)
        return Need(upload.offer.task_id, ranges, credit=CREDIT)
