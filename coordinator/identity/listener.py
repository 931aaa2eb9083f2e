"""The enrolment listener: a small TLS server beside the broker.

A stranger can do little here. A link costs a few KiB and no thread; it has `PATIENCE_S`
for everything from the first byte of TLS to the last of the answer, however slowly it
speaks; one address may hold `PER_ADDRESS` of them and all together `AT_ONCE`. Beyond
that the oldest is cut, never the newest refused: who holds links open shuts nobody out,
and an honest enrolment takes a tenth of a second. Frames are small, and a secret of 128
bits is not guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coordinator.identity.registry import IdentityRegistry
from coordinator.rate_limit import Seldom
from edge_sdk.errors import EdgeError, IdentityError, RemoteProtocolError
from edge_sdk.identity.exchange import (
    Answer,
    AskAuthority,
    AuthorityIs,
    Enrol,
    Enrolled,
    Question,
    Refused,
    body_size,
    frame_of,
    unpack_question,
)

__all__ = ["Listener", "Welcome", "neighbours", "to_cut"]

log = logging.getLogger(__name__)
AT_ONCE = 64
PER_ADDRESS = 16
PATIENCE_S = 10.0
REST_S = 0.1  # after an accept that failed, for want of descriptors for example
SAID_S = 60.0  # between two lines about one address's links that were cut


def neighbours(host: str) -> str:
    """Key that an address is counted under: itself, or the network of an IPv6 one.

    Example:
        >>> neighbours("10.0.0.7"), neighbours("2001:db8::7")
        ('10.0.0.7', '2001:db8::/64')
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def to_cut(
    links: Sequence[str], peer: str, *, at_once: int, per_address: int
) -> int | None:
    """Index of the link to close for a new one: the oldest of whoever holds most.

    Args:
        links: Whose each open link is, the oldest first.
        peer: Whose the new one is.
        at_once: Links in all.
        per_address: Links of one.

    Example:
        >>> to_cut(["a", "b", "b"], "c", at_once=3, per_address=2)
        1
    """
    if links.count(peer) >= per_address:
        return links.index(peer)
    if len(links) < at_once:
        return None
    ((most, _),) = Counter(links).most_common(1)
    return links.index(most)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Facts about the run that every new device is told.

    Attributes:
        broker: URL of the broker, as devices reach it.
        broker_authority: PEM of its authority if it is not ours; or empty.
        task: The run's task.
    """

    broker: str
    broker_authority: bytes
    task: str


class Listener:
    """Serves enrolments until closed.

    Args:
        identities: Decides.
        welcome: What new devices are told.
        bind: Address to listen on.
        port: Its TCP port; 0 for any.
        address: As devices reach it: its certificate says so.

    Raises:
        IdentityError: If the port cannot be used.
    """

    def __init__(
        self,
        identities: IdentityRegistry,
        welcome: Welcome,
        *,
        bind: str,
        port: int,
        address: str,
    ) -> None:
        self._identities, self._welcome = identities, welcome
        self._context = _context(identities.services.server_pem(address))
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        try:
            self._socket = socket.create_server((bind, port), family=family)
        except OSError as error:
            raise IdentityError(
                f"port {port} cannot be used for enrolment: {error.strerror}",
                remedy="Stop what listens there, or set enroll_port in run.toml; "
                "tokens made before then name the old port.",
            ) from error
        self._socket.settimeout(0)  # as the loop asks for
        self.port = int(self._socket.getsockname()[1])
        self._links: dict[asyncio.Task[None], str] = {}  # the oldest first
        self._said = Seldom(SAID_S)
        # The registry writes to disk; one at a time, and never on the loop.
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="enrol")
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="enrolment")
        self._thread.start()

    def close(self) -> None:
        """Stops listening and cuts the links that are open."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._socket.close()
        self._answering.shutdown(cancel_futures=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._over.wait()
        ending = [accepting, *self._links]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                raw, peer = await self._loop.sock_accept(self._socket)
            except OSError:  # no descriptor left, or it was gone before we came
                await asyncio.sleep(REST_S)
                continue
            whose = neighbours(str(peer[0]))
            links = list(self._links.items())
            place = to_cut(
                [who for _, who in links],
                whose,
                at_once=AT_ONCE,
                per_address=PER_ADDRESS,
            )
            if place is not None:
                task, _ = links[place]
                del self._links[task]
                task.cancel()
            task = asyncio.create_task(self._serve(raw, str(peer[0])))
            self._links[task] = whose
            task.add_done_callback(partial(self._gone, raw))

    def _gone(self, raw: socket.socket, task: asyncio.Task[None]) -> None:
        """A link has ended, or was cut before it was looked at."""
        self._links.pop(task, None)
        raw.close()

    async def _serve(self, raw: socket.socket, peer: str) -> None:
        try:
            await asyncio.wait_for(self._converse(raw, peer), PATIENCE_S)
        except (OSError, EOFError, asyncio.TimeoutError, RemoteProtocolError) as error:
            self._say_cut(peer, str(error) or "it took too long")
        except Exception:  # one visitor must not end the listener
            log.exception("enrolment from %s failed", peer)

    def _say_cut(self, peer: str, why: str) -> None:
        before = self._said.say(neighbours(peer), time.monotonic())
        if before is not None:
            more = f" ({before} more before)" if before else ""
            log.info("enrolment from %s was cut: %s%s", peer, why, more)

    async def _converse(self, raw: socket.socket, peer: str) -> None:
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol,
            raw,
            ssl=self._context,
            ssl_handshake_timeout=PATIENCE_S,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            size = body_size(await reader.readexactly(4))
            question = unpack_question(await reader.readexactly(size))
            answer = await self._loop.run_in_executor(
                self._answering, self._answer, question, peer
            )
            writer.write(frame_of(answer))
            await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):  # let it read before we hang up
                await writer.wait_closed()
        finally:
            transport.abort()

    def _answer(self, question: Question, peer: str) -> Answer:
        match question:
            case AskAuthority():
                return AuthorityIs(self._identities.authority)
            case Enrol(secret, csr):
                return self._enrol(secret, csr, peer)

    def _enrol(self, secret: bytes, csr: bytes, peer: str) -> Answer:
        try:
            name, certificate = self._identities.enrol(secret, csr)
        except EdgeError as error:
            log.warning("refused to enrol %s: %s", peer, error)
            return Refused(str(error)[:500], error.help[:500])
        log.info("enrolled %s from %s", name, peer, extra={"device": name})
        number, key = self._identities.signing
        return Enrolled(
            name=name,
            federation=self._identities.federation,
            certificate=certificate,
            key=key,
            key_number=number,
            broker=self._welcome.broker,
            broker_authority=self._welcome.broker_authority,
            task=self._welcome.task,
        )


def _context(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL takes a chain from a file only.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server.pem"
        file.touch(mode=0o600)
        file.write_bytes(pem)
        context.load_cert_chain(file)
    return context
