"""Limits of a broker as values: known by its name, told in its CONNACK, or found out.

Public figures of their makers (2024 to 2026); where two differ, the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from edge_sdk.errors import SettingsError

__all__ = ["NO_LIMIT", "PROFILES", "BrokerLimits", "limits_of", "told"]

NO_LIMIT = 268_435_455  # bytes; the largest packet that MQTT can name
KIB = 1024


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Limits of a broker on one client; who goes beyond is cut off, or not heard.

    Attributes:
        name: Whose limits they are; empty for a broker that is not known.
        packet: Bytes of one packet, topic and properties included.
        retained: Bytes of a retained message; 0 for a broker that retains none.
        retained_messages: Messages that it retains in all.
        filters: Topic filters of one SUBSCRIBE or UNSUBSCRIBE.
        subscriptions: Topic filters that one client may have at a time.
        inflight: Messages of QoS 1 that may wait for their acknowledgement.
        publishes_per_s: Messages that one client may publish in a second.
        bytes_per_s: Bytes that it may publish in a second.
        topic_bytes: Bytes of a topic.
        topic_slashes: Slashes of a topic.
        client_id: Bytes of a client id.
        qos: The highest quality of service, 0 or 1; we use no other.
        wildcards: Whether a topic filter may hold ``+`` and ``#``.
        keepalive_s: Longest keepalive, in seconds.
        connects_per_s: CONNECTs of one client id in a second.
        session_s: Longest session without a link, in seconds; we ask for none.
    """

    name: str = ""
    packet: int = NO_LIMIT
    retained: int = NO_LIMIT
    retained_messages: int = NO_LIMIT
    filters: int = NO_LIMIT
    subscriptions: int = NO_LIMIT
    inflight: int = 64
    publishes_per_s: int = NO_LIMIT
    bytes_per_s: int = NO_LIMIT
    topic_bytes: int = 65_535
    topic_slashes: int = NO_LIMIT
    client_id: int = 65_535
    qos: int = 1
    wildcards: bool = True
    keepalive_s: int = 65_535
    session_s: int = NO_LIMIT
    connects_per_s: int = NO_LIMIT

    @property
    def paced(self) -> bool:
        """True if messages have to be spread over time."""
        return min(self.publishes_per_s, self.bytes_per_s) < NO_LIMIT

    @property
    def connect_gap_s(self) -> float:
        """Seconds to leave between two CONNECTs."""
        return 1.1 / self.connects_per_s

    @property
    def retained_packet(self) -> int:
        """Bytes of the packet of a retained message."""
        return min(self.packet, self.retained)

    def within(self, **found: Any) -> BrokerLimits:
        """The same, each named limit lowered to a value where that is smaller."""
        least = {name: min(getattr(self, name), value) for name, value in found.items()}
        return replace(self, **least)

    def __str__(self) -> str:
        """Limits in one line; what has no bound is left out.

        Example:
            >>> print(BrokerLimits("mine", packet=65_536, filters=8))
            mine: packets of 65536 bytes, 8 filters in a SUBSCRIBE
        """
        said = [
            words.format(getattr(self, name))
            for name, words in _WORDS.items()
            if getattr(self, name) < getattr(_NONE, name)
        ]
        if not self.retained:
            said[:] = [s for s in said if "retained" not in s]
            said.append("nothing retained")
        if not self.wildcards:
            said.append("no wildcards")
        return f"{self.name or 'unnamed'}: {', '.join(said) or 'none known'}"


_WORDS = MappingProxyType(
    {
        "packet": "packets of {} bytes",
        "retained": "retained messages of {} bytes",
        "retained_messages": "{} retained messages",
        "filters": "{} filters in a SUBSCRIBE",
        "subscriptions": "{} subscriptions",
        "inflight": "{} messages in flight",
        "publishes_per_s": "{} messages a second",
        "bytes_per_s": "{} bytes a second",
        "topic_bytes": "topics of {} bytes",
        "topic_slashes": "{} slashes in a topic",
        "client_id": "client ids of {} bytes",
        "qos": "QoS {}",
        "keepalive_s": "keepalive of {} s",
        "connects_per_s": "{} connections a second",
    }
)
_NONE = BrokerLimits()

