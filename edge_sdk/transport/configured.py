"""The broker's address as settings and environment give it, secrets included.

Secrets come from a file or from the environment: a command line can be read by every
user of the machine, and stands in the shell's history.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edge_sdk.errors import SettingsError, disk_remedy
from edge_sdk.terminal import hide
from edge_sdk.transport.address import Address, Tls, parse_url
from edge_sdk.transport.proxy import Proxy, parse_proxy, proxy_from

__all__ = ["BrokerKeys", "broker_address"]

USER, PASSWORD = "FLASH_EDGE_BROKER_USER", "FLASH_EDGE_BROKER_PASSWORD"
FILE = "FLASH_EDGE_BROKER_PASSWORD_FILE"


class BrokerKeys(Protocol):
    """Keys of a settings file that say how a broker is reached."""

    @property
    def broker(self) -> str:
        """The broker's URL."""
        ...

    @property
    def broker_profile(self) -> str:
        """Name of its limits."""
        ...

    @property
    def broker_user(self) -> str:
        """User to connect as."""
        ...

    @property
    def broker_password_file(self) -> Path | None:
        """File with the password alone."""
        ...

    @property
    def proxy(self) -> str:
        """URL of a proxy; ``none`` for none whatever the environment says."""
        ...


def broker_address(
    settings: BrokerKeys,
    tls: Tls | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Address:
    """The address that settings and environment name; its secrets are never shown.

    What the settings say comes before the environment: `FLASH_EDGE_BROKER_USER`,
    `FLASH_EDGE_BROKER_PASSWORD` or `FLASH_EDGE_BROKER_PASSWORD_FILE`, and
    `FLASH_EDGE_PROXY`; of others' variables ``https_proxy`` and ``no_proxy``.

    Args:
        settings: The keys.
        tls: How ``mqtts://`` is spoken; the system's authorities if not given.
        environment: Variables.

    Raises:
        BrokerError: If the URL cannot be used.
        SettingsError: If the profile is not known, the proxy's URL cannot be used, or
            the password's file cannot be read.
    """
    address = parse_url(settings.broker, tls, profile=settings.broker_profile)
    user = address.username or settings.broker_user or environment.get(USER)
    password = address.password
    if user and password is None:
        password = _password(settings.broker_password_file, environment)
    proxy = _proxy(settings.proxy, environment, address.host)
    hide(password)
    hide(None if proxy is None else proxy.password)
    return replace(address, username=user or None, password=password, proxy=proxy)


def _password(file: Path | None, environment: Mapping[str, str]) -> str | None:
    named = environment.get(FILE)
    if file is None and PASSWORD in environment:
        return environment[PASSWORD]
    if file is None and not named:
        return None
    path = file or Path(str(named))
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(
            f"the broker's password cannot be read from {path}: {why}",
            remedy=disk_remedy(error)
            if isinstance(error, OSError) and path.exists()
            else f"Write it there, or name the file in broker_password_file or {FILE}.",
        ) from error


def _proxy(given: str, environment: Mapping[str, str], host: str) -> Proxy | None:
    if given == "none":
        return None
    return parse_proxy(given) if given else proxy_from(environment, host)
