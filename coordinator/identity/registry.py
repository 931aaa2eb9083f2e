"""Registry of a run's identities: lets devices in, renews, revokes, signs.

Its memory is the `IdentityStore`; what the coordinator's threads ask of it many times a
second is a frozen snapshot, read again when the store's version has changed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.identity.authority import check_request
from coordinator.identity.enrolled import (
    EnrolledDevice,
    Snapshot,
    ended,
    read_snapshot,
    unix_now,
)
from coordinator.identity.log_keys import LogKeys
from coordinator.identity.new_rows import certificate_row, signing_row
from coordinator.identity.open_authority import open_authority
from coordinator.identity.policy import (
    DAY_S,
    TokenRow,
    check_clock,
    check_new_name,
    check_renewal,
    redeem,
    renewal_due,
)
from coordinator.identity.service_certificates import ServiceCertificates
from coordinator.identity.store import IdentityStore
from device_profiles.words import meant
from edge_sdk.errors import IdentityError
from edge_sdk.identity.signatures import Seal, signer, verifier
from edge_sdk.identity.token import SECRET_BYTES, Token, pin_of, write_token
from edge_sdk.wire.topics import check_id

__all__ = ["IdentityRegistry"]

SUPERSEDED = "a newer certificate took its place"


class IdentityRegistry:
    """The identities of one run; made on first use, shared by threads.

    Args:
        folder: The run's folder.
        federation: The federation's name.
        days: How long a device's certificate lasts.
        now: Unix seconds.

    Attributes:
        services: The certificates of the broker and of connections to it.

    Raises:
        StateError: If the store cannot be used.
        IdentityError: If it belongs to another federation.
    """

    def __init__(
        self,
        folder: Path,
        federation: str,
        *,
        days: int = 365,
        now: Callable[[], int] = unix_now,
    ) -> None:
        self.federation, self._days = federation, days
        self._now = now
        self._store = IdentityStore(folder)
        self._authority = open_authority(self._store, federation)
        self.services = ServiceCertificates(self._authority, self._store, now)
        self._lock = threading.Lock()
        self._snapshot = read_snapshot(self._store)
        self._hand = self._snapshot.signing.number, self._snapshot.key
        self.seal = Seal(
            signer(lambda: self._hand[1]),
            verifier(self._keys_of, held=self._held),
            lambda: self._hand[0],
        )

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a run has an authority."""
        return IdentityStore.exists(folder)

    @property
    def authority(self) -> bytes:
        """The authority's certificate, DER."""
        return self._authority.der

    @property
    def signing(self) -> tuple[int, bytes]:
        """Number and raw public key of what signs now."""
        return self._snapshot.signing.number, self._snapshot.signing.public

    @property
    def own_keys(self) -> Sequence[bytes]:
        """Raw public keys that sign or have signed for this run, newest first."""
        return self._snapshot.own_keys

    @property
    def notices(self) -> Sequence[tuple[int, bytes]]:
        """(number, packet) of each later key, to be published retained."""
        return self._snapshot.notices

    @property
    def people(self) -> Mapping[str, EnrolledDevice]:
        """Every device that ever enrolled."""
        return self._snapshot.people

    # -- letting in --------------------------------------------------------------------

    def token(self, name: str, address: str, port: int, *, hours: float) -> str:
        """A one-time token for a new device; an earlier unused one stops working.

        Raises:
            IdentityError: If the name is taken, or the clock was never set.
            LocalProtocolError: If it is no name.
        """
        check_clock(self._now())
        check_id(name, what="device")
        check_new_name(name, self._in_force())
        secret = os.urandom(SECRET_BYTES)
        until = self._now() + int(hours * 3600)
        self._store.put_token(_hash(secret), TokenRow(name, until))
        return write_token(Token(address, port, pin_of(self.authority), secret))

    def enrolled(self) -> set[str]:
        """Names of devices that are accepted."""
        return {n for n, p in self._fresh().people.items() if p.revoked is None}

    def taken(self) -> set[str]:
        """Names that cannot be given out: of devices, and of unused tokens."""
        return set(self._fresh().people) | self._store.waiting()

    def enrol(self, secret: bytes, csr: bytes) -> tuple[str, bytes]:
        """Name and certificate (DER) for a token; durable before it returns.

        Raises:
            IdentityError: If the token allows nothing, or the request is none.
        """
        now = self._now()
        check_clock(now)
        key = check_request(csr)
        hashed = _hash(secret)
        row = self._store.token(hashed)
        grant = redeem(row, key, now)
        assert row is not None  # noqa: S101 - redeem refuses None
        if grant == "new":
            check_new_name(row.name, self._in_force())
            if not self._issue(row.name, key, hashed):
                return self.enrol(secret, csr)  # somebody was faster; asked anew
        person = self._fresh().people[row.name]
        if person.revoked is not None:
            raise IdentityError(f"{row.name} was revoked: {person.revoked}")
        if key not in person.valid(now):
            raise IdentityError(self.ended(row.name) or f"{row.name} has another key")
        return row.name, person.certificate

    def renew(self, name: str, csr: bytes) -> bytes:
        """The certificate (DER) for a device's next key; the same if asked again.

        Raises:
            IdentityError: If the device is not accepted, the request is none, or no
                certificate is due.
        """
        check_clock(self._now())
        key = check_request(csr)
        person = self._fresh().people.get(name)
        if person is None or person.revoked is not None:
            raise IdentityError(f"{name} is not enrolled")
        if key not in person.valid(self._now()):
            check_renewal(
                min(person.ends), person.made_until, self._now(), self._days * DAY_S
            )
            self._issue(name, key, None)
            person = self._fresh().people[name]
        return person.certificate

    def renewal_due(self, name: str) -> bool:
        """Return whether a device should renew its certificate now."""
        person = self.people.get(name)
        if person is None or person.revoked is not None:
            return False
        # With two keys the device still signs with the older one: the answer that
        # carried the new certificate was lost.
        return renewal_due(min(person.ends), self._now(), self._days * DAY_S)

    def ended(self, name: str) -> str | None:
        """A sentence on a device's expired certificate; None if it is valid."""
        person, now = self.people.get(name), self._now()
        if person is None or person.revoked is not None or person.valid(now):
            return None
        return ended(name, person, now)

    def _in_force(self) -> set[str]:
        """Names that cannot be enrolled: of devices that are believed."""
        people, now = self._fresh().people, self._now()
        return {n for n, p in people.items() if p.valid(now)}

    def _issue(self, name: str, key: bytes, token: bytes | None) -> bool:
        until = self._now() + self._days * DAY_S
        row = certificate_row(self._authority, name, key, until)
        return self._store.issue(row, token)

    # -- taking back -------------------------------------------------------------------

    def revoke(self, name: str, why: str) -> None:
        """Takes back a device's certificates and its unused token.

        Raises:
            IdentityError: If there was nothing to take back.
        """
        waiting = name in self._store.waiting()
        if not self._store.revoke(name, why) and not waiting:
            known = ", ".join(sorted(self.enrolled())) or "none"
            raise IdentityError(
                f"no device {name} is enrolled{meant(name, self.enrolled())}",
                remedy=f"Name one of those enrolled: {known}.",
            )

    def rotate(self) -> int:
        """Makes another key sign from now on, announced under the present one.

        Returns:
            The new key's number.
        """
        now = self._fresh()
        number, key = now.signing.number + 1, Ed25519PrivateKey.generate()
        self._store.rotate(signing_row(self.federation, number, key, now.key))
        return number

    def take_up(self) -> None:
        """Signs with the newest key from now on, once it has been announced."""
        now = self._fresh()
        self._hand = now.signing.number, now.key

    def log_keys(self) -> LogKeys:
        """The keys behind the run's log."""
        return LogKeys(self._authority, self._store, lambda: self._hand[1])

    # -- watching ----------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of what is known here; grows with every change."""
        return self._snapshot.version

    def refresh(self) -> None:
        """Reads the store again if it changed: commands write it meanwhile."""
        with self._lock:
            if self._store.version() != self._snapshot.version:
                self._snapshot = read_snapshot(self._store)

    def refused(self) -> Collection[str]:
        """Names that were revoked."""
        return {n for n, p in self.people.items() if p.revoked is not None}

    # -- the broker --------------------------------------------------------------------

    def port(self, wanted: int, free: Callable[[], int]) -> int:
        """The enrolment listener's port: as set, else the one tokens name already."""
        kept = self._store.fact("enroll port")
        port = wanted or int(kept or 0) or free()
        if kept is None or port != int(kept):
            self._store.put_fact("enroll port", str(port).encode())
        return port

    # -- inside ------------------------------------------------------------------------

    def _keys_of(self, name: str) -> Collection[bytes]:
        person = self._snapshot.people.get(name)
        return () if person is None else person.valid(self._now())

    def _held(self, name: str, key: bytes) -> None:
        """A signature held: once by a renewed key, the older ones are out of use."""
        person = self._snapshot.people[name]
        if len(person.keys) > 1 and key == person.keys[0]:
            self._store.revoke(name, SUPERSEDED, but_key=key)
            self.refresh()

    def _fresh(self) -> Snapshot:
        self.refresh()
        return self._snapshot


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(b"flash-edge token\n" + secret).digest()
