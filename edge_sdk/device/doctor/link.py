"""The way to the coordinator: broker, this device's identity, the encrypted link."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
from typing import TYPE_CHECKING, cast

from edge_sdk.device.doctor.check import DoctorTarget, Skipped, check_of
from edge_sdk.errors import BrokerError, EdgeError
from edge_sdk.wire.blob import AROUND, CHUNK_SIZE

if TYPE_CHECKING:
    from edge_sdk.transport.address import Address
    from edge_sdk.transport.trial import BrokerTrial

__all__ = ["broker", "identity", "packets", "tls"]

WAIT_S = 5.0
# A certificate that ends sooner than this should be renewed now.
RENEW_DAYS = 14
LARGEST_HELLO = 4096  # bytes; a measured profile with its notes has 2 to 3 KiB
LIMIT_FIX = (
    "Raise the broker's limit to 128 KiB: max_packet_size and message_size_limit of "
    "mosquitto, or the like."
)
REFUSAL_S = 0.5  # a broker that says nothing for so long has taken the certificate


@check_of("broker")
def broker(patient: DoctorTarget) -> str:
    """An MQTT broker answers, where the link is not encrypted."""
    if patient.broker_url is None:
        return Skipped("none named")
    from edge_sdk.transport.mqtt import MqttTransport  # noqa: PLC0415

    address = _address(patient)
    if address.tls is not None:
        return Skipped("asked through TLS, see there")
    MqttTransport(
        address,
        "doctor",
        lambda _m: None,
        lambda _up: None,
        wait_s=WAIT_S,
        once=True,
    ).close()
    return f"MQTT answers at {address.url}"


@check_of("packets")
def packets(patient: DoctorTarget) -> str:
    """The broker takes what this device says first, and the chunks of an update."""
    from edge_sdk.transport.trial import try_broker  # noqa: PLC0415

    if patient.broker_url is None:
        return Skipped("no broker named")
    try:
        address = _address(patient)
        if address.tls is not None:  # it would take the agent's place at the broker
            return Skipped("not tried under the device's own name")
        trial = try_broker(address, (LARGEST_HELLO, CHUNK_SIZE + AROUND))
    except BrokerError:
        return Skipped("no broker to try them on, see there")
    return _of_trial(trial)


def _of_trial(trial: BrokerTrial) -> str:
    """The finding of a trial that sent a `LARGEST_HELLO` and a chunk."""
    if trial.stuck[:1] == (LARGEST_HELLO,):
        raise EdgeError(
            f"the broker does not take a message of {LARGEST_HELLO} bytes, and a "
            "device's first (HELLO) may be as large: it would never be asked",
            remedy=LIMIT_FIX,
        )
    if trial.stuck and not trial.limited:
        raise EdgeError(
            f"the broker does not take a message of {trial.stuck[0]} bytes and does "
            "not say its limit; models travel in such chunks",
            remedy=LIMIT_FIX,
        )
    if not trial.echoes:
        return Skipped("the broker's access list lets none return")
    said = f"of {CHUNK_SIZE} bytes come back"
    if trial.stuck:
        said = f"up to {trial.limit} bytes: models will travel in smaller chunks"
    return said


@check_of("identity")
def identity(patient: DoctorTarget) -> str:
    """The key's mode, the pinned authority, and how long the certificate lasts."""
    if patient.identity is None:
        return Skipped("this device is not enrolled")
    from edge_sdk.identity.folder import DeviceFolder  # noqa: PLC0415
    from edge_sdk.identity.token import pin_of  # noqa: PLC0415

    folder = DeviceFolder(patient.identity)
    end, today = folder.certificate.not_valid_after_utc.date(), _today(patient)
    left = (end - today).days
    if left < 0:
        raise EdgeError(
            f"the certificate of {folder.name} ended on {end}, and this board's clock "
            f"says {today}",
            remedy="If the clock is wrong, set it (timedatectl set-ntp true). If it is "
            "right, ask the operator for a token, delete the identity folder, and "
            "enrol.",
        )
    if left < RENEW_DAYS:
        raise EdgeError(
            f"the certificate of {folder.name} ends in {left} days",
            remedy="Start the agent: it renews with a coordinator that runs.",
        )
    return (
        f"{folder.name} in {folder.federation}, for {left} days; authority "
        f"{pin_of(folder.authority).hex()[:16]}"
    )


