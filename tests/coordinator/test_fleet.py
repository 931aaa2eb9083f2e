from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.densities import drift_of
from coordinator.ledger import DeviceRow, Ledger, open_ledger
from coordinator.rounds.cohort import Candidate
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.presence import SEEN_S
from coordinator.server.devices.run_program import RunProgram
from coordinator.settings import RunSettings
from device_profiles import LayerLoad, Workload, load_board
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.wire.codec import Header
from edge_sdk.wire.messages import Hello, Status

LOAD = Workload(
    layers=(LayerLoad("w", 100_000, 20_000_000),),
    other_numel=10,
    activations=10_000,
    input_bytes=100,
    examples=1,
    batch=32,
)
SETTINGS = RunSettings(
    federation="home",
    task="digits",
    evaluation=Path("eval"),
    densities=[0.1, 0.4],
    rounds=1,
    round_budget_s=12.0,
)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(tmp_path / "run")
    yield made
    made.close()


@pytest.fixture
def fleet(ledger: Ledger, clock: Clock) -> DeviceRegistry:
    none = RunProgram(load_task("digits"), Examples([[0]], [0]), ledger)
    return DeviceRegistry(SETTINGS, LOAD, ledger, clock, none)


def hello(**changes: Any) -> Hello:
    profile = msgspec.structs.replace(load_board("raspberry_pi_4b_4gb"), **changes)
    return Hello(
        phase="idle",
        task_id=None,
        version="1",
        task="digits",
        examples=700,
        profile=msgspec.to_builtins(profile),
        codecs=["fp32"],
        engines=["masked"],
        free_disk_mib=1000,
    )


def greet(fleet: DeviceRegistry, device: str = "pi-7", **changes: Any) -> str | None:
    fleet.heard(device)
    return fleet.hello(device, hello(**changes))


def row(fleet: DeviceRegistry, ledger: Ledger, device: str = "pi-7") -> DeviceRow:
    fleet.record()
    return next(d for d in ledger.devices() if d.name == device)


def test_a_lying_profile_is_corrected_between_rounds_and_said(
    fleet: DeviceRegistry, ledger: Ledger
) -> None:
    """Observed five times slower: the next round gets what such a board affords."""
    assert greet(fleet) is None
    before = fleet.densities.predicted("pi-7", 0.4)
    told_s = before.step_s * before.steps
    assert fleet.affordable() == {"pi-7": 0.4}
    drift = drift_of("pi-7", predicted_s=told_s, observed_s=5 * told_s, rounds=2)
    assert drift is not None
    fleet.densities.correct({"pi-7": drift})
    after = fleet.densities.predicted("pi-7", 0.4)
    assert after.step_s == pytest.approx(5 * before.step_s, rel=1e-6)
    assert fleet.affordable() == {"pi-7": 0.1}
    assert "training takes 5.0 times the" in row(fleet, ledger).why
    greet(fleet)  # the same profile again proves nothing
    assert fleet.densities.predicted("pi-7", 0.4) == after
    greet(fleet, rtt_ms=9.0)  # a fresh one is believed
    assert fleet.densities.predicted("pi-7", 0.4).step_s == before.step_s
    assert "profile it again" not in row(fleet, ledger).why


def test_a_device_that_pauses_is_not_asked_and_the_operator_sees_why(
    fleet: DeviceRegistry, ledger: Ledger, clock: Clock
) -> None:
    greet(fleet)
    fleet.rests("pi-7", 60.0, "quiet until 22:00")
    assert fleet.present() == set()
    assert row(fleet, ledger).note == "quiet until 22:00"
    fleet.rests("pi-7", 0.0, "")
    assert fleet.present() == {"pi-7"}
    assert row(fleet, ledger).note == ""
    fleet.rests("pi-7", 60.0, "battery at 3 %, waiting for 40 %")
    clock.now += 61.0
    assert fleet.present() == {"pi-7"}


