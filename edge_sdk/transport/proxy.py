"""Connections to a broker's port: direct, or by a proxy (HTTP CONNECT or SOCKS5)."""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from edge_sdk.errors import SettingsError
from edge_sdk.terminal.sanitize import plain
from edge_sdk.transport.tcp import connection_to, cut_after

if TYPE_CHECKING:
    from edge_sdk.transport.address import Address

__all__ = ["Proxy", "ProxyError", "dial", "parse_proxy", "proxy_from"]

MOST_HEAD = 16 * 1024  # bytes of a proxy's answer
LOGIN = (
    "write them into the key proxy (http://user:password@host:port), or into the "
    "variable FLASH_EDGE_PROXY"
)
AWAY = (3, 4, 5, 6)  # of these, who may come back
# RFC 1928, section 6.
SOCKS_SAID = {
    1: "it failed",
    2: "its rules forbid it",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "nobody listens there",
    6: "it took too long",
    7: "it does not know CONNECT",
    8: "it does not know this kind of address",
}


class ProxyError(ConnectionError):
    """The proxy answered, and makes no connection; the text says why.

    Attributes:
        passing: Whether that may end without a person: what it leads to is away.
    """

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy on the way to a broker.

    Attributes:
        kind: ``http`` asks by CONNECT, ``socks5`` by RFC 1928.
        host: Name or address.
        port: TCP port.
        username: None without one.
        password: None without one; never shown.
    """

    kind: Literal["http", "socks5"]
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.url})"

    @property
    def url(self) -> str:
        """``http://host:port`` or ``socks5://``, without the password."""
        return f"{self.kind}://{_authority(self.host, self.port)}"


