"""Certificates of the broker and of its clients that are no devices; revoked ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.identity.authority import Authority
from coordinator.identity.store import IdentityStore
from edge_sdk.identity.keys import key_pem, raw_key

__all__ = ["ServiceCertificates"]

# The broker's certificate is new at each start of the coordinator, so its life is only
# how long one may run. Ten years: nobody could renew it under a broker that serves.
BROKER_DAYS = 3650


@dataclass(frozen=True)
class ServiceCertificates:
    """Certificates of a broker and of the coordinator's connections to it, PEM.

    Attributes:
        authority: Of the run.
        store: Its devices' certificates.
        now: Unix seconds.
    """

    authority: Authority
    store: IdentityStore
    now: Callable[[], int]

    def authority_pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return self.authority.certificate.public_bytes(Encoding.PEM)

    def server_pem(self, address: str) -> bytes:
        """A new key and certificate of broker and enrolment listener, PEM."""
        key = Ed25519PrivateKey.generate()
        made = self.authority.for_server(key.public_key(), address, self._end())
        return key_pem(key) + made.public_bytes(Encoding.PEM)

    def client_pem(self, name: str) -> bytes:
        """A new key and certificate to connect to the broker under a name, PEM."""
        key = Ed25519PrivateKey.generate()
        made = self.authority.for_device(name, raw_key(key), self._end())
        return key_pem(key) + made.public_bytes(Encoding.PEM)

    def revocations(self) -> bytes:
        """The list of revoked certificates, PEM; later states have later lists."""
        rows = self.store.certificates()
        serials = [row.serial for row in rows if row.revoked is not None]
        return self.authority.revocations(serials, self.store.version())

    def _end(self) -> dt.datetime:
        start = dt.datetime.fromtimestamp(self.now(), dt.timezone.utc)
        return start + dt.timedelta(days=BROKER_DAYS)
