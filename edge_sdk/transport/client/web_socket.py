"""paho's WebSocket with a handshake of our own, which says what is wrong with it."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from typing import Any

import paho.mqtt.client as paho

from edge_sdk.terminal.sanitize import plain
from edge_sdk.transport.dialect import RefusedError

__all__ = ["WebSocket"]

MOST_HEAD = 16 * 1024  # bytes of the answer to the handshake
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
SAID = 120  # characters of the answer that a message repeats
PATH = "check the path in the broker's URL (/mqtt as a rule)"
# What a web server's answer to the handshake comes to, by its status.
ANSWERS = {
    401: "it wants a sign-in before MQTT: ask who runs it for an address without",
    403: "it lets nobody in from here, or not to this path: " + PATH,
    404: "it has no such path: " + PATH,
    407: "it is a proxy: name it in the key proxy, and the broker in broker",
}
PASSING = (408, 425, 429)  # and all of 5xx: a broker behind it is down, or it is busy


class WebSocket(paho._WebsocketWrapper):  # noqa: SLF001
    """paho's WebSocket, with every frame masked, and a chunk in one operation.

    paho answers a ping by a frame without a mask, for which a server has to end the
    link (RFC 6455, section 5.1). Masking 64 KiB byte by byte takes it 8 ms on a fast
    core, and many times that on a board's. Its handshake has one error for all answers,
    and ends in another where a header has no space behind its colon.

    Raises:
        RefusedError: What listens there makes no WebSocket; says why.
        OSError: It closes the connection, or takes too long.
    """

    def _do_handshake(self, extra_headers: Any) -> None:
        del extra_headers  # there are none
        key = base64.b64encode(os.urandom(16))
        usual = self._port == (443 if self._ssl else 80)
        host = self._host if usual else f"{self._host}:{self._port}"
        lines = (
            f"GET {self._path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Origin: http{'s' if self._ssl else ''}://{host}",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: mqtt",
        )
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        first, *rest = self._head().split("\n")
        words = first.split(None, 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
        headers = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in rest)
            if colon
        }
        if status != 101:
            raise self._refused(status, plain(first.strip())[:SAID], headers)
        digest = hashlib.sha1(key + GUID).digest()  # noqa: S324 - as the RFC asks for
        if headers.get("sec-websocket-accept") != base64.b64encode(digest).decode():
            raise RefusedError(
                "what listens there says that it makes a WebSocket and repeats another "
                "handshake: a cache or a proxy on the way answers in its place"
            )
        self._readbuffer, self.connected = bytearray(), True

    def _head(self) -> str:
        """Head of the answer; not a byte beyond, as that is the broker's."""
        head = bytearray()
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            more = self._socket.recv(1)
            head += more
            if not b"HTTP/".startswith(head[:5]) or len(head) > MOST_HEAD:
                raise RefusedError(
                    f"what listens there answers {plain(repr(bytes(head[:40])))} in "
                    "place of HTTP: it is no WebSocket; write mqtt:// or mqtts://"
                )
            if not more:
                raise ConnectionError(
                    "what listens there closes the connection at the WebSocket's "
                    f"handshake: {PATH}, and that it takes ws:// or wss://"
                )
        return head.decode("latin-1").replace("\r\n", "\n")

    def _refused(self, status: int, said: str, headers: dict[str, str]) -> RefusedError:
        what = "it is a web server, and makes no WebSocket there: " + PATH
        where = plain(headers.get("location", ""))[:SAID]
        if 300 <= status < 400 and where:
            what = f"it leads to {where}: write that address, with ws:// or wss://"
        passing = status >= 500 or status in PASSING
        if passing:
            what = (
                "the broker behind it does not run, or has no room; it is asked again"
            )
        return RefusedError(
            f"what listens there speaks no MQTT over WebSocket at {self._path} "
            f"({said}): "
            f"{ANSWERS.get(status, what)}",
            passing=passing,
        )

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

    @property
    def below(self) -> socket.socket:
        """The connection that its frames go over: TCP, or TLS."""
        found: socket.socket = self._socket
        return found

    def getsockopt(self, *asked: int) -> Any:
        """Of the TCP connection, whose bytes the kernel counts."""
        return self._socket.getsockopt(*asked)
