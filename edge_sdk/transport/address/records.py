"""Addresses to try for a broker: those written, or of its SRV records (RFC 2782)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from edge_sdk.errors import DependencyError
from edge_sdk.transport.address.value import RECORDS, Address

__all__ = ["Record", "in_order", "reachable", "require_records"]

# Registered names of services, by whether they use TLS.
SERVICES = {False: "_mqtt._tcp.", True: "_secure-mqtt._tcp."}
ANSWER_S = 5.0  # of the name servers, all together
HTTPS = 443  # where MQTT is told from HTTPS by its name in the handshake
NOWHERE = "."  # target of a record that says: there is no such service


class Record(NamedTuple):
    """Content of an SRV record.

    Attributes:
        priority: The lowest is tried first.
        weight: Its share among those of one priority.
        port: TCP port.
        host: Name, without the dot at its end.
    """

    priority: int
    weight: int
    port: int
    host: str


def reachable(address: Address) -> tuple[Address, ...]:
    """The addresses of a broker that may be connected to, in the order to try them.

    SRV records are asked for each time: they change when a broker moves.

    Raises:
        OSError: If there are no records, or no name server answers.
    """
    if not address.records:
        return address.each()
    service = address.host
    if not service.startswith("_"):
        service = SERVICES[address.tls is not None] + service
    found = in_order(_asked(service, address.url), np.random.default_rng())
    foreign = [one.host for one in found if not _believed(address, one.host)]
    if foreign:
        raise ConnectionError(
            f"the SRV records of {service} lead to {foreign[0]}, which is not below "
            f"{_zone(address.host)}: whoever forges an answer of DNS could lead there, "
            "too. Name the broker's authority in broker_ca, or its hosts in broker"
        )
    return tuple(
        replace(
            address,
            host=one.host,
            port=one.port,
            records=False,
            alpn=address.alpn or ("mqtt" if address.tls and one.port == HTTPS else ""),
        )
        for one in found
    )


def require_records(url: str) -> None:
    """Check that dnspython is installed.

    Args:
        url: Needs it.

    Raises:
        DependencyError: With the install line.
    """
    if find_spec("dns") is None:
        raise DependencyError(
            f"{url} needs dnspython, which is not installed here",
            remedy="pip install 'flash-edge[srv]', or name the hosts of the broker's "
            f"SRV records: without {RECORDS}, with commas between them.",
        )


def in_order(records: Iterable[Record], chance: np.random.Generator) -> list[Record]:
    """Records by priority; of one priority, each is first as often as its weight says.

    Args:
        records: In any order.
        chance: Draws among those of one priority.
    """
    left, found = sorted(records), list[Record]()
    while left:
        same = [one for one in left if one.priority == left[0].priority]
        weights = np.array([one.weight or 0.01 for one in same])  # 0: hardly ever
        drawn = same[chance.choice(len(same), p=weights / weights.sum())]
        left.remove(drawn)
        found.append(drawn)
    return found


def _asked(service: str, url: str) -> list[Record]:
    """The records of a service, as the name servers give them."""
    import dns.exception  # noqa: PLC0415 - an extra
    import dns.resolver  # noqa: PLC0415

    try:
        answer = dns.resolver.resolve(service, "SRV", lifetime=ANSWER_S)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        found = []
    except dns.exception.DNSException as error:
        raise ConnectionError(
            f"no name server tells the SRV records of {service}: {error}"
        ) from error
    else:
        found = [
            Record(one.priority, one.weight, one.port, str(one.target))
            for one in answer
        ]
    if all(one.host == NOWHERE for one in found):
        raise ConnectionError(
            f"there are no SRV records of {service}: check the name in {url}, or write "
            f"the broker's host and port, without {RECORDS}"
        )
    return [one._replace(host=one.host.rstrip(".")) for one in found]


def _believed(address: Address, host: str) -> bool:
    """Return whether a record may lead to a host.

    Answers of DNS can be forged. A certificate of an authority of one's own is proof
    enough; a public one is to be had for any host, so this must be below our name.
    """
    if address.tls is None or address.tls.authority is not None:
        return True
    zone = _zone(address.host).lower()
    return host.lower() == zone or host.lower().endswith(f".{zone}")


def _zone(name: str) -> str:
    """The name without labels of a service.

    Example:
        >>> _zone("_mqtts._tcp.broker.example")
        'broker.example'
    """
    return ".".join(label for label in name.split(".") if not label.startswith("_"))
