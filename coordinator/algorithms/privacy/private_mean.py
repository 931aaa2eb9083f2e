"""The private mean: every update as long as a bound, Gaussian noise on their sum.

DP-FedAvg (McMahan et al., arXiv:1710.06963) over a common mask. Devices count alike,
and the sum is divided by the cohort that is wanted, not by who answered: one device
more or less moves it by at most clip / cohort, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.mean import Contribution, Coverage, Model
from edge_sdk.errors import RunError

__all__ = ["PrivateMean", "noise_key"]

_DOMAIN = b"flash-edge noise"
_GRID = 1 << 10  # steps of the noisy sum in one deviation of the noise


def noise_key(secret: bytes, base: Model) -> NDArray[np.uint64]:
    """Key of one round's noise: of the run's secret and the round's base, (2,) uint64.

    Two rounds have different bases. A round that a crash repeats has the same one, and
    so the same noise: a second draw would tell the sum.
    """
    digest = sha256(_DOMAIN + secret + base.mask.digest)
    for name in sorted(base.masked):
        digest.update(name.encode() + base.masked[name].tobytes())
    for name in sorted(base.dense):
        digest.update(name.encode() + np.ascontiguousarray(base.dense[name]).tobytes())
    return np.frombuffer(digest.digest()[:16], np.uint64)


@dataclass(frozen=True)
class PrivateMean:
    """An algorithm's `aggregate` slot.

    Attributes:
        clip: Longest update, by its norm over all that travels.
        noise_multiplier: Deviation of the noise on the sum, in units of `clip`.
        cohort: Updates that a round wants.
        secret: Key of the noise; who has it can take the noise away.
    """

    clip: float
    noise_multiplier: float
    cohort: int
    secret: bytes

    def __call__(
        self, base: Model, contributions: Iterable[Contribution]
    ) -> tuple[Model, Coverage]:
        """The next model, and how many devices held each weight of the top mask.

        Entries of whole numbers stay as they are.

        Args:
            base: What every contribution is a change to.
            contributions: In a fixed order; their weights do not count.

        Raises:
            RunError: If there is no contribution.
        """
        apart = base.personal | base.frozen
        moved = {
            name: entry
            for name, entry in base.dense.items()
            if entry.dtype.kind == "f" and name not in apart
        }
        total = {n: np.zeros(a.shape, np.float64) for n, a in base.masked.items()}
        rest = {n: np.zeros(a.shape, np.float64) for n, a in moved.items()}
        coverage = {n: np.zeros(a.shape, np.int32) for n, a in base.masked.items()}
        count = 0
        for one in contributions:
            count += 1
            factor = self._factor(one, rest)
            for name, sums in total.items():
                at = one.mask.within(base.mask, name)
                sums[at] += factor * one.change.masked[name].astype(np.float64)
                coverage[name][at] += 1
            for name, sums in rest.items():
                sums += factor * _own(one, name)  # noqa: PLW2901 - in place
        if not count:
            raise RunError("a round without updates cannot be aggregated")
        noise = np.random.Generator(np.random.Philox(key=noise_key(self.secret, base)))
        masked = {
            name: (base.masked[name] + self._noisy(sums, noise)).astype(np.float32)
            for name, sums in sorted(total.items())
        }
        dense = dict(base.dense)
        for name, sums in sorted(rest.items()):
            after = moved[name] + self._noisy(sums, noise)
            dense[name] = after.astype(moved[name].dtype)
        return replace(base, masked=masked, dense=dense, state={}), coverage

    def _factor(self, one: Contribution, rest: Iterable[str]) -> float:
        """The factor that makes a change at most `clip` long."""
        squares = sum(
            float(np.square(values.astype(np.float64)).sum())
            for values in one.change.masked.values()
        )
        squares += sum(float(np.square(_own(one, name)).sum()) for name in rest)
        length = float(np.sqrt(squares))
        return min(1.0, self.clip / length) if length else 1.0

    def _noisy(
        self, sums: NDArray[np.float64], noise: np.random.Generator
    ) -> NDArray[np.float64]:
        """A sum's share of the step, its noise added.

        It is rounded to a grid: the last bits of a noisy float tell of the sum
        (Mironov, CCS 2012).
        """
        deviation = self.noise_multiplier * self.clip
        if not deviation:
            return sums / self.cohort
        grid = 2.0 ** np.floor(np.log2(deviation / _GRID))
        noisy = sums + deviation * noise.standard_normal(sums.shape)
        return np.asarray(np.rint(noisy / grid) * grid / self.cohort)


def _own(one: Contribution, name: str) -> NDArray[Any]:
    """A device's change of a dense entry; 0 for units that its mask cuts."""
    change = one.change.dense[name].astype(np.float64)
    if name in one.idle:
        out = one.idle[name].reshape(-1, *[1] * (change.ndim - 1))
        change = np.where(out, 0.0, change)
    return np.asarray(change)
