"""Broker address as a value: host, port, user, TLS, proxy, limits."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, replace

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address.tls_files import Tls
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.proxy import Proxy

__all__ = ["RECORDS", "Address", "is_local", "unusable"]

UNKNOWN = BrokerLimits()
RECORDS = "+srv"  # behind the scheme of a URL whose host has SRV records


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address, the way to it, and the user to connect as.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: None to connect anonymously.
        password: None without one; never shown.
        tls: None for a plain link.
        path: Of a WebSocket, as ``/mqtt``; empty for MQTT over TCP.
        alpn: Protocol that the TLS handshake names; empty for none.
        proxy: On the way there; None for a direct connection.
        limits: What the broker is known to take.
        others: (host, port) of the same broker, tried in turn when it is not reached.
        records: True if the host stands for those of its SRV records; its port is 0.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    path: str = ""
    alpn: str = ""
    proxy: Proxy | None = None
    limits: BrokerLimits = UNKNOWN
    others: tuple[tuple[str, int], ...] = ()
    records: bool = False

    def __repr__(self) -> str:
        return f"Address({self.url})"

    @property
    def url(self) -> str:
        """``mqtt://host:port`` or the like, without the password."""
        scheme = "ws" if self.path else "mqtt"
        secure = "" if self.tls is None else "s"
        asked = f"?alpn={self.alpn}" if self.alpn else ""
        if self.records:
            return f"{scheme}{secure}{RECORDS}://{self.host}{asked}"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in ((self.host, self.port), *self.others)
        )
        return f"{scheme}{secure}://{hosts}{self.path}{asked}"

    @property
    def local(self) -> bool:
        """True if the broker is on this machine, where no other can listen."""
        return all(map(is_local, (self.host, *(host for host, _ in self.others))))

    def each(self) -> tuple[Address, ...]:
        """The same address for each of its hosts alone, in the order to try them."""
        hosts = ((self.host, self.port), *self.others)
        return tuple(replace(self, host=h, port=p, others=()) for h, p in hosts)

    def context(self) -> ssl.SSLContext | None:
        """The context of its TLS, with the protocol to name; None for a plain link.

        Raises:
            BrokerError: If a file cannot be used.
        """
        context = None if self.tls is None else self.tls.context()
        if context is not None and self.alpn:
            context.set_alpn_protocols([self.alpn])
        return context


def is_local(host: str) -> bool:
    """Return whether a host is this machine's loopback.

    Example:
        >>> is_local("127.0.0.1"), is_local("::1"), is_local("192.168.1.10")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unusable(message: str) -> BrokerError:
    """The error of an address that no broker answers at."""
    return BrokerError(
        message,
        remedy=(
            "Check the URL and that the broker runs, or leave it out: then "
            "flash-coordinator starts one of its own."
        ),
    )
