"""TCP connections to hosts by name: at the first address that answers, named errors.

`socket.create_connection` waits for the resolver as long as that likes (glibc: 10 s for
each name server), and of several addresses says the last one's error alone.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from typing import TypeAlias

__all__ = ["HostNameError", "connection_to"]

log = logging.getLogger(__name__)

LOOK_UP_S = 4.0  # for the resolver; what comes later is there for the next attempt
STALE_S = 60.0  # an answer that nobody has waited for so long
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)

_Found: TypeAlias = list[tuple[int, tuple[object, ...]]]  # family, address of a socket


class HostNameError(ConnectionError):
    """A name that leads to no host; the text says why, and what to do."""


class _LookUp:
    """A question to the resolver, on a thread of its own: it cannot be stopped."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._found: _Found | Exception = []
        self.done, self.at = threading.Event(), 0.0
        threading.Thread(target=self._ask, name=f"dns-{host}", daemon=True).start()

    def _ask(self) -> None:
        try:
            rows = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._found = list(dict.fromkeys((row[0], row[4]) for row in rows))
        except (OSError, UnicodeError) as error:
            self._found = error
        self.at = time.monotonic()
        self.done.set()

    @property
    def stale(self) -> bool:
        """True for an answer that is too old to be believed."""
        return self.done.is_set() and time.monotonic() - self.at > STALE_S

    def answer(self) -> _Found:
        """The addresses, once they are there.

        Raises:
            HostNameError: If there are none.
        """
        if isinstance(self._found, Exception):
            raise HostNameError(_in_words(self._host, self._found)) from self._found
        return self._found


_under_way: dict[tuple[str, int], _LookUp] = {}
_lock = threading.Lock()


def connection_to(host: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection to a host's port.

    Args:
        host: Name or address.
        port: TCP port.
        timeout_s: For each of its addresses, and for reading afterwards.

    Raises:
        HostNameError: The name leads to no host.
        OSError: No address of it answers; a host of one address that refuses is a
            `ConnectionRefusedError`.
    """
    found = _addresses(host, port)
    failed: list[tuple[str, OSError]] = []
    for family, where in found:
        try:
            link = _connected(family, where, timeout_s)
        except OSError as error:  # the next may answer
            failed.append((str(where[0]), error))
            continue
        if failed:
            silent = ", ".join(f"{one} ({_why(error)})" for one, error in failed)
            log.info("%s: %s does not answer, %s does", host, silent, where[0])
        return link
    raise _unreached(host, port, failed)


def _connected(
    family: int, where: tuple[object, ...], timeout_s: float
) -> socket.socket:
    link = socket.socket(family, socket.SOCK_STREAM)
    try:
        link.settimeout(timeout_s)
        link.connect(where)
    except BaseException:
        link.close()
        raise
    return link


def _addresses(host: str, port: int) -> _Found:
    """Addresses of a host, in the resolver's order.

    Raises:
        HostNameError: There are none, or the resolver does not answer in time.
    """
    key = host, port
    with _lock:
        asked = _under_way.get(key)
        if asked is None or asked.stale:
            asked = _under_way[key] = _LookUp(host, port)
    if not asked.done.wait(LOOK_UP_S):
        raise HostNameError(_in_words(host, None))
    with _lock:
        if _under_way.get(key) is asked:
            del _under_way[key]
    return asked.answer()


def _in_words(host: str, error: Exception | None) -> str:
    """The reason why a name leads nowhere, and what to do; None for no answer yet."""
    literal = "write the host's address in place of its name"
    if isinstance(error, UnicodeError):
        return f"{host!r} cannot be the name of a host: correct it"
    code = getattr(error, "errno", None)
    if code in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
        local = host.endswith(".local")
        fix = "install libnss-mdns (.local names need it), or " if local else ""
        return f"there is no host of the name {host}: correct it, or {fix}{literal}"
    return (
        f"no name server tells the address of {host}: check this machine's "
        f"network and its name servers (resolvectl status, /etc/resolv.conf), or "
        f"{literal}"
    )


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)


def _unreached(host: str, port: int, failed: list[tuple[str, OSError]]) -> OSError:
    """The error of a host none of whose addresses answers."""
    errors = [error for _, error in failed]
    if all(error.errno in _NO_ROUTE for error in errors):
        where = failed[0][0]
        known = host if host == where else f"{host} ({where})"
        if all(":" in one for one, _ in failed):
            return ConnectionError(
                f"no way to {known}: it has IPv6 alone, which this machine's network "
                "does not lead to: have IPv6 set up, or name an address of IPv4"
            )
        return ConnectionError(
            f"no way to {known}, {_why(errors[0])}: check that the host and this "
            "machine's network are up (ip route), and the address"
        )
    if len(failed) == 1 and not isinstance(errors[0], TimeoutError):
        return errors[0]
    each = ", ".join(f"{one} ({_why(error)})" for one, error in failed)
    return ConnectionError(
        f"none of the addresses of {host} answers at port {port}: {each}: check the "
        "address, the firewall, and that it runs"
    )
