"""The demo's boards get its three densities through the cost model, not by name."""

from __future__ import annotations

import msgspec

from coordinator.demo.files import BUDGET_S, DENSITIES, FLEET, MAX_STEPS
from device_profiles import Caps, largest_density, load_board
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.task import load_task


def test_the_demos_boards_afford_its_three_densities() -> None:
    task = load_task("mnist")
    work = workload_of(task, examples=32 * MAX_STEPS, epochs=1, batch=32)
    found = {}
    for board in FLEET:
        caps = Caps(bytes_per_round=board.bytes_per_round)
        profile = msgspec.structs.replace(load_board(board.like), caps=caps)
        choice = largest_density(
            profile, work, DENSITIES, BUDGET_S, value_bytes=1.5, engine="sparse"
        )
        found[board.like] = choice.density
    assert found == {
        "raspberry_pi_zero_2_w": 0.05,
        "raspberry_pi_4b_4gb": 0.1,
        "jetson_orin_nano": 0.2,
    }
