"""Watches the identity store while a coordinator runs, and carries out what it finds.

A revocation takes effect in this order: signatures of the device are refused, it is
told in words, the broker gets the new list of revoked certificates and the new access
list, and the link that is still open is cut.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from coordinator.broker.check import check_broker
from coordinator.broker.config import AccessControl, access_list
from coordinator.broker.start import Broker
from coordinator.identity.muted import Muted
from coordinator.identity.registry import IdentityRegistry
from edge_sdk.errors import BrokerError, EdgeError
from edge_sdk.transport.address import Address

__all__ = ["RevocationWatcher", "walls_of"]

log = logging.getLogger(__name__)
LOOK_S = 0.2
WORDS_S = 0.2  # for the word of a revocation to reach its device before it is cut off


def walls_of(
    office: IdentityRegistry, server: bytes, muted: Iterable[str] = ()
) -> AccessControl:
    """Access control for the broker, as identities and muted devices are now.

    Args:
        office: The identities.
        server: PEM of the broker's key and certificate.
        muted: Devices that may write and read nothing for the time being.
    """
    denied = access_list(office.federation, {*office.refused(), *muted})
    return AccessControl(
        authority=office.authority_pem(),
        server=server,
        revocations=office.revocations(),
        access_list=denied.encode(),
    )


class RevocationWatcher:
    """A thread that looks a few times a second; a context manager.

    Args:
        office: The identities.
        broker: The broker; only one of our own can be told.
        walls: What it checks its clients by, anew; None where we cannot tell it.
        ghost: An address that connects under a device's name, which makes the broker
            drop the link that has the name; None where we cannot.
        revoked: Told the name of each device that is revoked.
        rotated: Told that another key signs from now on.
        muted: Devices that flood.
    """

    def __init__(
        self,
        office: IdentityRegistry,
        broker: Broker,
        walls: Callable[[Iterable[str]], AccessControl] | None,
        ghost: Callable[[str], Address] | None,
        *,
        revoked: Callable[[str], None],
        rotated: Callable[[], None],
        muted: Muted | None = None,
    ) -> None:
        self._office, self._broker = office, broker
        self._walls, self._ghost = walls, ghost
        self._revoked, self._rotated = revoked, rotated
        self._muted, self._resting = muted, frozenset[str]()
        self._seen = office.version, set(office.refused()), office.signing[0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        try:
            self._act()
        except EdgeError as error:  # the next look tries again
            log.error("identities could not be updated: %s", error)  # noqa: TRY400

    def _act(self) -> None:
        self._office.refresh()
        self._rest()
        version, refused, number = self._seen
        if self._office.version == version:
            return
        now = self._office.version, set(self._office.refused()), self._office.signing[0]
        gone = sorted(now[1] - refused)
        for name in gone:
            self._revoked(name)
        if now[2] != number:
            self._rotated()
        if gone:
            self._over.wait(WORDS_S)
        if self._walls is not None:
            self._broker.put_walls(self._walls(self._resting))
        for name in gone:
            self._cut(name)
        self._seen = now

    def _rest(self) -> None:
        """Take a flooding device's rights and link at the broker, for a while."""
        if self._muted is None or self._walls is None:
            return
        names = self._muted.names()
        if names == self._resting:
            return
        self._broker.put_walls(self._walls(names))
        for name in sorted(names - self._resting):
            log.warning(
                "%s sends too many messages: the broker refuses them for a while",
                name,
                extra={"device": name},
            )
            self._cut(name)
        self._resting = names

    def _cut(self, name: str) -> None:
        if self._ghost is None:
            return
        try:
            check_broker(self._ghost(name), timeout_s=2.0)
        except BrokerError as error:
            log.warning(
                "the link of %s could not be cut: %s",
                *(name, error),
                extra={"device": name},
            )
