"""Rate limits: token buckets, how often a thing is said, and what one device may say.

Pure: the time is an argument. Tables are bounded, so names made up by strangers cannot
fill the memory; the bucket that was used longest ago is forgotten first.

A device has little to say: a HELLO after each connect and every half minute, a status
every quarter of a minute, an offer and its chunks a round. Its rates are several times
that, and each order lets it say some more: rounds may take a twentieth of a second.
What is beyond costs a look into a table and nothing else: no signature is checked,
nothing is written, nobody is answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import MappingProxyType

from edge_sdk.wire import topics
from edge_sdk.wire.codec import tag_of
from edge_sdk.wire.messages import Message, Need

__all__ = ["Buckets", "Excess", "Flood", "Rate", "Seldom"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate limit: `burst` at once, and then `per_s` a second.

    Attributes:
        per_s: Tokens that come back in a second; above 0.
        burst: Tokens of a full bucket; at least 1.
    """

    per_s: float
    burst: float


class Buckets:
    """A bucket for each key, full at first.

    What is refused costs nothing, so a peer that floods still gets its rate.

    Args:
        most: Keys that are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Tokens, and the monotonic seconds at which so many were left. Two are looked
        # at for each message: objects and calls for them took thrice the time.
        self._kept: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def give(self, key: Hashable, rate: Rate, tokens: float) -> None:
        """Put tokens into a key's bucket, which holds no more than its burst."""
        left, at = self._kept.get(key, (rate.burst, 0.0))
        self._kept[key] = min(left + tokens, rate.burst), at

    def take(self, key: Hashable, rate: Rate, now: float, cost: float = 1.0) -> bool:
        """Take tokens from a key's bucket; return whether it held enough.

        Args:
            key: Whose bucket; one key always has the same rate.
            rate: What is allowed.
            now: Monotonic seconds; a clock that stands back gives no tokens.
            cost: Tokens wanted; more than a full bucket holds empties it.

        Example:
            >>> buckets, rate = Buckets(1), Rate(per_s=1.0, burst=2.0)
            >>> [buckets.take("pi-1", rate, at) for at in (0.0, 0.0, 0.5, 1.0)]
            [True, True, False, True]
        """
        kept, burst = self._kept, rate.burst
        found = kept.get(key)
        if found is None:
            left, at = burst, now
            if len(kept) >= self._most:
                kept.popitem(last=False)
        else:
            left, at = found
            if now > at:
                left += rate.per_s * (now - at)
                at = now
                left = min(left, burst)
            kept.move_to_end(key)  # the latest at the end
        cost = min(cost, burst)
        enough = left >= cost
        kept[key] = (left - cost if enough else left), at
        return enough


class Seldom:
    """Limit repeated messages to one in a while, and count those kept back.

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


# Packets on a topic, before their signature is looked at. Chunks are asked for by
# credit, and one that was not asked for is dropped unread.
CONTROL, STATUSES, CHUNKS = Rate(50, 500), Rate(20, 200), Rate(3000, 6000)
# Messages by their tag, once it is known whose they are.
RATES = MappingProxyType(
    {
        "hello": Rate(0.5, 20),
        "task-ack": Rate(2, 50),
        "fail": Rate(1, 20),
        "offer": Rate(2, 50),
        "wait": Rate(1, 30),
        "running": Rate(1, 30),
        "evaluated": Rate(2, 50),  # one a task, as what acknowledges it
        "status": Rate(10, 100),
        "request": Rate(0.2, 10),
        "need": Rate(100, 4096),  # in chunks: each is sent to all who listen
        "data": CHUNKS,
    }
)
OTHER = Rate(1, 20)
PER_ORDER = 10.0  # messages of a kind that an order is worth: five statuses, said twice
EXCESS = Rate(5, 500)  # packets left unheard, until nothing of a device is heard
SILENT_S = 60.0
DEVICES = 2048  # that buckets are kept for; names can be made up on a plain run
SAY_S = 60.0  # between two words about one device's excess of a kind


@dataclass(frozen=True, slots=True)
class Excess:
    """A device says more than it has reason to.

    Attributes:
        device: Its name.
        what: Of what it says too much.
        before: How many were left unheard since this was last said.
    """

    device: str
    what: str
    before: int

    def __str__(self) -> str:
        more = (
            f" ({self.before} more since this was last logged)" if self.before else ""
        )
        return (
            f"{self.device} sends more {self.what} than a device needs; the rest is "
            f"ignored{more}. If it continues: flash-coordinator revoke RUN "
            f"{self.device}"
        )


class Flood:
    """A bucket for each device and kind.

    Args:
        clock: Monotonic seconds.
        told: Told of a device that says too much, once a minute for each kind.
        mute: Told of one that goes on and on, and is not heard at all for a minute.
        orders: Device -> orders that it was sent up to now.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        told: Callable[[Excess], None],
        mute: Callable[[str], object] = lambda _: None,
        orders: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._clock, self._told, self._mute = clock, told, mute
        self._orders = orders
        self._answered: dict[tuple[str, str], int] = {}  # orders whose worth was given
        self._buckets = Buckets((len(RATES) + 3) * DEVICES)
        self._seldom = Seldom(SAY_S, most=len(RATES) * DEVICES)
        self._silent: dict[str, float] = {}  # until when nothing of it is heard

    def lets_in(self, topic: topics.Topic) -> bool:
        """Return whether a packet on a topic may be processed."""
        match topic:
            case topics.UploadTopic(device, _, data):
                kind, rate = ("chunks", CHUNKS) if data else ("packets", CONTROL)
            case topics.StatusTopic(device):
                kind, rate = "status packets", STATUSES
            case _:
                return True
        return self._take(device, kind, rate, 1.0)

    def lets_say(self, device: str, message: Message) -> bool:
        """Return whether a message with a valid signature may be processed."""
        tag = tag_of(message)
        cost = _chunks(message) if isinstance(message, Need) else 1.0
        return self._take(device, tag, RATES.get(tag, OTHER), cost, " messages")

    def _take(
        self, device: str, kind: str, rate: Rate, cost: float, unit: str = ""
    ) -> bool:
        now = self._clock()
        if self._silent and self._silent.get(device, 0.0) > now:
            return False
        if self._buckets.take((device, kind), rate, now, cost):
            return True
        if self._was_asked(device, kind, rate):
            return self._buckets.take((device, kind), rate, now, cost)
        if not self._buckets.take((device, "excess"), EXCESS, now):
            self._silence(device, now)
        before = self._seldom.say((device, kind), now)
        if before is not None:
            self._told(Excess(device, kind + unit, before))
        return False

    def _was_asked(self, device: str, kind: str, rate: Rate) -> bool:
        """Give what orders since the last time are worth; return whether any came."""
        key, sent = (device, kind), self._orders(device)
        new = sent - self._answered.get(key, 0)
        if new <= 0:
            return False
        self._answered[key] = sent  # bounded: only devices with a HELLO have orders
        self._buckets.give(key, rate, PER_ORDER * new)
        return True

    def _silence(self, device: str, now: float) -> None:
        if len(self._silent) >= DEVICES:
            self._silent = {d: at for d, at in self._silent.items() if at > now}
        self._silent[device] = now + SILENT_S
        self._mute(device)


def _chunks(need: Need) -> float:
    """Chunks that an answer has."""
    wanted = sum(max(stop - start, 0) for start, stop in need.ranges)
    return float(max(min(wanted, need.credit), 1))
