"""Round 0: the warm-up where there is one, then the first masks and the first model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.evidence import Trained, WarmUpResult
from coordinator.algorithms.mean import Model
from coordinator.algorithms.methods.equal_counts import data_free
from coordinator.algorithms.slots import named_slots
from coordinator.rounds.round_step import (
    findings_at_hand,
    first_model,
    mean_findings,
    start_model,
    trained_findings,
    warm_up_family,
)
from coordinator.rounds.tasks import mask_seed, warm_up_cohort
from coordinator.rounds.warm_up_attempts import ATTEMPTS
from coordinator.simulation.dispatch import Dispatch
from coordinator.simulation.fleet import RoundParticipants
from coordinator.simulation.record import RoundRecord, layer_figures
from coordinator.simulation.round_trip import RoundTrip, SimulationContext

__all__ = ["InitialRound", "begin"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialRound:
    """What round 1 starts from.

    Attributes:
        model: On the family's top mask.
        family: The first masks.
        findings: What they were planned from, None for nothing.
        record: Round 0's line.
    """

    model: Model
    family: MaskFamily
    findings: WarmUpResult | None
    record: RoundRecord


def begin(exchange: SimulationContext, way: Dispatch) -> InitialRound:
    """Plays round 0.

    Raises:
        RunError: If the warm-up has too few devices, or a worker dies.
        DensityError: If a density is below the unit floors.
    """
    settings, algorithm, task = exchange.settings, exchange.algorithm, exchange.task
    layers, densities, seed = exchange.layers, settings.densities, settings.seed
    outcome, trip = RoundParticipants((), (), {}, 0.0, ""), None
    findings: WarmUpResult | None
    unable: dict[str, str] = {}
    if algorithm.warms_up:
        outcome, trip, unable = _warm_up(exchange, way)
    if trip is not None:
        findings = _findings(exchange, trip)
    else:
        algorithm = data_free(algorithm) if algorithm.warms_up else algorithm
        findings = findings_at_hand(algorithm, task, layers, densities, seed)
    at = mask_seed(seed, warm_up=False)
    family = named_slots(algorithm).plan(layers, densities, findings, at)
    record = RoundRecord(
        round=0,
        accepted=list(trip.devices if trip else outcome.accepted),
        unable=unable,
        asked=len(outcome.asked),
        rate=settings.training.rate_at(0, settings.rounds),
        loss=trip.loss if trip else None,
        bytes_up=(up := trip.bytes_up if trip else 0),
        bytes_down=(down := trip.bytes_down if trip else 0),
        total_up=up,
        total_down=down,
        layers=layer_figures(family),
        seconds=dict(outcome.seconds),
        clock_s=outcome.clock_s,
        wall_s=0.0,
    )
    model = first_model(algorithm, task, seed, family, findings)
    return InitialRound(model, family, findings, record)


def _warm_up(
    exchange: SimulationContext, way: Dispatch
) -> tuple[RoundParticipants, RoundTrip | None, dict[str, str]]:
    """The warm-up's devices and what they brought; others where some cannot.

    None where nobody can: the run goes on without evidence then.
    """
    settings, fleet, seed = exchange.settings, exchange.fleet, exchange.settings.seed
    family = warm_up_family(
        exchange.algorithm, exchange.layers, settings.densities, seed
    )
    base = start_model(exchange.task, seed, family)
    level = max(family.masks)
    tried: set[str] = set()
    unable: dict[str, str] = {}
    outcome = RoundParticipants((), (), {}, 0.0, "")
    for _ in range(ATTEMPTS):
        able = {d: own for d, own in fleet.affordable.items() if d not in tried}
        wanted = min(settings.warm_up.devices, len(able))
        if not wanted:
            break
        cohort = warm_up_cohort(seed, able, wanted)
        tried.update(cohort)
        outcome = fleet.play(0, dict.fromkeys(cohort, level), wanted)
        if outcome.note:
            log.warning("the warm-up failed with %s: %s", cohort, outcome.note)
            continue
        chosen = dict.fromkeys(outcome.accepted, level)
        trip = exchange.trip(way, 0, chosen, base, family)
        unable |= trip.unable
        if trip.packed:
            return outcome, trip, unable
    log.warning(
        "nobody could do the warm-up: the run goes on with layer densities that need "
        "no data, those of equal-counts"
    )
    return outcome, None, unable


def _findings(exchange: SimulationContext, trip: RoundTrip) -> WarmUpResult:
    if isinstance(exchange.algorithm.evidence, Trained):
        return trained_findings(trip.base, trip.contributions())
    return mean_findings(trip.evidence(), exchange.layers)
