"""Devices of the benchmarks: what is said of no round in hand ends no measurement."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(BENCH))
    from light import Fleet

    yield Fleet("digits", os.getpid())
    sys.modules.pop("light", None)


def test_a_receipt_counts_in_the_round_of_its_task(fleet) -> None:  # type: ignore[no-untyped-def]
    """Between two rounds a coordinator's header says 0, and late ones come in any."""
    from edge_sdk.wire.messages import Receipt

    fleet.offers(1)
    fleet.offers(2)
    fleet.receipt(Receipt("1-aaaa", "accepted"))
    ended = dict(fleet.seen[1])
    for task in ("1-aaaa", "0-bbbb", "7-cccc", "no-task"):
        fleet.receipt(Receipt(task, "late"))
    assert fleet.stray == 3
    assert fleet.seen[1] == {**ended, "late": 1}
    assert "last_receipt" not in fleet.seen[2]
