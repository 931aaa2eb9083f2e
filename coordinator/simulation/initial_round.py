"""Round 0: the warm-up where there is one, attempt by attempt, and the first model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from coordinator.rounds.selection import RoundDraft, asks_everybody, draft_round
from coordinator.rounds.state import TaskPhase, quorum_of
from coordinator.rounds.warm_up_attempts import Attempt, next_attempt
from coordinator.server.global_model import GlobalModel
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.dispatch import Dispatch
from coordinator.simulation.fleet import RoundParticipants
from coordinator.simulation.incoming import counted
from coordinator.simulation.record import RoundRecord, layer_figures
from coordinator.simulation.round_trip import RoundTrip, SimulationContext
from coordinator.views.history import mean_loss

__all__ = ["begin"]

log = logging.getLogger(__name__)

Attempts = list[tuple[RoundParticipants, RoundTrip]]


def begin(
    context: SimulationContext,
    way: Dispatch,
    global_model: GlobalModel,
    memory: SimulationMemory,
    *,
    unable: Collection[str] = (),
) -> RoundRecord:
    """Plays round 0: `global_model` has the first masks and model afterwards.

    Args:
        context: Who there is.
        way: How orders reach those who train.
        global_model: Of the run; empty.
        memory: Takes the updates' payloads.
        unable: Devices that cannot train and are not asked.

    Raises:
        RunError: If a worker dies.
        DensityError: If a density is below the unit floors.
    """
    settings, attempts = context.settings, Attempts()
    if context.algorithm.warms_up:
        attempts = _warm_up(context, way, global_model, unable)
    rows = sorted((r for _, t in attempts for r in t.rows), key=lambda r: r.device)
    found = counted(rows, [], settings.bounds, len(rows), lambda _: None)
    if found.rows:
        memory.payloads = {k: v for _, t in attempts for k, v in t.payloads.items()}
        global_model.grow(0, found.rows)
    elif context.algorithm.warms_up:
        log.warning(
            "nobody could do the warm-up: the run goes on with layer densities that "
            "need no data, those of equal-counts"
        )
        global_model.plan_without_data()
    else:
        global_model.plan_masks()
    _, family = global_model.base_of(1)
    up, down = (
        sum(trip.bytes_up for _, trip in attempts),
        sum(trip.bytes_down for _, trip in attempts),
    )
    return RoundRecord(
        round=0,
        accepted=[row.device for row in found.rows],
        unable={d: why for _, t in attempts for d, why in t.unable.items()},
        refused={d: why for _, t in attempts for d, why in t.refused.items()},
        cut=dict(found.cut),
        asked=sum(len(outcome.asked) for outcome, _ in attempts),
        rate=settings.training.rate_at(0, settings.rounds),
        loss=mean_loss(found.rows),
        bytes_up=up,
        bytes_down=down,
        total_up=up,
        total_down=down,
        layers=layer_figures(family),
        seconds={d: s for outcome, _ in attempts for d, s in outcome.seconds.items()},
        clock_s=sum(outcome.clock_s for outcome, _ in attempts),
        wall_s=0.0,
    )


def _warm_up(
    context: SimulationContext,
    way: Dispatch,
    global_model: GlobalModel,
    unable: Collection[str],
) -> Attempts:
    """Asks for evidence until enough is here, or nobody is left to ask."""
    base, family = global_model.base_of(0)
    phases: dict[str, TaskPhase] = {}
    attempts = Attempts()
    affords = {d: o for d, o in context.fleet.affordable.items() if d not in unable}
    while drafted := _draft(context, len(attempts), phases, family.masks, affords):
        attempt, draft = drafted
        outcome = context.fleet.play(
            0, draft.densities, draft.goal, attempt=attempt.no, kept=attempt.kept
        )
        chosen = {d: draft.densities[d] for d in outcome.accepted}
        trip = context.trip(way, 0, chosen, base, family, attempt=attempt.no)
        attempts.append((outcome, trip))
        phases |= dict.fromkeys(outcome.asked, TaskPhase.EXPIRED)
        phases |= dict.fromkeys([*trip.unable, *trip.refused], TaskPhase.FAILED)
        phases |= {row.device: TaskPhase.ACCEPTED for row in trip.rows}
        here = sum(phase is TaskPhase.ACCEPTED for phase in phases.values())
        if here >= quorum_of(draft.goal):
            break
        why = outcome.note or f"{here} of at least {quorum_of(draft.goal)} updates"
        log.warning("the warm-up failed with %s: %s", ", ".join(outcome.asked), why)
    return attempts


def _draft(
    context: SimulationContext,
    given_up: int,
    phases: Mapping[str, TaskPhase],
    masks: Mapping[float, object],
    affords: Mapping[str, float],
) -> tuple[Attempt, RoundDraft] | None:
    """The next attempt, and who is asked in it; None where nobody can be."""
    attempt = next_attempt(given_up, phases, affords)
    able = {d: own for d, own in affords.items() if d in attempt.able}
    draft = draft_round(
        *(0, able, None),
        settings=context.settings,
        affordable=able,
        masks=masks,
        asked=0,
        answered=0,
        kept=len(attempt.kept),
        everybody=asks_everybody(context.algorithm),
    )
    return None if draft is None else (attempt, draft)
