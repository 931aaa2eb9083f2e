"""Rows that a registry adds to its store: certificates and signing keys."""

from __future__ import annotations

import datetime as dt

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import UNSET

from coordinator.identity.authority import Authority
from coordinator.identity.store import CertificateRow, SigningRow
from edge_sdk.identity.keys import key_pem, raw_key
from edge_sdk.identity.signatures import signer
from edge_sdk.wire.codec import Header, encode
from edge_sdk.wire.messages import NextKey

__all__ = ["certificate_row", "signing_row"]


def certificate_row(
    authority: Authority, name: str, key: bytes, until: int
) -> CertificateRow:
    """A device's certificate, until Unix seconds.

    Args:
        authority: Signs it.
        name: The device.
        key: Its raw public key.
        until: Unix seconds; the certificate ends with 2049 at the latest.
    """
    end = dt.datetime.fromtimestamp(until, dt.timezone.utc)
    certificate = authority.for_device(name, key, end)
    der = certificate.public_bytes(Encoding.DER)
    last = int(certificate.not_valid_after_utc.timestamp())
    return CertificateRow(name, key, der, certificate.serial_number, last, None)


def signing_row(
    federation: str, number: int, key: Ed25519PrivateKey, before: Ed25519PrivateKey
) -> SigningRow:
    """A key that signs from now on, with its announcement under the key before it.

    Args:
        federation: The federation's name.
        number: Of the new key; the one before it has the number before.
        key: The new key.
        before: The key that signed until now.
    """
    header = Header(
        "next-key", federation, "coordinator", "all", 0, number, 0,
        key=number - 1 or UNSET,
    )  # fmt: skip
    notice = encode(header, NextKey(number, raw_key(key)), sign=signer(lambda: before))
    return SigningRow(number, raw_key(key), key_pem(key), notice)