def test_a_program_is_made_for_who_gains_and_sent_to_who_takes_it(
    fleet: DeviceRegistry,
) -> None:
    takes = msgspec.structs.replace(hello(), engines=["program", "sparse", "masked"])
    needs = msgspec.structs.replace(hello(), engines=["program"])
    for name, own in {"takes": takes, "needs": needs, "old": hello()}.items():
        fleet.heard(name)
        assert fleet.hello(name, own) is None
    gains = fleet.densities.gains
    for name, seconds in {"takes": 3.0, "old": 300.0, "stranger": 300.0}.items():
        assert not gains(name, seconds)
    assert fleet.programs(["takes", "old"]) == {}  # a run goes on without one
    assert not gains("takes", 10.0)
    assert gains("takes", 8.0)  # short tasks count together
    fleet.program.content = b"program"
    found = fleet.programs(["takes", "needs", "old", "stranger"])
    assert found == {"takes": b"program", "needs": b"program"}


def header(seq: int, boot: int = 1) -> Header:
    return Header("status", "home", "pi-7", "coordinator", 1, seq, boot)


def status(*, online: bool, link: int = 1) -> Status:
    return Status(online=online, phase="idle", engine="sparse", rss_mib=70, link=link)


def test_a_status_that_comes_before_the_hello_is_shown(
    fleet: DeviceRegistry, ledger: Ledger
) -> None:
    """The ledger has no row for the device before its HELLO, and an idle device says
    its status once: where the broker delivers it first, it was offline for ever."""
    assert fleet.note("pi-7", header(3), status(online=True))
    greet(fleet)
    assert (row(fleet, ledger).online, row(fleet, ledger).rss_mib) == (True, 70)
    assert fleet.online() == {"pi-7"}


def test_a_device_whose_status_is_lost_is_shown_online_by_what_it_says(
    fleet: DeviceRegistry, ledger: Ledger
) -> None:
    greet(fleet)
    assert row(fleet, ledger).online == 1
    fleet.note("pi-7", header(3), status(online=True))
    fleet.note("pi-7", header(1), status(online=False))
    assert row(fleet, ledger).online == 0
    fleet.heard("pi-7", header(2))  # said before its connection was lost
    assert row(fleet, ledger).online == 0
    fleet.heard("pi-7", header(6))
    assert (row(fleet, ledger).online, row(fleet, ledger).engine) == (1, "sparse")
    fleet.note("pi-7", header(2, boot=2), status(online=True))
    assert not fleet.note("pi-7", header(5), status(online=False, link=2))
    assert row(fleet, ledger).online == 1  # a will of the life before


@pytest.mark.parametrize("by", ["retained", "another message"])
def test_after_the_coordinators_own_link_was_down_who_is_here_is_shown_again(
    fleet: DeviceRegistry, ledger: Ledger, by: str
) -> None:
    greet(fleet)
    fleet.note("pi-7", header(3), status(online=True))
    fleet.unlinked()
    assert row(fleet, ledger).online == 0
    if by == "retained":
        assert not fleet.note("pi-7", header(3), status(online=True))
    else:
        fleet.heard("pi-7", header(4))
    assert row(fleet, ledger).online == 1
    fleet.note("pi-7", header(2), status(online=False))
    fleet.unlinked()
    assert not fleet.note("pi-7", header(3), status(online=True))
    assert row(fleet, ledger).online == 0  # older than its will


def test_a_device_told_to_come_back_later_is_here_until_then(
    fleet: DeviceRegistry, clock: Clock
) -> None:
    greet(fleet)
    fleet.expect("pi-7", 500.0)
    clock.now += 500.0 + SEEN_S - 1
    assert fleet.present() == {"pi-7"}
    clock.now += 2.0
    assert fleet.present() == set()


