"""Limits that the end of a link speaks for, and what the broker had been sent; pure."""

from __future__ import annotations

from edge_sdk.transport.backoff import QUOTA, SUSPECT, Ending, Parted
from edge_sdk.transport.limits.values import BrokerLimits

__all__ = [
    "BURST",
    "LEAST_PACKET",
    "lowered",
    "restored",
    "suspicious",
    "without_refused",
]

LEAST_PACKET = 4096  # bytes; below, neither a HELLO nor an order goes through
LEAST_HELD = 5  # subscriptions; a device has four beside those of its chunks
BURST = 8  # messages within a second that may be too many for a broker
KEPT = 4  # links in a row that ended behind a small message to be retained
RESTORED_S = 3600.0  # a link that lasted so long was not ended by what it carried
BURSTS = 3  # links in a row that ended so; a weak network ends some, too

# Reason codes of MQTT 5.0, section 2.4.
RECEIVE_MAXIMUM, TOO_LARGE, RATE = 0x93, 0x95, 0x96


def lowered(
    limits: BrokerLimits, end: Ending, *, cuts: int, bursts: int
) -> tuple[BrokerLimits, str]:
    """The limits to keep to from now on, and a sentence on why; "" if nothing changes.

    A reason that the broker gives counts at once. Without one, what was left without an
    answer is suspected when it ends links in a row, and its limit is halved.

    Args:
        limits: As they were kept to.
        end: How the link ended.
        cuts: Links in a row that ended behind the same packet, this one included.
        bursts: Links in a row that ended in a burst of messages.
    """
    after = without_refused(limits, end.reason)
    act = end.blamed
    if after != limits:
        pass
    elif end.reason == RECEIVE_MAXIMUM:
        after = limits.within(inflight=max(limits.inflight // 2, 1))
    elif end.reason == RATE or (
        bursts >= BURSTS and end.unexplained and (act is None or not act.sure)
    ):
        rate = min(limits.publishes_per_s, end.burst)
        after = limits.within(publishes_per_s=max(rate // 2, 1))
    elif act is not None and (
        end.reason in (TOO_LARGE, QUOTA) or (cuts >= SUSPECT and end.unexplained)
    ):
        if act.filters > 1 and end.reason != QUOTA:
            after = limits.within(filters=act.filters // 2)
        elif act.filters and act.held >= 2 * LEAST_HELD:
            after = limits.within(subscriptions=act.held // 2)
        elif not act.filters and act.size >= 2 * LEAST_PACKET:
            after = limits.within(packet=act.size // 2)
        elif act.retain and cuts >= KEPT:
            after = limits.within(retained=0)
    if after == limits:
        return limits, ""
    what = "messages in a burst" if act is None else str(act)
    fewer = _changed(limits, after)
    return after, f"has cut the link behind {what}; from now on {fewer}"


def suspicious(act: Parted) -> bool:
    """Return whether a message of QoS 0 may have been beyond a limit that is halved.

    Of a small one that is not to be retained, nothing could be made less.
    """
    return act.retain or act.size >= 2 * LEAST_PACKET


def restored(limits: BrokerLimits, known: BrokerLimits, end: Ending) -> BrokerLimits:
    """The limits to begin the next link with, where the last one speaks for none.

    What was found out is given up after a link of an hour: a weak network may have been
    taken for a limit, or a person has raised it. A limit that is still there is found
    again within seconds, at most once an hour.

    Args:
        limits: As they were kept to.
        known: As they are without what was found out.
        end: How the link ended.
    """
    return known if end.lived_s >= RESTORED_S else limits


def without_refused(limits: BrokerLimits, reason: int) -> BrokerLimits:
    """The limits without what a reason code says that the broker does not have."""
    match reason:
        case 0x9A:
            return limits.within(retained=0)
        case 0x9B:
            return limits.within(qos=0)
        case 0xA2:
            return limits.within(wildcards=False)
        case _:
            return limits


def _changed(before: BrokerLimits, after: BrokerLimits) -> str:
    known = str(before).partition(": ")[2].split(", ")
    now = str(after).partition(": ")[2].split(", ")
    fresh = (words for words in now if words not in known)
    return ", ".join(w if w.startswith("no") else f"at most {w}" for w in fresh)
