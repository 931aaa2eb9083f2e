"""Differential privacy of the model that a run gives, at the level of devices."""

from coordinator.algorithms.privacy.accountant import (
    epsilon_of,
    noise_for,
    rounds_within,
)
from coordinator.algorithms.privacy.aggregate import ledger_secret, with_privacy
from coordinator.algorithms.privacy.budget import (
    SPENT,
    check_budget,
    check_next_round,
    keep_noise,
    keep_spent,
    keep_sum_noise,
    spent_epsilon,
)
from coordinator.algorithms.privacy.check import (
    PrivacySettings,
    PrivateRun,
    check_private,
)
from coordinator.algorithms.privacy.private_mean import PrivateMean, noise_key

__all__ = [
    "SPENT",
    "PrivacySettings",
    "PrivateMean",
    "PrivateRun",
    "check_budget",
    "check_next_round",
    "check_private",
    "epsilon_of",
    "keep_noise",
    "keep_spent",
    "keep_sum_noise",
    "ledger_secret",
    "noise_for",
    "noise_key",
    "rounds_within",
    "spent_epsilon",
    "with_privacy",
]
