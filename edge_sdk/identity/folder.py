"""A device's identity on disk: its key and certificate, and whom it believes.

::

    device.pem        private key and certificate, mode 0600, replaced as one
    next.pem          the key of an enrolment or renewal under way, mode 0600
    authority.pem     the federation's authority
    coordinator.json  the coordinator's signing key and its number
"""

from __future__ import annotations

import contextlib
import json
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import CheckpointError, IdentityError
from edge_sdk.identity.exchange import Enrolled
from edge_sdk.identity.keys import (
    certificate_pem,
    check_issued,
    key_pem,
    load_certificate,
    load_key,
    raw_key,
    request_for,
    subject_of,
)
from edge_sdk.identity.signatures import Seal, signer, verifier

__all__ = ["DeviceFolder", "NewDevice", "begun", "mode_complaint"]

DEVICE, NEXT = "device.pem", "next.pem"
AUTHORITY, COORDINATOR = "authority.pem", "coordinator.json"
BROKER_AUTHORITY = "broker-authority.pem"


def mode_complaint(path: Path) -> str | None:
    """A sentence on a key file that others can read; None if they cannot."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return f"{path} can be read by others (mode {mode:o})"
    return None


def begun(folder: Path) -> bool:
    """Return whether an enrolment was cut off in a folder: the same token ends it."""
    return (folder / NEXT).exists() and not (folder / DEVICE).exists()


class NewDevice:
    """A folder in which a device is being enrolled.

    Raises:
        IdentityError: If a device is enrolled there already, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / DEVICE).exists():
            raise IdentityError(
                f"{folder} holds a device's identity already",
                remedy="Name another --folder. To enrol this device anew: delete "
                f"{folder}.",
            )
        self._key = _pending_key(folder)

    @property
    def public_key(self) -> bytes:
        """The raw key made here."""
        return raw_key(self._key)

    def request(self) -> bytes:
        """The signing request of the key made here; the same key after a crash."""
        return request_for(self._key)

    def finish(self, answer: Enrolled, authority: bytes) -> None:
        """Keeps what the coordinator answered; `device.pem` comes last, and counts.

        Args:
            answer: What it answered.
            authority: The pinned authority's certificate, DER.

        Raises:
            IdentityError: If the certificate is not the authority's, or not of this
                key and name.
        """
        certificate = load_certificate(answer.certificate)
        check_issued(certificate, load_certificate(authority), self.public_key)
        if subject_of(certificate) != (answer.name, answer.federation):
            raise IdentityError("the certificate names another device")
        _write(self.folder / AUTHORITY, certificate_pem(authority))
        if answer.broker_authority:
            _write(self.folder / BROKER_AUTHORITY, answer.broker_authority)
        _pin(self.folder, answer.key_number, answer.key)
        _write(self.folder / DEVICE, key_pem(self._key) + _pem(certificate), 0o600)
        (self.folder / NEXT).unlink(missing_ok=True)


class DeviceFolder:
    """The identity of an enrolled device; implements `edge_sdk.agent.DeviceKeys`.

    Raises:
        IdentityError: If it is missing, damaged, or others can read the key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            complaint = mode_complaint(folder / DEVICE)
            pem = (folder / DEVICE).read_bytes()
            self.certificate = x509.load_pem_x509_certificate(pem)
            self._authority = x509.load_pem_x509_certificate(
                (folder / AUTHORITY).read_bytes()
            )
            pinned = json.loads((folder / COORDINATOR).read_bytes())
            self.number, self._coordinator = (
                int(pinned["number"]),
                bytes.fromhex(pinned["key"]),
            )
        except FileNotFoundError as error:
            raise IdentityError(
                f"no device is enrolled in {folder}: {error}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IdentityError(
                f"the identity in {folder} is damaged: {error}"
            ) from error
        if complaint:
            raise IdentityError(complaint, remedy=f"chmod 600 {folder / DEVICE}")
        self._key = load_key(pem)
        check_issued(self.certificate, self._authority, raw_key(self._key))
        self.name, self.federation = subject_of(self.certificate)
        self._seal = Seal(
            signer(lambda: self._key),
            verifier(lambda who: [self._coordinator] if who == "coordinator" else []),
        )

    @property
    def seal(self) -> Seal:
        """Signs with the key in use, believes the pinned coordinator."""
        return self._seal

    @property
    def public_key(self) -> bytes:
        """The raw key in use."""
        return raw_key(self._key)

    @property
    def authority_path(self) -> Path:
        """PEM of whom to believe as the broker."""
        own = self.folder / BROKER_AUTHORITY
        return own if own.exists() else self.folder / AUTHORITY

    @property
    def device_path(self) -> Path:
        """PEM of key and certificate."""
        return self.folder / DEVICE

    @property
    def authority(self) -> bytes:
        """The pinned authority's certificate, DER."""
        return self._authority.public_bytes(Encoding.DER)

    def adopt(self, number: int, key: bytes) -> bool:
        """Pins the coordinator's next key; whether it is newer than the present one."""
        if number <= self.number:
            return False
        _pin(self.folder, number, key)
        self.number, self._coordinator = number, key
        return True

    def request(self) -> bytes:
        """The signing request of the next key, which is made if there is none yet."""
        return request_for(_pending_key(self.folder))

    def install(self, certificate: bytes) -> bool:
        """Takes the next key into use with its certificate; whether it fitted.

        A repetition of an older certificate fits no next key, and changes nothing.
        """
        if not (self.folder / NEXT).exists():
            return False
        key = _pending_key(self.folder)
        new = load_certificate(certificate)
        try:
            check_issued(new, self._authority, raw_key(key))
        except IdentityError:
            return False
        if subject_of(new) != (self.name, self.federation):
            return False
        _write(self.folder / DEVICE, key_pem(key) + _pem(new), 0o600)
        (self.folder / NEXT).unlink(missing_ok=True)
        self._key, self.certificate = key, new
        return True


def _pending_key(folder: Path) -> Ed25519PrivateKey:
    path = folder / NEXT
    with contextlib.suppress(FileNotFoundError):
        return load_key(path.read_bytes())
    key = Ed25519PrivateKey.generate()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise IdentityError(
            f"the identity folder {folder} cannot be made: {error}",
            remedy="Name a folder that can be written with --folder.",
        ) from error
    _write(path, key_pem(key), 0o600)
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _pin(folder: Path, number: int, key: bytes) -> None:
    content = json.dumps({"number": number, "key": key.hex()})
    _write(folder / COORDINATOR, content.encode())


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    try:
        replace_file(path, content, mode=mode)
    except CheckpointError as error:
        raise IdentityError(str(error), remedy=error.help) from error
