"""Expected and measured times of devices, by the coordinator's clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from coordinator.densities import TimeDrift, drift_of
from coordinator.rounds.deadlines import (
    FIRST_GRACE_S,
    due_s,
    round_deadline_s,
    shortened_deadline_s,
)
from coordinator.rounds.expected_time import ExpectedTime, observe, overdue, rested

__all__ = ["TaskTimer"]

# Half of every round's weight: ten rounds ago counts a thousandth.
FADES = 0.5


@dataclass
class _Lap:
    """One device's part of the round in hand."""

    steps: int
    began: float
    waited: float = 0.0  # seconds that the device said it would pause


class TaskTimer:
    """Times the tasks of a run; a restart of the coordinator starts it anew.

    Args:
        clock: Monotonic seconds.

    Attributes:
        silent: Devices that did not answer in the last round that was closed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.silent: frozenset[str] = frozenset()
        self._told: dict[str, ExpectedTime] = {}  # by the profile
        self._known: dict[str, ExpectedTime] = {}  # by what was seen since
        self._steps_s: dict[str, tuple[float, ...]] = {}  # of the last two rounds
        self._laps: dict[str, _Lap] = {}
        # When each is overdue, the latest first; who has answered leaves late.
        self._due: list[tuple[float, str]] = []
        self._began, self._timed = 0.0, False
        self.asked, self.answered = 0.0, 0.0  # tasks of late, the older the less

    def expected(self, device: str, told: ExpectedTime) -> ExpectedTime:
        """Expected time of a device's part; a new prediction replaces the past.

        Args:
            device: Its name.
            told: As its profile has it, for the density it gets now.
        """
        if self._told.get(device) != told:
            self._told[device] = self._known[device] = told
            self._steps_s.pop(device, None)
        return self._known[device]

    def known(self, device: str) -> ExpectedTime | None:
        """Expected time of a device's part at its last density; None of a stranger."""
        return self._known.get(device)

    def start(self, steps: Mapping[str, int]) -> None:
        """The round's tasks go out.

        Args:
            steps: Device -> steps it is asked for; empty for a round that teaches
                nothing, the warm-up or one that a crash interrupted.
        """
        self._began, self._timed = self._clock(), bool(steps)
        self.asked = FADES * self.asked + len(steps)
        self.answered *= FADES
        self._laps = {d: _Lap(count, self._began) for d, count in steps.items()}
        self._due = [(-due_s(self._known[d], count), d) for d, count in steps.items()]
        heapq.heapify(self._due)

    def deadline_s(self) -> float:
        """Seconds from the start until the round is closed with its quorum."""
        asked = {device: lap.steps for device, lap in self._laps.items()}
        return round_deadline_s(asked, self._known)

    def shortened_deadline_s(self) -> float:
        """Seconds from the start until nobody is waited for, the quorum being in.

        Asked after every answer: together as cheap as sorting the devices once.
        """
        elapsed = self._clock() - self._began
        if not self._timed:  # nothing is known but what the quorum took
            return 2.0 * elapsed + FIRST_GRACE_S
        while self._due and self._due[0][1] not in self._laps:
            heapq.heappop(self._due)
        return shortened_deadline_s(elapsed, [-late for late, _ in self._due[:1]])

    def pauses(self, device: str, seconds: float) -> None:
        """The device does nothing for so long, by its own word: no sign of slowness."""
        if device in self._laps:
            self._laps[device].waited += seconds

    def took(self, device: str, metrics: Mapping[str, float]) -> None:
        """An update came; its metrics say how much of the time was training."""
        lap = self._laps.pop(device, None)
        if lap is None:
            return
        self.answered += 1
        steps = metrics.get("steps", 0.0)
        training = metrics.get("training_s", 0.0)
        if not (math.isfinite(steps) and math.isfinite(training)) or steps < 1:
            return
        count = min(int(steps), lap.steps)  # more were not asked for
        total = max(0.0, self._clock() - lap.began - lap.waited)
        self._known[device] = observe(
            self._known[device], training_s=training, steps=count, total_s=total
        )
        newest = min(max(training, 0.0), total) / count
        self._steps_s[device] = (*self._steps_s.get(device, ())[-1:], newest)

    def failed(self, device: str) -> None:
        """Forget a failed task: it tells nothing of the device's speed."""
        self._laps.pop(device, None)

    def close(self, present: Iterable[str]) -> None:
        """The round is over: whoever is here and silent needs longer than was thought.

        Args:
            present: Devices that are here; one that is gone is not slow.
        """
        here, self.silent = set(present), frozenset(self._laps)
        for device, lap in self._laps.items():
            if device in here:
                self._known[device] = overdue(
                    self._known[device],
                    steps=lap.steps,
                    elapsed_s=max(0.0, self._clock() - lap.began - lap.waited),
                )
        self._laps = {}

    def rest(self, devices: Iterable[str]) -> None:
        """Note devices that are not asked this round."""
        for device in devices:
            if device in self._known:
                self._known[device] = rested(self._known[device], self._told[device])

    def drift(self, device: str) -> TimeDrift | None:
        """Decide whether a device's training differs in time from its profile.

        Of the last two rounds the one nearer to the profile speaks: one busy round is
        no lie.
        """
        seen = self._steps_s.get(device, ())
        if not seen:
            return None
        told = self._told[device]
        nearest = min(seen, key=lambda step_s: abs(step_s - told.step_s))
        return drift_of(
            device,
            predicted_s=told.step_s * told.steps,
            observed_s=nearest * told.steps,
            rounds=len(seen),
        )
