"""Token buckets: how much of a kind somebody may do, and how often a thing is said.

Pure: the time is an argument. Tables are bounded, so names made up by strangers cannot
fill the memory; the bucket that was used longest ago is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Bucket", "Buckets", "Rate", "Seldom"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate limit: `burst` at once, and then `per_s` a second.

    Attributes:
        per_s: Tokens that come back in a second; above 0.
        burst: Tokens of a full bucket; at least 1.
    """

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens left at a time.

    Attributes:
        left: Tokens.
        at: Monotonic seconds at which so many were left.
    """

    left: float
    at: float

    def take(self, rate: Rate, now: float, cost: float = 1.0) -> tuple[Bucket, bool]:
        """The bucket afterwards, and whether it held enough.

        What is refused costs nothing, so a peer that floods still gets its rate.

        Args:
            rate: What is allowed.
            now: Monotonic seconds; a clock that stands back gives no tokens.
            cost: Tokens wanted; more than a full bucket holds empties it.

        Example:
            >>> rate = Rate(per_s=1.0, burst=2.0)
            >>> Bucket(2.0, 0.0).take(rate, 0.0, 2.0)
            (Bucket(left=0.0, at=0.0), True)
            >>> Bucket(0.0, 0.0).take(rate, 0.5)
            (Bucket(left=0.5, at=0.5), False)
        """
        at = max(now, self.at)
        left = min(rate.burst, self.left + rate.per_s * (at - self.at))
        cost = min(cost, rate.burst)
        if left < cost:
            return Bucket(left, at), False
        return Bucket(left - cost, at), True


class Buckets:
    """A bucket for each key, full at first.

    Args:
        most: Keys that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: Hashable, rate: Rate, now: float, cost: float = 1.0) -> bool:
        """Take tokens from a key's bucket; return whether it held enough.

        Args:
            key: Whose bucket; one key always has the same rate.
            rate: What is allowed.
            now: Monotonic seconds.
            cost: Tokens wanted.
        """
        bucket = self._kept.pop(key, None) or Bucket(rate.burst, now)
        self._kept[key], enough = bucket.take(rate, now, cost)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return enough


class Seldom:
    """Says a thing at most once in a while, and then how often it was not said.

    Args:
        every_s: Seconds between two of one key.
        most: Keys that are remembered.
    """

    def __init__(self, every_s: float, most: int = 1000) -> None:
        self._every_s, self._most = every_s, most
        self._said: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def say(self, key: Hashable, now: float) -> int | None:
        """Count what was kept back since the last time; None to keep this back, too.

        Example:
            >>> seldom = Seldom(60.0)
            >>> [seldom.say("knock", at) for at in (0.0, 1.0, 2.0, 61.0)]
            [0, None, None, 2]
        """
        at, quiet = self._said.get(key, (now - self._every_s, 0))
        if now - at < self._every_s:
            self._said[key] = at, quiet + 1
            return None
        self._said[key] = now, 0
        self._said.move_to_end(key)
        if len(self._said) > self._most:
            self._said.popitem(last=False)
        return quiet
