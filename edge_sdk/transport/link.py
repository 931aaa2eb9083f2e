"""One MQTT connection through paho, from CONNECT to its end: nothing outlives it.

paho's own reconnecting sends again what its queue holds, also what the next broker
refuses as too large, for ever. So each connection has a client and a queue of its own,
and what is too large for its broker is never handed to it.

paho's callbacks run on its network thread: an exception there kills it silently, and
waiting there longer than 1.5 keepalives fires the will. They only enqueue.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import NO_LIMIT, Deliver, Delivery, Will
from edge_sdk.transport.dialect import ANSWER_S, Dialect, RefusedError, SilentError
from edge_sdk.transport.meter import Meter

__all__ = ["Link", "Parcel"]

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_S = 5.0  # for TCP and TLS
MOST_EXPIRY_S = (1 << 32) - 1  # MQTT 5 has 32 bits for it
MAX_QUEUED = 4096  # packets; paho's default has no bound and eats a board's memory
MAX_INFLIGHT = 64
MAX_INCOMING = 128 * 1024  # bytes; said to a broker of MQTT 5, which drops larger ones

# What a person can do about a broker's reason; MQTT 5.0, section 2.4, and CONNACK of
# 3.1.1, which paho translates.
REMEDIES = {
    "Bad user name or password": "check user and password in the broker's URL",
    "Not authorized": "check user and password in its URL, and its access list",
    "Client identifier not valid": "the broker wants another client id",
    "Session taken over": "another process uses this device's name",
    "Unspecified error": "it was cut without a word; if that goes on, another board "
    "or process uses a copy of this identity",
    "Packet too large": "raise the broker's limit for packets",
    "Quota exceeded": "the broker's quota is used up; raise it, or its disk is full",
    "Server busy": "the broker has no room for more clients",
    "Banned": "the broker has banned us",
    "Keep alive timeout": "the link or this machine stood still for too long",
    "Retain not supported": "the broker has to keep retained messages; allow them",
    "Message rate too high": "the broker limits our rate; raise its limit",
}


# What OpenSSL says -> what it means here.
TLS = (
    (
        "CERTIFICATE_REVOKED",
        "the broker refuses this certificate: it was revoked. Ask the operator for a "
        "token, then: flash-edge enroll TOKEN",
    ),
    (
        "CERTIFICATE_EXPIRED",
        "the broker refuses this certificate: it is over. Have the operator revoke "
        "this device and let it in again: flash-edge enroll TOKEN",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "the broker asks for a certificate: flash-edge enroll TOKEN",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not believed: it is another federation's, has "
        "another name, or this clock runs ahead",
    ),
)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message on its way out.

    Attributes:
        topic: Where to.
        payload: What.
        retain: Whether the broker keeps it.
        sure: Whether the broker acknowledges it (QoS 1).
        expires_s: Seconds after which nobody wants it any more; None for never.
    """

    topic: str
    payload: bytes
    retain: bool = False
    sure: bool = True
    expires_s: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its PUBLISH packet at most."""
        return len(self.payload) + len(self.topic.encode()) + 16


class Link:
    """A connection, up when it is made.

    Args:
        address: The broker.
        client_id: MQTT client id.
        dialect: The version to speak.
        deliver: Called with each message, on the network thread.
        will: Published, retained, by the broker if we vanish.
        window: Deliveries that may wait to be taken; None acknowledges at once.
        meter: Counts its bytes.

    Attributes:
        limit: Bytes that one packet may take.
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
    ) -> None:
        self.limit = NO_LIMIT
        self.gone = threading.Event()
        self._deliver, self._window, self._dialect = deliver, window, dialect
        self._answered = threading.Event()
        self._answer: ReasonCode | None = None
        self._trouble = ""  # what TLS said; in 1.3 a refusal comes after the handshake
        self._ours = False  # we are the ones who end it
        # paho's client is used until `close`: later it would write to closed sockets.
        self._using, self._ended = threading.RLock(), False
        self._said: set[str] = set()
        self._topics: dict[int, str] = {}  # of what is not yet acknowledged
        self._client = self._make(address, client_id, will, meter)
        try:
            self._open(address)
        except BaseException:
            self.close()
            raise

    def publish(self, parcel: Parcel) -> None:
        """Queues for sending; what cannot be sent is dropped and said."""
        if parcel.size > self.limit:
            self._once(
                f"the broker takes packets of {self.limit} bytes; dropped one of "
                f"{parcel.size} bytes to {parcel.topic}",
                REMEDIES["Packet too large"],
            )
            return
        properties = None
        if self._dialect is Dialect.V5 and parcel.expires_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = min(parcel.expires_s, MOST_EXPIRY_S)
        with self._using:
            if self._ended:
                return
            info = self._client.publish(
                parcel.topic,
                parcel.payload,
                qos=1 if parcel.sure else 0,
                retain=parcel.retain,
                properties=properties,
            )
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            log.warning("send queue full: dropped a message to %s", parcel.topic)
        elif parcel.sure and self._dialect is Dialect.V5:
            self._topics[info.mid] = parcel.topic

    def subscribe(self, patterns: list[str]) -> None:
        """Asks for filters."""
        with self._using:
            if patterns and not self._ended:
                self._client.subscribe([(pattern, 1) for pattern in patterns])

    def unsubscribe(self, patterns: list[str]) -> None:
        """Gives filters back."""
        with self._using:
            if patterns and not self._ended:
                self._client.unsubscribe(patterns)

    def close(self) -> None:
        """Ends it in good order, if it has not ended; any thread may, at any time."""
        with self._using:
            if self._ended:
                return
            self._ended = self._ours = True
            self._client.disconnect()
        self._client.loop_stop()
        # paho does it only when it is collected, which warns of sockets left open.
        self._client._reset_sockets()  # noqa: SLF001
        self.gone.set()

    # -- paho --------------------------------------------------------------------------

    def _make(
        self, address: Address, client_id: str, will: Will | None, meter: Meter
    ) -> paho.Client:
        five = self._dialect is Dialect.V5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=(
                MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
            ),
            clean_session=None if five else True,
            reconnect_on_failure=False,
            manual_ack=self._window is not None,
        )
        client.connect_timeout = CONNECT_S
        client.max_queued_messages_set(MAX_QUEUED)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        if address.tls is not None:
            # Made anew for each link: our certificate may have been renewed meanwhile.
            try:
                client.tls_set_context(address.tls.context())
            except BrokerError as error:
                raise RefusedError(str(error)) from error
        if address.username:
            client.username_pw_set(address.username, address.password)
        if will:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_log = self._logged
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
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
                address.host, address.port, keepalive=KEEPALIVE_S, properties=properties
            )
        except ssl.SSLError as error:
            raise RefusedError(_in_tls_words(str(error))) from error
        self._client.loop_start()
        if not self._answered.wait(ANSWER_S):
            raise SilentError(f"no answer to a CONNECT of MQTT {self._dialect.value}")
        if self._answer is None and self._trouble:
            raise RefusedError(_in_tls_words(self._trouble))
        if self._answer is None or self._answer.getName().startswith("Unsupported"):
            raise SilentError(f"it does not speak MQTT {self._dialect.value}")
        if self._answer.is_failure:
            raise RefusedError(_in_words(self._answer))

    def _logged(self, _c: paho.Client, _u: object, _level: int, text: str) -> None:
        if "SSL" in text:
            self._trouble = text

    def _connected(
        self, client: paho.Client, _u: object, _f: object, code: ReasonCode, given: Any
    ) -> None:
        self._answer = code
        if given is not None:
            self.limit = min(getattr(given, "MaximumPacketSize", NO_LIMIT), NO_LIMIT)
            most = getattr(given, "ReceiveMaximum", MAX_INFLIGHT)
            # Its setter refuses once the socket is open; the answer comes later.
            client._max_inflight_messages = min(most, MAX_INFLIGHT)  # noqa: SLF001
        self._answered.set()

    def _disconnected(
        self, _c: paho.Client, _u: object, _f: object, code: ReasonCode, _p: object
    ) -> None:
        if self._answer is not None and not self._answer.is_failure and not self._ours:
            log.warning("the link to the broker is down: %s", _in_words(code))
        self._answered.set()
        self.gone.set()

    def _message(self, c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        ack: Callable[[], object] = lambda: None  # noqa: E731
        if self._window is not None:
            ack = partial(c.ack, message.mid, message.qos)
        delivery = Delivery(message.topic, bytes(message.payload), ack)
        try:
            self._deliver(delivery)
        except Exception:  # an escape would kill paho's thread and leave us deaf
            log.exception("a transport callback failed")

    def _published(
        self, _c: paho.Client, _u: object, mid: int, code: ReasonCode, _p: object
    ) -> None:
        topic = self._topics.pop(mid, "a topic")
        if code.is_failure:
            kind = "/".join(topic.split("/")[3:4])
            self._once(
                f"the broker refused a message to {topic}", _in_words(code), kind
            )

    def _subscribed(
        self, _c: paho.Client, _u: object, _m: int, codes: list[ReasonCode], _p: object
    ) -> None:
        for code in codes:
            if code.is_failure:
                self._once("the broker refused a subscription", _in_words(code))

    def _once(self, what: str, why: str, kind: str = "") -> None:
        key = f"{kind or what.split(';', maxsplit=1)[0]} {why}"
        if key not in self._said:
            self._said.add(key)
            log.error("%s: %s", what, why)


def _in_tls_words(text: str) -> str:
    return next((words for sign, words in TLS if sign in text), text)


def _in_words(code: ReasonCode) -> str:
    name = code.getName()
    remedy = REMEDIES.get(name, "")
    return f"{name} ({remedy})" if remedy else name
