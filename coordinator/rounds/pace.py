"""Pace of a round, and the training steps that fit each device into it.

The pace of a round is the fleet's, not its slowest device's: a device far slower than
the rest keeps its density and gets fewer training steps, so that it answers in time and
is counted every round (docs/adr/0010-pacing.md). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from coordinator.rounds.expected_time import ExpectedTime

__all__ = ["GAP", "LEAST_ROUND_S", "RoundPace", "pace", "pace_of"]

# A device up to so many times slower than the next faster one is waited for in full:
# boards of one catalogue differ by 2-3 from one to the next. One beyond is paced.
GAP = 4.0
# ... and nobody is cut for less than this: the start of a process, a model made ready
# or a busy broker differ by as much from device to device.
LEAST_ROUND_S = 3.0
SURE = 0.8  # of the hours that are left: times repeat within 20 %


@dataclass(frozen=True, slots=True)
class RoundPace:
    """One round's pace.

    Attributes:
        target_s: When the last update should be here.
        steps: Device -> training steps it is asked for.
        why: Device -> why its work is cut, in words; devices that do all are not in.
        resting: Device -> why it is not asked this round.
    """

    target_s: float
    steps: Mapping[str, int]
    why: Mapping[str, str]
    resting: Mapping[str, str]


def pace(
    expected: Mapping[str, ExpectedTime],
    budget_s: float,
    beside: Collection[str] = (),
    left_s: Mapping[str, float] = MappingProxyType({}),
) -> RoundPace:
    """The pace of a round and the steps that fit each device into it.

    The target is the slowest device's time, not counting those that are `GAP` times
    slower than the next faster one, at least three seconds and never above the round
    budget. It is not below that of the devices that have answered before, if they are
    half, whatever the others say of themselves. Whoever does not fit does fewer steps;
    whose link alone does not fit rests. Whose owner's hours end sooner does as many
    steps as fit before, and is not left out for that.

    Args:
        expected: Device -> what the whole part should take it.
        budget_s: The run's round budget.
        beside: Devices that are not counted on: they set no pace.
        left_s: Device -> seconds until its owner's hours end.

    Example:
        >>> usual = ExpectedTime(fixed_s=0.1, step_s=0.01, steps=290)
        >>> slow = ExpectedTime(fixed_s=0.1, step_s=0.1, steps=290)
        >>> found = pace({"a": usual, "b": usual, "slow": slow}, 12.0)
        >>> found.target_s, found.steps["a"], found.steps["slow"]
        (3.0, 290, 29)
    """
    counted = [e for device, e in expected.items() if device not in beside]
    usual = pace_of(e.seconds for e in counted or expected.values())
    # Nobody's profile alone hurries those that have shown how long they take.
    shown = [e.seconds for e in counted if e.rounds]
    if shown and 2 * len(shown) >= len(counted):
        usual = max(usual, pace_of(shown))
    target = min(budget_s, max(LEAST_ROUND_S, usual))
    steps: dict[str, int] = {}
    why: dict[str, str] = {}
    resting: dict[str, str] = {}
    for device, one in expected.items():
        hours = SURE * left_s.get(device, math.inf)
        fits = _fitting(one, min(target, hours))
        has = f"the round {target:.1f} s"
        if hours < target:
            has = f"its owner's hours end in {hours / SURE:.0f} s"
        if fits < 1:
            resting[device] = (
                f"one step takes {one.seconds_for(1):.1f} s with the link, {has}"
            )
            continue
        steps[device] = fits
        if fits < one.steps:
            why[device] = (
                f"{fits} of {one.steps} steps, because all take {one.seconds:.1f} s "
                f"and {has}"
            )
    return RoundPace(
        target,
        MappingProxyType(steps),
        MappingProxyType(why),
        MappingProxyType(resting),
    )


def pace_of(seconds: Iterable[float]) -> float:
    """The slowest time that is not behind a gap; the faster half is never cut off."""
    ordered = sorted(seconds)
    if not ordered:
        return math.inf
    place = (len(ordered) - 1) // 2
    while place + 1 < len(ordered) and ordered[place + 1] <= GAP * ordered[place]:
        place += 1
    return ordered[place]


def _fitting(one: ExpectedTime, target_s: float) -> int:
    if one.seconds <= target_s:
        return one.steps
    # A thousandth of a step is rounding, not work.
    room = (target_s - one.fixed_s) / max(one.step_s, 1e-12) + 1e-3
    return max(0, min(one.steps, int(room)))
