"""Every device's data trains, between real processes: idle ones come and go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]

# The product's own waits, a sixtieth of each; the warm-up is longer than all of them.
WAITS = {
    "coordinator.server.devices.presence.SEEN_S": 1.5,
    "coordinator.server.handlers.IDLE_S": 0.5,
    "coordinator.rounds.deadlines.LONGEST_WAIT_S": 5.0,
    "coordinator.rounds.deadlines.FIRST_GRACE_S": 600.0,  # not a fault of this test
    "coordinator.rounds.deadlines.GRACE_S": 600.0,
}
LONGER_S = 5.0 + 1.5


@pytest.mark.parametrize("seed", [3])
def test_everybodys_data_has_trained_by_round_three(
    zygote: Any, tmp_path: Path, seed: int
) -> None:
    """Idle devices are restarted or cut off while two others do a long warm-up."""
    from chaos.fleet import Fleet

    rng = np.random.default_rng(seed)
    go_on = tmp_path / "go-on"
    options = {"waits": WAITS, "warm_up": str(go_on)}
    fleet = Fleet(
        *(tmp_path / "fleet", "mosquitto", zygote),
        devices=8,
        rounds=3,
        options=options,
    )
    try:
        fleet.start()
        fleet.wait(lambda: _training(fleet) == 2, "the warm-up")
        warms_up = {t["device"] for t in fleet.rows("tasks")}
        idle = [d for d in fleet.devices if d not in warms_up]
        for name in rng.permutation([*idle, *idle])[:8]:
            _disturb(fleet, str(name), kill=bool(rng.random() < 0.5))
        began = time.monotonic()
        fleet.wait(lambda: time.monotonic() - began > LONGER_S, "longer than any wait")
        fleet.wait(lambda: _online(fleet) == 8, "everybody")
        go_on.touch()
        fleet.wait_end(90)
        assert fleet.verdict() == [], fleet.logs()
        trained = {
            u["device"]: u["examples"] for u in fleet.rows("updates") if u["round"] > 0
        }
        assert set(trained) == set(fleet.devices), fleet.logs()
        rounds = [r for r in fleet.rows("rounds") if r["no"] > 0]
        assert [r["phase"] for r in rounds] == ["done"] * 3
        assert {t["device"] for t in fleet.rows("tasks") if t["round"] == 0} == warms_up
    finally:
        fleet.close()


def _training(fleet: Any) -> int:
    return sum("training round 0" in fleet.said(d) for d in fleet.devices)


def _online(fleet: Any) -> int:
    return sum(bool(d["online"]) for d in fleet.rows("devices"))


def _disturb(fleet: Any, device: str, *, kill: bool) -> None:
    """A new process, or a new connection of the same one; waits until it is here."""
    here = _connections(fleet, device)
    if kill:
        fleet.kill(device)
    else:
        fleet.gates[device].sever()
    fleet.wait(lambda: _connections(fleet, device) > here, f"{device} again")


def _connections(fleet: Any, device: str) -> int:
    return int(fleet.said("mosquitto").count(f" as {device} ("))
