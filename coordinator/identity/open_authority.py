"""`open_authority`: the authority of an identity store, made on first use."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.identity.authority import Authority
from coordinator.identity.store import IdentityStore, SigningRow
from edge_sdk.errors import IdentityError
from edge_sdk.identity.keys import (
    key_pem,
    load_certificate,
    load_key,
    raw_key,
    subject_of,
)
from edge_sdk.wire.topics import check_id

__all__ = ["open_authority"]


def open_authority(store: IdentityStore, federation: str) -> Authority:
    """The authority that a store holds; made with the first signing key if it has none.

    Args:
        store: The run's.
        federation: The federation's name.

    Raises:
        IdentityError: If the store belongs to another federation.
        LocalProtocolError: If the federation's name is none.
    """
    if store.fact("authority") is None:
        check_id(federation, what="federation")
        made = Authority.found(federation, Ed25519PrivateKey.generate())
        first = Ed25519PrivateKey.generate()
        row = SigningRow(0, raw_key(first), key_pem(first), None)
        store.found(made.der, key_pem(made.key), row)
    der, pem = (store.fact(f) for f in ("authority", "authority key"))
    if der is None or pem is None:
        raise IdentityError(f"{store.path} holds no authority")
    certificate = load_certificate(der)
    found = Authority(federation, load_key(pem), certificate)
    if subject_of(certificate)[1] != federation:
        raise IdentityError(
            f"{store.path} belongs to another federation than {federation}",
            remedy="Give the run its old name back, or start in a new folder.",
        )
    return found
