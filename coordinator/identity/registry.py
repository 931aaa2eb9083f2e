"""Registry of a run's identities: lets devices in, renews, revokes, signs.

Its memory is the `IdentityStore`; what the coordinator's threads ask of it many times a
second is a frozen snapshot, read again when the store's version has changed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import UNSET

from coordinator.identity.authority import Authority, check_request
from coordinator.identity.log_keys import LogKeys
from coordinator.identity.policy import (
    DAY_S,
    NEW_KEYS_A_DAY,
    TokenRow,
    check_clock,
    check_new_name,
    check_renewal,
    redeem,
    renewal_due,
    valid_keys,
)
from coordinator.identity.store import CertificateRow, IdentityStore, SigningRow
from device_profiles.words import meant
from edge_sdk.errors import IdentityError
from edge_sdk.identity.keys import (
    key_pem,
    load_certificate,
    load_key,
    raw_key,
    subject_of,
)
from edge_sdk.identity.signatures import Seal, signer, verifier
from edge_sdk.identity.token import SECRET_BYTES, Token, pin_of, write_token
from edge_sdk.wire.codec import Header, encode
from edge_sdk.wire.messages import NextKey
from edge_sdk.wire.topics import check_id

__all__ = ["EnrolledDevice", "IdentityRegistry"]

# The broker's certificate is new at each start of the coordinator, so its life is only
# how long one may run. Ten years: nobody could renew it under a broker that serves.
BROKER_DAYS = 3650
SUPERSEDED = "a newer certificate took its place"


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """One enrolled device.

    Attributes:
        keys: The keys it may sign with, newest first: two while it renews.
        ends: Unix seconds of the end of each key's certificate.
        last_key: The key of its newest certificate, accepted or not.
        until: Unix seconds of the end of its newest certificate.
        certificate: The newest, DER.
        revoked: Why, if it is not accepted any more.
        made_until: Unix seconds of the ends of its latest certificates.
    """

    keys: tuple[bytes, ...]
    ends: tuple[int, ...]
    last_key: bytes
    until: int
    certificate: bytes
    revoked: str | None
    made_until: tuple[int, ...] = ()

    def valid(self, now: int) -> tuple[bytes, ...]:
        """The keys that are believed at a time, in Unix seconds."""
        return valid_keys(self.keys, self.ends, now)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    version: int
    people: Mapping[str, EnrolledDevice]
    signing: SigningRow
    key: Ed25519PrivateKey
    notices: tuple[tuple[int, bytes], ...]
    own_keys: tuple[bytes, ...]


class IdentityRegistry:
    """The identities of one run; made on first use, shared by threads.

    Args:
        folder: The run's folder.
        federation: The federation's name.
        days: How long a device's certificate lasts.
        now: Unix seconds.
        new_key: Makes keys.

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
        now: Callable[[], int] = lambda: int(
            dt.datetime.now(dt.timezone.utc).timestamp()
        ),
        new_key: Callable[[], Ed25519PrivateKey] = Ed25519PrivateKey.generate,
    ) -> None:
        self.federation, self._days = federation, days
        self._now, self._new_key = now, new_key
        self._store = IdentityStore(folder)
        self._authority = self._load_authority(federation)
        self._lock = threading.Lock()
        self._snapshot = self._read()
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
        return (
            f"the certificate of {name} ended on {_date(person.until)}, and the "
            f"coordinator's clock says {_date(now)}"
        )

    def _in_force(self) -> set[str]:
        """Names that cannot be enrolled: of devices that are believed."""
        people, now = self._fresh().people, self._now()
        return {n for n, p in people.items() if p.revoked is None and p.valid(now)}

    def _issue(self, name: str, key: bytes, token: bytes | None) -> bool:
        until = self._now() + self._days * DAY_S
        end = dt.datetime.fromtimestamp(until, dt.timezone.utc)
        certificate = self._authority.for_device(name, key, end)
        der = certificate.public_bytes(Encoding.DER)
        last = int(certificate.not_valid_after_utc.timestamp())  # not after 2049
        row = CertificateRow(name, key, der, certificate.serial_number, last, None)
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
        number, key = now.signing.number + 1, self._new_key()
        header = Header(
            "next-key", self.federation, "coordinator", "all", 0, number, 0,
            key=number - 1 or UNSET,
        )  # fmt: skip
        sign = signer(lambda: now.key)
        notice = encode(header, NextKey(number, raw_key(key)), sign=sign)
        self._store.rotate(SigningRow(number, raw_key(key), key_pem(key), notice))
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
                self._snapshot = self._read()

    def revocations(self) -> bytes:
        """The list of revoked certificates, PEM; later states have later lists."""
        rows = self._store.certificates()
        serials = [row.serial for row in rows if row.revoked is not None]
        return self._authority.revocations(serials, self._store.version())

    def refused(self) -> Collection[str]:
        """Names that were revoked."""
        return {n for n, p in self.people.items() if p.revoked is not None}

    # -- the broker --------------------------------------------------------------------

    def server_pem(self, address: str) -> bytes:
        """A new key and certificate of broker and listener, PEM."""
        key = self._new_key()
        end = self._date(BROKER_DAYS)
        certificate = self._authority.for_server(key.public_key(), address, end)
        return key_pem(key) + certificate.public_bytes(Encoding.PEM)

    def client_pem(self, name: str) -> bytes:
        """A new key and certificate to connect to the broker under a name, PEM."""
        key = self._new_key()
        certificate = self._authority.for_device(
            name, raw_key(key), self._date(BROKER_DAYS)
        )
        return key_pem(key) + certificate.public_bytes(Encoding.PEM)

    def port(self, wanted: int, free: Callable[[], int]) -> int:
        """The enrolment listener's port: as set, else the one tokens name already."""
        kept = self._store.fact("enroll port")
        port = wanted or int(kept or 0) or free()
        if kept is None or port != int(kept):
            self._store.put_fact("enroll port", str(port).encode())
        return port

    def authority_pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return self._authority.certificate.public_bytes(Encoding.PEM)

    def _date(self, days: int) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._now(), dt.timezone.utc) + dt.timedelta(
            days=days
        )

    # -- inside ------------------------------------------------------------------------

    def _keys_of(self, name: str) -> Collection[bytes]:
        person = self._snapshot.people.get(name)
        if person is None or person.revoked is not None:
            return ()
        return person.valid(self._now())

    def _held(self, name: str, key: bytes) -> None:
        """A signature held: once by a renewed key, the older ones are out of use."""
        person = self._snapshot.people[name]
        if len(person.keys) > 1 and key == person.keys[0]:
            self._store.revoke(name, SUPERSEDED, but_key=key)
            self.refresh()

    def _fresh(self) -> _Snapshot:
        self.refresh()
        return self._snapshot

    def _load_authority(self, federation: str) -> Authority:
        if self._store.fact("authority") is None:
            check_id(federation, what="federation")
            made = Authority.found(federation, self._new_key())
            first = self._new_key()
            row = SigningRow(0, raw_key(first), key_pem(first), None)
            self._store.found(made.der, key_pem(made.key), row)
        der, pem = (self._store.fact(f) for f in ("authority", "authority key"))
        if der is None or pem is None:
            raise IdentityError(f"{self._store.path} holds no authority")
        certificate = load_certificate(der)
        found = Authority(federation, load_key(pem), certificate)
        if subject_of(certificate)[1] != federation:
            raise IdentityError(
                f"{self._store.path} belongs to another federation than {federation}",
                remedy="Give the run its old name back, or start in a new folder.",
            )
        return found

    def _read(self) -> _Snapshot:
        version = self._store.version()  # first: what comes later is read once more
        rows: dict[str, list[CertificateRow]] = {}
        for row in self._store.certificates():
            rows.setdefault(row.name, []).append(row)
        people = {name: _person(found) for name, found in rows.items()}
        signing = self._store.signing()
        current = signing[-1]
        if current.private is None:
            raise IdentityError(f"{self._store.path} holds no signing key")
        return _Snapshot(
            version,
            MappingProxyType(people),
            current,
            load_key(current.private),
            tuple((s.number, s.notice) for s in signing if s.notice is not None),
            tuple(s.public for s in reversed(signing)),
        )


def _person(rows: Sequence[CertificateRow]) -> EnrolledDevice:
    """An `EnrolledDevice` from all certificates of a device, oldest first."""
    newest = rows[-1]
    accepted = [(r.key, r.until) for r in reversed(rows) if r.revoked is None]
    # The oldest is the one in use, the newest the one that was asked for last; a device
    # that lost the keys between has them no more.
    held = accepted[:1] + accepted[1:][-1:]
    return EnrolledDevice(
        keys=tuple(key for key, _ in held),
        ends=tuple(until for _, until in held),
        last_key=newest.key,
        until=newest.until,
        certificate=newest.der,
        revoked=newest.revoked,
        made_until=tuple(r.until for r in rows[-NEW_KEYS_A_DAY:]),
    )


def _date(seconds: int) -> str:
    """A day, in UTC, for people."""
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).date().isoformat()


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(b"flash-edge token\n" + secret).digest()
