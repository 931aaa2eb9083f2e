"""What every test shares: one thread for torch, hypothesis profiles, one RabbitMQ."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import pytest_timeout
from brokers import Rabbit, require
from hypothesis import HealthCheck, settings
from patience import patience
from warm import Zygote

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


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> object:
    """A test's own limit, or the one of all, is for an idle machine."""
    scaled = settings._replace(timeout=patience(settings.timeout))
    return pytest_timeout.pytest_timeout_set_timer(item, scaled)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collects without the garbage collector, which then leaves out what stays.

    Modules and tests live until the session ends, and 27 looks through all of them were
    8 of the 24 seconds that each worker collects.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, they are what everybody waits for."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """The models here are tiny; more threads only fight each other."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """One RabbitMQ for all tests: it takes seconds to start."""
    require("rabbitmq")
    with Rabbit() as opened:
        yield opened


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """One warm interpreter for all tests: an import of torch takes two seconds."""
    with closing(Zygote()) as made:
        yield made
