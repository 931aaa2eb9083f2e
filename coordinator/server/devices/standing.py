"""Standing of devices: one that fails sits out rounds, and then comes back.

Rule 1. A device that fails sits out, twice as many rounds each time in a row: 1, 2, 4,
        ... `MOST` at most. An update that is accepted ends the row.
Rule 2. A device that says that it cannot do any task sits out until its HELLO says
        something else. Such a HELLO has it asked again, and takes nothing back of
        what failed: who says something else each time is never counted on.
Rule 3. Who comes back is asked beside the others, not counted on: no round's goal or
        quorum needs it until it has done its part.
Rule 4. Being late counts a quarter: a late device gets less work each time
        (`rounds.deadlines`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from coordinator.ledger import Ledger
from coordinator.views.participation import sits_out

__all__ = [
    "FRESH",
    "LATE",
    "Standing",
    "Standings",
    "after_failure",
    "after_hello",
    "not_failed",
]

log = logging.getLogger(__name__)

MOST = 64  # rounds
LATE = 0.25  # the weight of a failure that nothing was said of


@dataclass(frozen=True, slots=True)
class Standing:
    """One device's.

    Attributes:
        failures: In a row; a late answer counts `LATE`.
        until: The first round that it may be asked in again; None: until its HELLO says
            something else.
        why: Why it sits out; empty for a device that is counted on.
    """

    failures: float = 0.0
    until: int | None = 0
    why: str = ""

    def may_be_asked(self, no: int) -> bool:
        """Return whether a round may ask the device."""
        return not self.why or (self.until is not None and no >= self.until)

    @property
    def lasting(self) -> bool:
        """True if only another HELLO brings the device back."""
        return bool(self.why) and self.until is None


FRESH = Standing()


def after_failure(
    before: Standing, no: int, why: str, *, weight: float = 1.0, lasting: bool = False
) -> Standing:
    """A device's standing after it failed in a round.

    Args:
        before: Its standing so far.
        no: The round.
        why: In its own words, or the gate's.
        weight: How much it counts.
        lasting: Whether it said that it cannot do any task.

    Example:
        >>> once = after_failure(FRESH, 3, "full")
        >>> once.until, once.may_be_asked(4), once.may_be_asked(5)
        (5, False, True)
        >>> after_failure(once, 5, "full").until
        8
    """
    failures = before.failures + weight
    if lasting:
        return Standing(failures, None, why)
    if failures < 1.0:
        return replace(before, failures=failures)
    rounds = min(2 ** (int(failures) - 1), MOST)
    return Standing(failures, no + 1 + rounds, f"failed {_times(failures)}: {why}")


def _times(failures: float) -> str:
    return "once" if failures < 2 else f"{failures:.0f} times in a row"


def not_failed(before: Standing, no: int) -> Standing:
    """After a round that asked a device and ended before it answered."""
    return replace(before, until=0, why="") if before.may_be_asked(no) else before


def after_hello(
    before: Standing, no: int, *, changed: bool, rebooted: bool
) -> Standing:
    """A device's standing after its HELLO, before round `no`.

    Args:
        before: Its standing so far.
        no: The next round.
        changed: Whether the HELLO says something else than the last one.
        rebooted: Whether the device has started anew. Either way somebody may have
            mended it, so it is asked once more, beside the others.
    """
    if before.why and (changed or (rebooted and before.lasting)):
        return replace(before, until=no)
    return before


class Standings:
    """Every device's, as the ledger keeps them over restarts.

    Args:
        ledger: Where they are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known = {
            name: Standing(row["failures"], row["until"], row["why"])
            for name, row in ledger.standing().items()
        }

    def of(self, device: str) -> Standing:
        """One device's."""
        return self._known.get(device, FRESH)

    def to_ask(
        self, here: Mapping[str, float], no: int
    ) -> tuple[dict[str, float], set[str]]:
        """Devices of those here that a round may ask, and who is not counted on.

        Where all who are here sit out for some rounds, they are asked early.
        """
        able = {d: x for d, x in here.items() if self.of(d).may_be_asked(no)}
        if not able:
            able = {d: x for d, x in here.items() if not self.of(d).lasting}
        return able, {d for d in able if self.of(d).why}

    def succeeded(self, device: str) -> None:
        """Clear a device's failures after an accepted update."""
        self._put(device, FRESH)

    def failed(
        self,
        device: str,
        no: int,
        why: str,
        *,
        weight: float = 1.0,
        lasting: bool = False,
    ) -> None:
        """Record a failure of a device in a round, by `after_failure`."""
        before = self.of(device)
        after = after_failure(before, no, why, weight=weight, lasting=lasting)
        self._put(device, after)
        if after.why and after != before:
            out = sits_out(asdict(after))
            log.warning("%s %s", device, out, extra={"device": device})

    def not_needed(self, device: str, no: int) -> None:
        """A round that asked it ended before it answered."""
        self._put(device, not_failed(self.of(device), no))

    def hello(self, device: str, *, changed: bool, rebooted: bool) -> None:
        """Record a device's HELLO, by `after_hello`."""
        before = self.of(device)
        after = after_hello(
            before, self._ledger.next_round(), changed=changed, rebooted=rebooted
        )
        if before.why and after != before:
            log.info("%s gets tasks again", device, extra={"device": device})
        self._put(device, after)

    def _put(self, device: str, after: Standing) -> None:
        if after != self.of(device):
            self._known[device] = after
            self._ledger.stand(device, after.failures, after.until, after.why)
