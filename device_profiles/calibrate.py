"""Fits a profile's rates to the step times that a board was seen to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from device_profiles.errors import ProfileError
from device_profiles.schema import LEAST_RATE, DeviceProfile
from device_profiles.step_time import REFERENCE_CALLS, Terms, pool_rate

__all__ = ["Observation", "calibrate"]

# How sure the starting rates are, as a standard deviation of their logarithm: within a
# factor of two. Max pooling was timed by itself, so it is surer.
RATE_SIGMA = 0.7
POOL_SIGMA = 0.2
# Step times of one board repeat within about 5 %.
TIME_SIGMA = 0.05
ROUNDS = 60
# A rate may leave the starting one by this factor at most: beyond, it is not seen.
FARTHEST = math.log(30.0)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """Work of one training step, and the seconds it took.

    Raises:
        ProfileError: A time that cannot be.
    """

    terms: Terms
    seconds: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ProfileError(
                file="probe",
                key="seconds",
                expected=f"expected a step time above 0 s, got {self.seconds}",
                remedy="Measure again; the board's clock may have been set meanwhile.",
            )


def calibrate(profile: DeviceProfile, observed: Sequence[Observation]) -> DeviceProfile:
    """The profile with its four rates moved so that it predicts what was observed.

    Maximum a posteriori: log-normal errors of the times, log-normal beliefs about the
    rates around those given (Gauss-Newton with a step limit). Rates that no
    observation tells apart keep their ratio, so few observations are enough.

    Args:
        profile: Rates to start from, such as micro-benchmarks.
        observed: Step times; with none the profile is returned as it is.

    Raises:
        ProfileError: A time that cannot be.
    """
    if not observed:
        return profile
    # Seconds per term at the starting rates; the unknowns are log-factors on them.
    parts = np.array([_parts(o.terms, profile) for o in observed])
    times = np.array([o.seconds for o in observed])
    sigma = np.array([RATE_SIGMA, RATE_SIGMA, POOL_SIGMA, RATE_SIGMA])
    factors = np.exp(_solve(parts, np.log(times), sigma))
    return replace(
        profile,
        train_gflops=_rate(profile.train_gflops / factors[0]),
        memory_gb_s=_rate(profile.memory_gb_s / factors[1]),
        pool_m_s=_rate(pool_rate(profile) / factors[2]),
        step_overhead_ms=round(
            min(max(profile.step_overhead_ms, 1e-3) * float(factors[3]), 60_000.0), 4
        ),
    )


def _parts(terms: Terms, profile: DeviceProfile) -> list[float]:
    overhead_ms = max(profile.step_overhead_ms, 1e-3)
    return [
        terms.gflop / profile.train_gflops,
        terms.gbyte / profile.memory_gb_s,
        terms.mcompare / pool_rate(profile),
        terms.calls * overhead_ms / 1000 / REFERENCE_CALLS,
    ]


def _solve(parts: Vector, logs: Vector, sigma: Vector) -> Vector:
    x = np.zeros(4)
    for _ in range(ROUNDS):
        scaled = parts * np.exp(x)
        total = scaled.sum(axis=1)
        error = (np.log(total) - logs) / TIME_SIGMA
        slope = scaled / total[:, None] / TIME_SIGMA
        matrix = slope.T @ slope + np.diag(sigma**-2)
        step = np.linalg.solve(matrix, slope.T @ error + x / sigma**2)
        x = np.clip(x - np.clip(step, -1.0, 1.0), -FARTHEST, FARTHEST)
    return x


def _rate(value: float) -> float:
    """Four digits, inside what a profile may hold."""
    return float(f"{min(max(float(value), LEAST_RATE), 1e6):.4g}")
