"""Opens a link: at the first address that answers, in its version of MQTT."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat

from edge_sdk.transport.address import MOVED, Address, reachable, sent_on
from edge_sdk.transport.base import Deliver, Will
from edge_sdk.transport.client import MAX_INCOMING
from edge_sdk.transport.dialect import (
    SLOW,
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
SENT_ON = 3  # times in a row that a broker may send us to another one
_MEMORY = DialectCache()
# Reason codes of MQTT 5.0, section 2.4, which brokers give for a will: it may not be
# published there, has no topic or payload that they take, or they have none.
WILL_REFUSED = (0x80, 0x82, 0x83, 0x87, 0x90, 0x99, 0x9A, 0x9B)


def open_link(
    address: Address,
    client_id: str,
    deliver: Deliver,
    *,
    will: Will | None,
    window: int | None,
    meter: Meter,
    incoming: int = MAX_INCOMING,
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

    attempts = _Attempts(
        address.limits.connect_gap_s,
        lambda one, dialect, last: Link(
            *(one, client_id, dialect, deliver),
            will=last,
            window=window,
            meter=meter,
            incoming=incoming,
        ),
    )
    *others, last = reachable(address)
    for one in others:
        try:
            return attempts.followed(one, will)
        except OSError as error:  # noqa: PERF203 - each is tried
            log.info("%s: %s; trying the next address", one.url, error)
    return attempts.followed(last, will)


class _Attempts:
    """Attempts at one link; brokers bound CONNECTs, so each but the first waits.

    Args:
        gap_s: Seconds between two CONNECTs.
        make: Makes a link to an address, in a version of MQTT, with a will or without.
    """

    def __init__(
        self, gap_s: float, make: Callable[[Address, Dialect, Will | None], Link]
    ) -> None:
        self._waits, self._make = chain((0.0,), repeat(gap_s)), make

    def followed(self, one: Address, will: Will | None) -> Link:
        """A link to an address, or to one that its broker sends us to."""
        for _ in range(SENT_ON):
            try:
                return self.at(one, will)
            except RefusedError as error:  # noqa: PERF203 - brokers' answers
                there = sent_on(one, error.reason, error.server)
                if there is None:
                    raise
                level = logging.WARNING if error.reason == MOVED else logging.INFO
                text = "the broker at %s sends us to %s: %s"
                log.log(level, text, one.url, there.url, error)
                one = there
        return self.at(one, will)

    def at(self, one: Address, will: Will | None) -> Link:
        """A link to an address, without the will where the broker refuses that."""
        last = will if _MEMORY.takes_wills(one) else None
        try:
            return self._spoken(one, last)
        except (SilentError, RefusedError) as error:
            if last is None or not _may_be_the_will(error):
                raise
            try:
                link = self._spoken(one, None)
            except OSError:
                raise error from None
            _MEMORY.refused_will(one)
            log.warning(
                "the broker at %s lets us in without a last will only (with one: %s): "
                "should this process vanish, that is noticed when it is silent for "
                "too long; let its access list write %s",
                *(one.url, error, last.topic),
            )
            return link

    def _spoken(self, one: Address, last: Will | None) -> Link:
        silent = SilentError("it speaks no known version of MQTT")
        for dialect in _MEMORY.to_try(one):
            try:
                link = self._in_dialect(one, dialect, last)
            except SilentError as error:
                log.debug("%s: %s", one.url, error)
                silent = error
                continue
            except RefusedError as error:
                if error.passing:  # a slow proxy, too
                    SLOW.note(one)
                raise
            _MEMORY.spoke(one, dialect)
            log.debug("%s speaks MQTT %s", one.url, dialect.value)
            return link
        _MEMORY.forget(one)
        if not silent.closed:
            SLOW.note(one)
        raise silent

    def _in_dialect(self, one: Address, dialect: Dialect, last: Will | None) -> Link:
        """Asked again without what the broker does not have.

        A will to retain, or to send by QoS 1, may be refused with the CONNECT.
        """
        time.sleep(next(self._waits))
        try:
            return self._make(one, dialect, last)
        except RefusedError as error:
            fewer = without_refused(one.limits, error.reason)
            if fewer == one.limits:
                raise
            return self._in_dialect(replace(one, limits=fewer), dialect, last)


def _may_be_the_will(error: SilentError | RefusedError) -> bool:
    """Return whether a broker may have refused a CONNECT for its will."""
    if isinstance(error, SilentError):
        return error.closed
    return error.reason in WILL_REFUSED
