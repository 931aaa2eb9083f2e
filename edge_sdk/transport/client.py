"""paho's client on sockets of ours, which reads many packets at once."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.client import MQTT_LOG_DEBUG, MQTT_LOG_ERR
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.address import Address
from edge_sdk.transport.deadline import cut_after
from edge_sdk.transport.packets import (
    PUBLISH,
    Malformed,
    Published,
    acknowledgements,
    body_of,
    published,
)
from edge_sdk.transport.proxy import dial

__all__ = ["Client", "connected", "secured"]

UNSPECIFIED = 0x80
READ = 256 * 1024  # bytes; four chunks
TAKEN = ReasonCode(PacketTypes.PUBACK)  # success
NOTHING_MORE = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class Client(paho.Client):
    """paho's client, with the two ways through it that chunks take made short.

    What has arrived is read by one call and split (`packets`), a PUBLISH goes from
    there to `take`, and acknowledgements go out together.

    A PUBACK with a reason out of its place does not end the link: mosquitto 2.0 answers
    a message above `message_size_limit` by a PUBACK "Packet too large", which MQTT 5.0
    has in CONNACK and DISCONNECT only. paho 2.1 takes the whole packet for malformed
    and hangs up, with "Protocol error" for a reason: the next link sends the same
    message, and so on.

    Attributes:
        reasons: By message id, the reason that was out of its place.
        address: The broker; where sockets are connected to.
        take: Called with each message that arrives; acknowledges those with a number.
    """

    reasons: dict[int, int]
    address: Address
    take: Callable[[Published], None]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._arrived = bytearray()
        self._unacknowledged = deque[int]()  # handled here, not yet said to the broker

    def acknowledge(self, mid: int) -> None:
        """Tells the broker that a message was handled; any thread may."""
        self._unacknowledged.append(mid)
        if len(self._unacknowledged) == 1 and self._sockpairW is not None:
            with contextlib.suppress(BlockingIOError):
                self._sockpairW.send(b"0")  # wakes the network thread, as paho does

    def loop_write(self) -> MQTTErrorCode:
        """As paho's, acknowledgements with it."""
        mids = []
        with contextlib.suppress(IndexError):
            while True:
                mids.append(self._unacknowledged.popleft())
        if mids:
            packet = acknowledgements(mids)
            self._out_packet.append(
                {
                    "command": 0x40,
                    "mid": mids[-1],
                    "qos": 1,
                    "pos": 0,
                    "to_process": len(packet),
                    "packet": packet,
                    "info": None,
                }
            )
        return super().loop_write()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # paho's name
        """Handles every packet of which the last byte has arrived."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._sock_recv(READ)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError as error:
            self._easy_log(MQTT_LOG_ERR, "failed to receive on socket: %s", error)
            data = b""
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        self._arrived += data
        failed = self._split()
        return self._loop_rc_handle(failed) if failed else failed

    def _split(self) -> MQTTErrorCode:
        """Handles whole packets until one ends the link; the rest waits."""
        stream, start = self._arrived, 0
        failed = MQTTErrorCode.MQTT_ERR_SUCCESS
        try:
            while self._sock is not None and not failed:
                found = body_of(stream, start)
                if found is None:
                    break
                failed = self._handle(stream[start], *found)
                start = found[1]
        except (Malformed, MalformedPacket) as error:
            self._easy_log(MQTT_LOG_ERR, "received no packet of MQTT: %s", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            del stream[:start]
        return failed

    def _handle(self, first: int, begin: int, end: int) -> MQTTErrorCode:
        if first & 0xF0 == PUBLISH and first & 0x06 in (0, 2):  # QoS 0, 1
            five = self._protocol == MQTTProtocolVersion.MQTTv5
            found = published(self._arrived, first, begin, end, properties=five)
            self.take(found)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._in_packet["command"] = first
        self._in_packet["packet"] = self._arrived[begin:end]
        self._in_packet["remaining_length"] = end - begin
        return self._packet_handle()

    def _easy_log(self, level: Any, fmt: str, *args: Any) -> None:
        """As paho's, without the line for each packet that nobody reads."""
        if level != MQTT_LOG_DEBUG:
            super()._easy_log(level, fmt, *args)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        mid = int.from_bytes(packet[:2], "big")
        if len(packet) == 2:  # all is well
            with self._out_message_mutex:
                if mid in self._out_messages:
                    return self._do_on_publish(mid, TAKEN, NOTHING_MORE)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if (
            self._protocol == MQTTProtocolVersion.MQTTv5
            and len(packet) > 2
            and not _in_place(cmd, packet[2])
        ):
            self.reasons[mid] = packet[2]
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
