"""Deadlines of HTTP requests: a client that sends slowly holds no connection.

uvicorn bounds how long a link may be idle between requests, not how long a request may
take to come in, so a stranger could hold every descriptor of the page's process.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ASK_S", "AT_ONCE", "patient"]

ASK_S = 10.0  # for the head of a request, from its link or the answer before
AT_ONCE = 256  # links; a page with its event stream has two


@dataclass
class _Links:
    """The links of one server, and those that have not asked for anything yet."""

    ask_s: float
    at_once: int
    open: set[H11Protocol] = field(default_factory=set)
    waiting: dict[H11Protocol, asyncio.TimerHandle] = field(default_factory=dict)

    def await_request(self, link: H11Protocol) -> None:
        """Begin a connection's deadline."""
        self.asked(link)
        loop = asyncio.get_running_loop()
        self.waiting[link] = loop.call_later(self.ask_s, self.cut, link)

    def asked(self, link: H11Protocol) -> None:
        """End a connection's deadline."""
        timer = self.waiting.pop(link, None)
        if timer is not None:
            timer.cancel()

    def forget(self, link: H11Protocol) -> None:
        """Forget a connection that has ended."""
        self.asked(link)
        self.open.discard(link)

    def cut(self, link: H11Protocol) -> None:
        """Abort a connection."""
        self.forget(link)
        link.transport.abort()

    def make_room(self, link: H11Protocol) -> None:
        """Abort the connection that waited longest, or the new one if none waits."""
        if len(self.open) >= self.at_once:
            self.cut(next(iter(self.waiting), link))


class _Patient(H11Protocol):
    links: ClassVar[_Links]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.links.make_room(self)
        if not transport.is_closing():
            self.links.open.add(self)
            self.links.await_request(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.links.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # a piece of a head leaves its deadline as it was
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self.links.asked(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self in self.links.open:
            self.links.await_request(self)


def patient(ask_s: float = ASK_S, at_once: int = AT_ONCE) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, with a deadline for each request's head and a bound on links.

    Args:
        ask_s: Seconds for the head of a request.
        at_once: Links in all; beyond it the one that has waited longest for its request
            makes room, or the new one where all are being answered.
    """
    return type("Patient", (_Patient,), {"links": _Links(ask_s, at_once)})