def test_why_a_device_does_less_is_in_the_ledger_while_it_does(
    fleet: DeviceRegistry, ledger: Ledger
) -> None:
    greet(fleet)
    fleet.paced({"pi-7": "29 of 290 steps"})
    assert row(fleet, ledger).pace == "29 of 290 steps"
    fleet.paced({})
    assert row(fleet, ledger).pace == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ram_mib": -5}, "ram_mib"),
        ({"train_gflops": 0.0}, "train_gflops"),
        ({"cores": None}, "cores"),
        ({"memory_gb_s": "fast"}, "memory_gb_s"),
        ({"train_gflops": float("inf")}, "train_gflops"),
    ],
)
def test_a_profile_with_impossible_or_missing_numbers_is_refused_and_said(
    fleet: DeviceRegistry, change: dict[str, Any], said: str
) -> None:
    greeting = hello()
    profile = {**greeting.profile, **change}
    why = fleet.hello("pi-7", msgspec.structs.replace(greeting, profile=profile))
    assert why is not None
    assert "profile of pi-7" in why
    assert said in why
    del profile[said]
    why = fleet.hello("pi-7", msgspec.structs.replace(greeting, profile=profile))
    assert why is not None
    assert said in why
    assert fleet.present() == set()


def test_a_devices_consent_is_that_of_its_last_hello(
    fleet: DeviceRegistry, ledger: Ledger
) -> None:
    for consent in ("research only", "research and product", msgspec.UNSET):
        told = msgspec.structs.replace(hello(), consent=consent)
        assert fleet.hello("pi-7", told) is None
        ledger.settle()
        assert row(fleet, ledger).consent == (consent or "")


def test_what_is_left_of_a_devices_hours_and_battery_is_what_it_said_last(
    fleet: DeviceRegistry, ledger: Ledger, clock: Clock
) -> None:
    greet(fleet)
    assert fleet.owner_limits.left_s("pi-7") == math.inf
    said = Status(online=True, phase="idle", battery=40, open_min=10)
    header = Header("status", "home", "pi-7", "coordinator", 1, 5, boot=1)
    assert fleet.note("pi-7", header, said)
    ledger.settle()
    assert (row(fleet, ledger).battery, row(fleet, ledger).open_min) == (40, 10)
    clock.now += 240.0
    assert fleet.owner_limits.left_s("pi-7") == 360.0
    known = fleet.owner_limits.candidates(["pi-7", "pi-8"])
    assert known["pi-7"] == Candidate("pi-7", 0, 360.0, 40)
    assert known["pi-8"] == Candidate("pi-8")
    clock.now += 999.0
    assert fleet.owner_limits.left_s("pi-7") == 0.0
    on_mains = Status(online=True, phase="idle")
    newer = Header("status", "home", "pi-7", "coordinator", 1, 6, boot=1)
    assert fleet.note("pi-7", newer, on_mains)
    assert fleet.owner_limits.candidates(["pi-7"])["pi-7"] == Candidate("pi-7")
    assert row(fleet, ledger).battery is None
    fleet.note("pi-7", header, said)  # an old one decides nothing
    assert fleet.owner_limits.left_s("pi-7") == math.inf


def test_statuses_that_follow_soon_are_one_row_and_a_pause_is_told_at_once(
    fleet: DeviceRegistry, ledger: Ledger, clock: Clock
) -> None:
    greet(fleet)
    fleet.record()
    ran: list[str] = []
    ledger._db.set_trace_callback(ran.append)
    for seq, phase in enumerate(("fetching", "training", "uploading"), start=1):
        fleet.tick()
        said = Status(online=True, phase=phase, rss_mib=seq)
        assert fleet.note("pi-7", header(seq), said)
    assert not [one for one in ran if one.startswith("UPDATE")]
    clock.now += 1.0
    fleet.tick()
    fleet.tick()
    assert len([one for one in ran if one.startswith("UPDATE devices")]) == 1
    found = row(fleet, ledger)
    assert (found.phase, found.rss_mib) == ("uploading", 3)
    fleet.rests("pi-7", 60.0, "too hot")
    assert ledger.note_of("pi-7") == "too hot"
    fleet.note("pi-7", header(4), Status(online=True, phase="idle"))
    assert ledger.note_of("pi-7") == ""
    fleet.note("pi-7", header(5), Status(online=True, phase="sleeping"))
    fleet.gone("pi-7")  # what it said last is not lost with it
    assert ledger.devices()[0].phase == "sleeping"
