"""A client of one connection, from its settings to the broker's answer."""

from __future__ import annotations

import ssl
from functools import lru_cache

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Will
from edge_sdk.transport.client.paho_client import Client
from edge_sdk.transport.dialect import SLOW, Dialect, RefusedError, SilentError
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.proxy import ProxyError
from edge_sdk.transport.refusals import PASSING, in_tls_words, in_words, may_pass

__all__ = [
    "MAX_INFLIGHT",
    "check_answer",
    "connect_client",
    "expiry_properties",
    "make_client",
]

CONNECT_S = 5.0  # for TCP and TLS
CONNACK = 0x20  # its first byte
MAX_QUEUED = 4096  # packets; paho's default has no bound and eats a board's memory
MAX_INFLIGHT = 64
MOST_EXPIRY_S = (1 << 32) - 1  # MQTT 5 has 32 bits for it


def make_client(
    address: Address,
    client_id: str,
    dialect: Dialect,
    limits: BrokerLimits,
    will: Will | None,
) -> Client:
    """A client that is not connected yet.

    Args:
        address: The broker.
        client_id: MQTT client id.
        dialect: The version to speak.
        limits: What is known of the broker.
        will: Published, retained, by the broker if we vanish.

    Raises:
        RefusedError: If the certificates cannot be used.
    """
    five = dialect is Dialect.V5
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        clean_session=None if five else True,
        reconnect_on_failure=False,
    )
    client.reasons, client.address = {}, address
    client.connect_timeout = CONNECT_S * SLOW.times(address)
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
        qos, keep = min(limits.qos, 1), limits.retained > 0
        client.will_set(will.topic, will.payload, qos=qos, retain=keep)
    return client


def connect_client(
    client: Client, dialect: Dialect, keepalive_s: int, window: int | None
) -> None:
    """Connects a client to its address and sends its CONNECT.

    Args:
        client: Made by `make_client`.
        dialect: The version that it speaks.
        keepalive_s: Seconds.
        window: Deliveries that may wait to be taken; None for any number.

    Raises:
        OSError: Nobody listens there.
        SilentError: Nobody answers.
        RefusedError: TLS or a proxy refuses.
    """
    properties = None
    if dialect is Dialect.V5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = client.most_incoming
        if window is not None:
            properties.ReceiveMaximum = window
    host, port = client.address.host, client.address.port
    try:
        client.connect(host, port, keepalive=keepalive_s, properties=properties)
    except ssl.SSLError as error:
        said = str(error)
        words = in_tls_words(said) + _in_its_place(client.address)
        raise RefusedError(words, passing=may_pass(said)) from error
    except ProxyError as error:
        raise RefusedError(str(error), passing=error.passing) from error
    except TimeoutError as error:
        raise SilentError(in_tls_words(str(error))) from error


def check_answer(
    answer: ReasonCode | None,
    client: Client,
    dialect: Dialect,
    trouble: str,
    *,
    ended: bool,
) -> None:
    """Raises what the broker's answer to a CONNECT, or its silence, comes to.

    Args:
        answer: The reason of its CONNACK; None for none.
        client: The client that sent it.
        dialect: The version that was spoken.
        trouble: What TLS said; in 1.3 a refusal comes after the handshake.
        ended: Whether it answered, or closed the connection.

    Raises:
        SilentError: No answer in this version.
        RefusedError: The broker's answer is no; it says why.
    """
    for begin, what in _OTHERS.items():
        if client.greeting.startswith(begin):
            raise RefusedError(what)
    if answer is None and client.greeting and client.greeting[0] != CONNACK:
        raise RefusedError(
            f"it answers our CONNECT by {client.greeting!r}, which is no CONNACK: it "
            "is no MQTT broker; write the port of MQTT (1883, or 8883 with TLS)"
            + _in_its_place(client.address)
        )
    if answer is None and client.malformed:
        raise SilentError(
            f"its answer to our CONNECT in MQTT {dialect.value} is none that there is: "
            f"{client.malformed}; it speaks another version, or is no MQTT broker"
        )
    if not ended:
        raise SilentError(
            f"it took our CONNECT in MQTT {dialect.value} and said nothing: it is "
            f"overloaded, {_wants(client.address)}, or is no MQTT broker"
        )
    if answer is None and trouble:
        raise RefusedError(in_tls_words(trouble), passing=may_pass(trouble))
    if answer is None:
        raise SilentError(
            f"it closed the connection after our CONNECT in MQTT {dialect.value}: "
            f"it has no room for more clients, {_wants(client.address)}, or is no "
            "MQTT broker",
            closed=True,
        )
    if answer.getName().startswith("Unsupported"):
        raise SilentError(f"it does not speak MQTT {dialect.value}")
    if answer.is_failure:
        passing = answer.value in PASSING
        said = in_words(answer, client.told)
        server = str(getattr(client.told, "ServerReference", ""))
        raise RefusedError(said, answer.value, passing=passing, server=server)


# How answers of other servers begin, and what they come to.
_OTHERS = {
    b"HTTP/": "it answers in HTTP, as web servers and proxies do: write the port of "
    "MQTT (1883, or 8883 with TLS), or ws:// or wss:// with the broker's path",
    b"\x15\x03": "it answers in TLS: write mqtts:// or wss://",
    b"\xf0": "it asks for a sign-in by AUTH, which we do not know: have it take user "
    "and password, or certificates",
    b"SSH-": "it answers in SSH: write the port of MQTT (1883, or 8883 with TLS)",
}


def _in_its_place(address: Address) -> str:
    """Words on a proxy that may have answered in a broker's place; empty without one.

    Such a proxy says that it has made the connection, and then sends a page.
    """
    if address.proxy is None:
        return ""
    return f"; or the proxy {address.proxy.url} answers in the broker's place"


def _wants(address: Address) -> str:
    """Likely demand of a broker that closes a connection without a word."""
    if address.tls is None:
        return "wants TLS (mqtts://, wss://)"
    if address.alpn:
        return f"wants another protocol named (?alpn=NAME) than {address.alpn}"
    return "wants its protocol named in the handshake (?alpn=mqtt behind the URL)"


def expiry_properties(seconds: int) -> Properties:
    """Properties of a PUBLISH that is worth nothing after so many seconds."""
    return _expiring(min(seconds, MOST_EXPIRY_S))


@lru_cache(maxsize=64)  # to make and pack them takes longer than to send their message
def _expiring(seconds: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = seconds
    packed = properties.pack()  # type: ignore[no-untyped-call]
    object.__setattr__(properties, "pack", lambda: packed)
    return properties
