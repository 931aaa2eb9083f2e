"""Opens a run's broker: with access control and an enrolment listener, or plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coordinator.broker.config import AccessControl
from coordinator.broker.start import Broker, free_port, open_broker
from coordinator.identity.listener import Listener, Welcome
from coordinator.identity.policy import is_guarded
from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.revocation import access_control_of
from coordinator.settings import RunSettings
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import IdentityError
from edge_sdk.transport.address import Address, Tls, is_local, url_for_devices
from edge_sdk.transport.configured import broker_address

__all__ = [
    "BrokerAccess",
    "address_of_user",
    "enroll_port",
    "identities_for",
    "open_broker_access",
    "open_identities",
]


@dataclass(frozen=True)
class BrokerAccess:
    """An open broker, and how the coordinator reaches it.

    Attributes:
        broker: The broker.
        address: As whom the coordinator connects.
        access_control: What our own broker checks its clients by; None for a user's.
        takeover: An address that connects under a device's name; None for another's.
    """

    broker: Broker
    address: Address
    access_control: Callable[[Iterable[str]], AccessControl] | None = None
    takeover: Callable[[str], Address] | None = None


def open_identities(folder: Path, settings: RunSettings) -> IdentityRegistry:
    """The identities of a run, founded if there are none yet."""
    return IdentityRegistry(folder, settings.federation, days=settings.certificate_days)


def identities_for(folder: Path, settings: RunSettings) -> IdentityRegistry | None:
    """The identities that a run asks for; None if it is plain.

    Raises:
        IdentityError: If it would be plain where other machines can listen.
    """
    theirs = address_of_user(settings) if settings.broker else None
    local = is_local(settings.address) and (theirs is None or theirs.local)
    enrolled = IdentityRegistry.exists(folder)
    if not is_guarded(insecure=settings.insecure, local=local, enrolled=enrolled):
        return None
    if theirs is not None and not theirs.local and theirs.tls is None:
        raise IdentityError(
            f"the broker at {theirs.url} would be used without encryption",
            remedy="Use mqtts:// or wss:// with broker_ca, or leave broker out: then "
            "flash-coordinator starts one with certificates.",
        )
    return open_identities(folder, settings)


def enroll_port(identities: IdentityRegistry, settings: RunSettings) -> int:
    """The port of the enrolment listener, chosen once."""
    return identities.port(
        settings.enroll_port, lambda: free_port(_bind(settings.address))
    )


@contextmanager
def open_broker_access(
    folder: Path, settings: RunSettings, identities: IdentityRegistry | None
) -> Iterator[BrokerAccess]:
    """The broker of a run, and its enrolment listener.

    One of our own answers. The user's may not yet: the coordinator's link waits for it.

    Raises:
        BrokerError: None can be started, or the user's address cannot be used.
        IdentityError: The enrolment listener's port is taken.
    """
    where = folder / "broker"
    if identities is None:
        port = settings.port or None
        theirs = address_of_user(settings) if settings.broker else None
        with open_broker(theirs, where, port=port, ask=False) as broker:
            yield BrokerAccess(broker, broker.address)
    elif settings.broker:
        yield from _theirs(settings, identities, where)
    else:
        yield from _ours(settings, identities, where)


def address_of_user(settings: RunSettings) -> Address:
    """The address of the user's broker, as the coordinator reaches it.

    Raises:
        BrokerError: If its URL cannot be used.
        SettingsError: If its profile, proxy or password cannot.
    """
    own = settings.broker_ca, settings.broker_cert, settings.broker_key
    return broker_address(settings, Tls(*own) if any(own) else None)


def _theirs(
    settings: RunSettings, identities: IdentityRegistry, where: Path
) -> Iterator[BrokerAccess]:
    """A broker of the user's: what it lets in is his; signatures hold all the same."""
    address = address_of_user(settings)
    with open_broker(address, where, ask=False) as broker:  # its files can be read
        authority = settings.broker_ca.read_bytes() if settings.broker_ca else b""
        url = url_for_devices(address)
        welcome = Welcome(url, authority, settings.task)
        with _listening(settings, identities, welcome):
            yield BrokerAccess(broker, address)


def _ours(
    settings: RunSettings, identities: IdentityRegistry, where: Path
) -> Iterator[BrokerAccess]:
    """Mosquitto with access control; on every address if devices are elsewhere."""
    server = identities.services.server_pem(settings.address)
    authority = where / "authority.pem"
    replace_file(authority, identities.services.authority_pem())

    def as_(name: str, file: str) -> Tls:
        replace_file(where / file, identities.services.client_pem(name), mode=0o600)
        return Tls(authority, where / file)

    with open_broker(
        None,
        where,
        host=_bind(settings.address),
        port=settings.port or None,
        access_control=access_control_of(identities, server),
        tls=as_("check", "check.pem"),
    ) as broker:

        def takeover(name: str) -> Address:
            return Address(broker.host, broker.port, tls=as_(name, "takeover.pem"))

        address = Address(
            broker.host, broker.port, tls=as_("coordinator", "coordinator.pem")
        )
        outside = Address(settings.address, broker.port, tls=address.tls)
        welcome = Welcome(outside.url, b"", settings.task)
        with _listening(settings, identities, welcome):
            yield BrokerAccess(
                broker,
                address,
                partial(access_control_of, identities, server),
                takeover,
            )


@contextmanager
def _listening(
    settings: RunSettings, identities: IdentityRegistry, welcome: Welcome
) -> Iterator[None]:
    listener = Listener(
        identities,
        welcome,
        bind=_bind(settings.address),
        port=enroll_port(identities, settings),
        address=settings.address,
    )
    try:
        yield
    finally:
        listener.close()


def _bind(address: str) -> str:
    if is_local(address):
        return "127.0.0.1" if address == "localhost" else address
    return "::" if ":" in address else "0.0.0.0"  # noqa: S104 - behind certificates
