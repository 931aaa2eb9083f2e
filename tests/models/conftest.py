"""Fixtures of the data tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def cache() -> Path:
    """Where real data sets stay between test runs."""
    named = os.environ.get("FLASH_EDGE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "flash-edge"


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's own setting must not change what the tests see."""
    monkeypatch.delenv("FLASH_EDGE_DATA", raising=False)
