"""A round's time: its pace, its deadline, and when nobody is waited for any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coordinator.algorithm import Algorithm
from coordinator.assignment import Drift
from coordinator.draft import Draft, warm_up_epochs
from coordinator.fleet import Fleet
from coordinator.pacing import FIRST_GRACE_S, Pace, come_back_s, pace
from coordinator.rounds import Phase, Round, TaskPhase
from coordinator.settings import RunSettings
from coordinator.stopwatch import Stopwatch

__all__ = ["Timing"]

# The warm-up is closed at its quorum; without one the run is over, so patience is long.
WARM_UP_SLACK = 10.0


class Timing:
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
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._algorithm = settings, algorithm
        self._fleet, self._clock = fleet, clock
        self.watch = Stopwatch(clock)
        self._opened = 0.0
        self.deadline: float | None = None

    def drift(self) -> dict[str, Drift]:
        """Devices whose times left their profiles; asked between rounds only."""
        found = {d: self.watch.drift(d) for d in self._fleet.present()}
        return {device: drift for device, drift in found.items() if drift is not None}

    def pace(self, densities: Mapping[str, float]) -> Pace:
        """How much of the next round fits whom; who rests is told to displays."""
        expected = {
            device: self.watch.expected(device, self._fleet.predicted(device, density))
            for device, density in densities.items()
        }
        found = pace(expected, self._settings.round_budget_s)
        self.watch.rest(found.resting)
        self._fleet.paced({**found.why, **found.resting})
        return found

    def start(self, draft: Draft) -> float:
        """Starts the round's clock; returns seconds to its deadline."""
        if draft.pace is not None:
            self.watch.start({d: draft.pace.steps[d] for d in draft.cohort})
            return self._run_for(self.watch.deadline_s())
        self.watch.start({})
        epochs = warm_up_epochs(self._algorithm, self._settings)
        most = self._settings.warm_up.max_steps
        slowest = max(self._fleet.warm_up_s(d, epochs, most) for d in draft.cohort)
        return self._run_for(WARM_UP_SLACK * slowest + FIRST_GRACE_S)

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
        """Whether the deadline has passed."""
        return self.deadline is not None and self._clock() >= self.deadline

    def hurry(self, now: Round | None) -> bool:
        """Once the quorum is in, nobody overdue is waited for.

        Returns:
            Whether the deadline has come nearer.
        """
        if now is None or self.deadline is None or now.phase is not Phase.RUN:
            return False
        if now.count(TaskPhase.ACCEPTED) < now.quorum:
            return False
        before = self.deadline
        self.deadline = min(before, self._opened + self.watch.hurry_s())
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
        self._opened = self._clock()
        self.deadline = self._opened + seconds
        return seconds
