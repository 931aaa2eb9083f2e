"""Expected time of a device's part of a round, from its profile and its past."""

from __future__ import annotations

from dataclasses import dataclass, replace

from device_profiles import Cost, Workload

__all__ = [
    "ExpectedTime",
    "expect",
    "observe",
    "overdue",
    "rested",
]

# Weight of a newest observation that is slower: half. One that is faster counts whole:
# a busy moment has many causes, being fast has one.
NEWEST = 0.5
# A device that was not heard of is taken to need at least twice what it has had.
SILENT = 2.0


@dataclass(frozen=True, slots=True)
class ExpectedTime:
    """Expected time of one device's part of a round.

    Attributes:
        fixed_s: Seconds that no step pays for: download, upload, round trips.
        step_s: Seconds of one training step.
        steps: Steps of the whole part, nothing cut.
        rounds: Observations behind it; 0 is a prediction.
    """

    fixed_s: float
    step_s: float
    steps: int
    rounds: int = 0

    @property
    def seconds(self) -> float:
        """The whole part."""
        return self.seconds_for(self.steps)

    def seconds_for(self, steps: int) -> float:
        """So many steps of it."""
        return self.fixed_s + self.step_s * steps


def expect(cost: Cost, workload: Workload) -> ExpectedTime:
    """The prediction for a device, from its cost at its density."""
    return ExpectedTime(
        fixed_s=max(0.0, cost.seconds - cost.training_seconds),
        step_s=cost.training_seconds / workload.steps,
        steps=workload.steps,
    )


def observe(
    before: ExpectedTime, *, training_s: float, steps: int, total_s: float
) -> ExpectedTime:
    """The expectation after an update came in.

    Args:
        before: What was expected.
        training_s: Seconds of training that the device reports.
        steps: Steps it took.
        total_s: Seconds from the task to its update, on the coordinator's clock.
    """
    # A device cannot have trained longer than it was gone: the clock here decides.
    training = min(max(training_s, 0.0), total_s)
    step = training / max(steps, 1)
    rest = max(0.0, total_s - training)
    if not before.rounds:
        return replace(before, fixed_s=rest, step_s=step, rounds=1)
    return replace(
        before,
        fixed_s=min(rest, _blend(before.fixed_s, rest)),
        step_s=min(step, _blend(before.step_s, step)),
        rounds=before.rounds + 1,
    )


def overdue(before: ExpectedTime, *, steps: int, elapsed_s: float) -> ExpectedTime:
    """The expectation after a device was not heard of in time.

    Nothing says what it needs, so it is taken to need twice what it had; a device
    that is slow beyond its profile gets less work each time until it answers.
    """
    told, needs = before.seconds_for(steps), SILENT * elapsed_s
    if needs <= told:
        return before
    return replace(
        before,
        step_s=before.step_s * needs / max(told, 1e-9),
        rounds=max(before.rounds, 1),  # no longer excused by its start
    )


def rested(before: ExpectedTime, predicted: ExpectedTime) -> ExpectedTime:
    """The expectation after a device was not asked: half way back to its profile.

    What kept it away may have passed, and only asking tells; one whose profile alone
    says that it does not fit goes on resting.
    """
    return replace(
        before,
        fixed_s=_blend(before.fixed_s, min(predicted.fixed_s, before.fixed_s)),
        step_s=_blend(before.step_s, min(predicted.step_s, before.step_s)),
    )


def _blend(before: float, newest: float) -> float:
    return (1 - NEWEST) * before + NEWEST * newest
