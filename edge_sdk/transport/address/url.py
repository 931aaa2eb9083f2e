"""Broker addresses as text: URLs, lists of them, and the URL that devices are told."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, unquote, urlsplit

from edge_sdk.transport.address.records import require_records
from edge_sdk.transport.address.tls_files import Tls
from edge_sdk.transport.address.value import RECORDS, Address, unusable
from edge_sdk.transport.limits import limits_of

__all__ = ["DEFAULT_PORT", "parse_url", "url_for_devices"]

DEFAULT_PORT = {"mqtt": 1883, "tcp": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
RECORDED = ("mqtt", "mqtts")  # what services of SRV records are registered for
SECURE, WEBSOCKET = ("mqtts", "wss"), ("ws", "wss")
SYSTEM = ["system"]
HTTPS = 443  # where MQTT is told from HTTPS by its name in the handshake (ALPN)


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


def parse_url(url: str, tls: Tls | None = None, *, profile: str = "") -> Address:
    """An address from ``scheme://[user:password@]host[:port][,host[:port]...]``.

    The scheme is ``mqtt``, ``mqtts``, or ``ws`` and ``wss`` with ``/path`` behind;
    ``mqtt://`` may lack, and ``/mqtt`` is the path where none is given. The SRV records
    of a host say where the broker is with ``mqtt+srv`` and ``mqtts+srv``. Behind ``?``,
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
        DependencyError: If its SRV records cannot be asked for here.
        SettingsError: If there is no such profile.

    Example:
        >>> parse_url("mqtt://broker.example").url
        'mqtt://broker.example:1883'
        >>> parse_url("wss://broker.example").url
        'wss://broker.example:443/mqtt'
    """
    scheme, sep, rest = url.partition("://")
    written, rest = (scheme, rest) if sep else ("mqtt", url)
    scheme = written.removesuffix(RECORDS)
    records = scheme != written
    if scheme not in DEFAULT_PORT or (records and scheme not in RECORDED):
        raise unusable(
            "the broker's URL must begin with mqtt://, mqtts://, ws://, wss://, "
            "mqtt+srv:// or mqtts+srv://" + (f", not {written!r}" if written else "")
        )
    netloc = rest.partition("/")[0].partition("?")[0].partition("#")[0]
    user, at, hosts = netloc.rpartition("@")
    first, *others = hosts.split(",")
    bare = next((h for h in (first, *others) if h.count(":") > 1 and "[" not in h), "")
    if bare:
        raise unusable(
            f"the broker's URL has the IPv6 address {bare} without brackets: write "
            f"{scheme}://[address]:port"
        )
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
    if records and (others or ports != [None]):
        raise unusable(
            f"{written}:// takes one name and no port: its SRV records say both"
        )
    if records:
        require_records(f"{written}://{first}")
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
        port=0 if records else where[0][1],
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
        records=records,
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
