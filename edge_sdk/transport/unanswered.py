"""Packets that the broker has not answered yet, and the end of a link with them."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.transport.backoff import QUICK_S, Ending, Parted
from edge_sdk.transport.limits.suspicion import suspicious

__all__ = ["Outstanding", "Unanswered"]

Act = TypeVar("Act")
Answer = TypeVar("Answer")


class Outstanding(Generic[Act, Answer]):
    """Packets by their identifier, and answers that came before they were noted.

    An answer comes on the network thread, and may be there before the call that sends
    its packet has returned with the identifier.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a look-up, never around paho
        self._acts: dict[int, Act] = {}
        self._early: dict[int, Answer] = {}

    def sent(self, mid: int, act: Act) -> Answer | None:
        """Note a packet; returns its answer if that was here before."""
        with self._lock:
            answer = self._early.pop(mid, None)
            if answer is None:
                self._acts[mid] = act
            return answer

    def answered(self, mid: int, answer: Answer) -> Act | None:
        """Take an answer; returns its packet if that is noted already."""
        with self._lock:
            act = self._acts.pop(mid, None)
            if act is None:
                self._early[mid] = answer
            return act

    def acts(self) -> list[Act]:
        """Packets that were noted and not answered, in their order."""
        with self._lock:
            return list(self._acts.values())


class Unanswered:
    """Messages and SUBSCRIBEs of one link that are on their way.

    Attributes:
        messages: Of quality of service 1; answered by a reason code and, where it was
            out of its place, the reason's number.
        filters: SUBSCRIBEs with their filters; answered by a code for each.
    """

    def __init__(self) -> None:
        self.messages = Outstanding[Parted, tuple[ReasonCode, int | None]]()
        self.filters = Outstanding[tuple[list[str], Parted], list[ReasonCode]]()
        self._largest_taken = 0  # bytes; of the messages that were acknowledged
        # When and what; of any quality of service.
        self._lately: deque[tuple[float, Parted]] = deque(maxlen=1024)

    def sends(self, act: Parted) -> None:
        """Count a message of any quality of service."""
        self._lately.append((time.monotonic(), act))

    def taken(self, size: int) -> None:
        """The broker has acknowledged a message of so many bytes."""
        self._largest_taken = max(self._largest_taken, size)

    def ending(self, lived_s: float, reason: int) -> Ending:
        """The `Ending` of a link that ends now.

        Args:
            lived_s: Seconds that it was up.
            reason: The broker's reason code; 0 for none.
        """
        lately = list(self._lately)
        burst = sum(lately[-1][0] - sent <= 1.0 for sent, _ in lately)
        last = lately[-1][1] if lately else None
        lost = max(self.messages.acts(), key=_bytes, default=None)
        taken = self._largest_taken
        if lost is None:  # of QoS 0 nothing is answered: a while without a cut is one
            since = time.monotonic() - QUICK_S
            without = [(sent, act) for sent, act in lately if not act.sure]
            early = [act.size for sent, act in without if sent < since]
            taken = max(taken, *early, 0)
            late = [act for sent, act in without if sent >= since and suspicious(act)]
            lost = max(late, key=_bytes, default=None)
        if lost is not None and lost.size <= taken:
            lost = None
        asked = self.filters.acts()
        return Ending(lived_s, asked[0][1] if asked else lost, reason, burst, last)


def _bytes(act: Parted) -> int:
    return act.size
