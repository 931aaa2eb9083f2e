"""Opens a link: at the first address that answers, in its version of MQTT."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from itertools import chain, repeat

from edge_sdk.transport.address import Address, reachable
from edge_sdk.transport.base import Deliver, Will
from edge_sdk.transport.dialect import (
    Dialect,
    DialectCache,
    RefusedError,
    SilentError,
)
from edge_sdk.transport.limits.suspicion import without_refused
from edge_sdk.transport.link import Link
from edge_sdk.transport.meter import Meter

__all__ = ["open_link"]

log = logging.getLogger(__name__)
_MEMORY = DialectCache()


def open_link(
    address: Address,
    client_id: str,
    deliver: Deliver,
    *,
    will: Will | None,
    window: int | None,
    meter: Meter,
) -> Link:
    """A link to the first of a broker's addresses that gives one; arguments as `Link`.

    Raises:
        OSError: None does; the last one's error.
        RefusedError: The last one answers, and does not let us in.
    """
    most = address.limits.client_id
    if len(client_id.encode()) > most:
        raise RefusedError(
            f"the client id {client_id} is longer than the {most} bytes that the "
            "broker takes: give the device, or the federation, a shorter name"
        )

    # Brokers bound the CONNECTs of a client id: each but the first waits.
    waits = chain((0.0,), repeat(address.limits.connect_gap_s))

    def in_dialect(one: Address, dialect: Dialect) -> Link:
        """Asked again without what the broker does not have.

        A will to retain, or to send by QoS 1, may be refused with the CONNECT.
        """
        time.sleep(next(waits))
        try:
            return Link(
                one, client_id, dialect, deliver, will=will, window=window, meter=meter
            )
        except RefusedError as error:
            fewer = without_refused(one.limits, error.reason)
            if fewer == one.limits:
                raise
            return in_dialect(replace(one, limits=fewer), dialect)

    def at(one: Address) -> Link:
        silent = SilentError("it speaks no known version of MQTT")
        for dialect in _MEMORY.to_try(one):
            try:
                link = in_dialect(one, dialect)
            except SilentError as error:
                log.debug("%s: %s", one.url, error)
                silent = error
                continue
            _MEMORY.spoke(one, dialect)
            log.debug("%s speaks MQTT %s", one.url, dialect.value)
            return link
        _MEMORY.forget(one)
        raise silent

    *others, last = reachable(address)
    for one in others:
        try:
            return at(one)
        except OSError as error:  # noqa: PERF203 - each is tried
            log.info("%s: %s; trying the next address", one.url, error)
    return at(last)
