"""Privacy accountant: what a number of noisy rounds tells about one device.

Neighbouring runs differ in one device: all of its updates are there, or none. Each
round that it takes part in is one Gaussian mechanism; it is reckoned with all of a
run's rounds, and nothing is taken off for the chance of not being asked (cohorts depend
on who is there). The accountant is that of Google's library `dp-accounting`.
"""

from __future__ import annotations

from functools import lru_cache

from edge_sdk.errors import SettingsError

__all__ = ["epsilon_of", "noise_for", "rounds_within"]

_MOST_NOISE = 1e4
_MOST_ROUNDS = 1 << 20


@lru_cache(maxsize=256)
def epsilon_of(noise_multiplier: float, rounds: int, delta: float) -> float:
    """The epsilon of (epsilon, delta)-differential privacy after so many rounds.

    Args:
        noise_multiplier: Deviation of the noise on the sum, over the longest update.
        rounds: Rounds that a device takes part in.
        delta: Chance that the bound does not hold, in (0, 1).

    Raises:
        SettingsError: If the accountant's library is not installed.
    """
    try:
        import dp_accounting  # noqa: PLC0415 - of an extra
        from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            "key privacy: the accountant is not installed",
            remedy="pip install 'flash-edge[privacy]' on the coordinator.",
        ) from error
    if rounds == 0:
        return 0.0
    accountant = RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier), rounds)
    return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, rounds: int, delta: float) -> float:
    """The least noise multiplier, to three digits, that keeps to an epsilon.

    Raises:
        SettingsError: As `epsilon_of`; also if none does.
    """
    low, high = 0.0, 1.0
    while epsilon_of(high, rounds, delta) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise SettingsError(
                f"key privacy.epsilon: no noise keeps {rounds} rounds to {epsilon:g}",
                remedy="Take a larger epsilon, or fewer rounds.",
            )
    while high - low > high / 1000:
        middle = (low + high) / 2
        if epsilon_of(middle, rounds, delta) > epsilon:
            low = middle
        else:
            high = middle
    digits = 10.0 ** (2 - _exponent(high))
    return -int(-high * digits // 1) / digits  # rounded up


def rounds_within(epsilon: float, noise_multiplier: float, delta: float) -> int:
    """The most rounds that keep to an epsilon.

    Raises:
        SettingsError: As `epsilon_of`.
    """
    low, high = 0, 1
    while high < _MOST_ROUNDS and epsilon_of(noise_multiplier, high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if epsilon_of(noise_multiplier, middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low


def _exponent(value: float) -> int:
    """The power of ten of a value's first digit.

    Example:
        >>> _exponent(0.05), _exponent(12.0)
        (-2, 1)
    """
    return int(f"{value:e}".split("e")[1])
