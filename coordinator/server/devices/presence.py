"""Presence of devices: the task of a device decides how long it may be silent.

Rule 1. Presence ends by the device's will or goodbye, or by a revocation; what it says
        meanwhile never shortens it.
Rule 2. A device is silent for as long as it was told to wait, has a task, or pauses.
Rule 3. Whose will was lost ends too: `SEEN_S` after it should have been heard again.
Rule 4. A status that is older than one heard, the will of a link that was replaced and
        the last words of a life that has ended decide nothing: a will waits for its
        acknowledgement at a broker, where a status without one overtakes it.
Rule 5. Any other message of a device shows that it is here, as its status would, which
        a broker may lose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from msgspec import UNSET

from edge_sdk.wire.codec import Header
from edge_sdk.wire.messages import Status

__all__ = [
    "SEEN_S",
    "UNHEARD_S",
    "Presence",
    "Said",
    "Unheard",
    "is_news",
    "speaks_again",
]

log = logging.getLogger(__name__)

SEEN_S = 90.0  # how late a device may be with what it should say
BOOTS = 8  # earlier lives of a device that are told from a new one
UNHEARD_S = 45.0  # two of a device's own attempts
WHY = (
    "%s is connected to the broker, and its HELLO has not come: perhaps it is larger "
    "than the broker takes (max_packet_size, message_size_limit), or the access list "
    "keeps it back. Look at the device's own log, and run flash-edge doctor there"
)


class _Stay(NamedTuple):
    heard: float
    due: float


class Presence:
    """Time until which each device counts as present, in monotonic seconds."""

    def __init__(self) -> None:
        self._stays: dict[str, _Stay] = {}

    def heard(self, device: str, now: float) -> None:
        """A message came from it."""
        before = self._stays.get(device)
        due = now if before is None else max(before.due, now)
        self._stays[device] = _Stay(now, due)

    def expect(self, device: str, until: float) -> None:
        """Mark a device as present until the time it was asked to return.

        Of a device that is not here nothing is expected.
        """
        before = self._stays.get(device)
        if before is not None:
            self._stays[device] = _Stay(before.heard, max(before.due, until))

    def gone(self, device: str) -> None:
        """Mark a device as absent: goodbye, will or revocation."""
        self._stays.pop(device, None)

    def here(self, now: float) -> set[str]:
        """Names of the devices that are present now."""
        return {d for d, stay in self._stays.items() if now <= stay.due + SEEN_S}

    def silent_s(self, device: str, now: float) -> float | None:
        """Seconds since it was heard; None of one that is not here."""
        stay = self._stays.get(device)
        return None if stay is None else max(now - stay.heard, 0.0)


@dataclass(frozen=True, slots=True)
class Said:
    """The newest status of a device.

    Attributes:
        boot: The life that it is of.
        seq: Its number in it; of a will, that of the newest status before it.
        link: The connection that it was said on; 0 of a device of 0.1.0.
        online: What it said.
        ended: Lives before it, the latest last.
    """

    boot: int
    seq: int
    link: int
    online: bool
    ended: tuple[int, ...] = ()


def is_news(last: Said | None, header: Header, status: Status) -> Said | None:
    """Status after another report; None if the report is a repeated old one.

    A will is packed before its connection is made, so by its number it is older than
    all that was said on it: the number of the connection decides. A device of 0.1.0 has
    one will for all of its connections, which is believed.

    Args:
        last: The newest before it.
        header: Of the status; its signature holds.
        status: What it says.
    """
    link = 0 if status.link is UNSET else status.link
    said = Said(header.boot, header.seq, link, status.online)
    if last is None:
        return said
    if last.boot != said.boot:
        return _next_life(last, said)
    said = Said(header.boot, header.seq, link, status.online, last.ended)
    if status.online or said.seq > last.seq:  # a goodbye has a number like any other
        return said if said.seq > last.seq else None
    if link < last.link or (link == last.link and link and not last.online):
        return None
    return replace(said, seq=last.seq)


def speaks_again(last: Said, header: Header) -> Said | None:
    """Status after a message other than a status; None if nothing changes.

    Args:
        last: The newest status before it.
        header: Of the message; its signature holds.
    """
    if last.boot != header.boot:
        return _next_life(last, Said(header.boot, 0, 0, online=True))
    if last.online or header.seq < last.seq:
        return None
    return replace(last, online=True)


def _next_life(last: Said, said: Said) -> Said | None:
    if said.boot in last.ended:
        return None
    return replace(said, ended=(*last.ended, last.boot)[-BOOTS:])


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
