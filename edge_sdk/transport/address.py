"""Broker addresses: host, port, user, TLS files, WebSocket, proxy, limits."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from edge_sdk.errors import BrokerError
from edge_sdk.transport.limits import BrokerLimits, limits_of
from edge_sdk.transport.proxy import Proxy

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "Tls",
    "is_local",
    "parse_url",
    "unusable",
    "url_for_devices",
]

DEFAULT_PORT = {"mqtt": 1883, "tcp": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
SECURE, WEBSOCKET = ("mqtts", "wss"), ("ws", "wss")
UNKNOWN = BrokerLimits()
SYSTEM = ["system"]
HTTPS = 443  # where MQTT is told from HTTPS by its name in the handshake (ALPN)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS files of a link to a broker, in PEM.

    Attributes:
        authority: Whom to believe; None for the system's authorities.
        certificate: Our own certificate, for mutual TLS.
        key: Its key, if it is not in the same file.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A context that checks the broker's certificate and name.

        Raises:
            BrokerError: If a file cannot be used.
        """
        try:
            context = ssl.create_default_context(
                cafile=None if self.authority is None else str(self.authority)
            )
            self.load(context)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise unusable(f"the files for TLS cannot be used: {error}") from error
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Reads our certificate again: it is renewed while we run."""
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)


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

    def __repr__(self) -> str:
        return f"Address({self.url})"

    @property
    def url(self) -> str:
        """``mqtt://host:port`` or the like, without the password."""
        scheme = "ws" if self.path else "mqtt"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in ((self.host, self.port), *self.others)
        )
        asked = f"?alpn={self.alpn}" if self.alpn else ""
        return f"{scheme}{'' if self.tls is None else 's'}://{hosts}{self.path}{asked}"

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


def url_for_devices(address: Address) -> str:
    """The URL that devices are told of a broker of the user's, without a password.

    It says what a device cannot know: the limits where its host name does not tell
    them, and that its certificate is of a public authority, not of the federation's.
    """
    told = []
    if address.limits.name != limits_of("", address.host).name:
        told.append(f"profile={address.limits.name}")
    if address.tls is not None and address.tls.authority is None:
        told.append("ca=system")
    if not told:
        return address.url
    return f"{address.url}{'&' if '?' in address.url else '?'}{'&'.join(told)}"


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


def parse_url(url: str, tls: Tls | None = None, *, profile: str = "") -> Address:
    """An address from ``scheme://[user:password@]host[:port][,host[:port]...]``.

    The scheme is ``mqtt``, ``mqtts``, or ``ws`` and ``wss`` with ``/path`` behind;
    ``mqtt://`` may lack, and ``/mqtt`` is the path where none is given. Behind ``?``,
    joined by ``&``: ``alpn=NAME`` names another protocol in the TLS handshake than is
    known of the broker, ``profile=NAME`` its limits, and ``ca=system`` believes this
    machine's authorities whatever `tls` says.

    Args:
        url: Where the broker is.
        tls: How ``mqtts://`` is spoken; the system's authorities if not given.
        profile: Whose limits it has; what its host name tells if not given.

    Signs with a meaning in URLs are written as %40 and the like in a user or password.

    Raises:
        BrokerError: Another scheme, no host, or a port that cannot be.
        SettingsError: If there is no such profile.

    Example:
        >>> parse_url("mqtt://broker.example").url
        'mqtt://broker.example:1883'
        >>> parse_url("wss://broker.example").url
        'wss://broker.example:443/mqtt'
    """
    scheme, sep, rest = url.partition("://")
    scheme, rest = (scheme, rest) if sep else ("mqtt", url)
    if scheme not in DEFAULT_PORT:
        raise unusable(
            "the broker's URL must begin with mqtt://, mqtts://, ws:// or wss://"
            + (f", not {scheme!r}" if scheme else "")
        )
    netloc = rest.partition("/")[0].partition("?")[0].partition("#")[0]
    user, at, hosts = netloc.rpartition("@")
    first, *others = hosts.split(",")
    try:
        parts = urlsplit(f"{scheme}://{user}{at}{first}{rest[len(netloc) :]}")
        # A sign that ends the host in the middle of a password: its rest is no path.
        found = [urlsplit(f"{scheme}://{one}") for one in (first, *others)]
        ports = [one.port for one in found]
        names = [one.hostname for one in found]
        asked = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        # Not the error's own words: they quote a piece of the password.
        raise unusable(
            "the broker's URL cannot be read: its port is no number up to 65535, or "
            "its user or password contains a character that must be written as %2F, "
            "%40 or "
            "the like"
        ) from error
    odd = _odd_list(rest, user, hosts)
    if odd:
        raise unusable(f"{odd}: write {scheme}://user:password@host:port,host:port")
    if not all(names) or 0 in ports:
        raise unusable("the broker's URL needs a host and a port above 0")
    path = parts.path if parts.path.strip("/") else ""
    foreign = (
        set(asked) - {"alpn", "profile", "ca"} or asked.get("ca", SYSTEM) != SYSTEM
    )
    if (path and scheme not in WEBSOCKET) or foreign or parts.fragment:
        raise unusable("the broker's URL has something after host and port")
    where = [
        (str(n), p or DEFAULT_PORT[scheme]) for n, p in zip(names, ports, strict=True)
    ]
    limits = limits_of(profile or asked.get("profile", [""])[0], where[0][0])
    tls = tls or Tls()
    username = None if parts.username is None else unquote(parts.username)
    named = asked.get("alpn", [""])[0]
    return Address(
        host=where[0][0],
        port=where[0][1],
        username=username,
        password=None if parts.password is None else unquote(parts.password),
        tls=None
        if scheme not in SECURE
        else replace(tls, authority=None)
        if "ca" in asked
        else tls,
        path=(path or "/mqtt") if scheme in WEBSOCKET else "",
        alpn=named or _alpn(scheme, where[0][1], limits.name, username),
        limits=limits,
        others=tuple(where[1:]),
    )


def _odd_list(rest: str, user: str, hosts: str) -> str:
    """Mistake in a URL of several addresses; "" for none."""
    if "://" in rest.partition("?")[0]:
        return "the broker's URL has :// twice"
    if "," in user and "@" in user:
        return "the broker's URL has a user twice"
    if any(sign.isspace() for sign in hosts):
        return "the broker's URL has a space among its hosts"
    return ""


def _alpn(scheme: str, port: int, profile: str, username: str | None) -> str:
    """The protocol to name: beside HTTPS on its port, MQTT has to say what it is."""
    if scheme != "mqtts" or port != HTTPS:
        return ""
    # AWS IoT Core tells certificates of its clients from custom authorisers by it.
    return "x-amzn-mqtt-ca" if profile == "aws-iot" and username is None else "mqtt"


def unusable(message: str) -> BrokerError:
    """The error of an address that no broker answers at."""
    return BrokerError(
        message,
        remedy=(
            "Check the URL and that the broker runs, or leave it out: then "
            "flash-coordinator starts one of its own."
        ),
    )
