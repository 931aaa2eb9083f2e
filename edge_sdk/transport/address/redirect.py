"""The server that a broker names in its own place, and whether to go there; pure."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from edge_sdk.transport.address.value import Address

__all__ = ["ELSEWHERE", "MOVED", "sent_on"]

# Reason codes of MQTT 5.0, section 2.4: "Use another server", "Server moved".
ELSEWHERE, MOVED = 0x9C, 0x9D
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def sent_on(address: Address, reason: int, server: str) -> Address | None:
    """The address that a broker sends us to; None where it is not followed.

    It is followed over TLS alone: the broker that says so has shown its certificate,
    and the other one must show one for its own name, by an authority that is believed
    here. Over a plain link anybody on the way could send us, and our password, away.

    Args:
        address: The broker's, a single one.
        reason: Reason code of its answer.
        server: Its words: servers with spaces between; the first counts.

    Example:
        >>> from edge_sdk.transport.address.tls_files import Tls
        >>> there = Address("a.example", 8883, tls=Tls())
        >>> sent_on(there, 0x9C, "b.example:8884 c.example").url
        'mqtts://b.example:8884'
        >>> sent_on(Address("a.example", 1883), 0x9C, "b.example") is None
        True
    """
    if reason not in (ELSEWHERE, MOVED) or address.tls is None:
        return None
    first = server.strip().partition(" ")[0]
    try:
        parts = urlsplit(f"//{first}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not _HOST.fullmatch(host) or parts.netloc != first or port == 0:
        return None
    if parts.username is not None:
        return None
    port = address.port if port is None else port
    return replace(address, host=host, port=port, others=(), records=False)
