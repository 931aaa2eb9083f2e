from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from coordinator.operations.planning import plan_fleet, plan_table
from device_profiles import Caps, LayerLoad, ProfileError, Workload, load_board

NAMES = ("raspberry_pi_zero_2_w", "raspberry_pi_4b_4gb", "jetson_orin_nano")
BOARDS = {name: load_board(name) for name in NAMES}
LOAD = Workload(
    layers=(
        LayerLoad("conv1.weight", 250, 24 * 24 * 250, masked=False),
        LayerLoad("conv2.weight", 5_000, 18 * 18 * 5_000),
        LayerLoad("fc1.weight", 256_000, 256_000),
        LayerLoad("fc2.weight", 500, 500, masked=False),
    ),
    other_numel=90,
    activations=32_420,
    input_bytes=784,
    examples=7_500,
)


def test_a_plan_says_density_time_and_bytes_for_each_board() -> None:
    plan = plan_fleet(
        BOARDS, LOAD, (0.05, 0.1, 0.2), 12.0, counts={NAMES[0]: 10}, rounds_per_day=24
    )
    rows = {row.board: row for row in plan.boards}
    assert rows[NAMES[0]].density == 0.05
    assert "because 0.10 needs" in rows[NAMES[0]].why
    assert rows[NAMES[2]].density == 0.2
    zero = rows[NAMES[0]]
    payload = 4 * (round(0.05 * 261_000) + 840)
    assert zero.bytes_per_round == 2 * payload
    assert zero.bytes_per_month == round(2 * payload * 24 * 30.4)
    assert plan.broker_bytes_per_month == sum(
        row.count * row.bytes_per_month for row in plan.boards
    )
    assert zero.seconds == plan.round_s
    assert plan.round_s <= 12.0
    assert all(row.estimated for row in plan.boards)


def test_a_board_that_cannot_take_part_moves_nothing_and_says_why() -> None:
    small = {n: replace(p, caps=Caps(ram_mib=100)) for n, p in BOARDS.items()}
    plan = plan_fleet(small, LOAD, (0.1,))
    assert all(row.density is None and not row.bytes_per_month for row in plan.boards)
    assert all("MiB of 100" in row.why for row in plan.boards)
    assert plan.round_s == 0.0


def test_the_table_reads_on_eighty_columns_and_marks_estimates() -> None:
    text = io.StringIO()
    plan = plan_fleet(BOARDS, LOAD, (0.05, 0.1, 0.2), counts={NAMES[1]: 3})
    Console(file=text, width=80).print(plan_table(plan, 80))
    shown = text.getvalue()
    assert "3 x" in shown
    table = [line.split()[-2:] for line in shown.splitlines()[1 : len(BOARDS) + 1]]
    assert all(unit == "Wh" or "?" in (joules, unit) for joules, unit in table)
    assert " Wh" in shown
    assert "not measured" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_a_ladder_that_cannot_be_is_refused() -> None:
    with pytest.raises(ProfileError, match="ladder"):
        plan_fleet(BOARDS, LOAD, ())
