"""MQTT that keeps itself up: one link after the other, in the broker's dialect."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.backoff import Backoff
from edge_sdk.transport.base import NO_LIMIT, Deliver, OnLink, Traffic, Will
from edge_sdk.transport.dialect import DialectCache, RefusedError, SilentError
from edge_sdk.transport.link import Link, OutgoingMessage
from edge_sdk.transport.meter import Meter

__all__ = ["MqttTransport"]

log = logging.getLogger(__name__)

WAITING_BYTES = 8 << 20  # of messages while the link is down; more is dropped
RETRY_S = (0.5, 15.0)  # between attempts: at first, at last
_MEMORY = DialectCache()


class MqttTransport:
    """One MQTT connection that reconnects by itself; implements `Transport`.

    Args:
        address: The broker.
        client_id: MQTT client id; one device can evict another that uses the same.
        deliver: Called with each message, on the network thread.
        on_link: Called with True after each connect and subscribe, False on a loss.
        will: Published, retained, by the broker if we vanish.
        wait_s: Seconds to wait for the first connection; 0 does not wait.
        once: Whether a first attempt that fails is the answer, for who only asks; else
            it is repeated until `wait_s` has passed.
        window: Deliveries that may wait for their `Delivery.ack`; None: each is
            acknowledged on arrival.

    Raises:
        BrokerError: If `wait_s` passes without a first connection, or the broker
            refuses us meanwhile, or the first attempt fails with `once`.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        deliver: Deliver,
        on_link: OnLink,
        *,
        will: Will | None = None,
        wait_s: float = 0.0,
        once: bool = False,
        window: int | None = None,
    ) -> None:
        self._once = once
        self._address, self._client_id, self._will = address, client_id, will
        self._deliver, self._on_link, self._window = deliver, on_link, window
        self._lock = threading.RLock()
        self._patterns: dict[str, None] = {}  # in the order they were asked for
        self._waiting: deque[OutgoingMessage] = deque()
        self._waiting_bytes = 0
        self._meter = Meter()
        self._link: Link | None = None
        self._first = threading.Event()  # the first answer, whatever it is
        self._why: ConnectionError | None = None  # we are refused
        self._silent = ""  # what else listens there, or why nobody is reached
        self._failed = False  # the only attempt
        self._closing = threading.Event()
        self._jitter = np.random.default_rng()  # of waits only
        self._keeper = threading.Thread(
            target=self._keep, name=f"mqtt-{client_id}", daemon=True
        )
        self._keeper.start()
        came = not wait_s or self._first.wait(wait_s)
        if wait_s and (not came or self._failed or self._why is not None):
            self.close()
            raise self._nobody()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        sure: bool = True,
        expires_s: int | None = None,
    ) -> None:
        """Sends, or keeps for the next link within bounds: peers ask again."""
        parcel = OutgoingMessage(topic, payload, retain, sure, expires_s)
        with self._lock:
            link = self._link
            if link is None:
                self._put_aside(parcel)
        if link is not None:
            link.publish(parcel)

    def subscribe(self, *patterns: str) -> None:
        """Asks for the filters now and after every reconnect."""
        with self._lock:
            self._patterns.update(dict.fromkeys(patterns))
            if self._link is not None:
                self._link.subscribe(list(patterns))

    def unsubscribe(self, *patterns: str) -> None:
        """Unsubscribe from the filters."""
        with self._lock:
            for pattern in patterns:
                self._patterns.pop(pattern, None)
            if self._link is not None:
                self._link.unsubscribe(list(patterns))

    def limit(self) -> int:
        """Bytes that one packet may take, as the broker said last."""
        with self._lock:
            return NO_LIMIT if self._link is None else self._link.limit

    def traffic(self) -> Traffic:
        """Bytes of the TCP stream as the kernel counts them; 0, 0 where it does not."""
        return self._meter.read()

    def close(self) -> None:
        """Disconnects and joins the threads; a callback of ours does not wait for them.

        What is called later does nothing.
        """
        self._closing.set()
        with self._lock:
            link = self._link
        if link is not None:
            link.close()
            if link.runs_this_thread():
                return
        if threading.current_thread() is not self._keeper:
            self._keeper.join()
            self._meter.settle()

    # -- the keeper's thread -----------------------------------------------------------

    def _keep(self) -> None:
        backoff, said = Backoff(*RETRY_S), ""
        while not self._closing.is_set():
            try:
                link = self._open()
            except (OSError, ValueError) as error:
                backoff, wait_s = backoff.failed()
                said = self._say_failure(error, said)
                # Not all at once when a broker comes back.
                self._closing.wait(wait_s * self._jitter.uniform(0.5, 1.5))
                continue
            self._up(link)
            link.gone.wait()
            self._renew_will()
            with self._lock:
                self._link = None
            link.close()
            self._call(self._on_link, False)  # noqa: FBT003 - a callback
            said, before = "", backoff
            backoff, wait_s = backoff.ended(link.ending())
            self._say_suspect(before, backoff)
            least = 0.0 if backoff.suspect is None else 0.5  # it comes back at once
            self._closing.wait(wait_s * self._jitter.uniform(least, 1.0))

    def _say_failure(self, error: Exception, said: str) -> str:
        """Logs why there is no link; a broker away for a night is one line."""
        refused = isinstance(error, RefusedError)
        if isinstance(error, RefusedError):
            self._why = error
            self._first.set()
        self._silent = str(error) if isinstance(error, SilentError) else ""
        if self._once and not self._first.is_set():
            self._silent = getattr(error, "strerror", None) or str(error)
            self._failed = True
            self._first.set()
        level = logging.WARNING if refused else logging.INFO
        level = logging.DEBUG if str(error) == said else level
        log.log(level, "no link to %s: %s", self._address.url, error)
        return str(error)

    def _say_suspect(self, before: Backoff, now: Backoff) -> None:
        """Names the message that the broker cuts one link after the other for."""
        blamed = now.suspect
        if blamed is None or (before.suspect and before.blamed == blamed):
            return
        log.error(
            "the broker at %s cuts the link each time it is sent a message of %d bytes "
            "to %s (%d times now): it is larger than the broker takes (raise "
            "max_packet_size or message_size_limit, to 128 KiB if you can), or its "
            "access list forbids the topic; trying again, later each time",
            *(self._address.url, blamed.size, blamed.topic, now.cuts),
        )

    def _renew_will(self) -> None:
        """The next connection's will is another message than the last one's."""
        if self._will is not None and self._will.renew is not None:
            self._will = replace(self._will, payload=self._will.renew())

    def _open(self) -> Link:
        silent = SilentError("it speaks no known version of MQTT")
        for dialect in _MEMORY.to_try(self._address):
            try:
                link = Link(
                    self._address,
                    self._client_id,
                    dialect,
                    self._deliver,
                    will=self._will,
                    window=self._window,
                    meter=self._meter,
                )
            except SilentError as error:
                log.debug("%s: %s", self._address.url, error)
                silent = error
                continue
            _MEMORY.spoke(self._address, dialect)
            log.debug("%s speaks MQTT %s", self._address.url, dialect.value)
            return link
        _MEMORY.forget(self._address)
        raise silent

    def _up(self, link: Link) -> None:
        with self._lock:
            link.subscribe(list(self._patterns))
            while self._waiting:
                link.publish(self._waiting.popleft())
            self._waiting_bytes = 0
            self._link = None if self._closing.is_set() else link
        if self._closing.is_set():
            link.close()
            return
        self._why = None
        self._first.set()
        self._call(self._on_link, True)  # noqa: FBT003 - a callback

    def _put_aside(self, parcel: OutgoingMessage) -> None:
        if not parcel.sure or self._waiting_bytes + parcel.size > WAITING_BYTES:
            log.debug("no link: dropped a message to %s", parcel.topic)
            return
        self._waiting.append(parcel)
        self._waiting_bytes += parcel.size

    def _nobody(self) -> BrokerError:
        where = f"{self._address.host}:{self._address.port}"
        if self._why is not None:
            return BrokerError(
                f"the MQTT broker at {where} refuses us: {self._why}",
                remedy="Do what its reason asks for, or name another broker.",
            )
        return BrokerError(
            f"no MQTT broker answers at {where}"
            + (f": {self._silent}" if self._silent else ""),
            remedy="Check the address, the firewall, and that the broker runs.",
        )

    @staticmethod
    def _call(function: Any, argument: object) -> None:
        try:
            function(argument)
        except Exception:  # an escape would end this thread and leave us deaf
            log.exception("a transport callback failed")
