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

__all__ = ["RevocationWatcher", "access_control_of"]

log = logging.getLogger(__name__)
LOOK_S = 0.2
WORDS_S = 0.2  # for the word of a revocation to reach its device before it is cut off


def access_control_of(
    identities: IdentityRegistry, server: bytes, muted: Iterable[str] = ()
) -> AccessControl:
    """Access control for the broker, as identities and muted devices are now.

    Args:
        identities: The identities.
        server: PEM of the broker's key and certificate.
        muted: Devices that may write and read nothing for the time being.
    """
    denied = access_list(identities.federation, {*identities.refused(), *muted})
    return AccessControl(
        authority=identities.services.authority_pem(),
        server=server,
        revocations=identities.services.revocations(),
        access_list=denied.encode(),
    )


class RevocationWatcher:
    """A thread that looks a few times a second; a context manager.

    Args:
        identities: The identities.
        broker: The broker; only one of our own can be told.
        access_control: What it checks its clients by; None where we cannot tell it.
        takeover: An address that connects under a device's name, which makes the broker
            drop the link that has the name; None where we cannot.
        revoked: Told the name of each device that is revoked.
        rotated: Told that another key signs from now on.
        muted: Devices that flood.
    """

    def __init__(
        self,
        identities: IdentityRegistry,
        broker: Broker,
        access_control: Callable[[Iterable[str]], AccessControl] | None,
        takeover: Callable[[str], Address] | None,
        *,
        revoked: Callable[[str], None],
        rotated: Callable[[], None],
        muted: Muted | None = None,
    ) -> None:
        self._identities, self._broker = identities, broker
        self._access_control, self._takeover = access_control, takeover
        self._revoked, self._rotated = revoked, rotated
        self._muted, self._resting = muted, frozenset[str]()
        self._seen = (
            identities.version,
            set(identities.refused()),
            identities.signing[0],
        )
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="revocation", daemon=True
        )

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
        self._identities.refresh()
        self._rest()
        version, refused, number = self._seen
        if self._identities.version == version:
            return
        now = (
            self._identities.version,
            set(self._identities.refused()),
            self._identities.signing[0],
        )
        gone = sorted(now[1] - refused)
        for name in gone:
            self._revoked(name)
        if now[2] != number:
            self._rotated()
        if gone:
            self._over.wait(WORDS_S)
        if self._access_control is not None:
            self._broker.put_access_control(self._access_control(self._resting))
        for name in gone:
            self._cut(name)
        self._seen = now

    def _rest(self) -> None:
        """Take a flooding device's rights and link at the broker, for a while."""
        if self._muted is None or self._access_control is None:
            return
        names = self._muted.names()
        if names == self._resting:
            return
        self._broker.put_access_control(self._access_control(names))
        for name in sorted(names - self._resting):
            log.warning(
                "%s sends too many messages: the broker refuses them for a while",
                name,
                extra={"device": name},
            )
            self._cut(name)
        self._resting = names

    def _cut(self, name: str) -> None:
        if self._takeover is None:
            return
        try:
            check_broker(self._takeover(name), timeout_s=2.0)
        except BrokerError as error:
            log.warning(
                "the link of %s could not be cut: %s",
                *(name, error),
                extra={"device": name},
            )
