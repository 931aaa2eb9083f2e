"""A sample of the kill-point sweep; `make chaos` does all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.mark.parametrize("algorithm", ["", "fedtiny(interval=1, blocks=2)"])
def test_a_kill_at_a_durable_write_leaves_a_sound_history(
    zygote: Any, tmp_path: Path, algorithm: str
) -> None:
    """Of a run that freezes its masks, and of one that draws them again in mid-run."""
    from chaos.fleet import COORDINATOR
    from chaos.sweep import DEVICE, Kill, kill_at, write_points

    points = write_points(zygote, tmp_path / "points", algorithm)
    # Journal and outbox, each a sync and a rename; fewer would mean that none is seen.
    assert len(points[DEVICE]) >= 4, points
    assert len(points[COORDINATOR]) >= 8, points
    closing = next(p for p in points[COORDINATOR] if p.startswith("replace"))
    outbox = next(p for p in points[DEVICE] if "stash" in p)
    # One a round at least: which receipts share a freeze is a matter of time.
    updates = "fsync coordinator.ledger.update_files.sync"
    assert any(p.startswith(updates) for p in points[COORDINATOR]), points
    for number, kill in enumerate(
        (
            Kill(COORDINATOR, closing, 1, "before"),
            Kill(COORDINATOR, updates, 2, "before"),
            Kill(DEVICE, outbox, 1, "after"),
        )
    ):
        died, wrong = kill_at(kill, zygote, tmp_path / f"kill-{number}", algorithm)
        assert died, f"{kill}: it never came there"
        assert wrong == [], kill
