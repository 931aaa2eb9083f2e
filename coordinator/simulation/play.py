"""Plays a run: the coordinator's own steps, with workers where the network would be."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from coordinator.aggregate import Contribution, Model
from coordinator.algorithm import Family, Findings, Trained
from coordinator.algorithms import ALGORITHMS
from coordinator.orders import mask_seed, warm_up_cohort
from coordinator.simulation.fleet import Fleet, Outcome, make_fleet
from coordinator.simulation.incoming import (
    checked,
    contribution,
    mean_loss,
    received_bytes,
)
from coordinator.simulation.kept import Kept
from coordinator.simulation.outgoing import Outgoing, outgoing
from coordinator.simulation.places import counted
from coordinator.simulation.record import (
    Journal,
    RoundRecord,
    coverage_figures,
    layer_figures,
)
from coordinator.simulation.scoring import scores_of
from coordinator.simulation.settings import SimulationSettings, run_settings
from coordinator.simulation.workers import results, train_one
from coordinator.steps import (
    findings_at_hand,
    first_model,
    mean_findings,
    next_step,
    start_model,
    trained_findings,
    warm_up_family,
)
from edge_sdk.errors import RunError
from edge_sdk.models.cost import workload_of
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import load_task
from edge_sdk.training.runner import Packed

__all__ = ["Simulation"]

MAX_ABORTS = 5  # rounds in a row, as in a federation


class Simulation:
    """A run's state between two rounds.

    Args:
        folder: The run's folder.
        settings: Checked, with the engine decided.
        folders: Device name to its examples' folder.
        evaluation: The evaluation set's folder.
    """

    def __init__(
        self,
        folder: Path,
        settings: SimulationSettings,
        folders: Mapping[str, Path],
        evaluation: Path,
    ) -> None:
        self.settings, self._run = settings, run_settings(settings)
        self.task = load_task(settings.task)
        self.algorithm = ALGORITHMS[settings.algorithm]
        self.layers = layers_of(self.task.model(), self.task.dense_layers)
        self._eval_size = len(self.task.eval_data(evaluation))
        self._batch = settings.training.batch_size or self.task.batch_size
        epochs, boards = settings.training.epochs, any(g.board for g in settings.fleet)
        work = (
            workload_of(self.task, examples=1, epochs=epochs, batch=self._batch)
            if boards  # it takes a second, and only boards take time
            else None
        )
        examples = counted(self.task, folders)
        self.fleet: Fleet = make_fleet(folders, examples, work, settings)
        self._most = max(examples.values())
        self._kept = Kept(folder, settings.task, self.layers, settings.seed)
        self.journal = Journal(folder)
        self.model: Model | None = None
        self.family: Family | None = None
        if self.journal.records:  # goes on after the last whole round
            last = self.journal.records[-1].round
            self.model, self.family = self._kept.load(last)

    @property
    def done(self) -> bool:
        """Whether all rounds are complete."""
        return self.journal.completed >= self.settings.rounds

    def step(self, pool: Executor) -> RoundRecord:
        """Plays the next round and writes it down; round 0 makes the masks.

        Raises:
            RunError: If a worker dies or too many rounds in a row are given up.
        """
        began = time.monotonic()
        if self.model is None or self.family is None:
            record = self._begin(pool)
        else:
            record = self._round(pool, self.model, self.family)
        record = msgspec.structs.replace(record, wall_s=time.monotonic() - began)
        self.journal.add(record)
        last = self.journal.records[-MAX_ABORTS:]
        if len(last) == MAX_ABORTS and all(r.note for r in last):
            raise RunError(
                f"{MAX_ABORTS} rounds in a row were given up; the last: {record.note}"
            )
        return record

    # -- round 0 -----------------------------------------------------------------------

    def _begin(self, pool: Executor) -> RoundRecord:
        settings, algorithm, seed = self.settings, self.algorithm, self.settings.seed
        outcome, out = Outcome((), (), {}, 0.0, ""), Outgoing([], [], 0)
        packed: list[Packed] = []
        densities = settings.densities
        findings: Findings | None
        if algorithm.warms_up:
            outcome, out, packed, findings = self._warm_up(pool)
        else:
            findings = findings_at_hand(
                algorithm, self.task, self.layers, densities, seed
            )
        at = mask_seed(seed, warm_up=False)
        family = algorithm.plan(self.layers, densities, findings, at)
        model = first_model(algorithm, self.task, seed, family, findings)
        self._kept.begin(model, family, findings)
        self.model, self.family = model, family
        return RoundRecord(
            round=0,
            accepted=list(outcome.accepted),
            asked=len(outcome.asked),
            rate=self._run.training.rate_at(0, settings.rounds),
            loss=mean_loss(packed) if packed else None,
            bytes_up=(up := received_bytes(packed)),
            bytes_down=out.sent_bytes,
            total_up=up,
            total_down=out.sent_bytes,
            layers=layer_figures(family),
            seconds=dict(outcome.seconds),
            clock_s=outcome.clock_s,
            wall_s=0.0,
        )

    def _warm_up(
        self, pool: Executor
    ) -> tuple[Outcome, Outgoing, list[Packed], Findings]:
        settings, seed = self.settings, self.settings.seed
        family = warm_up_family(self.algorithm, self.layers, settings.densities, seed)
        base = start_model(self.task, seed, family)
        wanted = min(settings.warm_up.devices, len(self.fleet.devices))
        cohort = warm_up_cohort(seed, self.fleet.affordable, wanted)
        level = max(family.masks)
        outcome = self.fleet.play(0, dict.fromkeys(cohort, level), wanted)
        if outcome.note:
            raise RunError(f"the warm-up failed: {outcome.note}")
        chosen = dict.fromkeys(outcome.accepted, level)
        out = self._outgoing(0, chosen, base, family)
        packed = results(pool, train_one, out.jobs)
        if isinstance(self.algorithm.evidence, Trained):
            updates = self._contributions(chosen, out, packed, base, family)
            return outcome, out, packed, trained_findings(base, updates)
        reports = [
            checked(order, done, base, family.top, self._most)
            for order, done in zip(out.orders, packed, strict=True)
        ]
        return outcome, out, packed, mean_findings(reports, self.layers)

    # -- rounds 1, 2, ... --------------------------------------------------------------

    def _round(self, pool: Executor, base: Model, family: Family) -> RoundRecord:
        before = self.journal.records[-1]
        no = before.round + 1
        densities = self.algorithm.assign(self.fleet.affordable, list(family.masks))
        cohort = self.fleet.cohort(no, self.settings.cohort)
        outcome = self.fleet.play(
            no, {d: densities[d] for d in cohort}, self.settings.cohort
        )
        record = RoundRecord(
            round=no,
            accepted=[],
            asked=len(outcome.asked),
            rate=self._run.training.rate_at(no, self.settings.rounds),
            bytes_up=0,
            bytes_down=0,
            total_up=before.total_up,
            total_down=before.total_down,
            seconds=dict(outcome.seconds),
            clock_s=before.clock_s + outcome.clock_s,
            wall_s=0.0,
            note=outcome.note,
        )
        if outcome.note:
            self._kept.save(no, base, None)
            return record
        chosen = {d: densities[d] for d in outcome.accepted}
        out = self._outgoing(no, chosen, base, family)
        packed = results(pool, train_one, out.jobs)
        updates = self._contributions(chosen, out, packed, base, family)
        model, after, coverage = next_step(self.algorithm, base, family, updates)
        scores = {}
        if self._is_scored(no):
            scores = scores_of(pool, model, after, self._eval_size)
        moved = after is not family
        self._kept.save(no, model, after if moved else None)
        small, smaller = list(family.masks.values())[-1], list(after.masks.values())[-1]
        self.model, self.family = model, after
        held, bare = coverage_figures(coverage)
        return msgspec.structs.replace(
            record,
            accepted=list(chosen),
            loss=mean_loss(packed),
            scores=scores,
            bytes_up=(up := received_bytes(packed)),
            bytes_down=out.sent_bytes,
            total_up=before.total_up + up,
            total_down=before.total_down + out.sent_bytes,
            mismatch=smaller.jaccard_distance(small),
            moved=moved,
            coverage=held,
            uncovered=bare,
            layers=layer_figures(after),
        )

    def _outgoing(
        self, no: int, chosen: Mapping[str, float], base: Model, family: Family
    ) -> Outgoing:
        devices = self.fleet.devices
        return outgoing(
            no,
            chosen,
            base,
            family,
            algorithm=self.algorithm,
            settings=self._run,
            batch_size=self._batch,
            folders={device: devices[device].folder for device in chosen},
            known=self.journal.holders(),
        )

    def _contributions(
        self,
        chosen: Iterable[str],
        out: Outgoing,
        packed: Sequence[Packed],
        base: Model,
        family: Family,
    ) -> list[Contribution]:
        return [
            contribution(device, order, done, base, family, self._most)
            for device, order, done in zip(chosen, out.orders, packed, strict=True)
        ]

    def _is_scored(self, no: int) -> bool:
        last = self.journal.completed + 1 >= self.settings.rounds
        return last or no % self.settings.evaluate_every == 0
