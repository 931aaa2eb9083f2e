"""Certificates and signatures in a proof: who signed, under which authority."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_sdk.errors import EdgeError, IdentityError, RemoteProtocolError
from edge_sdk.identity.keys import (
    check_issued,
    key_of_certificate,
    load_certificate,
    subject_of,
)
from edge_sdk.identity.signatures import verifier
from edge_sdk.wire.codec import Header, decode
from edge_sdk.wire.messages import Offer

__all__ = ["Certificates", "load_authority"]

COORDINATOR = "coordinator"  # the name in the certificate that signs a log


def load_authority(content: bytes) -> x509.Certificate:
    """An authority's certificate, from PEM or DER.

    Raises:
        IdentityError: If it is none.
    """
    try:
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificate(content)
        return load_certificate(content)
    except (ValueError, IdentityError) as error:
        raise IdentityError(
            f"the authority's certificate cannot be read: {error}",
            remedy="Name the authority.pem of a device's identity folder.",
        ) from error


class Certificates:
    """The certificates of a proof, each checked once.

    Args:
        content: Digest in hex to DER; None where the proof has none of it.
        authority: Whom to believe.
        federation: Whose log it is.
    """

    def __init__(
        self,
        content: Callable[[str], bytes | None],
        authority: x509.Certificate,
        federation: str,
    ) -> None:
        self._content, self._authority = content, authority
        self._federation = federation
        self._known: dict[tuple[str, str], tuple[bytes, str]] = {}

    def key_of(self, digest: str, name: str) -> tuple[bytes, str]:
        """The raw key that a certificate gives a name, and an empty text; or why not.

        Args:
            digest: The certificate's, hex.
            name: A device's, or ``coordinator``.
        """
        if (digest, name) not in self._known:
            try:
                self._known[digest, name] = self._read(digest, name), ""
            except (EdgeError, ValueError, UnsupportedAlgorithm) as error:
                self._known[digest, name] = b"", str(error)
        return self._known[digest, name]

    def _read(self, digest: str, name: str) -> bytes:
        content = self._content(digest)
        if content is None or sha256(content).hexdigest() != digest:
            raise IdentityError("its certificate is not in the proof")
        certificate = load_certificate(content)
        key = key_of_certificate(certificate)
        if name == COORDINATOR:
            _check_coordinator(certificate, self._authority)
        else:
            check_issued(certificate, self._authority, key)
        if subject_of(certificate) != (name, self._federation):
            raise IdentityError("its certificate names somebody else")
        return key

    def signs(self, digest: str, signature: bytes, text: bytes) -> str:
        """The reason why the coordinator did not sign a text; empty if it did."""
        key, why = self.key_of(digest, COORDINATOR)
        if why:
            return why
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
        except (InvalidSignature, ValueError):
            return "the signature does not hold"
        return ""

    def offer_of(self, device: str, digest: str, packet: bytes) -> Offer | str:
        """The offer that a device signed; or why it did not sign one."""
        key, why = self.key_of(digest, device)
        if why:
            return why
        believe = verifier(lambda who: (key,) if who == device else ())
        try:
            envelope = decode(packet, verify=believe)
        except RemoteProtocolError as error:
            return str(error)
        if not isinstance(envelope.message, Offer):
            return "what it signed is no offer"
        return self._meant(envelope.header, device) or envelope.message

    def _meant(self, header: Header, device: str) -> str:
        found = header.federation, header.source, header.destination
        wanted = self._federation, device, COORDINATOR
        return "" if found == wanted else "what it signed was for another federation"


def _check_coordinator(
    certificate: x509.Certificate, authority: x509.Certificate
) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise IdentityError(
            "its certificate was not issued by the authority"
        ) from error
    if ExtendedKeyUsageOID.CODE_SIGNING not in usage.value or limits.value.ca:
        raise IdentityError("its certificate is for another purpose")
