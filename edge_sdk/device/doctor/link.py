"""The way to the coordinator: broker, this device's identity, the encrypted link."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
from typing import TYPE_CHECKING

from edge_sdk.device.doctor.check import Check, DoctorTarget
from edge_sdk.errors import BrokerError, IdentityError
from edge_sdk.wire.blob import AROUND, CHUNK_SIZE

if TYPE_CHECKING:
    from edge_sdk.transport.address import Address
    from edge_sdk.transport.trial import BrokerTrial

__all__ = ["broker", "identity", "of_trial", "packets", "tls"]

WAIT_S = 5.0
# A certificate that ends sooner than this should be renewed now.
RENEW_DAYS = 14
LARGEST_HELLO = 4096  # bytes; a measured profile with its notes has 2 to 3 KiB
LIMIT_FIX = (
    "Raise the broker's limit to 128 KiB: max_packet_size and message_size_limit of "
    "mosquitto, or the like."
)
REFUSAL_S = 0.5  # a broker that says nothing for so long has taken the certificate


def broker(patient: DoctorTarget) -> Check:
    """An MQTT broker answers, where the link is not encrypted."""
    if patient.broker_url is None:
        return Check("broker", "skipped", "none named")
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415
    from edge_sdk.transport.mqtt import MqttTransport  # noqa: PLC0415

    try:
        address = parse_url(patient.broker_url, patient.tls)
        if address.tls is not None:
            return Check("broker", "skipped", "asked through TLS, see there")
        MqttTransport(
            address,
            "doctor",
            lambda _m: None,
            lambda _up: None,
            wait_s=WAIT_S,
            once=True,
        ).close()
    except BrokerError as error:
        return Check("broker", "problem", str(error), error.help)
    return Check("broker", "PASS", f"MQTT answers at {address.host}:{address.port}")


def packets(patient: DoctorTarget) -> Check:
    """The broker takes what this device says first, and the chunks of an update."""
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415
    from edge_sdk.transport.trial import try_broker  # noqa: PLC0415

    if patient.broker_url is None:
        return Check("packets", "skipped", "no broker named")
    try:
        address = parse_url(patient.broker_url, patient.tls)
        if address.tls is not None:  # it would take the agent's place at the broker
            return Check("packets", "skipped", "not tried under the device's own name")
        trial = try_broker(address, (LARGEST_HELLO, CHUNK_SIZE + AROUND))
    except BrokerError:
        return Check("packets", "skipped", "no broker to try them on, see there")
    return of_trial(trial)


def of_trial(trial: BrokerTrial) -> Check:
    """The finding of a trial that sent a `LARGEST_HELLO` and a chunk."""
    if trial.stuck[:1] == (LARGEST_HELLO,):
        return Check(
            "packets",
            "problem",
            f"the broker does not take a message of {LARGEST_HELLO} bytes, and a "
            "device's first (HELLO) may be as large: it would never be asked",
            LIMIT_FIX,
        )
    if trial.stuck and not trial.limited:
        return Check(
            "packets",
            "problem",
            f"the broker does not take a message of {trial.stuck[0]} bytes and does "
            "not say its limit; models travel in such chunks",
            LIMIT_FIX,
        )
    if not trial.echoes:
        return Check("packets", "skipped", "the broker's access list lets none return")
    said = f"of {CHUNK_SIZE} bytes come back"
    if trial.stuck:
        said = f"up to {trial.limit} bytes: models will travel in smaller chunks"
    return Check("packets", "PASS", said)


def identity(patient: DoctorTarget) -> Check:
    """The key's mode, the pinned authority, and how long the certificate lasts."""
    if patient.identity is None:
        return Check("identity", "skipped", "this device is not enrolled")
    from edge_sdk.identity.folder import DeviceFolder  # noqa: PLC0415
    from edge_sdk.identity.token import pin_of  # noqa: PLC0415

    try:
        folder = DeviceFolder(patient.identity)
    except IdentityError as error:
        return Check("identity", "problem", str(error), error.help)
    end, today = folder.certificate.not_valid_after_utc.date(), _today(patient)
    left = (end - today).days
    if left < 0:
        return Check(
            "identity",
            "problem",
            f"the certificate of {folder.name} ended on {end}, and this board's clock "
            f"says {today}",
            "If the clock is wrong, set it (timedatectl set-ntp true). If it is right, "
            "ask the operator for a token, delete the identity folder, and enrol.",
        )
    if left < RENEW_DAYS:
        return Check(
            "identity",
            "problem",
            f"the certificate of {folder.name} ends in {left} days",
            "Start the agent: it renews with a coordinator that runs.",
        )
    return Check(
        "identity",
        "PASS",
        f"{folder.name} in {folder.federation}, for {left} days; authority "
        f"{pin_of(folder.authority).hex()[:16]}",
    )


def tls(patient: DoctorTarget) -> Check:
    """A real handshake: both certificates are believed, and the broker's lasts."""
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415

    if patient.broker_url is None:
        return Check("TLS", "skipped", "no broker named")
    try:
        address = parse_url(patient.broker_url, patient.tls)
        if address.tls is None:
            return Check("TLS", "skipped", "the link is not encrypted by this device")
        left = (_handshake(address) - _today(patient)).days
    except BrokerError as error:
        return Check("TLS", "problem", str(error), error.help)
    except (OSError, ValueError) as error:
        return Check("TLS", "problem", *_tls_complaint(error, patient.broker_url))
    if left < RENEW_DAYS:
        return Check(
            "TLS",
            "problem",
            f"the broker's certificate ends in {left} days",
            "Restart the coordinator: it makes a new one at each start.",
        )
    return Check("TLS", "PASS", f"handshake done, certificate good for {left} days")


def _tls_complaint(error: Exception, url: str) -> tuple[str, str]:
    """The reason why a handshake failed, and the remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (9, 10):  # not yet valid, expired: by this clock
            today = dt.datetime.now(tz=dt.timezone.utc).date()
            return (
                f"{error.verify_message} by this board's clock, which says {today}",
                "Set the clock (timedatectl set-ntp true); if it is right, restart "
                "the coordinator.",
            )
        return (
            f"the broker's certificate is not believed: {error.verify_message}",
            "Check the clock, the authority's file, and the broker's name.",
        )
    if "CERTIFICATE_REVOKED" in str(error):
        return (
            "this device was revoked",
            "Ask the operator for a token, delete the identity folder, and enrol.",
        )
    return (
        f"no encrypted link to {url.rpartition('@')[2]}: {error}",
        "Check the port (8883 as a rule), the files, and `flash-edge enroll`.",
    )


def _today(patient: DoctorTarget) -> dt.date:
    return patient.today or dt.datetime.now(tz=dt.timezone.utc).date()


def _handshake(address: Address) -> dt.date:
    """The end of the broker's certificate, once it has taken ours too."""
    assert address.tls is not None  # noqa: S101 - asked before
    context = address.tls.context()
    with (
        socket.create_connection((address.host, address.port), timeout=WAIT_S) as raw,
        context.wrap_socket(raw, server_hostname=address.host) as link,
    ):
        found = link.getpeercert() or {}
        # In TLS 1.3 a refusal of our certificate comes after the handshake.
        link.settimeout(REFUSAL_S)
        with contextlib.suppress(TimeoutError):
            link.recv(1)
    until = ssl.cert_time_to_seconds(str(found["notAfter"]))
    return dt.datetime.fromtimestamp(until, tz=dt.timezone.utc).date()
