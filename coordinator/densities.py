"""Densities for devices from their profiles, and whose profile no longer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from device_profiles import Caps, Choice, DeviceProfile, Engine, largest_density
from device_profiles.schema import LEAST_RATE
from device_profiles.step_time import pool_rate
from device_profiles.workload import Workload

__all__ = ["DEFAULT_ROUND_BUDGET_S", "TimeDrift", "assign", "corrected", "drift_of"]

# Predictions are within 25 % where they were calibrated; twice that, both ways, is not
# the model's error any more. Two rounds, because one may have met a busy moment.
DRIFT, DRIFT_ROUNDS = 2.0, 2
LEAST_DRIFT_S = 1.0  # below, start-up and other programs weigh more than training
# One epoch of MNISTNet on 7,500 examples is predicted at 11.4 s for a Raspberry Pi
# Zero 2 W at density 0.05 and 13.1 s at 0.1: the slowest shipped board takes part, at
# the lowest density of the usual ladder. Larger models and more epochs need more.
DEFAULT_ROUND_BUDGET_S = 12.0


def assign(
    profiles: Mapping[str, DeviceProfile],
    workload: Workload,
    ladder: Sequence[float],
    round_budget_s: float = DEFAULT_ROUND_BUDGET_S,
    caps: Caps | None = None,
    *,
    examples: Mapping[str, int] | None = None,
    value_bytes: float = 4.0,
    engine: Engine | None = None,
) -> Mapping[str, Choice]:
    """The largest density of the ladder that each device can afford.

    A device that can afford none keeps its place in the answer, with a reason and
    ``density=None``.

    Args:
        profiles: Device -> its profile, with its owner's caps.
        workload: One device's part of a round.
        ladder: The run's densities, each in (0, 1].
        round_budget_s: Seconds for download, training and upload.
        caps: The run's own caps, on top of the owners'.
        examples: Device -> examples it holds, where they differ from the workload's.
        value_bytes: Bytes per kept value on the wire.
        engine: Which training engine the devices run; None takes each profile's own.

    Raises:
        ProfileError: The ladder, the budget or a number of examples cannot be.
    """
    counts = examples or {}
    return MappingProxyType(
        {
            device: largest_density(
                profile,
                replace(workload, examples=counts.get(device, workload.examples)),
                ladder,
                round_budget_s,
                caps,
                value_bytes=value_bytes,
                engine=engine,
            )
            for device, profile in profiles.items()
        }
    )


@dataclass(frozen=True, slots=True)
class TimeDrift:
    """A device whose rounds do not take what its profile says.

    Attributes:
        times: Observed over predicted seconds of training.
        sentence: What to tell the operator.
    """

    times: float
    sentence: str


def drift_of(
    device: str, *, predicted_s: float, observed_s: float, rounds: int
) -> TimeDrift | None:
    """Decide if a device should be profiled again; None while its profile holds.

    Args:
        device: Its name.
        predicted_s: Seconds its training should take by its profile.
        observed_s: Seconds it took, smoothed over the last rounds, for equal work.
        rounds: Rounds that were observed.

    Example:
        >>> drift_of("pi-7", predicted_s=3.0, observed_s=15.0, rounds=3).sentence
        'pi-7: training takes 5.0 times the 3.0 s of its profile; profile it again'
    """
    if rounds < DRIFT_ROUNDS or predicted_s <= 0 or observed_s <= 0:
        return None
    times = observed_s / predicted_s
    small = abs(observed_s - predicted_s) < LEAST_DRIFT_S
    if small or 1 / DRIFT <= times <= DRIFT:
        return None
    return TimeDrift(
        times,
        f"{device}: training takes {times:.1f} times the {predicted_s:.1f} s of its "
        "profile; profile it again",
    )


def corrected(profile: DeviceProfile, drift: TimeDrift) -> DeviceProfile:
    """The profile that would have predicted what was observed, for the next assignment.

    Only between rounds: a task that is out keeps its density. A device that turned out
    faster is believed only when it sends a new profile.
    """
    if drift.times <= 1:
        return profile
    return msgspec.structs.replace(
        profile,
        train_gflops=max(profile.train_gflops / drift.times, LEAST_RATE),
        memory_gb_s=max(profile.memory_gb_s / drift.times, LEAST_RATE),
        step_overhead_ms=min(profile.step_overhead_ms * drift.times, 60_000.0),
        pool_m_s=max(pool_rate(profile) / drift.times, LEAST_RATE),
    )
