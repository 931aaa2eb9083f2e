"""MQTT that keeps itself up: one link after the other, in the broker's dialect."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Deliver, OnLink, OutgoingMessage, Traffic, Will
from edge_sdk.transport.client import MAX_INCOMING
from edge_sdk.transport.dialect import RefusedError, SilentError
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.limits.pacing import PacedSender
from edge_sdk.transport.limits.window import SubscriptionWindow
from edge_sdk.transport.link import Link
from edge_sdk.transport.link_ends import LinkEnds
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.open_link import open_link
from edge_sdk.transport.refusals import nobody, unreached

__all__ = ["MqttTransport"]

log = logging.getLogger(__name__)

WAITING_BYTES = 8 << 20  # of messages while the link is down; more is dropped
RETRY_S = (0.5, 15.0)  # between attempts: at first, at last
LEAVE_S = 10.0  # for an attempt at a link that is under way at our end
NARROW = 66_000  # bytes; chunks of models are smaller where packets are


class MqttTransport:
    """One MQTT connection that reconnects by itself; implements `Transport`.

    Args:
        address: The broker.
        client_id: MQTT client id; one device can evict another that uses the same.
        deliver: Called with each message, on the network thread.
        on_link: Called with True after each connect and subscribe, False on a loss.
        will: Published, retained, by the broker if we vanish.
        wait_s: Seconds to wait for the first connection; 0 does not wait.
        patient: Whether to go on without it where it may come by itself: nobody is
            reached, a clock is not set, the broker has no room.
        once: Whether a first attempt that fails is the answer, for who only asks; else
            it is repeated until `wait_s` has passed.
        window: Deliveries that may wait for their `Delivery.ack`; None: each is
            acknowledged on arrival.
        incoming: Bytes of the largest packet that is held.

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
        patient: bool = False,
        window: int | None = None,
        incoming: int = MAX_INCOMING,
    ) -> None:
        self._once, self._failed = once, False  # the only attempt
        self._patient = patient
        self._address, self._client_id, self._will = address, client_id, will
        self._deliver, self._on_link = deliver, on_link
        self._window, self._incoming = window, incoming
        self._lock, self._filters = threading.RLock(), SubscriptionWindow()
        self._ends, self._said = LinkEnds(address.limits, client_id, RETRY_S), ""
        self._paced = PacedSender(f"mqtt-pace-{client_id}", lambda: self._link)
        self._waiting, self._waiting_bytes = deque[OutgoingMessage](), 0
        self._meter = Meter()
        self._link: Link | None = None
        self._first = threading.Event()  # the first answer, whatever it is
        self._why: ConnectionError | None = None  # we are refused
        self._silent = ""  # what else listens there, or why nobody is reached
        self._closing = threading.Event()
        self._jitter = np.random.default_rng()  # of waits only
        self._keeper = threading.Thread(
            target=self._keep, name=f"mqtt-{client_id}", daemon=True
        )
        self._keeper.start()
        came = not wait_s or self._first.wait(wait_s)
        refused = came and self._why is not None
        if wait_s and (self._failed or refused or not (came or patient)):
            self.close()
            raise self._nobody()
        if not came:
            log.warning("waiting until the broker at %s lets us in", address.url)

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
            self._send(link, parcel)

    def _send(self, link: Link, parcel: OutgoingMessage) -> None:
        (self._paced.put if link.limits.paced else link.publish)(parcel)

    def subscribe(self, *patterns: str) -> None:
        """Asks for the filters now and after every reconnect.

        What goes beyond the broker's subscriptions waits until others are given up.
        """
        with self._lock:
            again = self._filters.want(patterns)
            if self._link is not None:
                self._link.subscribe(again, len(self._filters) - len(again))
                self._ask(self._link)

    def unsubscribe(self, *patterns: str) -> None:
        """Unsubscribe from the filters."""
        with self._lock:
            left = self._filters.give_up(patterns)
            if self._link is not None:
                self._link.unsubscribe(left)
                self._ask(self._link)

    def _ask(self, link: Link) -> None:
        """Asks the broker for what waits, as far as it takes subscriptions."""
        fresh = self._filters.fresh(link.limits.subscriptions)
        link.subscribe(fresh, len(self._filters) - len(fresh))

    def limits(self) -> BrokerLimits:
        """Limits of the broker, as it said last."""
        with self._lock:
            return self._ends.limits if self._link is None else self._link.limits

    def traffic(self) -> Traffic:
        """Bytes of the TCP stream as the kernel counts them; 0, 0 without a count."""
        return self._meter.read()

    def close(self) -> None:
        """Disconnects and joins the threads; a callback of ours does not wait for them.

        What is called later does nothing.
        """
        self._paced.close()
        self._closing.set()
        with self._lock:
            link = self._link
        if link is not None:
            link.close()
            if link.runs_this_thread():
                return
        if threading.current_thread() is not self._keeper:
            self._keeper.join(LEAVE_S)
            self._meter.settle()

    # -- the keeper's thread -----------------------------------------------------------

    def _keep(self) -> None:
        self._rest(0.0)  # a process of our name that was killed may just have connected
        said = ""
        while not self._closing.is_set():
            try:
                link = self._open()
            except (OSError, ValueError) as error:
                answered = isinstance(error, (RefusedError, SilentError))
                wait_s = self._ends.failed(answered=answered)
                said = self._say_failure(error, said)
                # Not all at once when a broker comes back.
                self._rest(wait_s * self._jitter.uniform(0.5, 1.5))
                continue
            said, quiet_s = "", self._ends.quiet_s
            if quiet_s:
                self._leave_alone(link, quiet_s)
            else:
                self._up(link)
                link.gone.wait()
            stayed = not link.gone.is_set()
            self._renew_will()
            with self._lock:
                self._link = None
            link.close()
            if not quiet_s:
                self._call(self._on_link, False)  # noqa: FBT003 - a callback
            wait_s, lines = 0.0, []
            if stayed:
                lines = self._ends.stayed()
            else:
                bounds, lines = self._ends.ended(link.limits, link.ending())
                wait_s = self._jitter.uniform(*bounds)
            for level, text in () if self._closing.is_set() else lines:
                log.log(level, "the broker at %s %s", self._address.url, text)
            self._rest(wait_s)

    def _leave_alone(self, link: Link, seconds: float) -> None:
        """Sends nothing on a link until the time is over, it ends, or we are closed."""
        until = time.monotonic() + seconds
        while not self._closing.is_set() and time.monotonic() < until:
            if link.gone.wait(0.1):
                return

    def _rest(self, seconds: float) -> None:
        self._closing.wait(max(seconds, self._ends.limits.connect_gap_s))

    def _say_failure(self, error: Exception, said: str) -> str:
        """Logs why there is no link: one line a night, a warning if there never was."""
        if isinstance(error, RefusedError):
            self._why = error
            if not (self._patient and error.passing):
                self._first.set()
        ours = not getattr(error, "strerror", None)  # words that say what it is
        self._silent = str(error) if ours else ""
        if self._once and not self._first.is_set():
            self._silent = getattr(error, "strerror", None) or str(error)
            self._failed = True
            self._first.set()
        urgent = self._why is error or not self._said
        known = logging.WARNING if urgent else logging.INFO
        level = logging.DEBUG if str(error) == said else known
        log.log(level, "no link to %s: %s", self._address.url, unreached(error))
        return str(error)

    def _renew_will(self) -> None:
        """The next connection's will is another message than the last one's."""
        if self._will is not None and self._will.renew is not None:
            self._will = replace(self._will, payload=self._will.renew())

    def _open(self) -> Link:
        return open_link(
            replace(self._address, limits=self._ends.limits),
            *(self._client_id, self._deliver),
            will=self._will,
            window=self._window,
            meter=self._meter,
            incoming=self._incoming,
        )

    def _up(self, link: Link) -> None:
        with self._lock:
            known = self._ends.limits
            keeps = known.retained if link.limits.retained else 0
            self._ends.limits = known.within(qos=link.limits.qos, retained=keeps)
            self._filters.forget()
            self._ask(link)
            self._say_limits(link.limits)
            while self._waiting:
                self._send(link, self._waiting.popleft())
            self._waiting_bytes = 0
            self._link = None if self._closing.is_set() else link
        self._paced.wake()
        if self._closing.is_set():
            link.close()
            return
        self._why = None
        self._first.set()
        self._call(self._on_link, True)  # noqa: FBT003 - a callback

    def _say_limits(self, limits: BrokerLimits) -> None:
        """Logs what the broker takes: once, and when it changes."""
        if str(limits) == self._said:
            return
        self._said = str(limits)
        narrow = limits.packet < NARROW or not limits.retained or not limits.wildcards
        level = logging.INFO if limits.name or narrow else logging.DEBUG
        log.log(level, "the broker's limits, %s", limits)

    def _put_aside(self, parcel: OutgoingMessage) -> None:
        if not parcel.sure or self._waiting_bytes + parcel.size > WAITING_BYTES:
            log.debug("no link: dropped a message to %s", parcel.topic)
            return
        self._waiting.append(parcel)
        self._waiting_bytes += parcel.size

    def _nobody(self) -> BrokerError:
        said = None if self._why is None else str(self._why)
        return nobody(self._address.url, said, self._silent)

    @staticmethod
    def _call(function: Any, argument: object) -> None:
        try:
            function(argument)
        except Exception:  # an escape would end this thread and leave us deaf
            log.exception("a transport callback failed")
