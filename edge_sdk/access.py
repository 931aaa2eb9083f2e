"""Broker address and identity of this device, from its settings."""

from __future__ import annotations

from edge_sdk.errors import IdentityError, SettingsError
from edge_sdk.identity.folder import DeviceFolder
from edge_sdk.settings import DeviceSettings
from edge_sdk.transport.address import Address, Tls
from edge_sdk.transport.configured import broker_address

__all__ = ["access_of", "tls_of"]


def tls_of(settings: DeviceSettings) -> Tls | None:
    """The files to speak TLS with: those named, else those of the identity."""
    own = settings.broker_ca, settings.broker_cert, settings.broker_key
    if any(own):
        return Tls(*own)
    if settings.identity is None:
        return None
    folder = DeviceFolder(settings.identity)
    return Tls(folder.authority_path, folder.device_path)


def access_of(settings: DeviceSettings) -> tuple[Address, DeviceFolder | None]:
    """The broker's address and the identity; None for a broker on this machine.

    Raises:
        BrokerError: If the broker's URL cannot be read.
        IdentityError: If the identity cannot be used, or the broker is on another
            machine and there is no identity, or no TLS.
        SettingsError: If the identity is of another device or federation.
    """
    address = broker_address(settings, tls_of(settings))
    if settings.identity is None:
        if not address.local:
            raise IdentityError(
                f"the broker {address.url} is on another machine, and this device is "
                "not enrolled"
            )
        return address, None
    folder = DeviceFolder(settings.identity)
    if (folder.name, folder.federation) != (settings.name, settings.federation):
        raise SettingsError(
            f"{settings.identity} is the identity of {folder.name} in "
            f"{folder.federation}, not of {settings.name} in {settings.federation}",
            remedy="Put that name and federation into the settings, or enrol again.",
        )
    if not address.local and address.tls is None:
        raise IdentityError(
            f"the broker {address.url} would be used without encryption",
            remedy='Write mqtts:// or wss:// in the key "broker".',
        )
    return address, folder
