"""Round 0: the warm-up where there is one, then the first masks and the first model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coordinator.aggregate import Model
from coordinator.algorithm import Family
from coordinator.algorithms.equal_counts import data_free
from coordinator.evidence import Findings, Trained
from coordinator.orders import mask_seed, warm_up_cohort
from coordinator.simulation.exchange import Exchange, Trip
from coordinator.simulation.fleet import Outcome
from coordinator.simulation.record import RoundRecord, layer_figures
from coordinator.simulation.way import Way
from coordinator.steps import (
    findings_at_hand,
    first_model,
    mean_findings,
    start_model,
    trained_findings,
    warm_up_family,
)
from coordinator.warm_up import ATTEMPTS

__all__ = ["Beginning", "begin"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """What round 1 starts from.

    Attributes:
        model: On the family's top mask.
        family: The first masks.
        findings: What they were planned from, None for nothing.
        record: Round 0's line.
    """

    model: Model
    family: Family
    findings: Findings | None
    record: RoundRecord


def begin(exchange: Exchange, way: Way) -> Beginning:
    """Plays round 0.

    Raises:
        RunError: If the warm-up has too few devices, or a worker dies.
        DensityError: If a density is below the unit floors.
    """
    settings, algorithm, task = exchange.settings, exchange.algorithm, exchange.task
    layers, densities, seed = exchange.layers, settings.densities, settings.seed
    outcome, trip = Outcome((), (), {}, 0.0, ""), None
    findings: Findings | None
    unable: dict[str, str] = {}
    if algorithm.warms_up:
        outcome, trip, unable = _warm_up(exchange, way)
    if trip is not None:
        findings = _findings(exchange, trip)
    else:
        algorithm = data_free(algorithm) if algorithm.warms_up else algorithm
        findings = findings_at_hand(algorithm, task, layers, densities, seed)
    at = mask_seed(seed, warm_up=False)
    family = algorithm.plan(layers, densities, findings, at)
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
    return Beginning(model, family, findings, record)


def _warm_up(
    exchange: Exchange, way: Way
) -> tuple[Outcome, Trip | None, dict[str, str]]:
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
    outcome = Outcome((), (), {}, 0.0, "")
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


def _findings(exchange: Exchange, trip: Trip) -> Findings:
    if isinstance(exchange.algorithm.evidence, Trained):
        return trained_findings(trip.base, trip.contributions())
    return mean_findings(trip.evidence(), exchange.layers)
