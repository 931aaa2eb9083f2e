"""Twenty devices, five of them hostile: one seed of `tests/chaos/hostile.py`."""

from __future__ import annotations

from chaos.hostile import KINDS, run_seed


def test_with_five_hostile_devices_of_twenty_the_model_is_that_of_the_honest() -> None:
    """Seed 1 draws impossible numbers, wrong entries, the step backwards, failures."""
    found = run_seed(1, rounds=15)
    assert found.died == ""
    assert found.rounds == 15
    assert len(set(found.hostile.values())) == 5 <= len(KINDS)
    assert found.unnamed == []
    assert found.control > 0.97
    assert found.control - found.accuracy <= 0.01
