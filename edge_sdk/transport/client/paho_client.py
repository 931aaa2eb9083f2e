"""paho's client, which reads many packets at once and acknowledges many at once."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.client import MQTT_LOG_DEBUG, MQTT_LOG_ERR
from paho.mqtt.enums import (
    MessageState,
    MQTTErrorCode,
    MQTTProtocolVersion,
    _ConnectionState,
)
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.address import Address
from edge_sdk.transport.client.packets import (
    PUBLISH,
    PUBLISH_HEAD,
    PublishPacket,
    acknowledgements,
    body_of,
    join_first,
    published,
)
from edge_sdk.transport.client.sockets import READ, connected, leave
from edge_sdk.transport.client.waker import Waker
from edge_sdk.transport.limits.pacing import SMALL

__all__ = ["MAX_INCOMING", "Client"]

log = logging.getLogger(__name__)

MAX_INCOMING = 128 * 1024  # bytes of a packet; those to devices are smaller
LEAVE_S = 2.0  # for a broker to take what we said last, and to close a link we end
UNSPECIFIED = 0x80
CONNACK, DISCONNECT = 0x20, 0xE0  # first bytes
SUCCESS = ReasonCode(PacketTypes.PUBACK)
NO_PROPERTIES = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class Client(paho.Client):
    """paho's client, with a shorter way for messages that arrive and their answers.

    What has arrived is read by one call and split (`packets`), a PUBLISH goes from
    there to `take`, and acknowledgements go out together. A message that is larger than
    any of ours is acknowledged and never held: where a broker speaks MQTT 3.1.1, any
    client could fill a board's memory with one.

    A PUBACK with a reason out of its place does not end the link: mosquitto 2.0 answers
    a message above `message_size_limit` by a PUBACK "Packet too large", which MQTT 5.0
    has in CONNACK and DISCONNECT only. paho 2.1 takes the whole packet for malformed
    and hangs up, with "Protocol error" for a reason: the next link sends the same
    message, and so on.

    Attributes:
        reasons: By message id, the reason that was out of its place.
        most_incoming: Bytes of the largest packet that is held.
        address: The broker; where sockets are connected to.
        take: Called with each message that arrives; acknowledges those with a number.
        too_large: Called with topic and bytes of each that is larger than any of ours.
        greeting: The first bytes that came: of another protocol they tell which.
        malformed: What came last that is no MQTT, in words; empty for nothing.
        told: Properties of the CONNACK, or of the last DISCONNECT.
    """

    reasons: dict[int, int]
    most_incoming = MAX_INCOMING
    address: Address
    take: Callable[[PublishPacket], None]
    too_large: Callable[[str, int], None]
    _waker: Waker | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.greeting, self.malformed, self.told = b"", "", None
        self._arrived = bytearray()
        self._left_out = 0  # bytes to come of a message that is too large
        self._unacknowledged = deque[int]()  # handled here, not yet said to the broker
        self.on_message = self._of_qos_2

    def acknowledge(self, mid: int) -> None:
        """Tells the broker that a message was handled; any thread may."""
        self._unacknowledged.append(mid)
        if self._waker is not None:
            with contextlib.suppress(BlockingIOError):
                self._waker.send(b"0")  # as paho wakes it

    @property
    def _sockpairW(self) -> Any:  # noqa: N802 - paho's name
        """Way to wake the network thread, for paho's packets and our answers."""
        return self._waker

    @_sockpairW.setter
    def _sockpairW(self, end: socket.socket | None) -> None:  # noqa: N802
        self._waker = None if end is None else Waker(end)

    def drain(self) -> None:
        """Waits for small messages that the broker has no room for yet.

        paho holds them until earlier ones are answered, and `disconnect` drops them.
        """
        until = time.monotonic() + LEAVE_S
        while self.is_connected() and time.monotonic() < until:
            with self._out_message_mutex:
                if not any(
                    m.state == MessageState.MQTT_MS_QUEUED and len(m.payload) <= SMALL
                    for m in self._out_messages.values()
                ):
                    return
            time.sleep(0.005)

    def loop_write(self) -> MQTTErrorCode:
        """As paho's, acknowledgements with it."""
        if self._waker is not None:  # before the look, so that no later one is missed
            self._waker.looks()
        mids = []
        with contextlib.suppress(IndexError):
            while True:
                mids.append(self._unacknowledged.popleft())
        if mids:
            self._out_packet.append(acknowledgements(mids))
        join_first(self._out_packet)
        return super().loop_write()

    def want_write(self) -> bool:
        """As paho's; an acknowledgement waits, too."""
        return bool(self._unacknowledged) or super().want_write()

    def _sock_close(self) -> None:
        """As paho's; what was said last arrives, if we have said that we go."""
        leaving = self._state == _ConnectionState.MQTT_CS_DISCONNECTING
        if leaving and self._sock is not None:
            leave(self._sock, LEAVE_S)
        super()._sock_close()

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
        self.greeting = self.greeting or bytes(data[:8])
        left_out = min(self._left_out, len(data))
        self._left_out -= left_out
        self._arrived += data[left_out:] if left_out else data
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
                begin, end = found
                if end - start > self.most_incoming:
                    if len(stream) - begin < PUBLISH_HEAD:
                        break
                    self._leave_out(stream[start], begin, end)
                elif end <= len(stream):
                    failed = self._handle(stream[start], begin, end)
                else:
                    break
                start = min(end, len(stream))
        except MalformedPacket as error:
            self.malformed = f"{bytes(stream[start : start + 16])!r} ({error})"
            level = logging.WARNING if self.is_connected() else logging.DEBUG
            log.log(level, "the broker sent what is no MQTT: %s", self.malformed)
            failed = MQTTErrorCode.MQTT_ERR_PROTOCOL
        except Exception:  # an escape would end paho's thread and leave us deaf
            log.exception("a packet of the broker could not be handled")
            failed = MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            del stream[:start]
        return failed

    def _handle(self, first: int, begin: int, end: int) -> MQTTErrorCode:
        if _is_short(first):
            five = self._protocol == MQTTProtocolVersion.MQTTv5
            self.take(published(self._arrived, first, begin, end, properties=five))
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        body = self._arrived[begin:end]
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            _make_known(first, body)
        self._in_packet["command"] = first
        self._in_packet["packet"] = body
        self._in_packet["remaining_length"] = end - begin
        return self._packet_handle()

    def _leave_out(self, first: int, begin: int, end: int) -> None:
        """Acknowledges a message that is too large, and has its bytes dropped."""
        if not _is_short(first):
            raise MalformedPacket(f"a packet of {end - begin} bytes that is no message")
        head = begin + PUBLISH_HEAD
        found = published(self._arrived, first, begin, head, properties=False)
        if found.mid:
            self.acknowledge(found.mid)
        self._left_out = max(end - len(self._arrived), 0)
        self.too_large(found.topic, end - begin)

    def _of_qos_2(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        """Takes a message that paho itself has acknowledged."""
        self.take(PublishPacket(message.topic, bytes(message.payload), 0))

    def _easy_log(self, level: Any, fmt: str, *args: Any) -> None:
        """As paho's, without the line for each packet that nobody reads."""
        if level != MQTT_LOG_DEBUG:
            super()._easy_log(level, fmt, *args)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        mid = int.from_bytes(packet[:2], "big")
        if len(packet) == 2:  # success, without properties
            with self._out_message_mutex:
                if mid in self._out_messages:
                    return self._do_on_publish(mid, SUCCESS, NO_PROPERTIES)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if (
            self._protocol == MQTTProtocolVersion.MQTTv5
            and len(packet) > 2
            and not _has(getattr(PacketTypes, cmd), packet[2])
        ):
            self.reasons[mid] = packet[2]
            body = bytearray(packet)
            body[2] = UNSPECIFIED
            self._in_packet["packet"] = body
        return super()._handle_pubackcomp(cmd)

    def _create_socket(self) -> Any:
        """As paho's, by the address's proxy, with nothing left open that fails."""
        return connected(self.address, self._ssl_context, self._connect_timeout)


def _is_short(first: int) -> bool:
    """Return whether a packet is a PUBLISH of QoS 0 or 1."""
    return first & 0xF0 == PUBLISH and first & 0x06 in (0, 2)


def _make_known(first: int, body: bytearray) -> None:
    """Name a reason that MQTT 5 does not have, and put "unspecified" in its place.

    paho takes the packet for malformed: the link then ends for another reason.
    """
    kind, place = first >> 4, int(first == CONNACK)
    if first not in (CONNACK, DISCONNECT) or len(body) <= 2 * place:
        return  # without a reason; or a CONNACK of MQTT 3.1.1
    if not _has(kind, body[place]):
        what = "ends the link" if first == DISCONNECT else "answers our CONNECT"
        log.warning(
            "the broker %s for reason %d, which MQTT does not have: look for it in the "
            "broker's manual",
            *(what, body[place]),
        )
        body[place] = UNSPECIFIED


def _has(kind: int, reason: int) -> bool:
    """Return whether a kind of packet may have a reason code."""
    return any(kind in places for places in ReasonCode.names.get(reason, {}).values())