@check_of("TLS")
def tls(patient: DoctorTarget) -> str:
    """A real handshake: both certificates are believed, and the broker's lasts."""
    if patient.broker_url is None:
        return Skipped("no broker named")
    try:
        address = _address(patient)
        if address.tls is None:
            return Skipped("the link is not encrypted by this device")
        left = (_first_end(address) - _today(patient)).days
    except (OSError, ValueError) as error:
        raise _tls_complaint(error, patient.broker_url) from error
    if left < RENEW_DAYS:
        raise EdgeError(
            f"the broker's certificate ends in {left} days",
            remedy="Restart the coordinator: it makes a new one at each start.",
        )
    return f"handshake done, certificate good for {left} days"


def _tls_complaint(error: Exception, url: str) -> EdgeError:
    """The reason why a handshake failed, and the remedy."""
    from edge_sdk.transport.refusals import in_tls_words  # noqa: PLC0415 - has paho

    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (9, 10):  # not yet valid, expired: by this clock
            today = dt.datetime.now(tz=dt.timezone.utc).date()
            return EdgeError(
                f"{error.verify_message} by this board's clock, which says {today}",
                remedy="Set the clock (timedatectl set-ntp true); if it is right, "
                "restart the coordinator.",
            )
        return EdgeError(
            f"the broker's certificate is not believed: {error.verify_message}",
            remedy="Check the clock, the authority's file, and the broker's name.",
        )
    if "CERTIFICATE_REVOKED" in str(error):
        return EdgeError(
            "this device was revoked",
            remedy="Ask the operator for a token, delete the identity folder, and "
            "enrol.",
        )
    return EdgeError(
        f"no encrypted link to {url.rpartition('@')[2]}: {in_tls_words(str(error))}",
        remedy="Check the port (8883 as a rule), the files, and `flash-edge enroll`.",
    )


def _address(patient: DoctorTarget) -> Address:
    from edge_sdk.transport.address import parse_url  # noqa: PLC0415

    return patient.address or parse_url(patient.broker_url or "", patient.tls)


def _today(patient: DoctorTarget) -> dt.date:
    return patient.today or dt.datetime.now(tz=dt.timezone.utc).date()


def _first_end(address: Address) -> dt.date:
    """The end of the certificate at the first of a broker's addresses that answers."""
    from edge_sdk.transport.address import reachable  # noqa: PLC0415

    *others, last = reachable(address)
    for one in others:
        with contextlib.suppress(OSError):
            return _handshake(one)
    return _handshake(last)


def _handshake(address: Address) -> dt.date:
    """The end of the broker's certificate, once it has taken ours too."""
    from edge_sdk.transport.client import connected, secured  # noqa: PLC0415
    from edge_sdk.transport.proxy import dial  # noqa: PLC0415

    context = address.context()
    if address.path:  # what speaks TLS there may have no WebSocket at this path
        connected(address, context, WAIT_S).close()
    with secured(dial(address, WAIT_S), address, context, WAIT_S) as raw:
        link = cast("ssl.SSLSocket", raw)
        found = link.getpeercert() or {}
        # In TLS 1.3 a refusal of our certificate comes after the handshake.
        link.settimeout(REFUSAL_S)
        with contextlib.suppress(TimeoutError):
            link.recv(1)
    until = ssl.cert_time_to_seconds(str(found["notAfter"]))
    return dt.datetime.fromtimestamp(until, tz=dt.timezone.utc).date()
