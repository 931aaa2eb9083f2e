"""Deadline of a round, and the wait before a device asks again.

Pure: instants and histories come in as values. The pace itself, which is the fleet's
and not its slowest device's, is in `coordinator.rounds.pace`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.rounds.expected_time import ExpectedTime
from coordinator.rounds.pace import pace_of

__all__ = [
    "FIRST_GRACE_S",
    "LONGEST_S",
    "Advance",
    "abort_pause_s",
    "advanced",
    "come_back_s",
    "due_s",
    "extended_s",
    "latest_s",
    "over_selected",
    "round_deadline_s",
    "shortened_deadline_s",
    "wait_for_test_s",
    "warm_up_deadline_s",
]

# How much later than expected an update may come: observed times repeat within 20 %,
# predicted ones are within 25 % where the model was calibrated and worse where not.
OBSERVED_SLACK, PREDICTED_SLACK = 1.5, 3.0
TOLERANCE = 1.3  # ... once the quorum is in
# Wi-Fi that comes back, a retransmission, a busy moment. It costs nothing while all
# answer: a round closes with its last update.
GRACE_S = 10.0
FIRST_GRACE_S = 30.0  # imports, the first download, kernels being built
# Asked per update wanted while nothing is known; PROTOCOL: 1.3.
OVERSELECT, MOST_OVERSELECT = 1.3, 2.0
# The warm-up is closed at its quorum; a second one costs as much, so patience is long.
WARM_UP_SLACK = 10.0
# Whatever devices say of themselves, no round's deadline is later than this ...
LONGEST_S = 24 * 3600.0
# ... and one that is extended is not later than so many times its first length, or an
# hour if that is more: who says that it advances may hold up a round so long.
EXTENSIONS, LEAST_EXTENSION_S = 4.0, 3600.0
STALE_S = 60.0  # a device tells four times a minute how far it is, if its steps allow
# A device that was told to wait longer would sleep through rounds that end early.
LONGEST_WAIT_S = 300.0
# Reconnects a broker takes without a queue: 1.2 ms of its time each with mTLS.
RETURNS_PER_S = 200.0


def round_deadline_s(
    steps: Mapping[str, int], expected: Mapping[str, ExpectedTime]
) -> float:
    """Seconds until the round is closed with what has come, its quorum reached.

    Args:
        steps: Device -> steps it was asked for.
        expected: Device -> what the whole part should take it.
    """
    slack = [
        expected[device].seconds_for(count) * _slack(expected[device])
        + _grace_s(expected[device])
        for device, count in steps.items()
    ]
    return min(max(slack, default=GRACE_S), LONGEST_S)


def wait_for_test_s(own: ExpectedTime, usual_s: float, share: float) -> float:
    """Seconds that the end of a run waits for a device's test of the last model.

    A test has the transfers of a round and fewer steps, so a device has as long as a
    round gives it for its whole part, also for two tests: that of its last task may be
    before. Being slow or silent gives no more: the fleet's pace bounds it like a round.

    Args:
        own: What the whole part should take it.
        usual_s: The pace of the fleet, seconds.
        share: Its test examples for each that it trains on; above .5 they take longer.

    Example:
        >>> usual = ExpectedTime(fixed_s=1.0, step_s=0.01, steps=100, rounds=3)
        >>> wait_for_test_s(usual, 4.0, 0.2)
        13.0
        >>> wait_for_test_s(ExpectedTime(1.0, 50.0, 100, rounds=3), 4.0, 0.2)  # silent
        16.0
    """
    slack, grace_s = _slack(own), _grace_s(own)
    told = slack * min(own.seconds, usual_s) * max(1.0, 2.0 * share) + grace_s
    return min(told, LONGEST_S)


def warm_up_deadline_s(cohort: Iterable[float], present: Iterable[float]) -> float:
    """Seconds until a warm-up is given up, its quorum not reached.

    Not the word of one device decides: one behind a gap is not waited for in full.

    Args:
        cohort: What its devices should take, seconds.
        present: What all that are here would take.

    Example:
        >>> warm_up_deadline_s([10.0, 12.0], [10.0, 12.0, 11.0])
        150.0
        >>> warm_up_deadline_s([10.0, 1e15], [10.0, 12.0, 1e15])
        150.0
    """
    slowest = min(max(cohort), pace_of(present))
    return min(WARM_UP_SLACK * slowest + FIRST_GRACE_S, LONGEST_S)


def due_s(own: ExpectedTime, steps: int) -> float:
    """Time until a device is overdue for its steps, seconds from the round's start.

    With a third's tolerance: there is a quorum without it.
    """
    return TOLERANCE * own.seconds_for(steps) + _grace_s(own)


def shortened_deadline_s(elapsed_s: float, due: Iterable[float]) -> float:
    """Time to stop waiting once the quorum is in, seconds from the round's start.

    Whoever is still expected is waited for; whoever is overdue against a prediction no
    longer holds up the rest.

    Args:
        elapsed_s: Seconds since the round's start.
        due: `due_s` of those who have not answered; the latest alone says as much.
    """
    return max(elapsed_s + GRACE_S, *due, 0.0)


@dataclass(frozen=True, slots=True)
class Advance:
    """Progress of a device in its part of a round, as it reports it.

    Attributes:
        share: Of it, done.
        at_s: When it came so far, seconds from the round's start.
        since_share: Where this life of the device began.
        since_s: When that was.
        gap_s: Seconds between its last two steps forward.
    """

    share: float
    at_s: float
    since_share: float = 0.0
    since_s: float = 0.0
    gap_s: float = 0.0

    def end_s(self) -> float:
        """Time at which it ends at its own pace, seconds from the round's start."""
        done = self.share - self.since_share
        if done <= 0:
            return math.inf
        return self.at_s + (1.0 - self.share) * (self.at_s - self.since_s) / done


