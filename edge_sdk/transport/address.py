"""Broker addresses ``mqtt://`` and ``mqtts://``: host, port, user, TLS files."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_sdk.errors import BrokerError

__all__ = ["Address", "Tls", "is_local", "parse_url", "unusable"]

DEFAULT_PORT = {"mqtt": 1883, "tcp": 1883, "mqtts": 8883}


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
    """A broker's address, and the user to connect as.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: None to connect anonymously.
        password: None without one; never shown.
        tls: None for a plain link.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None

    def __repr__(self) -> str:
        return f"Address({self.url})"

    @property
    def url(self) -> str:
        """``mqtt://host:port`` or ``mqtts://``, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'' if self.tls is None else 's'}://{host}:{self.port}"

    @property
    def local(self) -> bool:
        """True if the broker is on this machine, where no other can listen."""
        return is_local(self.host)


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


def parse_url(url: str, tls: Tls | None = None) -> Address:
    """An address from ``mqtt[s]://[user:password@]host[:port]``; ``mqtt://`` may lack.

    Args:
        url: Where the broker is.
        tls: How ``mqtts://`` is spoken; the system's authorities if not given.

    Signs with a meaning in URLs are written as %40 and the like in a user or password.

    Raises:
        BrokerError: Another scheme, no host, or a port that cannot be.

    Example:
        >>> parse_url("mqtt://broker.example").url
        'mqtt://broker.example:1883'
    """
    try:
        parts = urlsplit(url if "://" in url else f"mqtt://{url}")
        port = parts.port
    except ValueError as error:
        # Not the error's own words: they quote a piece of the password.
        raise unusable(
            "the broker's URL cannot be read: its port is no number up to 65535, or "
            "its user or password contains a character that must be written as %2F, "
            "%40 or "
            "the like"
        ) from error
    if parts.scheme not in DEFAULT_PORT:
        raise unusable(
            "the broker's URL must begin with mqtt:// or mqtts://"
            + (f", not {parts.scheme!r}" if parts.scheme else "")
        )
    if not parts.hostname or port == 0:
        raise unusable("the broker's URL needs a host and a port above 0")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise unusable("the broker's URL has something after host and port")
    return Address(
        host=parts.hostname,
        port=port or DEFAULT_PORT[parts.scheme],
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        tls=(tls or Tls()) if parts.scheme == "mqtts" else None,
    )


def unusable(message: str) -> BrokerError:
    """The error of an address that no broker answers at."""
    return BrokerError(
        message,
        remedy=(
            "Check the URL and that the broker runs, or leave it out: then "
            "flash-coordinator starts one of its own."
        ),
    )
