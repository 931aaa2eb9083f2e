"""The accountant beside the exact epsilon of composed Gaussian mechanisms."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from coordinator.algorithms.privacy import epsilon_of, noise_for, rounds_within
from edge_sdk.errors import SettingsError


def exact(noise: float, rounds: int, delta: float) -> float:
    """Balle and Wang (arXiv:1805.06530): so many Gaussians are one, less noisy."""
    mu = rounds**0.5 / noise

    def over(e: float) -> float:
        return float(
            norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta
        )

    return float(brentq(over, 0, 300))


@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("rounds", [1, 40, 400])
def test_it_says_no_less_than_the_truth_and_little_more(
    noise: float, rounds: int
) -> None:
    truth = exact(noise, rounds, 1e-5)
    found = epsilon_of(noise, rounds, 1e-5)
    assert truth <= found <= 1.25 * truth + 0.1


def test_noise_and_rounds_are_the_least_and_the_most_that_fit() -> None:
    for epsilon in (0.5, 1.0, 8.0):
        noise = noise_for(epsilon, 40, 1e-5)
        assert (
            epsilon_of(noise, 40, 1e-5) <= epsilon < epsilon_of(0.98 * noise, 40, 1e-5)
        )
        rounds = rounds_within(epsilon, noise, 1e-5)
        assert rounds >= 40
        assert epsilon_of(noise, rounds + 1, 1e-5) > epsilon
    assert rounds_within(0.01, 1.0, 1e-5) == 0
    assert epsilon_of(1.0, 0, 1e-5) == 0.0


def test_without_the_library_the_remedy_is_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(SettingsError) as caught:
        epsilon_of(1.2345, 7, 1e-5)
    assert "flash-edge[privacy]" in caught.value.help
