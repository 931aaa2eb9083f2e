"""The federation's private authority: what it certifies, as values.

No public authority is asked, so nothing leaves the site and nobody else can make a
device. The authority signs device certificates (client only), the broker's (server
only) and the list of revoked ones.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_sdk.errors import IdentityError

__all__ = ["END", "Authority", "check_request"]

# A board in 1970 accepts what begins there, and no date in the future is ever needed.
BEGIN = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
END = dt.datetime(2049, 12, 31, tzinfo=dt.timezone.utc)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_request(csr: bytes) -> bytes:
    """The raw public key that a signing request (DER) asks a certificate for.

    Everything else a request may ask for is ignored: names and rights are given.

    Raises:
        IdentityError: If it is none, is not for an Ed25519 key, or its sender does
            not hold the private half.
    """
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        holds = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the signing request cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey) or not holds:
        raise IdentityError("the signing request does not prove an Ed25519 key")
    return key.public_bytes_raw()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of one federation."""

    federation: str
    key: Ed25519PrivateKey
    certificate: x509.Certificate

    @classmethod
    def found(cls, federation: str, key: Ed25519PrivateKey) -> Authority:
        """A new authority."""
        name = _name("authority", federation)
        builder = _builder(name, name, key.public_key(), END).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        usage = _usage(certify=True)
        certificate = builder.add_extension(usage, critical=True).sign(key, None)
        return cls(federation, key, certificate)

    @property
    def der(self) -> bytes:
        """The authority's certificate, as DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def for_device(self, name: str, key: bytes, until: dt.datetime) -> x509.Certificate:
        """The certificate that lets a device connect, as a client, under a name."""
        public = Ed25519PublicKey.from_public_bytes(key)
        return self._issue(name, public, until, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def for_log(self, key: bytes, until: dt.datetime) -> x509.Certificate:
        """The certificate of the key that signs the run's log, as `coordinator`."""
        public = Ed25519PublicKey.from_public_bytes(key)
        usage = ExtendedKeyUsageOID.CODE_SIGNING
        return self._issue("coordinator", public, until, usage, ())

    def for_server(
        self, key: Ed25519PublicKey, address: str, until: dt.datetime
    ) -> x509.Certificate:
        """The certificate of broker and enrolment listener at an address."""
        names = [_general(one) for one in dict.fromkeys((address, *LOOPBACK))]
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue("broker", key, until, usage, names)

    def revocations(self, serials: Iterable[int], number: int) -> bytes:
        """The list of revoked certificates, PEM.

        Its date is its number in seconds after 1970: of two lists OpenSSL believes the
        later, and a date from a clock could stand still or lie in the future.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(BEGIN + dt.timedelta(seconds=number))
            .next_update(END)
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(BEGIN)
                .build()
            )
        return builder.sign(self.key, None).public_bytes(Encoding.PEM)

    def _issue(
        self,
        name: str,
        key: Ed25519PublicKey,
        until: dt.datetime,
        purpose: x509.ObjectIdentifier,
        names: Iterable[x509.GeneralName],
    ) -> x509.Certificate:
        subject = _name(name, self.federation)
        builder = _builder(subject, self.certificate.subject, key, min(until, END))
        builder = builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        ).add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        builder = builder.add_extension(_usage(certify=False), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
            critical=False,
        )
        return builder.sign(self.key, None)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certify,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certify,
        crl_sign=certify,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str, federation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
