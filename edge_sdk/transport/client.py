"""paho's client on sockets of ours, which hears every reason of a refusal."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.address import Address
from edge_sdk.transport.deadline import cut_after
from edge_sdk.transport.proxy import dial

__all__ = ["Client", "connected", "secured"]

UNSPECIFIED = 0x80


class Client(paho.Client):
    """paho's client; a PUBACK with a reason out of its place does not end the link.

    mosquitto 2.0 answers a message above `message_size_limit` by a PUBACK "Packet too
    large", which MQTT 5.0 has in CONNACK and DISCONNECT only. paho 2.1 takes the whole
    packet for malformed and hangs up, with "Protocol error" for a reason: the next link
    sends the same message, and so on.

    Attributes:
        reasons: By message id, the reason that was out of its place.
        address: The broker; where sockets are connected to.
    """

    reasons: dict[int, int]
    address: Address

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if (
            self._protocol == MQTTProtocolVersion.MQTTv5
            and len(packet) > 2
            and not _in_place(cmd, packet[2])
        ):
            self.reasons[int.from_bytes(packet[:2], "big")] = packet[2]
            body = bytearray(packet)
            body[2] = UNSPECIFIED
            self._in_packet["packet"] = body
        return super()._handle_pubackcomp(cmd)

    def _create_socket(self) -> Any:
        """As paho's, by the address's proxy, with nothing left open that fails."""
        return connected(self.address, self._ssl_context, self._connect_timeout)


def connected(
    address: Address, context: ssl.SSLContext | None, timeout_s: float
) -> Any:
    """A socket that MQTT can be spoken on: TCP, then TLS, then WebSocket.

    Args:
        address: The broker.
        context: Of TLS; None for a plain link.
        timeout_s: For each of the steps, and for reading afterwards.

    Raises:
        OSError: Nobody listens there, or it speaks something else.
        ProxyError: The proxy makes no connection.
    """
    link = dial(address, timeout_s)
    try:
        link = secured(link, address, context, timeout_s)
        if not address.path:
            return link
        with cut_after(link, timeout_s):
            return _WebSocket(
                socket=link,
                host=f"[{address.host}]" if ":" in address.host else address.host,
                port=address.port,
                is_ssl=context is not None,
                path=address.path,
                extra_headers=None,
            )
    except paho.WebsocketConnectionError as error:
        link.close()
        raise ConnectionError(
            f"what listens there speaks no MQTT over WebSocket at {address.path}: "
            "check the path in the broker's URL"
        ) from error
    except BaseException:
        link.close()
        raise


def secured(
    link: socket.socket,
    address: Address,
    context: ssl.SSLContext | None,
    timeout_s: float,
) -> socket.socket:
    """The connection with TLS on it, if the address asks for it; closed on an error.

    Raises:
        OSError: If the handshake fails, or takes longer.
    """
    link.settimeout(timeout_s)
    if context is None:
        return link
    found = context.wrap_socket(
        link, server_hostname=address.host, do_handshake_on_connect=False
    )
    try:
        found.do_handshake()
    except BaseException:
        found.close()
        raise
    return found


class _WebSocket(paho._WebsocketWrapper):  # noqa: SLF001
    """paho's WebSocket, with every frame masked, and a chunk in one operation.

    paho answers a ping by a frame without a mask, for which a server has to end the
    link (RFC 6455, section 5.1). Masking 64 KiB byte by byte takes it 8 ms on a fast
    core, and many times that on a board's.
    """

    def _create_frame(
        self, opcode: int, data: bytearray, do_masking: int = 1
    ) -> bytearray:
        size = len(data)
        key = os.urandom(4)
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
        masked = (int.from_bytes(data, "little") ^ mask).to_bytes(size, "little")
        frame = super()._create_frame(opcode, bytearray(size), 0)
        head = frame[: len(frame) - size]
        head[1] |= 0x80
        return head + key + masked

    def sendall(self, data: bytes) -> None:
        """Sends one message whole."""
        while not self.send(data):
            pass

    def getsockopt(self, *asked: int) -> Any:
        """Of the TCP connection, whose bytes the kernel counts."""
        return self._socket.getsockopt(*asked)


def _in_place(cmd: str, reason: int) -> bool:
    kind = PacketTypes.PUBACK if cmd == "PUBACK" else PacketTypes.PUBCOMP
    return any(kind in places for places in ReasonCode.names.get(reason, {}).values())
