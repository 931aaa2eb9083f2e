"""One MQTT connection through paho, from CONNECT to its end: nothing outlives it.

paho's own reconnecting sends again what its queue holds, also what the next broker
refuses as too large, for ever. So each connection has a client and a queue of its own,
and what is too large for its broker is never handed to it.

paho's callbacks run on its network thread: an exception there kills it silently, and
waiting there longer than 1.5 keepalives fires the will. They only enqueue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.address import Address
from edge_sdk.transport.backoff import Ending, Parted
from edge_sdk.transport.base import Deliver, OutgoingMessage, ReceivedMessage, Will
from edge_sdk.transport.client import MAX_INCOMING, Client, PublishPacket
from edge_sdk.transport.client.opening import (
    MAX_INFLIGHT,
    check_answer,
    connect_client,
    expiry_properties,
    make_client,
)
from edge_sdk.transport.dialect import ANSWER_S, SLOW, Dialect
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.limits.learnt import TOO_LARGE, LearntLimits
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.refusals import in_words, name_of
from edge_sdk.transport.unanswered import Unanswered

__all__ = ["Link"]

log = logging.getLogger(__name__)
T = TypeVar("T")
KEEPALIVE_S = 30


class Link:
    """A connection, up when it is made; any thread may use it, also after its end.

    Args:
        address: The broker, with the limits that are known of it.
        client_id: MQTT client id.
        dialect: The version to speak.
        deliver: Called with each message, on the network thread.
        will: Published, retained, by the broker if we vanish.
        window: Deliveries that may wait to be taken; None acknowledges at once.
        meter: Counts its bytes.
        incoming: Bytes of the largest packet that is held.

    Attributes:
        gone: Set when the connection has ended.

    Raises:
        OSError: Nobody listens there.
        SilentError: No answer in this dialect.
        RefusedError: The broker's answer is no; it says why.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        dialect: Dialect,
        deliver: Deliver,
        *,
        will: Will | None,
        window: int | None,
        meter: Meter,
        incoming: int = MAX_INCOMING,
    ) -> None:
        self._learnt = LearntLimits(address.limits)
        self._deliver, self._window, self._dialect = deliver, window, dialect
        self.gone, self._answered = threading.Event(), threading.Event()
        self._answer: ReasonCode | None = None
        self._trouble = ""  # what TLS said; in 1.3 a refusal comes after the handshake
        self._ours, self._reason = False, 0  # we end it; or the broker's reason
        # paho's client is used until `close`: later it would write to closed sockets.
        self._using, self._ended = threading.RLock(), False
        self._cleared = False  # its thread and its sockets are gone, or about to
        self._unanswered = Unanswered()
        self._since: float | None = None  # monotonic; when it was up
        self._thread: threading.Thread | None = None  # of the callbacks
        self._client = self._make(address, client_id, will, meter)
        self._client.most_incoming = incoming
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def limits(self) -> BrokerLimits:
        """Limits of the broker, as it says or has shown."""
        return self._learnt.now

    def publish(self, parcel: OutgoingMessage) -> None:
        """Queues for sending; what cannot be sent is dropped and said."""
        limits = self.limits
        if self._learnt.refuse(parcel):
            return
        keep = parcel.retain and parcel.size <= limits.retained_packet
        if parcel.retain and not keep and not parcel.payload:
            return  # nothing is retained there that could be cleared
        properties = None
        if self._dialect is Dialect.V5 and parcel.expires_s is not None:
            properties = expiry_properties(parcel.expires_s)
        sure = parcel.sure and limits.qos > 0
        act = Parted(parcel.topic, parcel.size, retain=keep, sure=sure)
        self._unanswered.sends(act)

        def send(client: Client) -> paho.MQTTMessageInfo:
            info = client.publish(
                parcel.topic,
                parcel.payload,
                qos=int(sure),
                retain=keep,
                properties=properties,
            )
            if sure and info.rc != paho.MQTT_ERR_QUEUE_SIZE:
                answer = self._unanswered.messages.sent(info.mid, act)
                if answer is not None:  # it was here before the message's number
                    self._settle(act, *answer)
            return info

        info = self._use(send)
        if info is not None and info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            log.warning("send queue full: dropped a message to %s", parcel.topic)

    def subscribe(self, patterns: Sequence[str], held: int = 0) -> None:
        """Asks for filters, as many in a packet as the broker takes.

        Args:
            patterns: The filters.
            held: Subscriptions that there are already.
        """
        for few, act in self._learnt.requests(patterns, held):
            asked = [(p, min(self.limits.qos, 1)) for p in few]
            sent = self._use(lambda client, asked=asked: client.subscribe(asked))  # type: ignore[misc]
            if sent is None or sent[1] is None:
                continue
            codes = self._unanswered.filters.sent(sent[1], (few, act))
            if codes is not None:
                self._learnt.granted(few, act, codes)

    def unsubscribe(self, patterns: Collection[str]) -> None:
        """Unsubscribe from filters."""
        for few in self._learnt.groups(patterns):
            self._use(lambda client, few=few: client.unsubscribe(few))  # type: ignore[misc]

    def ending(self) -> Ending:
        """The link's `Ending`, once it has ended."""
        lived = 0.0 if self._since is None else time.monotonic() - self._since
        return self._unanswered.ending(lived, self._reason)

    def runs_this_thread(self) -> bool:
        """Return whether the caller is one of this link's own callbacks.

        A callback cannot wait for the link's end.
        """
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Ends it in good order, if it has not ended; any thread may, at any time."""
        if not (self._ended or self.runs_this_thread()):
            self._client.drain()
        with self._using:
            if not self._ended:
                self._ended = self._ours = True
                with contextlib.suppress(OSError):  # the broker has closed it meanwhile
                    self._client.disconnect()
            # paho's thread holds locks in its callbacks, and ends once it has left.
            if self._cleared or self.runs_this_thread():
                return
            self._cleared = True
        self._client.loop_stop()
        # paho does it only when it is collected, which warns of sockets left open.
        self._client._reset_sockets()  # noqa: SLF001
        self.gone.set()

    def _use(self, ask: Callable[[Client], T]) -> T | None:
        """Asks something of paho's client; None on a link that has ended.

        paho takes its socket away at a connection's end: errors then say no more.
        """
        with self._using:
            if self._ended:
                return None
            try:
                return ask(self._client)
            except OSError as error:
                log.debug("called on a link that is closing: %s", error)
                return None

    # -- paho --------------------------------------------------------------------------

    def _make(
        self, address: Address, client_id: str, will: Will | None, meter: Meter
    ) -> Client:
        client = make_client(address, client_id, self._dialect, self.limits, will)
        client.on_log = self._logged
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.take, client.too_large = self._message, self._left_out
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_socket_open = lambda _c, _u, sock: meter.attach(sock)
        client.on_socket_close = lambda _c, _u, _sock: meter.settle()
        return client

    def _open(self) -> None:
        keepalive_s = min(KEEPALIVE_S, self.limits.keepalive_s)
        connect_client(self._client, self._dialect, keepalive_s, self._window)
        self._client.loop_start()
        end = self._answered.wait(ANSWER_S * SLOW.times(self._client.address))
        check_answer(
            self._answer, self._client, self._dialect, self._trouble, ended=end
        )

    def _logged(self, _c: paho.Client, _u: object, _level: int, text: str) -> None:
        if "SSL" in text:
            self._trouble = text

    def _connected(
        self, client: paho.Client, _u: object, _f: object, code: ReasonCode, given: Any
    ) -> None:
        self._answer, self._thread = code, threading.current_thread()
        self._since, self._client.told = time.monotonic(), given
        if given is not None:
            self._learnt.connected(given)
        # Its setter refuses once the socket is open; the answer comes later.
        client._max_inflight_messages = min(self.limits.inflight, MAX_INFLIGHT)  # noqa: SLF001
        self._answered.set()

    def _disconnected(
        self, _c: paho.Client, _u: object, _f: object, code: ReasonCode, given: object
    ) -> None:
        if self._answer is not None and not self._answer.is_failure and not self._ours:
            self._reason = code.value
            log.warning("the link to the broker is down: %s", self._why(code, given))
        self._answered.set()
        self.gone.set()

    def _message(self, found: PublishPacket) -> None:
        ack: Callable[[], object] = object
        if found.mid and self._window is not None:
            ack = partial(self._acknowledge, found.mid)
        try:
            self._deliver(ReceivedMessage(found.topic, found.payload, ack))
        except Exception:  # an escape would kill paho's thread and leave us deaf
            log.exception("a transport callback failed")
        if found.mid and self._window is None:
            self._client.acknowledge(found.mid)

    def _left_out(self, topic: str, size: int) -> None:
        self._learnt.once(
            f"dropped a message of {size} bytes to {topic}: ours are smaller",
            "have the broker's access list forbid the topic to who publishes it",
            topic,
        )

    def _acknowledge(self, mid: int) -> None:
        with self._using:
            if not self._ended:
                self._client.acknowledge(mid)

    def _published(
        self, _c: paho.Client, _u: object, mid: int, code: ReasonCode, _p: object
    ) -> None:
        answer = code, self._client.reasons.pop(mid, None)
        if (parted := self._unanswered.messages.answered(mid, answer)) is not None:
            self._settle(parted, *answer)

    def _settle(self, parted: Parted, code: ReasonCode, odd: int | None) -> None:
        if self._learnt.answered(parted, code, odd):
            self._unanswered.taken(parted.size)

    def _why(self, code: ReasonCode, given: object) -> str:
        """The reason why the link ended, with the message that was too large."""
        words, lost = in_words(code, given), self.ending().unanswered
        if code.getName() != name_of(TOO_LARGE) or lost is None:
            return words
        return f"{words}; the message of {lost.size} bytes to {lost.topic}"

    def _subscribed(
        self, _c: paho.Client, _u: object, mid: int, codes: list[ReasonCode], _p: object
    ) -> None:
        if (known := self._unanswered.filters.answered(mid, codes)) is not None:
            self._learnt.granted(*known, codes)
