"""Bounds of a device's numbers: one table, asked when a message is decoded.

A type says what a field may hold so that it can be read; this table says what it may
hold so that it can be true. What is beyond is refused by name, before anything is
reckoned from it: a time, a density, a share of the mean, a row of the ledger.
Profiles have their own limits, in `device_profiles.schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import UNSET

from edge_sdk.wire.messages import (
    BaseTested,
    Data,
    Evaluated,
    Hello,
    Message,
    Need,
    Offer,
    Running,
    Status,
    TaskAck,
    Wait,
)

__all__ = ["BOUNDS", "METRICS", "Bound", "beyond"]

FLOAT32_MAX = 3.4028235e38
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Bound:
    """Largest possible value of a number, and the reason.

    Attributes:
        most: The largest value; the smallest is 0 unless `signed`.
        why: Why no more is possible.
        signed: Whether ``-most`` is the smallest value.
    """

    most: float
    why: str
    signed: bool = False

    def holds(self, value: float) -> bool:
        """Return whether the value is possible; NaN and infinities never are."""
        least = -self.most if self.signed else 0
        return least <= value <= self.most  # and `most` is finite


_EXAMPLES = Bound(
    100_000_000, "a board's disk holds no more, at a few hundred bytes an example"
)
_BYTES = Bound(1 << 53, "9 petabytes, 100 Mbit/s for twenty years")
_MEMORY = Bound(1 << 24, "16 TiB, as in a profile")
_ROUND = Bound((1 << 31) - 1, "rounds are counted in 31 bits")
_CHUNKS = Bound(2048, "no blob has more chunks")
_SECONDS = Bound(366 * 24 * 3600, "a year")

# In SQLite's 64-bit integers with room to spare, all of them.
BOUNDS: Mapping[type, Mapping[str, Bound]] = MappingProxyType(
    {
        Hello: {
            "examples": _EXAMPLES,
            "free_disk_mib": Bound(1 << 40, "an exbibyte: no file system is larger"),
        },
        Offer: {
            "examples": _EXAMPLES,
            "norm": Bound(
                1e6 * FLOAT32_MAX, "a million million float32 cannot be longer"
            ),
        },
        Status: {
            "round_no": _ROUND,
            "sent": _BYTES,
            "received": _BYTES,
            "rss_mib": _MEMORY,
        },
        # An owner's hours and a day's bytes open again within a day; a sensor is
        # asked again within minutes.
        Wait: {"ms": Bound(7 * DAY_MS, "an owner's limits are looked at every day")},
        Need: {"credit": _CHUNKS},
        Data: {"index": _CHUNKS},
        Running: {"no": _ROUND},
        Evaluated: {"examples": _EXAMPLES},
    }
)
# Metrics of an update that something is reckoned from, or that have a unit.
METRICS: Mapping[str, Bound] = MappingProxyType(
    {
        "steps": Bound(1e12, "examples times epochs"),
        "training_s": _SECONDS,
        "peak_mib": _MEMORY,
    }
)
_METRIC = Bound(FLOAT32_MAX, "losses are float32", signed=True)
_SUM = Bound(1e300, "sums of float32 losses and scores", signed=True)
_MANY = 64  # metrics; devices send about five


def beyond(message: Message) -> str:
    """The first number of a message that cannot be, in words; empty if all can.

    Example:
        >>> beyond(Wait(10**15, "quiet"))[:42]
        'ms = 1000000000000000 is impossible: the m'
    """
    for name, value, bound in _numbers(message):
        if not bound.holds(value):
            least = f"{-bound.most:g}" if bound.signed else "0"
            return (
                f"{name} = {_short(value)} is impossible: the most is {bound.most:g} "
                f"and the least {least} ({bound.why})"
            )
    if isinstance(message, Offer) and len(message.metrics) > _MANY:
        return f"{len(message.metrics)} metrics are too many: the most is {_MANY}"
    return ""


def _numbers(message: Message) -> Iterator[tuple[str, float, Bound]]:
    for name, bound in BOUNDS.get(type(message), {}).items():
        value = getattr(message, name)
        if value is not UNSET:
            yield name, value, bound
    if isinstance(message, Status):  # most messages are one
        return
    if isinstance(message, Offer):
        for name, value in message.metrics.items():
            yield f"metric {name[:40]!r}", value, METRICS.get(name, _METRIC)
    answer = message.tested if isinstance(message, TaskAck) else message
    if isinstance(answer, BaseTested):
        yield "examples", answer.examples, _EXAMPLES
    if isinstance(answer, Evaluated | BaseTested):
        for name, sums in answer.sums.items():
            for value in sums:
                yield f"sum of metric {name!r}", value, _SUM


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
