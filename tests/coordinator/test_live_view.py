"""The picture of a running fleet: each round is in one, and devices cost no more."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.ledger import open_ledger
from coordinator.rounds.state import Round
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.run_program import RunProgram
from coordinator.server.live_view import LOOK_S, LiveView
from coordinator.settings import RunSettings
from coordinator.views.run_view import FleetView
from device_profiles import load_board
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.wire.messages import Hello

SETTINGS = RunSettings(
    federation="test",
    task="digits",
    evaluation=Path("eval"),
    densities=[0.3],
    rounds=2,
)
TASK = load_task("digits")
LOAD = workload_of(TASK, examples=100, epochs=1, batch=32)
PROFILE = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def shown(
    folder: Path, check: Callable[[LiveView, DeviceRegistry, Clock, Any], None]
) -> list[FleetView]:
    """What an observer saw; `check` moves the clock, the fleet and the round."""
    seen: list[FleetView] = []
    clock, ledger = Clock(), open_ledger(folder)
    none = RunProgram(TASK, Examples([[0]], [0]), ledger)
    fleet = DeviceRegistry(SETTINGS, LOAD, ledger, clock, none)
    now = SimpleNamespace(
        round=None, round_no=0, phase="", timing=SimpleNamespace(deadline=None)
    )
    controller = cast("Any", now)
    view = LiveView(2, ledger, fleet, controller, seen.append, clock)
    check(view, fleet, clock, now)
    ledger.close()
    return seen


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=12))
def test_each_round_is_seen_and_devices_are_read_as_often_as_is_due(
    steps: list[tuple[float, bool]], tmp_path_factory: Any
) -> None:
    began = Clock().now
    whole: list[float] = []

    def run(view: LiveView, fleet: DeviceRegistry, clock: Clock, now: Any) -> None:
        for no, (seconds, opens) in enumerate(steps, 1):
            fleet.hello(
                f"pi-{no}", Hello("idle", None, "0", "digits", 9, PROFILE, [], [], 9)
            )
            clock.now += seconds
            due = clock.now >= view.due
            if opens:
                now.round, now.round_no = Round(no, 1, 1), no
                now.phase, view.opened = f"round {no}", True
            view.tick("waiting for devices")
            whole.extend([clock.now] * due)
            assert not view.opened
        view.draw("done")

    seen = shown(tmp_path_factory.mktemp("run"), run)
    rounds = [no for no, (_, opens) in enumerate(steps, 1) if opens]
    assert set(rounds) <= {one.round_no for one in seen}
    assert all(b - a >= LOOK_S for a, b in pairwise(whole))
    assert len({len(one.devices) for one in seen[:-1]}) <= len(whole)
    assert len(seen[-1].devices) == len(steps)
    assert whole[:1] in ([], [began + steps[0][0]] if steps else [])


def test_a_revoked_device_is_named_while_others_are_waited_for(tmp_path: Path) -> None:
    said: list[str] = []

    def run(view: LiveView, fleet: DeviceRegistry, _c: Clock, _n: Any) -> None:
        for name in ("pi-1", "pi-2"):
            fleet.hello(name, Hello("idle", None, "0", "digits", 9, PROFILE, [], [], 9))
        fleet.gone("pi-2")
        fleet._ledger.dismiss("pi-2")
        view.draw("waiting for 2 devices, 1 here")
        said.append(view.waiting(2, 1, linked=True))

    shown(tmp_path, run)
    assert said == ["waiting for 2 devices, 1 here; revoked: pi-2"]