def parse_proxy(url: str) -> Proxy:
    """A proxy from ``http://`` or ``socks5://[user:password@]host[:port]``.

    Raises:
        SettingsError: Another scheme, no host, or a port that cannot be.

    Example:
        >>> parse_proxy("http://me:secret@proxy.example:3128")
        Proxy(http://proxy.example:3128)
    """
    remedy = "Write http://host:port or socks5://host:port, and %40 for @ in a password"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:  # its words quote a piece of the password
        raise SettingsError("the proxy's URL cannot be read", remedy=remedy) from error
    kind = {"http": "http", "socks5": "socks5", "socks5h": "socks5"}.get(parts.scheme)
    if kind is None or not parts.hostname or port == 0:
        raise SettingsError(
            "the proxy's URL needs http:// or socks5://, a host and a port",
            remedy=remedy,
        )
    return Proxy(
        "http" if kind == "http" else "socks5",
        parts.hostname,
        port or (3128 if kind == "http" else 1080),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def proxy_from(environment: Mapping[str, str], host: str) -> Proxy | None:
    """The proxy that the environment asks for on the way to a host; None for none.

    ``FLASH_EDGE_PROXY`` comes first, then ``all_proxy`` and ``https_proxy`` as other
    programs read them, which are not for ``no_proxy`` nor for the local network.
    """
    own = environment.get("FLASH_EDGE_PROXY")
    if own is not None:
        return parse_proxy(own) if own else None
    found = {
        name.lower().removesuffix("_proxy"): value
        for name, value in environment.items()
        if name.lower().endswith("_proxy") and value
    }
    url = found.get("https") or found.get("all")
    if not url or _is_near(host) or proxy_bypass_environment(host, found):
        return None
    return parse_proxy(url)


def dial(address: Address, timeout_s: float) -> socket.socket:
    """A TCP connection to a broker's port, as its address says; before TLS.

    Raises:
        OSError: Nobody listens there, or it takes longer.
        ProxyError: The proxy answers, and makes no connection.
    """
    proxy = address.proxy
    if proxy is None:
        return connection_to(address.host, address.port, timeout_s)
    try:
        link = connection_to(proxy.host, proxy.port, timeout_s)
    except OSError as error:
        raise ConnectionError(
            f"the proxy {proxy.url} cannot be reached: {error.strerror or error}"
        ) from error
    try:
        with cut_after(link, timeout_s):
            ask = _ask_http if proxy.kind == "http" else _ask_socks
            ask(link, proxy, address)
    except ProxyError:
        link.close()
        raise
    except (OSError, UnicodeError) as error:
        link.close()
        said = f"the proxy {proxy.url} does not answer: {error}"
        raise ProxyError(said, passing=True) from error
    return link


def _ask_http(link: socket.socket, proxy: Proxy, address: Address) -> None:
    """CONNECT of HTTP/1.1, RFC 9110, section 9.3.6."""
    where = _authority(address.host, address.port)
    head = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.username is not None:
        both = f"{proxy.username}:{proxy.password or ''}".encode()
        head.append(f"Proxy-Authorization: Basic {base64.b64encode(both).decode()}")
    link.sendall("\r\n".join([*head, "\r\n"]).encode())
    status, said, schemes = _answer(link, proxy)
    while 100 <= status < 200:  # more is to come
        status, said, schemes = _answer(link, proxy)
    if status == 407:
        raise ProxyError(_wants_login(proxy, schemes))
    if not 200 <= status < 300:
        away = status in (408, 429) or status >= 500
        hint = "it is asked again" if away else "many allow port 443 only"
        if 300 <= status < 400:
            hint = "it wants a person to sign in with a browser first, or is no proxy"
        raise ProxyError(
            f"the proxy {proxy.url} makes no connection to {where}: {said}; {hint}",
            passing=away,
        )


def _answer(link: socket.socket, proxy: Proxy) -> tuple[int, str, list[str]]:
    """Status of a proxy's answer, its words, ways to sign in; not a byte beyond."""
    answer = bytearray()
    while not answer.endswith((b"\r\n\r\n", b"\n\n")):
        more = link.recv(1)
        answer += more
        if (
            not more
            or len(answer) > MOST_HEAD
            or not b"HTTP/".startswith(answer[:5].upper())
        ):
            began = f": it answers {plain(repr(bytes(answer[:40])))}" if answer else ""
            raise ProxyError(f"what listens at {proxy.url} is no HTTP proxy{began}")
    head = answer.decode("latin-1")
    words = head.splitlines()[0].split(None, 2)
    if len(words) < 2 or not (words[1].isascii() and words[1].isdigit()):
        raise ProxyError(f"what listens at {proxy.url} is no HTTP proxy")
    return int(words[1]), plain(" ".join(words[1:]))[:120], _schemes(head)


def _schemes(head: str) -> list[str]:
    """Ways to sign in that a proxy names."""
    named = (line.partition(":") for line in head.splitlines())
    return [
        plain(value.split()[0])[:20]
        for name, _, value in named
        if name.strip().lower() == "proxy-authenticate" and value.split()
    ]


def _ask_socks(link: socket.socket, proxy: Proxy, address: Address) -> None:
    """CONNECT of SOCKS5, RFC 1928; user and password by RFC 1929."""
    login = proxy.username is not None
    link.sendall(b"\x05\x02\x00\x02" if login else b"\x05\x01\x00")
    version, method = _exactly(link, proxy, 2)
    if version != 5:
        raise ProxyError(f"what listens at {proxy.url} is no SOCKS5 proxy")
    if method not in (0, 2, 255):
        raise ProxyError(
            f"the proxy {proxy.url} asks for another sign-in (method {method}) than it "
            "was offered: have it take none, or user and password (method 2)"
        )
    if method == 2 and login:
        user, password = (
            text.encode()[:255] for text in (proxy.username or "", proxy.password or "")
        )
        link.sendall(
            b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
        )
        if _exactly(link, proxy, 2)[1]:
            raise ProxyError(_wants_login(proxy))
    elif method:
        raise ProxyError(_wants_login(proxy))
    link.sendall(b"\x05\x01\x00" + _socks_address(address))
    _, code, _, kind = _exactly(link, proxy, 4)
    if code:
        said = SOCKS_SAID.get(code, f"code {code}")
        where = _authority(address.host, address.port)
        raise ProxyError(
            f"the proxy {proxy.url} makes no connection to {where}: {said}",
            passing=code in AWAY,
        )
    bound = {1: 4, 4: 16}.get(kind) or _exactly(link, proxy, 1)[0]
    _exactly(link, proxy, bound + 2)


def _socks_address(address: Address) -> bytes:
    port = address.port.to_bytes(2, "big")
    try:
        found = ipaddress.ip_address(address.host)
    except ValueError:
        name = address.host.encode("idna")
        return b"\x03" + bytes([len(name)]) + name + port
    return (b"\x01" if found.version == 4 else b"\x04") + found.packed + port


def _exactly(link: socket.socket, proxy: Proxy, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = link.recv(size - len(received))
        if not more:
            raise ProxyError(f"what listens at {proxy.url} is no SOCKS5 proxy")
        received += more
    return received


def _wants_login(proxy: Proxy, schemes: list[str] | None = None) -> str:
    if schemes and "basic" not in (one.lower() for one in schemes):
        return (
            f"the proxy {proxy.url} asks for a sign-in by {', '.join(schemes)}, and "
            "Basic is what we know: have it let this machine pass without, or name a "
            "local proxy that signs in (cntlm, px) in the key proxy"
        )
    if proxy.username is None:
        return f"the proxy {proxy.url} asks for a user and a password: {LOGIN}"
    return (
        f"the proxy {proxy.url} refuses the user or the password that it was "
        f"given: correct them in the key proxy or in FLASH_EDGE_PROXY"
    )


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_near(host: str) -> bool:
    """Return whether a host is of the local network by its looks."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))
