"""Updates of a simulated round as a coordinator counts them: bounded, and sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.ledger import UpdateRow
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.model_check import Unsound, sound_rows
from coordinator.rounds.state import quorum_of
from coordinator.settings import GateSettings

__all__ = ["Counted", "counted"]


@dataclass(frozen=True)
class Counted:
    """Updates that make a round's model, and the part of each that counts.

    Attributes:
        rows: By device.
        cut: Device to what of its update does not count.
        left_out: Device to why its update spoils the model.
        why: Why the round has no model; empty if it has one.
    """

    rows: Sequence[UpdateRow]
    cut: Mapping[str, str]
    left_out: Mapping[str, str]
    why: str = ""


def counted(
    rows: Sequence[UpdateRow],
    past: Sequence[float],
    gate: GateSettings,
    goal: int,
    unsound: Callable[[Sequence[UpdateRow]], Unsound | None],
) -> Counted:
    """A round's updates as a coordinator counts them; who spoils it is left out.

    Args:
        rows: Those that passed, by device.
        past: Norms of the last rounds' updates.
        gate: How much one may count.
        goal: Updates wanted.
        unsound: Says of some of them why their model may not be the next one.
    """
    left_out: dict[str, str] = {}
    cut: dict[str, str] = {}

    def weighed(rows: Sequence[UpdateRow]) -> Sequence[UpdateRow]:
        found = shares(
            [row.norm for row in rows],
            [row.examples for row in rows],
            past,
            clip=gate.clip,
            weight=gate.weight,
            influence=gate.influence,
        )
        pairs = list(zip(rows, found, strict=True))
        cut.clear()
        cut.update({row.device: share.why for row, share in pairs if share.why})
        return [replace(row, scale=s.scale, weight=s.weight) for row, s in pairs]

    def leave_out(wrong: Unsound) -> Sequence[UpdateRow]:
        left_out.update(dict.fromkeys(wrong.devices, wrong.verdict))
        return weighed([row for row in rows if row.device not in left_out])

    kept, why = sound_rows(weighed(rows), goal, quorum_of(goal), unsound, leave_out)
    return Counted(kept, {} if why else cut, left_out, why)
