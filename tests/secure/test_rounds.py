"""Secure rounds of a real coordinator and real agents, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_house import SecureHouse
from secure_kills import exact, unequal_house
from secure_messages import check

from coordinator.checkpoints.models import model_name
from coordinator.server.secure.sums import kept_sum
from edge_sdk.secure import device_round as steps
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecurePeers,
    SecureReveal,
    SecureUnmask,
)

UNEQUAL = "secure_messages:UNEQUAL"
Make = Callable[..., SecureHouse]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Make]:
    made: list[SecureHouse] = []

    def make(devices: int, **changes: Any) -> SecureHouse:
        folder = tmp_path / f"house-{len(made)}"
        made.append(SecureHouse(folder, devices, **changes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def said(here: SecureHouse, kind: type) -> list[tuple[str, str, Any]]:
    return [one for one in here.broker.said if isinstance(one[2], kind)]


def phases(here: SecureHouse) -> list[tuple[str, str]]:
    return [(r.phase.value, r.note) for r in here.coordinator.ledger.rounds()]


def test_a_run_trains_on_sums_alone(house: Make) -> None:
    here = house(4)
    here.run(2000)
    assert [phase for phase, _ in phases(here)] == ["done"] * 2
    exact(here, 2)
    assert check(here.broker.said) == {"seed": 8, "key": 0}
    store = here.coordinator.server._global_model._store
    first, last = store.load(model_name(0)), store.load(model_name(2))
    for name, values in last.masked.items():
        assert np.abs(values - first.masked[name] - 2e-3).max() < 1e-3, name
    updates = here.coordinator.ledger._db.execute("SELECT norm, metrics FROM updates")
    assert all(row["norm"] == 0 and "loss" not in row["metrics"] for row in updates)


@pytest.mark.parametrize("before", [TaskOrder, SecureDelivery])
def test_a_device_that_is_lost_before_its_update_is_left_out_of_the_sum(
    house: Make, before: type
) -> None:
    """Before its shares are here nobody masks with it; after, its masks are undone."""
    here = house(5, rounds=1, round_budget_s=60.0)
    lost = here.devices["pi-2"]
    here.broker.before(before, "pi-2", lost.kill)
    here.run(5000)
    assert [phase for phase, _ in phases(here)] == ["done"]
    exact(here, 1)
    dropped = int(before is SecureDelivery)
    assert check(here.broker.said) == {"seed": 4, "key": dropped}


def test_too_few_answers_abort_the_round_by_name_and_tell_nothing(house: Make) -> None:
    here = house(5, rounds=1)
    for name in ("pi-1", "pi-2", "pi-3"):
        here.broker.before(SecureUnmask, name, here.devices[name].kill)
    here.until(lambda: bool(phases(here)) and phases(here)[0][0] == "aborted", 5000)
    assert "revealed a share of the masks of pi-" in phases(here)[0][1]
    assert "3 are needed" in phases(here)[0][1]
    assert kept_sum(here.coordinator.ledger, 1) is None
    assert check(here.broker.said) == {"seed": 0, "key": 0}
    for name in ("pi-1", "pi-2", "pi-3"):
        here.devices[name].start()
    here.run(8000)
    assert phases(here)[-1][0] == "done"


def test_fewer_devices_than_a_sum_may_have_are_refused_by_name(house: Make) -> None:
    here = house(3, rounds=1)
    here.devices["pi-0"].cannot = "full"
    here.until(lambda: bool(phases(here)) and phases(here)[-1][0] == "aborted", 5000)
    here.until(lambda: [p for p, _ in phases(here)[:2]] == ["aborted"] * 2, 5000)
    (_, first), (_, second) = phases(here)[:2]
    assert first.startswith("2 masked updates arrived; a sum is of at least 3 devices")
    assert second.startswith("2 devices have sent their keys for secure aggregation")
    assert check(here.broker.said) == {"seed": 0, "key": 0}


def test_a_device_that_lost_its_keys_says_so_and_is_out(house: Make) -> None:
    here = house(4, rounds=1)
    device = here.devices["pi-1"]

    def forget() -> None:
        secure = device.agent._session_effects.secure
        old = secure._state
        given = old.task_id, old.federation, old.name, old.how
        secure._state = steps.begin(*given, bytes_of)

    here.broker.before(SecurePeers, "pi-1", forget)
    here.run(3000)
    (row,) = here.coordinator.ledger._db.execute(
        "SELECT why FROM tasks WHERE device = 'pi-1'"
    )
    assert "names other keys as this one's" in row["why"]
    assert phases(here)[0][0] == "done"
    exact(here, 1)


def test_a_second_list_of_survivors_is_answered_with_a_refusal(house: Make) -> None:
    """A coordinator that asks for both secrets of a device has one, and is told."""
    here = house(4, rounds=1)
    here.until(lambda: bool(said(here, SecureReveal)), 2000)
    (_, name, told) = said(here, SecureUnmask)[0]
    fates = told.fates.replace(b"\x01", b"\x02", 2).replace(b"\x02", b"\x01", 1)
    other = SecureUnmask(told.task_id, fates)
    assert other != told
    here.devices[name].agent._session_effects.secure.take(other, None)
    last = [m for source, _, m in said(here, SecureReveal) if source == name][-1]
    assert (last.shares, "two different lists of survivors" in last.why) == ([], True)


def test_devices_of_unequal_densities_sum_what_they_share(house: Make) -> None:
    """What fewer devices hold than a sum has is not sent; the others' rings are."""
    for strong, opened in ((3, [0.1, 0.4]), (2, [0.1])):
        here = house(0, rounds=1, densities=[0.1, 0.4], algorithm=UNEQUAL, wait_for=6)
        for place in range(6):
            weak = {} if place < strong else {"bytes_per_round": 20_000}
            here.join(f"pi-{place}", board="jetson_orin_nano", **weak)
        here.run(3000)
        assert check(here.broker.said) == {"seed": 6, "key": 0}
        assert [d for d, _, _ in kept_sum(here.coordinator.ledger, 1)] == opened
        store = here.coordinator.server._global_model._store
        first, last = store.load(model_name(0)), store.load(model_name(1))
        small = here.coordinator.server._global_model.family.masks[0.1]
        for name, values in last.masked.items():
            moved = np.abs(values - first.masked[name])
            inside = small.within(last.mask, name)
            assert np.abs(moved[inside] - 1e-3).max() < 5e-4
            outside = np.delete(moved, inside)
            wanted = 1e-3 if len(opened) == 2 else 0.0
            assert np.abs(outside - wanted).max() < 5e-4


def test_masks_by_units_are_summed_by_those_who_hold_them(tmp_path: Path) -> None:
    """The default algorithm; a device of either density is lost with shares sent."""
    units = {"rounds": 1, "algorithm": "flash-edge(epochs=0)", "round_budget_s": 60.0}
    here = unequal_house(tmp_path, 3, 4, **units)
    try:
        for device in here.devices.values():
            device.dense_moves = 2e-3
        for name in ("pi-1", "pi-5"):
            here.broker.before(SecureDelivery, name, here.devices[name].kill)
        here.run(5000)
        assert phases(here) == [("done", "")]
        exact(here, 1)
        assert check(here.broker.said) == {"seed": 5, "key": 2}
        assert [d for d, _, _ in kept_sum(here.coordinator.ledger, 1)] == [0.1, 0.4]
        made = here.coordinator.server._global_model
        first, last = (made._store.load(model_name(no)) for no in (0, 1))
        idle = made.family.idle(made.family.masks[0.1])
        assert idle  # of the smaller network, which devices move all the same
        for name, before in first.dense.items():
            moved = last.dense[name] - before
            assert np.abs(moved - 2e-3).max() < 5e-4, name
    finally:
        here.close()


def bytes_of(count: int) -> bytes:
    return bytes(range(count))
