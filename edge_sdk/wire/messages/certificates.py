"""Messages of identities: renewed and revoked certificates, the next signing key."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edge_sdk.wire.named import Digest, Why

__all__ = ["Certificate", "NextKey", "Renew", "Request", "Revoked"]


class Revoked(Struct, frozen=True, tag="revoked"):
    """Coordinator to device: messages signed with this key are no longer accepted."""

    key: Digest
    why: Why


class Renew(Struct, frozen=True, tag="renew"):
    """Coordinator to device: make new keys and ask for a new certificate."""

    why: Why


class Request(Struct, frozen=True, tag="request"):
    """Device to coordinator: a certificate signing request (DER) for its next keys."""

    csr: Annotated[bytes, Meta(min_length=1, max_length=4096)]


class Certificate(Struct, frozen=True, tag="certificate"):
    """Coordinator to device: the certificate (DER) that its request asked for."""

    certificate: Annotated[bytes, Meta(min_length=1, max_length=8192)]


class NextKey(Struct, frozen=True, tag="next-key"):
    """Coordinator to all, retained: the Ed25519 key that signs from now on.

    Signed with the key that it replaces, so a device that slept follows the numbers
    from the key it has to the newest.
    """

    number: Annotated[int, Meta(ge=1)]
    key: Digest
