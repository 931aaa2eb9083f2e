"""Is there an MQTT broker at this address? Asked by a real CONNECT, not by a guess."""

from __future__ import annotations

import os
import socket

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address, reachable, unusable
from edge_sdk.transport.client import connected
from edge_sdk.transport.refusals import in_tls_words
from edge_sdk.transport.tcp import cut_after

__all__ = ["check_broker"]

CONNACK = 0x20
# Return codes of MQTT 3.1.1, section 3.2.2.3.
REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it refuses our client id",
    3: "it is not available",
    4: "it refuses the user name or password",
    5: "it does not authorise us",
}

_NAME = (
    "Check user and password in `broker` of run.toml (mqtt://user:password@host, signs "
    "such as @ written as %40), and the broker's password file."
)
REMEDIES = {
    2: "Let the broker accept client ids of up to 23 letters.",
    3: "Wait until the broker has started, or name another one.",
    4: _NAME,
    5: _NAME,
}


def check_broker(address: Address, *, timeout_s: float = 5.0) -> None:
    """Connects as MQTT 3.1.1, waits for the broker's answer, and leaves politely.

    Raises:
        BrokerError: Nobody listens there, it is no MQTT broker, or it refuses us.
    """
    try:
        *others, last = reachable(address)
    except OSError as error:
        raise unusable(f"no MQTT broker is found: {error}") from error
    for one in others:
        try:
            _check(one, timeout_s)
        except BrokerError:
            continue
        return
    _check(last, timeout_s)


def _check(address: Address, timeout_s: float) -> None:
    client = f"flash-check-{os.getpid()}"
    try:
        link = connected(address, address.context(), timeout_s)
        try:
            with cut_after(link, timeout_s):
                link.sendall(_connect_packet(client, address))
                answer = _read_exactly(link, 4)
                if len(answer) == 4 and answer[3] == 0:
                    link.sendall(b"\xe0\x00")  # DISCONNECT
        finally:
            link.close()
    except OSError as error:
        # A refused, unknown or silent host is the address's fault, not ours.
        raise unusable(
            f"no MQTT broker answers at {address.url}: "
            f"{in_tls_words(error.strerror or str(error))}"
        ) from error
    if len(answer) < 4 or answer[0] != CONNACK or answer[1] != 2:
        raise unusable(f"what listens at {address.url} is no MQTT broker")
    if answer[3]:
        reason = REFUSALS.get(answer[3], f"it answered code {answer[3]}")
        raise BrokerError(
            f"the MQTT broker at {address.url} refuses us: {reason}",
            remedy=REMEDIES.get(answer[3], "Do what its reason asks for."),
        )


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
        try:
            more = link.recv(size - len(received))
        except BlockingIOError:  # a frame of WebSocket without a message, as a ping
            continue
        if not more:
            break
        received += more
    return received
