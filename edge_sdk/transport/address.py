"""Where a broker listens, and as whom to speak to it: ``mqtt://`` URLs."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edge_sdk.errors import BrokerError

__all__ = ["Address", "parse_url", "unusable"]

DEFAULT_PORT = 1883


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens, and as whom to connect.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: None to connect anonymously.
        password: None without one; never shown.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.url})"

    @property
    def url(self) -> str:
        """``mqtt://host:port``, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"


def parse_url(url: str) -> Address:
    """An address from ``mqtt://[user:password@]host[:port]``; ``mqtt://`` may lack.

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
        raise unusable(f"the broker's URL cannot be read: {error}") from error
    if parts.scheme not in ("mqtt", "tcp"):
        raise unusable(
            f"the broker's URL must begin with mqtt://, not {parts.scheme or url!r}"
        )
    if not parts.hostname or port == 0:
        raise unusable("the broker's URL needs a host and a port above 0")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise unusable("the broker's URL has something after host and port")
    return Address(
        host=parts.hostname,
        port=port or DEFAULT_PORT,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
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
