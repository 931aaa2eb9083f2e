"""Ends of a transport's links: limits to keep to, waits, and what is said of them.

A link that is cut behind a message may have been cut for it, or because another client
connected with the same client id, or by the network. MQTT 5 has a reason code; without
one a guess is tested before it counts: the next link is sent nothing for a while. A
limit cannot end that one, another client does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from edge_sdk.transport.backoff import (
    QUICK_S,
    SETTLED_S,
    TAKEN_OVER,
    Backoff,
    Ending,
    suspected,
)
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.limits.suspicion import BURST, lowered, restored

__all__ = ["LinkEnds", "LogLine"]

# Seconds that a link is sent nothing: clients that were cut come back after a second
# or so; where such a link was ended, as late as they may after many cuts.
QUIET_S = (3.0, 30.0)
LONE = 2  # links in a row that ended with nothing sent
SHORT = 6  # links that ended within a minute each, with all taken


class LogLine(NamedTuple):
    """Sentence for the log, about the broker.

    Attributes:
        level: Of logging.
        text: What comes behind "the broker at URL".
    """

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class _Guess:
    """Limits and lines that count if no other client was the reason."""

    limits: BrokerLimits
    lines: tuple[LogLine, ...]


class LinkEnds:
    """Judge of the ends of one transport's links; its keeper's thread alone uses it.

    Args:
        known: Limits without what is found out.
        client_id: The transport's.
        retry_s: Seconds between attempts: at first, at last.

    Attributes:
        limits: To keep to.
    """

    def __init__(
        self, known: BrokerLimits, client_id: str, retry_s: tuple[float, float]
    ) -> None:
        self.limits = self._known = known
        self._who, self._backoff = client_id, Backoff(*retry_s)
        self._bursts = 0  # links in a row that ended in a burst of messages
        self._guess: _Guess | None = None
        self._tested = False  # a link with nothing sent stayed; until one has settled
        self._lone = 0  # links in a row that ended with nothing sent
        self._short = 0  # that ended within a minute, with all taken
        self._named = False  # that another client is there
        self._looped = False  # that links end at once, whatever is sent

    @property
    def quiet_s(self) -> float:
        """Seconds that the next link is to be sent nothing; 0 for a usual one."""
        doubted = self._named or self._lone > 0
        return 0.0 if self._guess is None else QUIET_S[doubted]

    def failed(self, *, answered: bool) -> float:
        """After an attempt that brought no link: seconds to wait.

        Args:
            answered: Whether the broker was there, and took no link.
        """
        self._backoff, wait_s = self._backoff.failed()
        if not answered:
            self._backoff, self._guess = self._backoff.away(), None
        return wait_s

    def stayed(self) -> list[LogLine]:
        """A link that was sent nothing has stayed: the guess counts."""
        guess, self._guess = self._guess, None
        if guess is None:
            return []
        self.limits, self._tested, self._lone = guess.limits, True, 0
        return list(guess.lines)

    def ended(
        self, limits: BrokerLimits, end: Ending
    ) -> tuple[tuple[float, float], list[LogLine]]:
        """After a link that was up: seconds to wait, at least and at most; what to say.

        Args:
            limits: The link's, at its end.
            end: The end.
        """
        if end.lived_s >= SETTLED_S:
            self._tested = self._named = self._looped = False
            self._lone = self._short = 0
        weak = QUICK_S <= end.lived_s < SETTLED_S and end.blamed is None
        self._short += weak and end.unexplained
        quiet = self._guess is not None
        before = self._backoff
        self._backoff, wait_s = before.ended(end)
        now = self._backoff
        steady = now.loops or now.taken or now.suspect is not None
        lines = self._taken_over(end, quiet=quiet)
        if not quiet:
            lines += self._judge(limits, before, end)
        return (0.5 * wait_s if steady else 0.0, wait_s), lines

    def _taken_over(self, end: Ending, *, quiet: bool) -> list[LogLine]:
        """Another client with our client id, once until a link has settled."""
        told = end.reason == TAKEN_OVER
        self._lone = self._lone + 1 if quiet and (told or end.unexplained) else 0
        if quiet and (told or self._lone >= LONE):
            self._guess = None  # it was not for what links carried
            self.limits = self._known
        if self._named or not (told or self._lone >= LONE or self._short >= SHORT):
            return []
        self._named = True
        if told:
            why = "says that"
        elif self._lone >= LONE:
            why = f"ends links that were sent nothing, {self._lone} in a row: likely"
        else:
            why = (
                f"has had {self._short} links end within a minute each, with all that "
                "they were sent taken: the network is weak, or"
            )
        return [
            LogLine(
                logging.ERROR,
                f"{why} another client connects to it as {self._who} and ends our "
                "links: two devices with one name (a copied SD card or state folder), "
                "or this command runs twice. Stop one of them, or enrol it with a "
                "name and a token of its own (flash-edge enroll TOKEN)",
            )
        ]

    def _judge(
        self, limits: BrokerLimits, before: Backoff, end: Ending
    ) -> list[LogLine]:
        """Takes what a reason says; what is only guessed waits for a quiet link."""
        self._bursts = self._bursts + 1 if end.burst >= BURST else 0
        now = self._backoff
        found, why = lowered(limits, end, cuts=now.cuts, bursts=self._bursts)
        text = suspected(before, now, end)
        if text and now.suspect is None:  # it ends links at once, whatever it is sent
            text, self._looped = ("" if self._looped else text), True
        lines = [LogLine(logging.ERROR, text)] if text else []
        if why:
            lines.append(LogLine(logging.WARNING, why))
        if end.unexplained and lines and not self._tested:
            self._guess = _Guess(found if why else self.limits, tuple(lines))
            return []
        kept = self.limits
        self.limits = found if why else restored(kept, self._known, end)
        return lines
