"""Checks of the living demo: its figures, and whether each is what it is to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from coordinator.demo.living.files import FIRST, JOIN
from coordinator.demo.living.watch import Seen

__all__ = ["LivingCheck", "LivingFigures", "checks", "checks_table"]

POINT = 0.01
FLAT = 1.1  # times as much at the end is still the same
LAST = FIRST + len(JOIN) - 1  # devices at the end


@dataclass
class LivingFigures:
    """Everything that was measured.

    Attributes:
        rounds: Rounds done.
        shift: The round after which the data shifted.
        before: The last model of before the shift.
        recovered: The model some rounds after it.
        last: The last one.
        seen: All models looked at.
        anew: Accuracy of a model trained from scratch on the shifted data.
        ledger: Bytes of the ledger, early and at the end.
        memory: MiB of the coordinator, early and at the end.
        spoiled: Rounds that trained on spoiled labels and are marked as worse.
        refused: What `deliver` said of such a round's model; None if it was sent.
        live: Device -> the round of the model that it runs.
        delivered: The round of the model that was delivered before.
        joined: Device -> the share of rounds after it came in which it counted.
        aborted: Rounds given up after a device had gone.
    """

    rounds: int = 0
    shift: int = 0
    before: Seen | None = None
    recovered: Seen | None = None
    last: Seen | None = None
    seen: list[Seen] = field(default_factory=list)
    anew: float = 0.0
    ledger: tuple[float, float] = (0.0, 0.0)
    memory: tuple[float, float] = (0.0, 0.0)
    spoiled: list[int] = field(default_factory=list)
    refused: str | None = None
    live: dict[str, str] = field(default_factory=dict)
    delivered: int = 0
    joined: dict[str, float] = field(default_factory=dict)
    aborted: int = 0


@dataclass(frozen=True)
class LivingCheck:
    """One check: what is to be, what was found, and whether that is enough."""

    name: str
    found: str
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"check": self.name, "found": self.found, "passed": self.passed}


def checks(got: LivingFigures) -> list[LivingCheck]:
    """The checks of a run that has ended."""
    assert got.before is not None  # noqa: S101 - each is looked at before the end
    assert got.recovered is not None  # noqa: S101
    assert got.last is not None  # noqa: S101
    pairs = [(s, s.devices) for s in got.seen if s.devices is not None]
    away = [abs(s.hidden - devices) for s, devices in pairs]
    short = got.anew - got.recovered.hidden
    lost = got.before.old - got.last.old
    told = ", ".join(
        f"round {s.round}: {100 * d:.2f} % and {100 * s.hidden:.2f} %" for s, d in pairs
    )
    bad = {f"round {no}" for no in got.spoiled}
    joined, gave_up = sorted(got.joined.items()), f"{got.aborted} of the last"
    reached = sorted(d for d, label in got.live.items() if bad & {label})
    return [
        LivingCheck(
            "devices' own tests within .5 points of a hidden central set",
            told or "no round was tested by all devices",
            bool(away) and len(pairs) == len(got.seen) and max(away) <= POINT / 2,
        ),
        LivingCheck(
            "after the shift within 1 point of training anew",
            f"{100 * got.recovered.hidden:.2f} % after "
            f"{got.recovered.round - got.shift} rounds, {100 * got.anew:.2f} % anew",
            short <= POINT and got.recovered.round - got.shift <= 20,
        ),
        LivingCheck(
            "old classes lose at most 1 point",
            f"{100 * got.before.old:.2f} % before the shift, "
            f"{100 * got.last.old:.2f} % at the end",
            lost <= POINT,
        ),
        LivingCheck(
            "the new class of three devices is learned",
            f"{100 * (got.last.new or 0):.2f} % of it at the end",
            (got.last.new or 0) >= 0.9,
        ),
        LivingCheck(
            "two devices join",
            ", ".join(
                f"{d} in {100 * s:.0f} % of rounds" for d, s in got.joined.items()
            ),
            bool(joined) and min(s for _, s in joined) >= 0.9,
        ),
        LivingCheck("one leaves, and no round is given up", gave_up, not got.aborted),
        LivingCheck(
            "the ledger stays as large, by device",
            f"{got.ledger[0] / 2**10:.0f} KiB of {FIRST}, "
            f"{got.ledger[1] / 2**10:.0f} of {LAST} at the end",
            0 < got.ledger[1] / LAST <= FLAT * got.ledger[0] / FIRST,
        ),
        LivingCheck(
            "the coordinator's memory stays as large",
            f"{got.memory[0]:.0f} MiB, {got.memory[1]:.0f} at the end",
            0 < got.memory[1] <= FLAT * got.memory[0],
        ),
        LivingCheck(
            "a good round reaches the boards",
            f"round {got.delivered} runs on "
            f"{sum(v == f'round {got.delivered}' for v in got.live.values())} of "
            f"{len(got.live)}",
            bool(got.delivered) and f"round {got.delivered}" in got.live.values(),
        ),
        LivingCheck(
            "a planted bad round reaches no board",
            f"marked: {', '.join(sorted(bad)) or 'none'}; runs on "
            f"{', '.join(reached) or 'none'}; deliver: {got.refused or 'not refused'}",
            bool(bad) and got.refused is not None and not reached,
        ),
    ]


def checks_table(found: Sequence[LivingCheck]) -> Table:
    """One row per check."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "", "found"):
        table.add_column(column, overflow="fold")
    for one in found:
        word = "PASS" if one.passed else "short"
        table.add_row(one.name, word, one.found, style=None if one.passed else "bold")
    return table
