"""MQTT through paho: the only module that imports it.

It speaks 3.1.1, which every broker does: nothing here needs 5, and the embedded broker
(amqtt 0.12) neither answers a CONNECT of 5 nor hangs up. paho's callbacks run on its
network thread: an exception there kills it silently, so they only enqueue, and ours are
wrapped to say so if they ever fail.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Deliver, Delivery, OnLink, Traffic, Will

__all__ = ["MqttTransport"]

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
MAX_QUEUED = 4096  # packets; paho's default has no bound and eats a board's memory
_TCP_INFO_BYTES = struct.Struct("@QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_TCP_INFO_OFFSET = 120  # since Linux 4.1, linux/tcp.h


class MqttTransport:
    """One MQTT connection that reconnects by itself; implements `Transport`.

    Args:
        address: The broker.
        client_id: MQTT client id; one device can evict another that uses the same.
        deliver: Called with each message, on the network thread.
        on_link: Called with True after each connect and subscribe, False on a loss.
        will: Published, retained, by the broker if we vanish.

    Raises:
        BrokerError: If `wait_s` passes without a first connection.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        deliver: Deliver,
        on_link: OnLink,
        *,
        will: Will | None = None,
        wait_s: float = 0.0,
    ) -> None:
        self._address, self._client_id, self._will = address, client_id, will
        self._deliver, self._on_link = deliver, on_link
        self._patterns: dict[str, None] = {}  # in the order they were asked for
        self._lock = threading.Lock()
        self._meter = _Meter()
        self._linked = threading.Event()
        self._closing = False
        self._client = self._start()
        if wait_s and not self._linked.wait(wait_s):
            self.close()
            raise BrokerError(
                f"no MQTT broker answers at {address.host}:{address.port}",
                remedy="Check the address, the firewall, and that the broker runs.",
            )

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, sure: bool = True
    ) -> None:
        """Queues for sending; a full queue drops, as the pipe may: peers re-ask."""
        info = self._client.publish(topic, payload, qos=1 if sure else 0, retain=retain)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            log.warning("send queue full: dropped a message to %s", topic)

    def subscribe(self, *patterns: str) -> None:
        """Asks for the filters now and after every reconnect."""
        with self._lock:
            self._patterns.update(dict.fromkeys(patterns))
        self._client.subscribe([(pattern, 1) for pattern in patterns])

    def unsubscribe(self, *patterns: str) -> None:
        """Gives the filters back."""
        with self._lock:
            for pattern in patterns:
                self._patterns.pop(pattern, None)
        self._client.unsubscribe(list(patterns))

    def traffic(self) -> Traffic:
        """Bytes of the TCP stream as the kernel counts them; 0, 0 where it does not."""
        return self._meter.read()

    def close(self) -> None:
        """Disconnects and joins the network thread."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()
        self._meter.settle()

    # -- paho -------------------------------------------------------------------

    def _start(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv311,
            clean_session=True,
            reconnect_on_failure=True,
        )
        client.max_queued_messages_set(MAX_QUEUED)
        client.max_inflight_messages_set(64)
        client.reconnect_delay_set(min_delay=1, max_delay=15)
        if self._address.username:
            client.username_pw_set(self._address.username, self._address.password)
        if self._will:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_socket_open = self._socket_open
        client.on_socket_close = self._socket_close
        client.connect_async(
            self._address.host, self._address.port, keepalive=KEEPALIVE_S
        )
        client.loop_start()
        return client

    def _connected(
        self, client: paho.Client, _user: object, _flags: object, code: Any, _p: object
    ) -> None:
        if code.is_failure:
            log.warning("the broker refused the connection: %s", code)
            return
        with self._lock:
            patterns = [(pattern, 1) for pattern in self._patterns]
        if patterns:
            client.subscribe(patterns)
        self._linked.set()
        self._call(self._on_link, True)  # noqa: FBT003 - a callback

    def _disconnected(
        self, _c: paho.Client, _user: object, _flags: object, code: Any, _p: object
    ) -> None:
        if not self._closing:
            log.info("the link to the broker is down: %s", code)
        self._call(self._on_link, False)  # noqa: FBT003 - a callback

    def _message(self, _c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        self._call(self._deliver, Delivery(message.topic, bytes(message.payload)))

    def _socket_open(self, _c: paho.Client, _u: object, sock: Any) -> None:
        self._meter.attach(sock)

    def _socket_close(self, _c: paho.Client, _u: object, _sock: object) -> None:
        self._meter.settle()

    @staticmethod
    def _call(function: Any, argument: object) -> None:
        try:
            function(argument)
        except Exception:  # an escape would kill paho's thread and leave us deaf
            log.exception("a transport callback failed")


class _Meter:
    """Bytes over all sockets of one transport, from the kernel's TCP_INFO."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._sent = self._received = 0

    def attach(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock

    def settle(self) -> None:
        """Adds up a socket that is about to close."""
        with self._lock:
            sent, received = self._live()
            self._sent += sent
            self._received += received
            self._socket = None

    def read(self) -> Traffic:
        with self._lock:
            sent, received = self._live()
            return Traffic(self._sent + sent, self._received + received)

    def _live(self) -> tuple[int, int]:
        if self._socket is None or not hasattr(socket, "TCP_INFO"):
            return 0, 0
        try:
            raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            acked, received = _TCP_INFO_BYTES.unpack_from(raw, _TCP_INFO_OFFSET)
        except (OSError, struct.error):  # closed, or a kernel before 4.1
            return 0, 0
        return max(acked - 1, 0), received  # the SYN counts as one byte
