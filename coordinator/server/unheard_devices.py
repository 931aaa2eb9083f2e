"""Connected devices whose HELLO does not arrive."""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["UNHEARD_S", "Unheard"]

log = logging.getLogger(__name__)
UNHEARD_S = 45.0  # two of a device's own attempts
WHY = (
    "%s is connected to the broker, and its HELLO has not come: perhaps it is larger "
    "than the broker takes (max_packet_size, message_size_limit), or the access list "
    "keeps it back. Look at the device's own log, and run flash-edge doctor there"
)


class Unheard:
    """Devices by what they have said; a status is small and gets through first."""

    def __init__(self) -> None:
        self._greeted: set[str] = set()
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def hello(self, device: str) -> None:
        """Note that a device's HELLO came, whatever was in it."""
        self._greeted.add(device)
        self._since.pop(device, None)

    def look(self, online: Iterable[str], now: float) -> list[str]:
        """Find devices that are online for long without a HELLO; warn once of each.

        Args:
            online: Devices whose status says so.
            now: Monotonic seconds.
        """
        silent = set(online) - self._greeted
        self._since = {one: self._since.get(one, now) for one in silent}
        found = sorted(s for s, at in self._since.items() if now - at >= UNHEARD_S)
        for device in found:
            if device not in self._told:
                self._told.add(device)
                log.warning(WHY, device, extra={"device": device})
        return found
