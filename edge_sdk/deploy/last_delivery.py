"""Record of the last delivery that a board took, so that no earlier one returns.

A signed order to install is true for ever, and whoever runs the broker may keep it and
say it again. Deliveries are therefore ordered by (epoch, number), both of which are
signed: epochs grow at every start of a coordinator, numbers at every delivery. Older
than the last one taken is refused, over restarts, whatever became of that one. To go
back to an earlier model is a new delivery, with the next number, of the older bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import CheckpointError, RemoteProtocolError, StateError
from edge_sdk.wire.codec import pack, unpack

__all__ = ["Delivered", "DeliveredFile"]

FILE = "delivery.msgpack"


class Delivered(msgspec.Struct, frozen=True):
    """The last delivery that a board has begun; new fields come last, with a default.

    Attributes:
        epoch: Of the coordinator that ordered it.
        no: Its number; 0 before the first.
        digest: SHA-256 of its bundle's manifest.
        verdict: What became of it; "" while it is under way.
        why: If it did not become live.
    """

    epoch: int = 0
    no: int = 0
    digest: bytes = b""
    verdict: Literal["", "live", "failed", "refused"] = ""
    why: str = ""

    def is_repeated_by(self, no: int, digest: bytes) -> bool:
        """Return whether an order is for this same delivery.

        Its digest is not known where the power went in a health check of 0.1.
        """
        return no == self.no != 0 and self.digest in (digest, b"")

    def is_after(self, epoch: int, no: int) -> bool:
        """Return whether an order was given before the one for this delivery.

        Example:
            >>> Delivered(epoch=7, no=5).is_after(7, 4), Delivered(7, 5).is_after(8, 1)
            (True, False)
        """
        return (epoch, no) < (self.epoch, self.no)


class DeliveredFile:
    """The last delivery, in a device's state folder.

    Attributes:
        last: What is durable; or was to be, where the disk refused.

    Raises:
        StateError: If the file is damaged.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FILE
        try:
            self.last = unpack(self._path.read_bytes(), Delivered)
        except FileNotFoundError:  # of 0.1, too: what is live there stays
            self.last = Delivered()
        except (OSError, RemoteProtocolError) as error:
            raise StateError(
                f"the record of deliveries {self._path} cannot be read: {error}",
                remedy="Move the file away: the next delivery writes it anew.",
            ) from error

    def keep(self, delivered: Delivered) -> None:
        """Makes it the last one, durably.

        Raises:
            StateError: If the disk refuses.
        """
        if delivered == self.last:
            return
        self.last = delivered
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, pack(delivered))
        except (OSError, CheckpointError) as error:
            raise StateError(f"{self._path} cannot be written: {error}") from error
