"""One Ed25519 key per device: it signs messages and proves itself in TLS.

Certificates name their device and federation in the subject. They begin in 1970, so a
board without a battery-backed clock, which wakes there, refuses none of them.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_sdk.errors import IdentityError

__all__ = [
    "certificate_pem",
    "check_issued",
    "key_of_certificate",
    "key_pem",
    "load_certificate",
    "load_key",
    "raw_key",
    "request_for",
    "subject_of",
]

E = TypeVar("E", bound=x509.ExtensionType)


def raw_key(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of its public half."""
    return key.public_key().public_bytes_raw()


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """The private key as PEM; for a file of mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> Ed25519PrivateKey:
    """The private key in a PEM file's bytes.

    Raises:
        IdentityError: If there is none of our kind.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the private key cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError("the private key is not an Ed25519 key")
    return key


def request_for(key: Ed25519PrivateKey) -> bytes:
    """A certificate signing request (DER); the coordinator decides every name in it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, None).public_bytes(Encoding.DER)


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate from DER.

    Raises:
        IdentityError: If it is none.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise IdentityError(f"a certificate cannot be read: {error}") from error


def certificate_pem(der: bytes) -> bytes:
    """A certificate as PEM."""
    return load_certificate(der).public_bytes(Encoding.PEM)


def key_of_certificate(certificate: x509.Certificate) -> bytes:
    """The raw Ed25519 key that a certificate is about.

    Raises:
        IdentityError: If it is about another kind of key.
    """
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("the certificate is not for an Ed25519 key")
    return key.public_bytes_raw()


def subject_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Name and federation that a certificate gives its holder.

    Raises:
        IdentityError: If it gives none.
    """
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    federation = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(name) != 1 or len(federation) != 1:
        raise IdentityError("the certificate does not name a device and a federation")
    return str(name[0].value), str(federation[0].value)


def check_issued(
    certificate: x509.Certificate, authority: x509.Certificate, key: bytes
) -> None:
    """Refuses one of another authority, of another key or for another purpose.

    Its dates are judged by the coordinator: a board's clock may stand in 1970.

    Raises:
        IdentityError: If so.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise IdentityError(
            "the certificate was not issued by the pinned authority"
        ) from error
    if key_of_certificate(certificate) != key:
        raise IdentityError("the certificate is for another key")
    purposes = _extension(certificate, x509.ExtendedKeyUsage) or ()
    limits = _extension(certificate, x509.BasicConstraints)
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes or limits is None or limits.ca:
        raise IdentityError("the certificate is not a device's: it has another purpose")


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
