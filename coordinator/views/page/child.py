"""The page beside a running coordinator: a process that starts and stops with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.page_access import ADDRESS_FILE, page_url, tell_address
from coordinator.processes.children import ChildProcess, stop_all

__all__ = ["page_process"]

log = logging.getLogger(__name__)
TEND_S = 2.0  # between two looks at the size of its log
START_S = 20.0  # a Pi takes seconds to import what the page needs


@contextmanager
def page_process(folder: Path, address: str) -> Iterator[None]:
    """Serves a run's page while the block runs; without an address, none.

    A page that does not start is said and never stops a federation.

    Args:
        folder: The run's folder.
        address: ``host:port``, or empty.
    """
    if not address:
        yield
        return
    (folder / ADDRESS_FILE).unlink(missing_ok=True)
    command = ["page", str(folder), "--listen", address]
    child = ChildProcess("flash-coordinator", command, folder / "page.log")
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(folder, child, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        stop_all([child])


def _tell(folder: Path, child: ChildProcess, over: threading.Event) -> None:
    """Log the address of the page once it is served, then keep its log small."""
    until = time.monotonic() + START_S
    while page_url(folder) is None:
        if not child.alive() or time.monotonic() > until:
            where = folder / "page.log"
            log.warning("the page could not be started; its log: %s", where)
            return
        if over.wait(0.1):
            return
    tell_address(folder)
    while not over.wait(TEND_S):
        child.tend_log()
