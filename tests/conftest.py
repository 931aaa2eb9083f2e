"""What every test shares: one thread for torch, and hypothesis profiles."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Times on a shared machine say nothing, so no deadline; "ci" draws the same examples
# every time, and HYPOTHESIS_PROFILE=explore looks for new ones.
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=40, suppress_health_check=_QUIET
)
settings.register_profile(
    "explore", deadline=None, max_examples=2000, suppress_health_check=_QUIET
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """The models here are tiny; more threads only fight each other."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
