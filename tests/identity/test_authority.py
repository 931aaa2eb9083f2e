"""What the authority certifies, judged by openssl itself, at any date."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    Certificate,
    CertificateSigningRequestBuilder,
    Name,
    NameAttribute,
)
from cryptography.x509.oid import NameOID

from coordinator.identity.authority import Authority, check_request
from edge_sdk.errors import IdentityError
from edge_sdk.identity.keys import (
    check_issued,
    key_of_certificate,
    raw_key,
    request_for,
    subject_of,
)

KEY, OTHER, DEVICE = (
    Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2, 3)
)
AUTHORITY = Authority.found("home", KEY)
UNTIL = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
PI = AUTHORITY.for_device("pi-1", raw_key(DEVICE), UNTIL)
BROKER = AUTHORITY.for_server(DEVICE.public_key(), "192.168.1.10", UNTIL)
IN_1970, IN_2026, IN_2031 = 60, 1_770_000_000, 1_930_000_000


def believed(
    folder: Path, certificate: Certificate, *, at: int, crl: bytes = b"", **said: str
) -> bool:
    """Whether openssl accepts it at a time (Unix seconds)."""
    files = {
        "authority.pem": AUTHORITY.certificate.public_bytes(Encoding.PEM),
        "it.pem": certificate.public_bytes(Encoding.PEM),
        "crl.pem": crl,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    extra = [f"-{key}={value}" for key, value in said.items()]
    if crl:
        extra += ["-crl_check", "-CRLfile", str(folder / "crl.pem")]
    run = ["openssl", "verify", "-x509_strict", "-attime", str(at)]
    run += [part for one in extra for part in one.split("=", 1)]
    run += ["-CAfile", str(folder / "authority.pem"), str(folder / "it.pem")]
    return subprocess.run(run, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("at", "good"), [(IN_1970, True), (IN_2026, True), (IN_2031, False)]
)
def test_a_board_whose_clock_was_never_set_believes_the_broker(
    tmp_path: Path, at: int, good: bool
) -> None:
    where = {"verify_ip": "192.168.1.10"}
    assert believed(tmp_path, BROKER, at=at, purpose="sslserver", **where) == good
    assert believed(tmp_path, PI, at=at, purpose="sslclient") == good


def test_a_device_cannot_play_the_broker_nor_the_authority(tmp_path: Path) -> None:
    assert not believed(tmp_path, PI, at=IN_2026, purpose="sslserver")
    assert not believed(tmp_path, BROKER, at=IN_2026, purpose="sslclient")
    own = Authority("home", DEVICE, PI).for_device("pi-2", raw_key(OTHER), UNTIL)
    with pytest.raises(IdentityError, match="not issued by the pinned authority"):
        check_issued(own, AUTHORITY.certificate, raw_key(OTHER))
    assert not believed(tmp_path, own, at=IN_2026)


def test_the_brokers_name_is_checked(tmp_path: Path) -> None:
    for address, good in (
        ("192.168.1.10", True),
        ("127.0.0.1", True),
        ("10.0.0.9", False),
    ):
        assert believed(tmp_path, BROKER, at=IN_2026, verify_ip=address) == good
    named = AUTHORITY.for_server(DEVICE.public_key(), "hub.example", UNTIL)
    assert believed(tmp_path, named, at=IN_2026, verify_hostname="hub.example")


@pytest.mark.parametrize("at", [IN_1970 * 1000, IN_2026])
def test_a_revoked_certificate_is_refused_at_any_date(tmp_path: Path, at: int) -> None:
    none = AUTHORITY.revocations([], 7)
    some = AUTHORITY.revocations([PI.serial_number], 8)
    assert believed(tmp_path, PI, at=at, crl=none)
    assert not believed(tmp_path, PI, at=at, crl=some)
    assert not believed(tmp_path, PI, at=at, crl=none + some)  # the later list counts
    assert not believed(tmp_path, PI, at=at, crl=some + none)


def test_a_certificate_says_who_and_whose_key() -> None:
    assert subject_of(PI) == ("pi-1", "home")
    assert key_of_certificate(PI) == raw_key(DEVICE)
    check_issued(PI, AUTHORITY.certificate, raw_key(DEVICE))
    with pytest.raises(IdentityError, match="for another key"):
        check_issued(PI, AUTHORITY.certificate, raw_key(OTHER))


def test_a_request_gives_a_key_and_nothing_else() -> None:
    assert check_request(request_for(DEVICE)) == raw_key(DEVICE)
    wanted = Name([NameAttribute(NameOID.COMMON_NAME, "coordinator")])
    sly = CertificateSigningRequestBuilder().subject_name(wanted).sign(DEVICE, None)
    key = check_request(sly.public_bytes(Encoding.DER))
    assert subject_of(AUTHORITY.for_device("pi-1", key, UNTIL))[0] == "pi-1"


def test_a_request_that_proves_nothing_is_refused() -> None:
    der = bytearray(request_for(DEVICE))
    der[-1] ^= 1  # in the signature
    with pytest.raises(IdentityError, match="does not prove"):
        check_request(bytes(der))
    curve = generate_private_key(SECP256R1())
    other = (
        CertificateSigningRequestBuilder().subject_name(Name([])).sign(curve, SHA256())
    )
    with pytest.raises(IdentityError, match="Ed25519"):
        check_request(other.public_bytes(Encoding.DER))
    for noise in (b"", b"\x30", b"noise"):
        with pytest.raises(IdentityError, match="cannot be read"):
            check_request(noise)
