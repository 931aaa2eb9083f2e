"""Wait before the next link, decided from how the last one ended; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "QUICK",
    "QUICK_S",
    "QUOTA",
    "SETTLED_S",
    "SUSPECT",
    "TAKEN_OVER",
    "Backoff",
    "Ending",
    "Parted",
    "suspected",
]

CUT = 8  # times the longest wait: where only a person can end it
SETTLED_S = 60.0  # a link that lasted two keepalives is not cut for what it first sends
QUICK_S = 2.0  # a link that ends sooner, and with nothing on its way, is a quick one
QUICK = 3  # quick links in a row that networks may have; then a broker ends them
SUSPECT = 2  # links cut in a row behind the same message before it is blamed

# Reason codes of MQTT 5.0, section 2.4, that speak of no message: the broker is busy or
# going down, a keepalive ran out (ours, too), another client took the session, a
# quota, a person's act, another server, the rate of connections, the longest link.
TAKEN_OVER, QUOTA = 0x8E, 0x97
_OF_THE_LINK = (0x89, 0x8B, 0x8D, TAKEN_OVER, 0x98, 0x9C, 0x9D, 0x9F, 0xA0)
_FORBIDDEN = (0x87, 0x8F, 0x90)  # not authorized; no such filter or topic


@dataclass(frozen=True, slots=True)
class Parted:
    """A packet that was under way when its link ended.

    Attributes:
        topic: Where to; the first filter of a SUBSCRIBE.
        size: Bytes of the packet.
        filters: Filters of a SUBSCRIBE; 0 for a message.
        held: Subscriptions of the client, those included.
        retain: Whether the broker was to retain it.
        sure: Whether the broker was to acknowledge it; False for QoS 0.
    """

    topic: str
    size: int
    filters: int = 0
    held: int = 0
    retain: bool = False
    sure: bool = True

    def __str__(self) -> str:
        if self.filters:
            return (
                f"a SUBSCRIBE of {self.filters} filters ({self.topic} and on), "
                f"{self.held} subscriptions in all"
            )
        return f"a message of {self.size} bytes to {self.topic}"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a link: its lifetime and what was left without an answer.

    Attributes:
        lived_s: Seconds that it was up.
        unanswered: The largest message that the broker had not acknowledged, or of QoS
            0 that it was sent just before; None if it had taken all, or a larger one. A
            SUBSCRIBE comes before.
        reason: MQTT 5 reason code that the broker gave; 0 for none.
        burst: Messages that it was sent in its last second.
        last: The last message that it was sent; None without one.
    """

    lived_s: float
    unanswered: Parted | None = None
    reason: int = 0
    burst: int = 0
    last: Parted | None = None

    @property
    def blamed(self) -> Parted | None:
        """The packet that the link may have ended for; None for another reason."""
        lost = self.unanswered
        if self.reason in _OF_THE_LINK or lost is None:
            return None
        return None if self.reason == QUOTA and not lost.filters else lost

    @property
    def unexplained(self) -> bool:
        """True where no reason tells what a limit or an access list forbids."""
        return self.reason in (0, 0x80, 0x81, 0x82, 0x83)


@dataclass(frozen=True, slots=True)
class Backoff:
    """State from which the next wait is computed.

    Attributes:
        first_s: The wait after a first failure.
        most_s: The longest while nobody answers: a broker that is back is found soon.
        delay_s: The next wait; 0 for the first.
        blamed: The message behind which links were cut.
        cuts: How often in a row.
        quick: Quick links in a row.
        taken: Links in a row that another client took over.
    """

    first_s: float
    most_s: float
    delay_s: float = 0.0
    blamed: Parted | None = None
    cuts: int = 0
    quick: int = 0
    taken: int = 0

    @property
    def loops(self) -> bool:
        """True from when the broker, not the network, seems to end links at once."""
        return self.quick > QUICK

    @property
    def suspect(self) -> Parted | None:
        """The message that the broker seems to cut links for; None without one."""
        return self.blamed if self.cuts >= SUSPECT else None

    def failed(self) -> tuple[Backoff, float]:
        """After an attempt that brought no link: what comes next, seconds to wait."""
        wait_s = max(self.delay_s, self.first_s)
        longest = max(self.most_s, wait_s)
        return replace(self, delay_s=min(2 * wait_s, longest)), wait_s

    def away(self) -> Backoff:
        """After an attempt that met nobody: no packet is blamed any more."""
        return replace(self, blamed=None, cuts=0)

    def ended(self, how: Ending) -> tuple[Backoff, float]:
        """After a link that was up: what comes next, and seconds to wait.

        The first cut is met at once, as networks are what they are; a link that is cut
        again behind a message to the same topic is waited for longer each time, and so
        is one that ends at once whatever it is sent, or that another client takes over.
        """
        lost = how.blamed
        so_far = 0 if self.suspect else self.quick  # those were that message's
        quick = so_far + 1 if how.lived_s < QUICK_S else 0
        fresh = replace(Backoff(self.first_s, self.most_s), quick=quick)
        least_s = self._doubled(max(quick - QUICK, 0))
        if how.reason == TAKEN_OVER:
            taken = self.taken + 1 if how.lived_s < SETTLED_S else 1
            return replace(fresh, taken=taken), self._doubled(taken)
        if how.lived_s >= SETTLED_S or lost is None:
            return fresh, least_s
        if self.blamed is None or self.blamed.topic != lost.topic:
            return replace(fresh, blamed=lost, cuts=1), least_s
        cuts = self.cuts + 1
        wait_s = min(self.first_s * 2.0 ** min(cuts, 30), CUT * self.most_s)
        return replace(fresh, delay_s=wait_s, blamed=lost, cuts=cuts), wait_s

    def _doubled(self, times: int) -> float:
        return min(self.first_s * 2.0 ** min(times, 30), self.most_s)


def suspected(before: Backoff, now: Backoff, end: Ending) -> str:
    """The sentence on a broker that ends one link after the other; "" without news.

    Args:
        before: Before the last link's end.
        now: After it.
        end: The end.
    """
    blamed = now.suspect
    if blamed is not None and not (before.suspect and before.blamed == blamed):
        if end.reason in _FORBIDDEN:
            return (
                f"cuts the link each time it is sent {blamed} ({now.cuts} times now): "
                "its access list forbids the topic (flash-coordinator policy prints "
                "the rules to enter); trying again, later each time"
            )
        return (
            f"cuts the link each time it is sent {blamed} ({now.cuts} times now): it "
            "is more than the broker takes (raise max_packet_size or "
            "message_size_limit, to 128 KiB if you can, or set broker_profile), or its "
            "access list forbids the topic; trying again, later each time"
        )
    if not end.unexplained:
        return ""  # its reason is in the log
    if now.loops and not before.loops and now.suspect is None:
        after = (
            "" if end.last is None else f"; the last that it was sent was {end.last}"
        )
        return (
            f"has ended {now.quick} links in a row at once, whatever it was sent"
            f"{after}: look at its log and its access list, and whether another "
            "client has this client id (two devices of one name, a copied SD card); "
            "trying again, later each time"
        )
    return ""
