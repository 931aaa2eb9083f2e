"""paho's client, which hears every reason for which a broker refuses a message."""

from __future__ import annotations

import socket
import ssl
from typing import Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["Client", "name_of"]

UNSPECIFIED = 0x80


class Client(paho.Client):
    """paho's client; a PUBACK with a reason out of its place does not end the link.

    mosquitto 2.0 answers a message above `message_size_limit` by a PUBACK "Packet too
    large", which MQTT 5.0 has in CONNACK and DISCONNECT only. paho 2.1 takes the whole
    packet for malformed and hangs up, with "Protocol error" for a reason: the next link
    sends the same message, and so on.

    Attributes:
        reasons: By message id, the reason that was out of its place.
    """

    reasons: dict[int, int]

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

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """As paho's, which leaves the socket open where the handshake fails."""
        context = self._ssl_context
        assert context is not None  # noqa: S101 - paho asks before
        link = context.wrap_socket(
            tcp_sock, server_hostname=self._host, do_handshake_on_connect=False
        )
        try:
            link.settimeout(self._connect_timeout)
            link.do_handshake()
        except BaseException:
            link.close()
            raise
        return link


def name_of(reason: int) -> str:
    """Name of an MQTT 5.0 reason code in any packet; its number if it has none."""
    return next(iter(ReasonCode.names.get(reason, {})), f"reason {reason}")


def _in_place(cmd: str, reason: int) -> bool:
    kind = PacketTypes.PUBACK if cmd == "PUBACK" else PacketTypes.PUBCOMP
    return any(kind in places for places in ReasonCode.names.get(reason, {}).values())
