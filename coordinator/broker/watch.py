"""Starts a broker of ours again when it dies."""

from __future__ import annotations

import logging
import threading

from coordinator.broker.start import Broker
from edge_sdk.errors import BrokerError

__all__ = ["watched"]

log = logging.getLogger(__name__)
WATCH_S = 2.0


class watched:  # noqa: N801 - reads as a with statement
    """A block in which a broker of ours is looked after; the user's is left alone."""

    def __init__(self, broker: Broker) -> None:
        self._broker, self._over = broker, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="broker", daemon=True)

    def __enter__(self) -> None:
        if self._broker.kind != "user":
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            self._broker.tend_log()
            if self._broker.alive():
                continue
            log.warning("the broker died; starting it again")
            try:
                self._broker.restart()
            except BrokerError as error:
                log.error("the broker does not start again: %s", error)  # noqa: TRY400