def advanced(before: Advance | None, share: float, at_s: float) -> Advance:
    """Update a device's progress with another report.

    Who says less than before has begun anew since then: a start, or a first word that
    was still of the last round. Who says the same has not advanced.

    Example:
        >>> first = advanced(None, 0.1, 20.0)
        >>> first.end_s(), advanced(first, 0.3, 50.0).end_s()
        (200.0, 155.0)
        >>> advanced(Advance(1.0, 1.0), 0.1, 16.0).end_s()
        151.0
    """
    if before is None:
        return Advance(share, at_s)
    if share < before.share:
        return Advance(share, at_s, 0.0, before.at_s, at_s - before.at_s)
    if share == before.share:
        return before
    # Its pace is that since its first word: a base had to be fetched before that.
    first = before.since_s == 0.0 and before.since_share == 0.0
    since = (before.share, before.at_s) if first else None
    since_share, since_s = since or (before.since_share, before.since_s)
    return Advance(share, at_s, since_share, since_s, at_s - before.at_s)


def latest_s(first_s: float) -> float:
    """Limit of a deadline's extensions, seconds from the round's start.

    Args:
        first_s: What it was at first.
    """
    return min(max(EXTENSIONS * first_s, LEAST_EXTENSION_S), LONGEST_S)


def extended_s(
    elapsed_s: float, first_s: float, missing: int, advances: Iterable[Advance]
) -> float | None:
    """A deadline that has come without its quorum, further away; None if it is final.

    It moves where as many devices as are missing advance, and will be done in time.

    Args:
        elapsed_s: Seconds since the round's start.
        first_s: What the deadline was at first.
        missing: Updates missing to the quorum.
        advances: How far those are that have not answered.

    Example:
        >>> extended_s(100.0, 90.0, 1, [Advance(0.5, 95.0)])
        257.0
        >>> extended_s(100.0, 90.0, 2, [Advance(0.5, 95.0)]) is None
        True
        >>> extended_s(200.0, 90.0, 1, [Advance(0.5, 95.0)]) is None
        True
    """
    ends = sorted(
        one.end_s()
        for one in advances
        if elapsed_s - one.at_s <= max(STALE_S, 2.0 * one.gap_s)
    )
    latest = latest_s(first_s)
    if not 0 < missing <= len(ends) or ends[missing - 1] > latest:
        return None
    until = TOLERANCE * max(ends[missing - 1], elapsed_s) + GRACE_S
    return min(until, latest) if elapsed_s < latest else None


def abort_pause_s(aborts: int) -> float:
    """Seconds to wait before another round, after rounds were aborted in a row.

    What keeps a whole fleet away may pass: a network, a night.

    Args:
        aborts: How many more than are tried at once.
    """
    return min(10.0 * 2.0 ** min(aborts, 10), 600.0)


def over_selected(goal: int, present: int, *, asked: int = 0, answered: int = 0) -> int:
    """Devices to ask for `goal` updates, from how many answered lately.

    Args:
        goal: Updates wanted.
        present: Devices that are here.
        asked: Tasks issued in the last rounds.
        answered: Of them, updates accepted.
    """
    if goal >= present:
        return present
    # Ten tasks of belief in the protocol's 1.3, so that one bad round is not a trend.
    share = (answered + 10.0 / OVERSELECT) / (asked + 10.0)
    factor = min(max(1.0 / max(share, 1e-9), 1.0), MOST_OVERSELECT)
    return min(present, math.ceil(goal * factor - 1e-9))


def come_back_s(device: str, *, left_s: float, devices: int, salt: str = "") -> float:
    """Seconds after which a device without a task should ask again.

    After the round, and spread so that a fleet does not come back at one instant; in
    `LONGEST_WAIT_S` at the latest, because a round may end long before its deadline.

    Args:
        device: Its name; it decides the place in the spread.
        left_s: Seconds until the round should end.
        devices: Size of the fleet.
        salt: Changes the order from round to round.
    """
    spread = max(1.0, devices / RETURNS_PER_S)
    digest = hashlib.sha256(f"{salt}\0{device}".encode()).digest()
    left = min(max(left_s, 0.0), LONGEST_WAIT_S)
    return left + spread * int.from_bytes(digest[:4], "big") / 2**32


def _slack(one: ExpectedTime) -> float:
    return OBSERVED_SLACK if one.rounds else PREDICTED_SLACK


def _grace_s(one: ExpectedTime) -> float:
    """A device that has answered nothing yet may still be starting."""
    return GRACE_S + (0.0 if one.rounds else FIRST_GRACE_S)
