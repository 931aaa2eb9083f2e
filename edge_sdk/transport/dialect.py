"""MQTT version of a broker: learnt from its CONNACK, remembered by its address.

MQTT 5 is tried first. A broker of 3.1.1 answers that with a refusal, hangs up, or
(amqtt 0.12) does neither, so the wait is bounded and a silent broker is asked again in
3.1.1. A slow one that speaks 5 may be taken for one of 3.1.1; that costs features, and
nothing that is needed.
"""

from __future__ import annotations

import threading
import time
from enum import Enum

from edge_sdk.transport.address import Address

__all__ = [
    "ANSWER_S",
    "SLOW",
    "Dialect",
    "DialectCache",
    "RefusedError",
    "SilentError",
    "SlowBrokers",
]

NO_WILLS_S = 3600.0  # until a will is tried again where it was refused
MOST_DOUBLED = 2  # 8 s for an answer, and 20 for TCP, a proxy or TLS
ANSWER_S = 2.0  # a CONNACK takes one round trip after TCP and TLS are up


class Dialect(Enum):
    """A version of MQTT."""

    V5 = "5"
    V311 = "3.1.1"


class SilentError(ConnectionError):
    """A listener that does not answer, or does not speak this version of MQTT.

    Attributes:
        closed: Whether it closed the connection behind our CONNECT.
    """

    def __init__(self, text: str, *, closed: bool = False) -> None:
        super().__init__(text)
        self.closed = closed


class RefusedError(ConnectionError):
    """The broker answered, and does not let us in.

    Attributes:
        reason: Reason code of MQTT 5; 0 for none.
        passing: Whether that may end without a person: a clock that is not set yet, a
            broker that is full or being started.
        server: The server that it names in its own place; empty for none.
    """

    def __init__(
        self, text: str, reason: int = 0, *, passing: bool = False, server: str = ""
    ) -> None:
        super().__init__(text)
        self.reason, self.passing, self.server = reason, passing, server


class SlowBrokers:
    """Brokers that did not answer in time: the next attempts there wait longer.

    A broker behind a slow network would never be reached, however often it is tried.
    """

    def __init__(self) -> None:
        self._silent: dict[tuple[str, int], int] = {}  # attempts in all, up to a bound

    def note(self, address: Address) -> None:
        """Note that nobody answered there in time."""
        key = address.host, address.port
        self._silent[key] = min(self._silent.get(key, 0) + 1, MOST_DOUBLED)

    def times(self, address: Address) -> int:
        """Factor on the first attempt's times: 1, 2 or 4."""
        return 1 << self._silent.get((address.host, address.port), 0)


SLOW = SlowBrokers()  # of all transports of a process


class DialectCache:
    """MQTT version of each address, and who takes no wills.

    It is shared by all transports of a process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spoke: dict[tuple[str, int], Dialect] = {}
        self._no_wills: dict[tuple[str, int], float] = {}  # until when

    def to_try(self, address: Address) -> tuple[Dialect, ...]:
        """The dialects to try, in order; one alone if it is known."""
        with self._lock:
            known = self._spoke.get((address.host, address.port))
        return (Dialect.V5, Dialect.V311) if known is None else (known,)

    def spoke(self, address: Address, dialect: Dialect) -> None:
        """The broker there answered in this dialect."""
        with self._lock:
            self._spoke[address.host, address.port] = dialect

    def forget(self, address: Address) -> None:
        """Forget an address's version: another broker may have its place."""
        with self._lock:
            self._spoke.pop((address.host, address.port), None)

    def takes_wills(self, address: Address) -> bool:
        """Return whether a CONNECT with a will is worth trying there."""
        with self._lock:
            until = self._no_wills.get((address.host, address.port), 0.0)
        return time.monotonic() >= until

    def refused_will(self, address: Address) -> None:
        """The broker there lets in who has no will, for now: a person may change it."""
        with self._lock:
            until = time.monotonic() + NO_WILLS_S
            self._no_wills[address.host, address.port] = until
