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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.backoff import Ending, Parted
from edge_sdk.transport.base import NO_LIMIT, Deliver, ReceivedMessage, Will
from edge_sdk.transport.client import Client, name_of
from edge_sdk.transport.dialect import ANSWER_S, Dialect, RefusedError, SilentError
from edge_sdk.transport.meter import Meter

__all__ = ["Link", "OutgoingMessage"]

log = logging.getLogger(__name__)
T = TypeVar("T")

KEEPALIVE_S = 30
CONNECT_S = 5.0  # for TCP and TLS
MOST_EXPIRY_S = (1 << 32) - 1  # MQTT 5 has 32 bits for it
TRY_AGAIN_S = (60.0, 900.0)  # what the broker refused as too large: at first, at last
NO_RETAIN, TOO_LARGE = "Retain not supported", 0x95  # of MQTT 5.0, section 2.4
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
    "Unspecified "
    "error": "it was cut without a reason; if that continues, another board "
    "or process uses a copy of this identity",
    "Packet too large": "raise the broker's limit for packets, to 128 KiB if you can "
    "(max_packet_size, message_size_limit)",
    "Quota exceeded": "the broker's quota is used up; raise it, or its disk is full",
    "Server unavailable": "the broker has no room for more clients, or is going down",
    "Server busy": "the broker has no room for more clients",
    "Unsupported protocol version": "it speaks neither MQTT 5 nor 3.1.1",
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
        "certificate has expired",
        "by this machine's clock the broker's certificate is over: set the clock "
        "(timedatectl set-ntp true); if it is right, restart the coordinator",
    ),
    (
        "certificate is not yet valid",
        "by this machine's clock the broker's certificate is not valid yet: set the "
        "clock (timedatectl set-ntp true)",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not believed: it is another federation's, has "
        "another name, or this clock runs ahead",
    ),
    *(
        (
            sign,
            "what listens there does not speak TLS: name the broker's TLS port (8883 "
            "as a rule), or mqtt:// where the link is meant to be plain",
        )
        for sign in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF", "handshake operation")
    ),
)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
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
        limit: Bytes that one packet may take, as the broker says or has shown.
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
        self.limit = self._declared = NO_LIMIT
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
        self._keeps = True  # retained messages
        self._qos = 1  # the most that the broker takes
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
        size = parcel.size
        if size > self._declared or (
            size > self.limit and not self._refused.may_try(size)
        ):
            self._once(
                f"the broker takes packets of {self.limit} bytes; dropped one of "
                f"{size} bytes to {parcel.topic}",
                REMEDIES["Packet too large"],
            )
            return
        properties = None
        if self._dialect is Dialect.V5 and parcel.expires_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = min(parcel.expires_s, MOST_EXPIRY_S)
        sure = parcel.sure and self._qos > 0

        def send(client: Client) -> paho.MQTTMessageInfo:
            info = client.publish(
                parcel.topic,
                parcel.payload,
                qos=int(sure),
                retain=parcel.retain,
                properties=properties,
            )
            if sure and info.rc != paho.MQTT_ERR_QUEUE_SIZE:
                self._sent(info.mid, Parted(parcel.topic, parcel.size))
            return info

        info = self._use(send)
        if info is not None and info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            log.warning("send queue full: dropped a message to %s", parcel.topic)

    def subscribe(self, patterns: list[str]) -> None:
        """Asks for filters."""
        if patterns:
            self._use(lambda client: client.subscribe([(p, 1) for p in patterns]))

    def unsubscribe(self, patterns: list[str]) -> None:
        """Unsubscribe from filters."""
        if patterns:
            self._use(lambda client: client.unsubscribe(patterns))

    def ending(self) -> Ending:
        """The link's `Ending`, once it has ended."""
        lived = 0.0 if self._since is None else time.monotonic() - self._since
        lost = max(list(self._under_way.values()), key=lambda p: p.size, default=None)
        if lost is not None and lost.size <= self._largest_taken:
            lost = None
        return Ending(lived, lost)

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
            manual_ack=self._window is not None,
        )
        client.reasons = {}
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
        except TimeoutError as error:
            raise SilentError(_in_tls_words(str(error))) from error
        self._client.loop_start()
        self._judge(answered=self._answered.wait(ANSWER_S))

    def _judge(self, *, answered: bool) -> None:
        """Raises what the broker's answer, or its silence, comes to."""
        if not answered:
            raise SilentError(f"no answer to a CONNECT of MQTT {self._dialect.value}")
        if self._answer is None and self._trouble:
            raise RefusedError(_in_tls_words(self._trouble))
        if self._answer is None:
            raise SilentError(
                f"it closed the connection after our CONNECT in MQTT "
                f"{self._dialect.value}: it has no "
                "room for more clients, wants TLS (mqtts://), or is no MQTT broker"
            )
        if self._answer.getName().startswith("Unsupported"):
            raise SilentError(f"it does not speak MQTT {self._dialect.value}")
        if self._answer.is_failure:
            raise RefusedError(_in_words(self._answer))
        if not self._keeps:  # it would cut the link behind our first word
            raise RefusedError(f"Retain not supported ({REMEDIES[NO_RETAIN]})")

    def _logged(self, _c: paho.Client, _u: object, _level: int, text: str) -> None:
        if "SSL" in text:
            self._trouble = text

    def _connected(
        self, client: paho.Client, _u: object, _f: object, code: ReasonCode, given: Any
    ) -> None:
        self._answer, self._thread = code, threading.current_thread()
        self._since = time.monotonic()
        if given is not None:
            declared = getattr(given, "MaximumPacketSize", NO_LIMIT)
            self.limit = self._declared = min(declared, NO_LIMIT)
            self._qos = min(getattr(given, "MaximumQoS", 1), 1)
            self._keeps = bool(getattr(given, "RetainAvailable", 1))
            most = getattr(given, "ReceiveMaximum", MAX_INFLIGHT)
            # Its setter refuses once the socket is open; the answer comes later.
            client._max_inflight_messages = min(most, MAX_INFLIGHT)  # noqa: SLF001
        self._answered.set()

    def _disconnected(
        self, _c: paho.Client, _u: object, _f: object, code: ReasonCode, _p: object
    ) -> None:
        if self._answer is not None and not self._answer.is_failure and not self._ours:
            log.warning("the link to the broker is down: %s", self._why(code))
        self._answered.set()
        self.gone.set()

    def _message(self, c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        ack: Callable[[], object] = lambda: None  # noqa: E731
        if self._window is not None:
            ack = partial(self._use, lambda _: c.ack(message.mid, message.qos))
        delivery = ReceivedMessage(message.topic, bytes(message.payload), ack)
        try:
            self._deliver(delivery)
        except Exception:  # an escape would kill paho's thread and leave us deaf
            log.exception("a transport callback failed")

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
            self.limit = min(self.limit, parted.size - 1)
        self._once(
            f"the broker refused a message to {parted.topic} ({parted.size} bytes)",
            _in_words(code) if odd is None else _with_remedy(name_of(odd)),
            "/".join(parted.topic.split("/")[3:4]),
        )

    def _why(self, code: ReasonCode) -> str:
        """The reason why the link ended, with the message that was too large."""
        words, lost = _in_words(code), self.ending().unanswered
        if code.getName() != name_of(TOO_LARGE) or lost is None:
            return words
        return f"{words}; the message of {lost.size} bytes to {lost.topic}"

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
    return _with_remedy(code.getName())


def _with_remedy(name: str) -> str:
    remedy = REMEDIES.get(name, "")
    return f"{name} ({remedy})" if remedy else name


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
