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
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.backoff import Ending, Parted
from edge_sdk.transport.base import Deliver, OutgoingMessage, ReceivedMessage, Will
from edge_sdk.transport.client import MAX_INCOMING, Client, PublishPacket
from edge_sdk.transport.dialect import ANSWER_S, Dialect, RefusedError, SilentError
from edge_sdk.transport.limits import NO_LIMIT, told
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.proxy import ProxyError
from edge_sdk.transport.refusals import in_tls_words, in_words, name_of, with_remedy

__all__ = ["Link"]

log = logging.getLogger(__name__)
T = TypeVar("T")

KEEPALIVE_S = 30
CONNECT_S = 5.0  # for TCP and TLS
MOST_EXPIRY_S = (1 << 32) - 1  # MQTT 5 has 32 bits for it
TRY_AGAIN_S = (60.0, 900.0)  # what the broker refused as too large: at first, at last
TOO_LARGE, QUOTA = 0x95, 0x97  # of MQTT 5.0, section 2.4
MAX_QUEUED = 4096  # packets; paho's default has no bound and eats a board's memory
MAX_INFLIGHT = 64


class Link:
    """A connection, up when it is made.

    Args:
        address: The broker, with the limits that are known of it.
        client_id: MQTT client id.
        dialect: The version to speak.
        deliver: Called with each message, on the network thread.
        will: Published, retained, by the broker if we vanish.
        window: Deliveries that may wait to be taken; None acknowledges at once.
        meter: Counts its bytes.

    Attributes:
        limits: What the broker takes, as it says or has shown.
        gone: Set when the connection has ended.

    Whatever it hands out may be called at any time by any thread, also after its end:
    nothing happens then.

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
    ) -> None:
        self.limits, self._declared = address.limits, address.limits.packet
        self.gone = threading.Event()
        self._deliver, self._window, self._dialect = deliver, window, dialect
        self._answered = threading.Event()
        self._answer: ReasonCode | None = None
        self._trouble = ""  # what TLS said; in 1.3 a refusal comes after the handshake
        self._ours = False  # we are the ones who end it
        # paho's client is used until `close`: later it would write to closed sockets.
        self._using, self._ended = threading.RLock(), False
        self._cleared = False  # its thread and its sockets are gone, or about to
        self._said: set[str] = set()
        self._lookup_lock = threading.Lock()  # held for a look-up, never around paho
        self._under_way: dict[int, Parted] = {}  # what is not yet acknowledged
        self._early: dict[int, tuple[ReasonCode, int | None]] = {}
        self._largest_taken = 0  # bytes; of the messages that were acknowledged
        self._asked: dict[int, tuple[list[str], Parted]] = {}  # SUBSCRIBEs, unanswered
        self._early_answers: dict[int, list[ReasonCode]] = {}
        self._lately: deque[float] = deque(maxlen=1024)  # when messages were sent
        self._reason = 0
        self._since: float | None = None  # monotonic; when it was up
        self._refused = _Refused()
        self._thread: threading.Thread | None = None  # of the callbacks
        self._client = self._make(address, client_id, will, meter)
        try:
            self._open(address)
        except BaseException:
            self.close()
            raise

    def publish(self, parcel: OutgoingMessage) -> None:
        """Queues for sending; what cannot be sent is dropped and said."""
        size, limits = parcel.size, self.limits
        if size > self._declared or (
            size > limits.packet and not self._refused.may_try(size)
        ):
            self._once(
                f"the broker takes packets of {limits.packet} bytes; dropped one of "
                f"{size} bytes to {parcel.topic}",
                with_remedy("Packet too large"),
            )
            return
        if (
            len(parcel.topic.encode()) > limits.topic_bytes
            or parcel.topic.count("/") > limits.topic_slashes
        ):
            self._once(
                f"the broker takes topics of {limits.topic_bytes} bytes and "
                f"{limits.topic_slashes} slashes; dropped a message to {parcel.topic}",
                "take shorter names for the federation and its devices",
            )
            return
        keep = parcel.retain and size <= limits.retained_packet
        if parcel.retain and not keep and not parcel.payload:
            return  # nothing is retained there that could be cleared
        properties = None
        if self._dialect is Dialect.V5 and parcel.expires_s is not None:
            properties = _expiring(min(parcel.expires_s, MOST_EXPIRY_S))
        sure = parcel.sure and limits.qos > 0
        self._lately.append(time.monotonic())

        def send(client: Client) -> paho.MQTTMessageInfo:
            info = client.publish(
                parcel.topic,
                parcel.payload,
                qos=int(sure),
                retain=keep,
                properties=properties,
            )
            if sure and info.rc != paho.MQTT_ERR_QUEUE_SIZE:
                self._sent(info.mid, Parted(parcel.topic, parcel.size))
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
        limits = self.limits
        refused = [p for p in patterns if not limits.wildcards and set("+#") & set(p)]
        if refused:
            reason = name_of(0xA2)
            self._once(f"the broker takes no {refused[0]}", with_remedy(reason))
        given = [p for p in patterns if p not in refused]
        for few in _groups(given, limits.filters):
            held += len(few)
            size = sum(len(p.encode()) + 3 for p in few) + 8
            act = Parted(few[0], size, len(few), held)
            asked = [(p, min(limits.qos, 1)) for p in few]
            sent = self._use(lambda client, asked=asked: client.subscribe(asked))  # type: ignore[misc]
            if sent is None or sent[1] is None:
                continue
            with self._lookup_lock:
                codes = self._early_answers.pop(sent[1], None)
                if codes is None:
                    self._asked[sent[1]] = few, act
            if codes is not None:
                self._granted(few, act, codes)

    def unsubscribe(self, patterns: Collection[str]) -> None:
        """Unsubscribe from filters."""
        for few in _groups(list(patterns), self.limits.filters):
            self._use(lambda client, few=few: client.unsubscribe(few))  # type: ignore[misc]

    def ending(self) -> Ending:
        """The link's `Ending`, once it has ended."""
        now = time.monotonic()
        lived = 0.0 if self._since is None else now - self._since
        last = self._lately[-1] if self._lately else 0.0
        burst = sum(last - sent <= 1.0 for sent in list(self._lately))
        lost = max(list(self._under_way.values()), key=lambda p: p.size, default=None)
        if lost is not None and lost.size <= self._largest_taken:
            lost = None
        asked = [act for _, act in list(self._asked.values())]
        return Ending(lived, asked[0] if asked else lost, self._reason, burst)

    def runs_this_thread(self) -> bool:
        """Return whether the caller is one of this link's own callbacks.

        A callback cannot wait for the link's end.
        """
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Ends it in good order, if it has not ended; any thread may, at any time."""
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

        Between the end of a connection and our `close` paho's thread takes the socket
        away under us: what it raises then says no more than `gone` does.
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
        five = self._dialect is Dialect.V5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=(
                MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
            ),
            clean_session=None if five else True,
            reconnect_on_failure=False,
        )
        client.reasons, client.address = {}, address
        client.connect_timeout = CONNECT_S
        client.max_queued_messages_set(MAX_QUEUED)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        # Made anew for each link: our certificate may have been renewed meanwhile.
        try:
            context = address.context()
        except BrokerError as error:
            raise RefusedError(str(error)) from error
        if context is not None:
            client.tls_set_context(context)
        if address.username:
            client.username_pw_set(address.username, address.password)
        if will:
            qos, keep = min(self.limits.qos, 1), self.limits.retained > 0
            client.will_set(will.topic, will.payload, qos=qos, retain=keep)
        client.on_log = self._logged
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.take, client.too_large = self._message, self._left_out
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_socket_open = lambda _c, _u, sock: meter.attach(sock)
        client.on_socket_close = lambda _c, _u, _sock: meter.settle()
        return client

    def _open(self, address: Address) -> None:
        properties = None
        if self._dialect is Dialect.V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_INCOMING
            if self._window is not None:
                properties.ReceiveMaximum = self._window
        try:
            self._client.connect(
                address.host,
                address.port,
                keepalive=min(KEEPALIVE_S, self.limits.keepalive_s),
                properties=properties,
            )
        except ssl.SSLError as error:
            raise RefusedError(in_tls_words(str(error))) from error
        except ProxyError as error:
            raise RefusedError(str(error)) from error
        except TimeoutError as error:
            raise SilentError(in_tls_words(str(error))) from error
        self._client.loop_start()
        self._judge(answered=self._answered.wait(ANSWER_S))

    def _judge(self, *, answered: bool) -> None:
        """Raises what the broker's answer, or its silence, comes to."""
        if not answered:
            raise SilentError(f"no answer to a CONNECT of MQTT {self._dialect.value}")
        if self._answer is None and self._trouble:
            raise RefusedError(in_tls_words(self._trouble))
        if self._answer is None:
            raise SilentError(
                f"it closed the connection after our CONNECT in MQTT "
                f"{self._dialect.value}: it has no "
                "room for more clients, wants TLS (mqtts://), or is no MQTT broker"
            )
        if self._answer.getName().startswith("Unsupported"):
            raise SilentError(f"it does not speak MQTT {self._dialect.value}")
        if self._answer.is_failure:
            raise RefusedError(in_words(self._answer), self._answer.value)

    def _logged(self, _c: paho.Client, _u: object, _level: int, text: str) -> None:
        if "SSL" in text:
            self._trouble = text

    def _connected(
        self, client: paho.Client, _u: object, _f: object, code: ReasonCode, given: Any
    ) -> None:
        self._answer, self._thread = code, threading.current_thread()
        self._since = time.monotonic()
        if given is not None:
            self.limits = told(self.limits, given)
            self._declared = min(self._declared, self.limits.packet)
        # Its setter refuses once the socket is open; the answer comes later.
        client._max_inflight_messages = min(self.limits.inflight, MAX_INFLIGHT)  # noqa: SLF001
        self._answered.set()

    def _disconnected(
        self, _c: paho.Client, _u: object, _f: object, code: ReasonCode, _p: object
    ) -> None:
        if self._answer is not None and not self._answer.is_failure and not self._ours:
            self._reason = code.value
            log.warning("the link to the broker is down: %s", self._why(code))
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
        self._once(
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
        odd = self._client.reasons.pop(mid, None)
        with self._lookup_lock:
            parted = self._under_way.pop(mid, None)
            if parted is None:  # answered before `publish` has returned
                self._early[mid] = code, odd
                return
        self._settle(parted, code, odd)

    def _sent(self, mid: int, parted: Parted) -> None:
        with self._lookup_lock:
            answer = self._early.pop(mid, None)
            if answer is None:
                self._under_way[mid] = parted
                return
        self._settle(parted, *answer)

    def _settle(self, parted: Parted, code: ReasonCode, odd: int | None) -> None:
        """The broker's answer to a message."""
        if not code.is_failure:
            self._largest_taken = max(self._largest_taken, parted.size)
            return
        if odd == TOO_LARGE:
            self._refused.note(parted.size)
            self.limits = self.limits.within(packet=parted.size - 1)
        self._once(
            f"the broker refused a message to {parted.topic} ({parted.size} bytes)",
            in_words(code) if odd is None else with_remedy(name_of(odd)),
            "/".join(parted.topic.split("/")[3:4]),
        )

    def _why(self, code: ReasonCode) -> str:
        """The reason why the link ended, with the message that was too large."""
        words, lost = in_words(code), self.ending().unanswered
        if code.getName() != name_of(TOO_LARGE) or lost is None:
            return words
        return f"{words}; the message of {lost.size} bytes to {lost.topic}"

    def _subscribed(
        self, _c: paho.Client, _u: object, mid: int, codes: list[ReasonCode], _p: object
    ) -> None:
        with self._lookup_lock:
            known = self._asked.pop(mid, None)
            if known is None:  # answered before `subscribe` has returned
                self._early_answers[mid] = codes
                return
        self._granted(*known, codes)

    def _granted(self, asked: list[str], act: Parted, codes: list[ReasonCode]) -> None:
        """The broker's answer to a SUBSCRIBE."""
        for place, (topic, code) in enumerate(zip(asked, codes, strict=False)):
            if code.is_failure:
                self._once(f"the broker does not send {topic}", in_words(code), topic)
                if code.value == QUOTA:
                    most = max(act.held - len(asked) + place, 1)
                    self.limits = self.limits.within(subscriptions=most)

    def _once(self, what: str, why: str, kind: str = "") -> None:
        key = f"{kind or what.split(';', maxsplit=1)[0]} {why}"
        if key not in self._said:
            self._said.add(key)
            log.error("%s: %s", what, why)


@lru_cache(maxsize=64)  # to make one takes longer than to send its message
def _expiring(seconds: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    return properties


def _groups(patterns: list[str], most: int) -> list[list[str]]:
    return [patterns[i : i + most] for i in range(0, len(patterns), most)]


class _Refused:
    """Sizes that the broker has refused, and when one may be tried again.

    A person may have raised the limit without starting the broker anew; so it is tried
    again, after a wait that doubles.
    """

    def __init__(self) -> None:
        self._size, self._wait_s, self._next = NO_LIMIT, TRY_AGAIN_S[0], 0.0

    def note(self, size: int) -> None:
        """The broker has refused a message of this size."""
        self._size = min(self._size, size)
        self._next = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, TRY_AGAIN_S[1])

    def may_try(self, size: int) -> bool:
        """Return whether a message that is too large may be sent all the same."""
        if size < self._size or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._wait_s
        return True
