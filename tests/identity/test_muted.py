"""Who floods rests at the broker, longer each time, and comes back."""

from __future__ import annotations

from coordinator.identity.muted import Muted


def test_a_rest_is_longer_each_time_and_is_forgotten_after_a_good_day() -> None:
    now = [0.0]
    muted = Muted(lambda: now[0])
    rests = []
    for _ in range(9):
        rests.append(muted.mute("pi-1"))
        now[0] += 1.0
        assert muted.mute("pi-1") == rests[-1] - 1.0  # said again while it rests
        assert muted.names() == {"pi-1"}
        now[0] += rests[-1]
        assert muted.names() == set()
    assert rests == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]
    now[0] += 25 * 3600.0
    assert muted.mute("pi-1") == 60.0
    assert muted.mute("pi-2") == 60.0
    assert muted.names() == {"pi-1", "pi-2"}
