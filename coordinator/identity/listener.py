"""The enrolment listener: a small TLS server beside the broker.

A stranger can do little here: each link ends after some seconds, at most `AT_ONCE` are
served at a time, frames are small, and a secret of 128 bits is not guessed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from coordinator.identity.office import Office
from edge_sdk.errors import EdgeError, IdentityError, RemoteProtocolError
from edge_sdk.identity.exchange import (
    Answer,
    AskAuthority,
    AuthorityIs,
    Enrol,
    Enrolled,
    Question,
    Refused,
    receive,
    send,
    unpack_question,
)

__all__ = ["Listener", "Welcome"]

log = logging.getLogger(__name__)
AT_ONCE = 8
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Welcome:
    """What every new device is told of the run.

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
        office: Decides.
        welcome: What new devices are told.
        bind: Address to listen on.
        port: Its TCP port; 0 for any.
        address: As devices reach it: its certificate says so.

    Raises:
        IdentityError: If the port cannot be used.
    """

    def __init__(
        self, office: Office, welcome: Welcome, *, bind: str, port: int, address: str
    ) -> None:
        self._office, self._welcome = office, welcome
        self._context = _context(office.server_pem(address))
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        try:
            self._socket = socket.create_server((bind, port), family=family)
        except OSError as error:
            raise IdentityError(
                f"port {port} cannot be used for enrolment: {error.strerror}",
                remedy="Stop what listens there, or set enroll_port in run.toml; "
                "tokens made before then name the old port.",
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="enrol")
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._thread = threading.Thread(target=self._accept, name="enrolment")
        self._thread.start()

    def close(self) -> None:
        """Stops listening and ends the links that are open within their patience."""
        with contextlib.suppress(OSError):  # a thread in accept() would keep it open
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _accept(self) -> None:
        while True:
            try:
                raw, peer = self._socket.accept()
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                raw.close()  # it comes again
                continue
            self._pool.submit(self._serve, raw, str(peer[0]))

    def _serve(self, raw: socket.socket, peer: str) -> None:
        try:
            raw.settimeout(PATIENCE_S)
            with self._context.wrap_socket(raw, server_side=True) as link:
                send(link, self._answer(unpack_question(receive(link)), peer))
                with contextlib.suppress(OSError):  # let it read before we hang up
                    link.unwrap()
        except (OSError, RemoteProtocolError) as error:
            log.info("enrolment from %s was cut: %s", peer, error)
        except Exception:  # one visitor must not end the listener
            log.exception("enrolment from %s failed", peer)
        finally:
            raw.close()
            self._free.release()

    def _answer(self, question: Question, peer: str) -> Answer:
        match question:
            case AskAuthority():
                return AuthorityIs(self._office.authority)
            case Enrol(secret, csr):
                return self._enrol(secret, csr, peer)

    def _enrol(self, secret: bytes, csr: bytes, peer: str) -> Answer:
        try:
            name, certificate = self._office.enrol(secret, csr)
        except EdgeError as error:
            log.warning("refused to enrol %s: %s", peer, error)
            return Refused(str(error)[:500], error.help[:500])
        log.info("enrolled %s from %s", name, peer, extra={"device": name})
        number, key = self._office.signing
        return Enrolled(
            name=name,
            federation=self._office.federation,
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
