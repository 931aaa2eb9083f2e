"""`EnrolledDevice`, and the snapshot of all that an identity store holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.identity.policy import NEW_KEYS_A_DAY, valid_keys
from coordinator.identity.store import CertificateRow, IdentityStore, SigningRow
from edge_sdk.errors import IdentityError
from edge_sdk.identity.keys import load_key

__all__ = ["EnrolledDevice", "Snapshot", "ended", "read_snapshot", "unix_now"]


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
        """The keys that are believed at a time, in Unix seconds; none once revoked."""
        if self.revoked is not None:
            return ()
        return valid_keys(self.keys, self.ends, now)


def ended(name: str, device: EnrolledDevice, now: int) -> str:
    """A sentence on a device's expired certificate, at a time in Unix seconds."""
    return (
        f"the certificate of {name} ended on {_date(device.until)}, and the "
        f"coordinator's clock says {_date(now)}"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Content of an identity store at one version.

    Attributes:
        version: Of the store.
        people: Every device that ever enrolled.
        signing: What signs now.
        key: Its private half.
        notices: (number, packet) of each later key.
        own_keys: Raw public keys that sign or have signed, newest first.
    """

    version: int
    people: Mapping[str, EnrolledDevice]
    signing: SigningRow
    key: Ed25519PrivateKey
    notices: tuple[tuple[int, bytes], ...]
    own_keys: tuple[bytes, ...]


def read_snapshot(store: IdentityStore) -> Snapshot:
    """The store as it is now.

    Raises:
        IdentityError: If it holds no signing key.
    """
    version = store.version()  # first: what comes later is read once more
    rows: dict[str, list[CertificateRow]] = {}
    for row in store.certificates():
        rows.setdefault(row.name, []).append(row)
    people = {name: _person(found) for name, found in rows.items()}
    signing = store.signing()
    current = signing[-1]
    if current.private is None:
        raise IdentityError(f"{store.path} holds no signing key")
    return Snapshot(
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


def unix_now() -> int:
    """Unix seconds."""
    return int(dt.datetime.now(dt.timezone.utc).timestamp())


def _date(seconds: int) -> str:
    """A day, in UTC, for people."""
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).date().isoformat()
