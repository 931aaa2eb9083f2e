"""Walls between a device and its broker, as real servers.

An HTTP proxy that only speaks CONNECT, a SOCKS5 proxy, and a server of TLS and
WebSocket before a plain broker.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from patience import patience
from typing_extensions import Self

__all__ = ["Answering", "HttpProxy", "Listener", "SecureFront", "SocksProxy", "pipe"]


class Listener:
    """Accepts connections on 127.0.0.1 and serves each in a thread until closed.

    Attributes:
        port: Where it listens.
        asked: What was asked of it, in the order it came.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, port), family=family)
        self.port = int(self._server.getsockname()[1])
        self.asked: list[str] = []
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def serve(self, link: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._server.accept()
                self._links.append(link)
                threading.Thread(target=self._one, args=(link,), daemon=True).start()

    def _one(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), link:
            self.serve(link)


def pipe(link: socket.socket, other: socket.socket) -> None:
    """Passes bytes both ways until one side ends."""

    def one_way(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=one_way, args=(other, link), daemon=True)
    back.start()
    one_way(link, other)
    back.join(patience(10))
    other.close()


class Answering(Listener):
    """Answers what comes first, and closes the connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(self._answer)


class HttpProxy(Listener):
    """Speaks CONNECT, to one port only; leads to where a table says.

    Args:
        to: (host, port) asked for -> where that is on this machine.
        login: user:password that it asks for; empty for none.
    """

    def __init__(self, to: Callable[[str, int], int | None], login: str = "") -> None:
        self._to, self._login = to, login
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = link.recv(1)
            if not more:
                return
            head += more
        lines = head.decode().split("\r\n")
        method, where, _ = lines[0].split()
        self.asked.append(f"{method} {where}")
        named = base64.b64encode(self._login.encode()).decode()
        if self._login and f"Proxy-Authorization: Basic {named}" not in lines:
            link.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Proxy-Authenticate: Basic realm=hospital\r\n\r\n"
            )
            return
        host, _, port = where.rpartition(":")
        target = self._to(host.strip("[]"), int(port)) if method == "CONNECT" else None
        if target is None:
            link.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        other = socket.create_connection(("127.0.0.1", target))
        link.sendall(b"HTTP/1.1 200 Connection established\r\nVia: wall\r\n\r\n")
        pipe(link, other)


class SocksProxy(Listener):
    """SOCKS5, RFC 1928 and 1929.

    Args:
        to: (host, port) asked for -> where that is on this machine.
        login: user:password that it asks for; empty for none.
    """

    def __init__(self, to: Callable[[str, int], int | None], login: str = "") -> None:
        self._to, self._login = to, login
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        def take(size: int) -> bytes:
            got = b""
            while len(got) < size:
                got += link.recv(size - len(got)) or self._gone()
            return got

        methods = take(take(2)[1])
        wanted = 2 if self._login else 0
        if wanted not in methods:
            link.sendall(b"\x05\xff")
            return
        link.sendall(bytes([5, wanted]))
        if wanted:
            user = take(take(2)[1])
            password = take(take(1)[0])
            good = (user + b":" + password).decode() == self._login
            link.sendall(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return
        kind = take(4)[3]
        if kind == 3:
            host = take(take(1)[0]).decode()
        else:
            size, family = (4, socket.AF_INET) if kind == 1 else (16, socket.AF_INET6)
            host = socket.inet_ntop(family, take(size))
        port = int.from_bytes(take(2), "big")
        self.asked.append(f"{kind} {host}:{port}")
        target = self._to(host, port)
        if target is None:
            link.sendall(b"\x05\x02\x00\x01" + bytes(6))
            return
        other = socket.create_connection(("127.0.0.1", target))
        link.sendall(b"\x05\x00\x00\x03\x04wall" + bytes(2))
        pipe(link, other)

    @staticmethod
    def _gone() -> bytes:
        raise ConnectionError


class SecureFront(Listener):
    """TLS, WebSocket or both before a plain broker, as a cloud's door is.

    Args:
        to: The broker's port.
        certificate: PEM of key and certificate; None for a plain link.
        path: Of the WebSocket; empty for none.
        alpn: Protocols of the TLS handshake, one of which a client has to name.
    """

    def __init__(
        self,
        to: int,
        certificate: Path | None = None,
        *,
        path: str = "",
        alpn: tuple[str, ...] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self._to, self._path, self._alpn, self._context = to, path, alpn, None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
            if alpn:
                self._context.set_alpn_protocols(list(alpn))
        super().__init__(host)

    def serve(self, link: socket.socket) -> None:
        if self._context is not None:
            secured = self._context.wrap_socket(link, server_side=True)
            self.asked.append(f"alpn {secured.selected_alpn_protocol()}")
            with secured:
                if not self._alpn or secured.selected_alpn_protocol() is not None:
                    self._pass(secured)  # else a web server, with no use for MQTT
        else:
            self._pass(link)

    def _pass(self, link: socket.socket) -> None:
        stream = link.makefile("rb") if self._path else None
        if stream is not None and not self._upgraded(link, stream):
            return
        with socket.create_connection(("127.0.0.1", self._to)) as other:
            if stream is not None:
                self._frames(link, stream, other)
            else:
                pipe(link, other)

    def _upgraded(self, link: socket.socket, stream: IO[bytes]) -> bool:
        lines = []
        while (line := stream.readline().strip()) != b"":
            lines.append(line.decode())
        self.asked += lines[:1]
        head = dict(line.lower().split(": ", 1) for line in lines[1:])
        asked = [line for line in lines if "sec-websocket-key" in line.lower()]
        if not asked:
            return False
        key = asked[0].split(": ", 1)[1]
        right = head.get("sec-websocket-protocol") == "mqtt"
        if lines[0].split()[1] != self._path or not right:
            link.sendall(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
            return False
        magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        said = base64.b64encode(hashlib.sha1((key + magic).encode()).digest())  # noqa: S324
        link.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Protocol: mqtt\r\n"
            b"Sec-WebSocket-Accept: " + said + b"\r\n\r\n"
        )
        return True

    def _frames(
        self, link: socket.socket, stream: IO[bytes], other: socket.socket
    ) -> None:
        sending = threading.Lock()

        def frame(opcode: int, data: bytes) -> None:
            size = len(data)
            head = (
                bytes([0x80 | opcode, size])
                if size < 126
                else bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
            )
            with sending:
                link.sendall(head + data)

        def down() -> None:
            with contextlib.suppress(OSError):
                frame(9, b"are you there")  # a ping, as gateways send
                while data := other.recv(30_000):
                    frame(2, data)
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=down, daemon=True).start()
        while head := stream.read(2):
            size = head[1] & 127
            assert head[1] & 128  # a client masks
            if size == 126:
                size = int.from_bytes(stream.read(2), "big")
            elif size == 127:
                size = int.from_bytes(stream.read(8), "big")
            mask = stream.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(stream.read(size)))
            if head[0] & 15 == 10:
                self.asked.append(f"pong {data.decode()}")
            elif head[0] & 15 == 8:
                break
            else:
                other.sendall(data)
        other.shutdown(socket.SHUT_RDWR)
