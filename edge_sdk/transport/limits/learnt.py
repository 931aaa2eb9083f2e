"""Limits of one link's broker, as its answers show them; refusals are said once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any

from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.backoff import Parted
from edge_sdk.transport.base import OutgoingMessage
from edge_sdk.transport.limits.refused_sizes import RefusedSizes
from edge_sdk.transport.limits.values import BrokerLimits, told
from edge_sdk.transport.refusals import in_words, name_of, with_remedy

__all__ = ["TOO_LARGE", "LearntLimits"]

log = logging.getLogger(__name__)

TOO_LARGE, QUOTA = 0x95, 0x97  # of MQTT 5.0, section 2.4


class LearntLimits:
    """Limits of a broker, from its profile, its CONNACK and its answers.

    Args:
        known: Before the link.

    Attributes:
        now: As they are known by now.
    """

    def __init__(self, known: BrokerLimits) -> None:
        self.now, self._declared = known, known.packet
        self._refused = RefusedSizes()
        self._said: set[str] = set()

    def connected(self, given: Any) -> None:
        """Take the properties of the broker's CONNACK."""
        self.now = told(self.now, given)
        self._declared = min(self._declared, self.now.packet)

    def refuse(self, parcel: OutgoingMessage) -> bool:
        """Return whether a message is beyond the limits; it is said once."""
        size, limits = parcel.size, self.now
        if size > self._declared or (
            size > limits.packet and not self._refused.may_try(size)
        ):
            self.once(
                f"the broker takes packets of {limits.packet} bytes; dropped one of "
                f"{size} bytes to {parcel.topic}",
                with_remedy("Packet too large"),
            )
            return True
        if (
            len(parcel.topic.encode()) > limits.topic_bytes
            or parcel.topic.count("/") > limits.topic_slashes
        ):
            self.once(
                f"the broker takes topics of {limits.topic_bytes} bytes and "
                f"{limits.topic_slashes} slashes; dropped a message to {parcel.topic}",
                "take shorter names for the federation and its devices",
            )
            return True
        return False

    def answered(self, parted: Parted, code: ReasonCode, odd: int | None) -> bool:
        """Take the broker's answer to a message; returns whether it was taken.

        Args:
            parted: The message.
            code: The reason code of its PUBACK.
            odd: The number of a reason that PUBACKs do not have, if it was one.
        """
        if not code.is_failure:
            return True
        if odd == TOO_LARGE:
            self._refused.note(parted.size)
            self.now = self.now.within(packet=parted.size - 1)
        self.once(
            f"the broker refused a message to {parted.topic} ({parted.size} bytes)",
            in_words(code) if odd is None else with_remedy(name_of(odd)),
            "/".join(parted.topic.split("/")[3:4]),
        )
        return False

    def requests(
        self, patterns: Collection[str], held: int
    ) -> Iterator[tuple[list[str], Parted]]:
        """SUBSCRIBEs to make: filters, as many in one as the broker takes.

        Args:
            patterns: The filters wanted; those that it cannot take are said once.
            held: Subscriptions that there are already.
        """
        wild = [p for p in patterns if not self.now.wildcards and set("+#") & set(p)]
        if wild:
            self.once(f"the broker takes no {wild[0]}", with_remedy(name_of(0xA2)))
        for few in self.groups([p for p in patterns if p not in wild]):
            held += len(few)
            size = sum(len(p.encode()) + 3 for p in few) + 8
            yield few, Parted(few[0], size, len(few), held)

    def groups(self, patterns: Collection[str]) -> list[list[str]]:
        """Filters in groups of as many as the broker takes in one packet."""
        given, most = list(patterns), self.now.filters
        return [given[start : start + most] for start in range(0, len(given), most)]

    def granted(self, asked: list[str], act: Parted, codes: list[ReasonCode]) -> None:
        """Take the broker's answer to a SUBSCRIBE, a code for each filter."""
        for place, (topic, code) in enumerate(zip(asked, codes, strict=False)):
            if code.is_failure:
                self.once(f"the broker does not send {topic}", in_words(code), topic)
                if code.value == QUOTA:
                    most = max(act.held - len(asked) + place, 1)
                    self.now = self.now.within(subscriptions=most)

    def once(self, what: str, why: str, kind: str = "") -> None:
        """Log an error, unless the same was logged of this link before.

        Args:
            what: Happened; up to a semicolon it is what is the same.
            why: The reason, and what to do.
            kind: What is the same, if not `what`.
        """
        key = f"{kind or what.split(';', maxsplit=1)[0]} {why}"
        if key not in self._said:
            self._said.add(key)
            log.error("%s: %s", what, why)
