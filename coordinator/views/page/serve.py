"""Serves the page of a run as a process of its own, so a round never waits for it."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from coordinator.page_access import (
    DEFAULT_ADDRESS,
    LOOPBACK,
    is_loopback,
    keep_url,
    parse_page,
    tell_address,
    token_of,
)
from edge_sdk.errors import DependencyError, SettingsError
from edge_sdk.private_files import make_private

__all__ = ["serve_page"]

log = logging.getLogger(__name__)


def serve_page(folder: Path, address: str = DEFAULT_ADDRESS) -> None:
    """Serves the page of a run until a signal.

    Args:
        folder: The run's folder; the run need not have begun.
        address: ``host:port``; a port that is taken is replaced by a free one.

    Raises:
        SettingsError: If the address cannot be listened on.
        DependencyError: If the packages of the page are not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from coordinator.views.page.app import make_app  # noqa: PLC0415
        from coordinator.views.page.patience import patient  # noqa: PLC0415
        from coordinator.views.source import RunSource  # noqa: PLC0415
    except ImportError as error:
        raise DependencyError(
            f"the page needs {error.name}: pip install 'flash-edge[coordinator]'"
        ) from error
    host, port = parse_page(address)
    listener = _listen(host, port)
    port = int(listener.getsockname()[1])
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - asked for
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    make_private(folder)
    token = token_of(folder)  # before others can read where it opens
    keep_url(folder, url)
    tell_address(folder)
    if not is_loopback(host):
        log.warning(
            "the page is plain HTTP and reachable from other machines: "
            "its token and the fleet's names are sent without encryption"
        )
    app = make_app(
        RunSource(folder),
        token=token,
        cookie=f"flash-edge-{port}",
        hosts=sorted({*LOOPBACK, host.lower()}) if is_loopback(host) else [],
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # nothing of what others say they forward is believed
        server_header=False,
        ws="none",
        http=patient(),
        timeout_graceful_shutdown=1,
        log_config=None,  # its lines look like ours
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (port, 0):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
        except OSError as error:
            listener.close()
            if wanted == 0 or wanted == port == 0:
                raise SettingsError(
                    f"the page cannot listen on {host}: {error.strerror}",
                    remedy="Name an address of this machine.",
                ) from error
            log.warning("port %d is taken; the page takes a free one", port)
        else:
            listener.listen(128)
            return listener
    raise AssertionError