PROFILES: Mapping[str, BrokerLimits] = MappingProxyType(
    {
        found.name: found
        for found in (
            BrokerLimits("mosquitto"),
            BrokerLimits(
                "aws-iot",
                packet=128 * KIB,
                retained=128 * KIB,
                filters=8,
                subscriptions=50,
                publishes_per_s=100,
                bytes_per_s=512 * KIB,
                topic_bytes=256,
                topic_slashes=7,
                client_id=128,
                keepalive_s=1200,
                session_s=3600,
                connects_per_s=1,
            ),
            BrokerLimits(
                "event-grid",
                packet=512 * KIB,
                retained=64 * KIB,
                retained_messages=10_000,
                subscriptions=50,
                publishes_per_s=1000,
                bytes_per_s=1024 * KIB,
                topic_bytes=256,
                topic_slashes=14,
                client_id=128,
                keepalive_s=1160,
                session_s=8 * 3600,
            ),
            BrokerLimits(
                "emqx",
                packet=1024 * KIB,
                retained=1024 * KIB,
                retained_messages=2000,
                subscriptions=10,
                publishes_per_s=10,
                topic_slashes=9,
                client_id=1024,
                session_s=7200,
            ),
            BrokerLimits("hivemq", packet=5 * 1024 * KIB),
            BrokerLimits(
                "cloudflare",
                packet=64 * KIB,
                retained=0,
                publishes_per_s=10,
                topic_slashes=8,
                client_id=23,
                qos=0,
                session_s=0,
            ),
        )
    }
)

# Host names that their makers give out.
_HOSTS = (
    (".amazonaws.com", ".iot.", "aws-iot"),
    (".amazonaws.com.cn", ".iot.", "aws-iot"),
    (".eventgrid.azure.net", "", "event-grid"),
    (".emqxsl.com", "", "emqx"),
    (".emqxsl.cn", "", "emqx"),
    (".emqx.cloud", "", "emqx"),
    (".hivemq.cloud", "", "hivemq"),
    (".cloudflarepubsub.com", "", "cloudflare"),
)


def limits_of(profile: str, host: str = "") -> BrokerLimits:
    """The limits of a profile; of the one that a host name tells where it is empty.

    Raises:
        SettingsError: If there is no such profile.

    Example:
        >>> limits_of("", "a1b2-ats.iot.eu-west-1.amazonaws.com").name
        'aws-iot'
    """
    if profile in PROFILES:
        return PROFILES[profile]
    if profile:
        raise SettingsError(
            f"broker_profile {profile!r} is none that is known",
            remedy=f"Take one of {', '.join(PROFILES)}, or leave it out.",
        )
    found = (
        name
        for end, inside, name in _HOSTS
        if host.lower().endswith(end) and inside in host.lower()
    )
    return PROFILES.get(next(found, ""), _NONE)


# Property of an MQTT 5 CONNACK, as paho names it -> the limit that it tells.
_TOLD = MappingProxyType(
    {
        "MaximumPacketSize": "packet",
        "ReceiveMaximum": "inflight",
        "MaximumQoS": "qos",
        "WildcardSubscriptionAvailable": "wildcards",
        "ServerKeepAlive": "keepalive_s",
        "SessionExpiryInterval": "session_s",
    }
)


def told(limits: BrokerLimits, properties: object) -> BrokerLimits:
    """The limits with what the CONNACK of MQTT 5 says of them.

    Args:
        limits: As they were known before.
        properties: paho's properties of the CONNACK.
    """
    found = {
        limit: getattr(properties, name)
        for name, limit in _TOLD.items()
        if hasattr(properties, name)
    }
    if not getattr(properties, "RetainAvailable", 1):
        found["retained"] = 0
    if "wildcards" in found:
        found["wildcards"] = bool(found["wildcards"])
    return limits.within(**found)
