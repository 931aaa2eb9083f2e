"""Makes `chaos.*` importable, and one warm interpreter for all tests here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def zygote() -> Iterator[object]:
    from chaos.fleet import Zygote

    made = Zygote()
    yield made
    made.close()
