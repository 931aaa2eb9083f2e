"""Is there an MQTT broker at this address? Asked by a real CONNECT, not by a guess."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edge_sdk.errors import BrokerError

__all__ = ["Address", "check_broker", "parse_url"]

DEFAULT_PORT = 1883
CONNACK = 0x20
# Return codes of MQTT 3.1.1, section 3.2.2.3.
REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it refuses our client id",
    3: "it is not available",
    4: "it refuses the user name or password",
    5: "it does not authorise us",
}


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
    """An address from ``mqtt://[user:password@]host[:port]``.

    Raises:
        BrokerError: Another scheme, no host, or a port that cannot be.

    Example:
        >>> parse_url("mqtt://broker.example").url
        'mqtt://broker.example:1883'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unusable(f"the broker's URL cannot be read: {error}") from error
    if parts.scheme != "mqtt":
        raise _unusable(
            f"the broker's URL must begin with mqtt://, not {parts.scheme or url!r}"
        )
    if not parts.hostname or port == 0:
        raise _unusable("the broker's URL needs a host and a port above 0")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _unusable("the broker's URL has something after host and port")
    return Address(
        host=parts.hostname,
        port=port or DEFAULT_PORT,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def check_broker(address: Address, *, timeout_s: float = 5.0) -> None:
    """Connects as MQTT 3.1.1, waits for the broker's answer, and leaves politely.

    Raises:
        BrokerError: Nobody listens there, it is no MQTT broker, or it refuses us.
    """
    client = f"flash-edge-check-{os.getpid()}"
    try:
        with socket.create_connection(
            (address.host, address.port), timeout=timeout_s
        ) as link:
            link.sendall(_connect_packet(client, address))
            answer = _read_exactly(link, 4)
            if len(answer) == 4 and answer[3] == 0:
                link.sendall(b"\xe0\x00")  # DISCONNECT
    except OSError as error:
        # A refused, unknown or silent host is the address's fault, not ours.
        raise _unusable(
            f"no MQTT broker answers at {address.url}: {error.strerror or error}"
        ) from error
    if len(answer) < 4 or answer[0] != CONNACK or answer[1] != 2:
        raise _unusable(f"what listens at {address.url} is no MQTT broker")
    if answer[3]:
        reason = REFUSALS.get(answer[3], f"it answered code {answer[3]}")
        raise _unusable(f"the MQTT broker at {address.url} refuses us: {reason}")


def _connect_packet(client: str, address: Address) -> bytes:
    """CONNECT of MQTT 3.1.1, section 3.1: clean session, keep-alive of ten seconds."""
    flags = 0x02
    fields = [client.encode()]
    if address.username is not None:
        flags |= 0x80
        fields.append(address.username.encode())
        if address.password is not None:
            flags |= 0x40
            fields.append(address.password.encode())
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x0a"
    body += b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    return b"\x10" + _length(len(body)) + body


def _length(value: int) -> bytes:
    """Remaining length, seven bits a byte, low end first; MQTT 3.1.1, 2.2.3."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_exactly(link: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = link.recv(size - len(received))
        if not more:
            break
        received += more
    return received


def _unusable(message: str) -> BrokerError:
    return BrokerError(
        message,
        remedy=(
            "Check the URL and that the broker runs, or leave it out: then "
            "flash-coordinator starts one of its own."
        ),
    )
