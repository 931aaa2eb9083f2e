"""Prediction for a fleet before there is one: densities, times, bytes a month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from coordinator.densities import DEFAULT_ROUND_BUDGET_S, assign
from coordinator.rounds.expected_time import expect
from coordinator.rounds.pace import pace
from coordinator.views.units import human_bytes
from device_profiles import Choice, DeviceProfile, Workload

__all__ = ["FleetPlan", "PlannedBoard", "plan_fleet", "plan_table"]

WIDE = 120  # columns from which on reasons have room beside the figures

DAYS_PER_MONTH = 30.4


@dataclass(frozen=True, slots=True)
class PlannedBoard:
    """One kind of board in the fleet.

    Attributes:
        board: Its name.
        count: How many there are.
        density: What it would train at; None when it cannot take part.
        why: The reason in words.
        seconds: Its own part of a round.
        peak_mib: Memory it needs.
        bytes_per_round: Up and down together, each board.
        bytes_per_month: Alike.
        joules_per_month: Each board; None where its power is unknown.
        estimated: Whether its profile was not measured.
    """

    board: str
    count: int
    density: float | None
    why: str
    seconds: float
    peak_mib: float
    bytes_per_round: int
    bytes_per_month: int
    joules_per_month: float | None
    estimated: bool


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The fleet.

    Attributes:
        boards: One row each.
        round_s: Seconds of a round: the slowest that takes part, at the fleet's pace.
        rounds_per_month: As asked.
        broker_bytes_per_month: All boards together, as the broker sees it.
    """

    boards: tuple[PlannedBoard, ...]
    round_s: float
    rounds_per_month: float
    broker_bytes_per_month: int


def plan_fleet(
    boards: Mapping[str, DeviceProfile],
    workload: Workload,
    ladder: Sequence[float],
    round_budget_s: float = DEFAULT_ROUND_BUDGET_S,
    *,
    counts: Mapping[str, int] | None = None,
    rounds_per_day: float = 24.0,
) -> FleetPlan:
    """Plans a fleet from profiles of the catalogue or measured ones.

    Args:
        boards: Name -> profile, one of each kind.
        workload: One board's part of a round.
        ladder: The run's densities.
        round_budget_s: Seconds a board's part may take.
        counts: Name -> how many there are; one each if not given.
        rounds_per_day: How often a round is run.

    Raises:
        ProfileError: The ladder or the budget cannot be.
    """
    chosen = assign(boards, workload, ladder, round_budget_s)
    monthly = rounds_per_day * DAYS_PER_MONTH
    many = counts or {}
    rows = tuple(
        _row(name, boards[name], choice, many.get(name, 1), monthly)
        for name, choice in chosen.items()
    )
    expected = {
        name: expect(choice.costs[choice.density], workload)
        for name, choice in chosen.items()
        if choice.density is not None
    }
    round_s = pace(expected, round_budget_s).target_s if expected else 0.0
    total = sum(row.count * row.bytes_per_month for row in rows)
    return FleetPlan(rows, round_s, monthly, total)


def _row(
    name: str, profile: DeviceProfile, choice: Choice, count: int, monthly: float
) -> PlannedBoard:
    takes_part = choice.density is not None
    # Who cannot take part is shown with what the lowest density would have cost.
    cost = choice.costs[choice.density if takes_part else min(choice.costs)]  # type: ignore[index]
    moved = cost.bytes_up + cost.bytes_down if takes_part else 0
    return PlannedBoard(
        board=name,
        count=count,
        density=choice.density,
        why=choice.why,
        seconds=cost.seconds,
        peak_mib=cost.peak_mib,
        bytes_per_round=moved,
        bytes_per_month=round(moved * monthly),
        joules_per_month=(
            None if cost.joules is None or not takes_part else cost.joules * monthly
        ),
        estimated=profile.provenance.kind == "estimate",
    )


def plan_table(plan: FleetPlan, width: int) -> Group:
    """The plan as rich draws it; an asterisk marks estimated profiles.

    Args:
        plan: What to draw.
        width: Columns there are; where they are few, reasons stand below the table.
    """
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for column in ("board", "density", "round", "memory", "a month", "energy"):
        right = column != "board"
        table.add_column(column, no_wrap=True, justify="right" if right else "left")
    if wide:
        table.add_column("why", overflow="fold")
    for row in plan.boards:
        name = f"{row.board}{'*' if row.estimated else ''}"
        joules = row.joules_per_month
        table.add_row(
            f"{row.count} x {name}" if row.count > 1 else name,
            "-" if row.density is None else f"{row.density:g}",
            f"{row.seconds:.1f} s",
            f"{row.peak_mib:.0f} MiB",
            human_bytes(row.bytes_per_month),
            "?" if joules is None else f"{joules / 3600:.0f} Wh",
            *((row.why,) if wide else ()),
        )
    below = [] if wide else [f"{row.board}: {row.why}" for row in plan.boards]
    below.append(
        f"a round takes about {plan.round_s:.0f} s, "
        f"{plan.rounds_per_month:.0f} a month, "
        f"{human_bytes(plan.broker_bytes_per_month)} through the broker; "
        "* not measured: run `flash-edge profile` on the board"
    )
    return Group(table, *(Text(line, style="dim", overflow="fold") for line in below))
