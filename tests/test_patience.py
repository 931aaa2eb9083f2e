"""Time limits follow the machine: a busy one gets more, an idle one the plain limit."""

from __future__ import annotations

import types
from pathlib import Path

import patience
import pytest
import pytest_timeout


def test_an_idle_machine_waits_as_written_and_a_busy_or_slow_one_longer() -> None:
    assert patience.slowness(0.5, 0.1) == 1.0
    assert patience.slowness(1.0, 10.0) == 10.0  # ten programs a core
    assert patience.slowness(3.0, 0.2) == 3.0
    assert patience.slowness(1e9, 1e9) == patience.MOST
    assert patience.patience(300) >= 300


def test_the_limit_of_a_test_is_scaled_before_its_timer_is_set(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    ours = Path(__file__).with_name("conftest.py")
    (conftest,) = (
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(ours)
    )
    seen = []
    monkeypatch.setattr(
        pytest_timeout,
        "pytest_timeout_set_timer",
        lambda item, settings: seen.append(settings.timeout),
    )
    monkeypatch.setattr(conftest, "patience", lambda seconds: 7 * seconds)
    given = types.SimpleNamespace(
        timeout=300, _replace=lambda timeout: types.SimpleNamespace(timeout=timeout)
    )
    conftest.pytest_timeout_set_timer(request.node, given)
    assert seen == [2100]
