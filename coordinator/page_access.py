"""Address and token of the web page."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import SettingsError, StateError
from edge_sdk.terminal import at_terminal, hide

__all__ = [
    "ADDRESS_FILE",
    "DEFAULT_ADDRESS",
    "LOOPBACK",
    "is_loopback",
    "keep_url",
    "page_url",
    "parse_page",
    "tell_address",
    "token_of",
]

log = logging.getLogger(__name__)
DEFAULT_ADDRESS = "127.0.0.1:8484"
ADDRESS_FILE, TOKEN_FILE = "page.url", "page.token"
LEAST_TOKEN = 16  # characters; an empty one would be everybody's
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def parse_page(address: str) -> tuple[str, int]:
    """Host and port of a page address.

    Raises:
        SettingsError: If it is not ``host:port``.

    Example:
        >>> parse_page("127.0.0.1:8484"), parse_page("[::1]:0")
        (('127.0.0.1', 8484), ('::1', 0))
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(
            f"page {address!r} is not host:port",
            remedy=f'Write it like "{DEFAULT_ADDRESS}"; "" serves no page.',
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, False)
    """
    return host in LOOPBACK or host.startswith("127.")


def keep_url(folder: Path, url: str) -> None:
    """Remembers where the page of a run is served.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    replace_file(folder / ADDRESS_FILE, f"{url}\n".encode())


def page_url(folder: Path) -> str | None:
    """The address of a run's page with its token, if one is or was served."""
    path = folder / ADDRESS_FILE
    if not path.exists():
        return None
    return f"{path.read_text(encoding='ascii').strip()}?token={token_of(folder)}"


def tell_address(folder: Path) -> None:
    """Print a run's page address: with its token to a terminal, never to a log.

    Raises:
        StateError: If the token cannot be kept.
    """
    url = page_url(folder)
    if url is None or at_terminal(f"page: {url}"):
        return
    shown = url.partition("?")[0]
    how = f"flash-coordinator page {folder} --address"
    log.info("page: %s (with its token: %s)", shown, how)


def token_of(folder: Path) -> str:
    """The token of a run's page; made at the first call, readable by its owner only.

    Raises:
        StateError: If it cannot be kept.
    """
    path = folder / TOKEN_FILE
    try:
        token = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if len(token) < LEAST_TOKEN:  # none yet, or what a full disk left of one
            token = secrets.token_urlsafe(24)
            replace_file(path, token.encode(), mode=0o600)
        hide(token)
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be used: {error}") from error
    return token
