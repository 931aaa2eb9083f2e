"""A round's time: its pace, its deadline, and when nobody is waited for any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from coordinator.algorithms.base import Algorithm
from coordinator.densities import TimeDrift
from coordinator.rounds.deadlines import (
    FIRST_GRACE_S,
    LONGEST_S,
    Advance,
    advanced,
    come_back_s,
    extended_s,
    wait_for_test_s,
    warm_up_deadline_s,
)
from coordinator.rounds.measured_time import TaskTimer
from coordinator.rounds.pace import RoundPace, pace
from coordinator.rounds.selection import RoundDraft, warm_up_epochs
from coordinator.rounds.state import OPEN, Round, RoundPhase, TaskPhase
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.settings import RunSettings

__all__ = ["RoundTiming"]


class RoundTiming:
    """Sets the deadline of the round in hand, from what devices should take and took.

    Args:
        settings: The run.
        algorithm: Its algorithm; it says how long a warm-up trains.
        fleet: Its devices, and what is predicted of them.
        clock: Monotonic seconds.

    Attributes:
        watch: Times each task.
        deadline: Monotonic seconds at which the round is closed; None between rounds.
    """

    def __init__(
        self,
        settings: RunSettings,
        algorithm: Algorithm,
        fleet: DeviceRegistry,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._algorithm = settings, algorithm
        self._fleet, self._clock = fleet, clock
        self.watch = TaskTimer(clock)
        self._opened, self._first_s = 0.0, 0.0
        self._advances: dict[str, Advance] = {}  # of who has not answered
        self.deadline: float | None = None

    def drift(self) -> dict[str, TimeDrift]:
        """Devices whose times left their profiles; asked between rounds only."""
        found = {d: self.watch.drift(d) for d in self._fleet.present()}
        return {device: drift for device, drift in found.items() if drift is not None}

    def pace(
        self, densities: Mapping[str, float], beside: Collection[str] = ()
    ) -> RoundPace:
        """Fit the next round to each device; displays show which ones rest.

        Args:
            densities: Device -> what it would train at.
            beside: Of them, those that set no pace.
        """
        expected = {
            device: self.watch.expected(
                device, self._fleet.densities.predicted(device, density)
            )
            for device, density in densities.items()
        }
        left_s = {d: self._fleet.owner_limits.left_s(d) for d in densities}
        found = pace(expected, self._settings.round_budget_s, beside, left_s)
        self.watch.rest(found.resting)
        self._fleet.paced({**found.why, **found.resting})
        return found

    def waits_for_tests_s(
        self, densities: Mapping[str, float], tested: Mapping[str, int]
    ) -> dict[str, float]:
        """Seconds that each device has for a test of the last model.

        Args:
            densities: Device -> what it tests at.
            tested: Device -> test examples of its last answer, where it gave one.
        """
        predicted = self._fleet.densities.predicted
        expected = {
            device: self.watch.known(device) or predicted(device, density)
            for device, density in densities.items()
        }
        budget_s, silent = self._settings.round_budget_s, self.watch.silent
        usual_s = pace(expected, budget_s, silent).target_s
        return {
            device: wait_for_test_s(
                one,
                usual_s,
                tested.get(device, 0) / max(self._fleet.examples(device), 1),
            )
            for device, one in expected.items()
        }

    def start(self, draft: RoundDraft) -> float:
        """Starts the round's clock; returns seconds to its deadline."""
        if draft.pace is not None:
            self.watch.start({d: draft.pace.steps[d] for d in draft.cohort})
            return self._run_for(self.watch.deadline_s())
        self.watch.start({})
        epochs = warm_up_epochs(self._algorithm, self._settings)
        most = self._settings.warm_up.max_steps
        takes = {
            device: self._fleet.densities.warm_up_s(device, epochs, most)
            for device in {*draft.cohort, *self._fleet.affordable()}
        }
        cohort = [takes[device] for device in draft.cohort]
        return self._run_for(warm_up_deadline_s(cohort, takes.values()))

    def start_again(self, seconds: float) -> None:
        """Starts the clock of a round that a crash interrupted.

        Whom it waits for is known only once they are back: it gets what it had, and a
        start.

        Args:
            seconds: What it had.
        """
        self.watch.start({})
        self._run_for(seconds + FIRST_GRACE_S)

    def over(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and self._clock() >= self.deadline

    def advances(self, device: str, share: float) -> None:
        """A device of the round says how much of its part is done."""
        at_s, before = self._clock() - self._opened, self._advances.get(device)
        if share >= 1.0 and before is not None and before.share >= 1.0:
            self._advances[device] = Advance(1.0, at_s, gap_s=at_s - before.at_s)
        else:
            self._advances[device] = advanced(before, share, at_s)

    def extend(self, now: Round) -> bool:
        """Moves a deadline that has come where those who advance make the quorum.

        Returns:
            Whether it has moved.
        """
        waited = [d for d, phase in now.tasks.items() if phase in OPEN]
        until = extended_s(
            self._clock() - self._opened,
            self._first_s,
            now.quorum - now.count(TaskPhase.ACCEPTED),
            [self._advances[d] for d in waited if d in self._advances],
        )
        if until is None or self._opened + until <= self._clock():
            return False
        self.deadline = self._opened + until
        return True

    def shorten_deadline(self, now: Round | None) -> bool:
        """Stop waiting for overdue devices once the quorum is in.

        Returns:
            Whether the deadline has come nearer.
        """
        if now is None or self.deadline is None or now.phase is not RoundPhase.RUN:
            return False
        if now.count(TaskPhase.ACCEPTED) < now.quorum:
            return False
        before = self.deadline
        self.deadline = min(before, self._opened + self.watch.shortened_deadline_s())
        return self.deadline < before

    def end(self) -> None:
        """There is no round in hand any more."""
        self.deadline = None

    def left_s(self) -> float:
        """Seconds until the deadline; 0 between rounds."""
        return 0.0 if self.deadline is None else max(0.0, self.deadline - self._clock())

    def come_back_s(self, device: str, round_no: int) -> float:
        """Seconds after which a device without a task should ask again."""
        here = len(self._fleet.present())
        return come_back_s(
            device, left_s=self.left_s(), devices=here, salt=str(round_no)
        )

    def _run_for(self, seconds: float) -> float:
        self._opened, self._first_s = self._clock(), min(seconds, LONGEST_S)
        self._advances = {}
        self.deadline = self._opened + self._first_s
        return self._first_s
