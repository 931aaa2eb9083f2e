"""Plays a run: the coordinator's own steps, with workers where the network would be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.algorithms.slots import MAX_FAILURES, named_slots, run_failed
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.round_step import next_step, with_state
from coordinator.rounds.state import quorum_of
from coordinator.simulation.checkpoints import SimulationCheckpoints
from coordinator.simulation.data_folders import counted, task_of
from coordinator.simulation.dispatch import DirectDispatch, Dispatch
from coordinator.simulation.fleet import SimulatedFleet, make_fleet
from coordinator.simulation.initial_round import begin
from coordinator.simulation.record import (
    RoundLog,
    RoundRecord,
    coverage_figures,
    layer_figures,
)
from coordinator.simulation.round_trip import SimulationContext
from coordinator.simulation.scoring import scores_of
from coordinator.simulation.settings import SimulationSettings, run_settings
from coordinator.simulation.workers.interface import Workers
from edge_sdk.errors import AlgorithmError, RunError
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.model_state import check_model
from edge_sdk.tasks.task import Task

__all__ = ["Simulation"]

MAX_ABORTS = 5  # rounds in a row, as in a federation


class Simulation:
    """A run's state between two rounds.

    Args:
        folder: The run's folder.
        settings: Checked, with the engine decided.
        folders: Device name to its examples' folder.
        evaluation: The evaluation set's folder.
        task: What is trained, where the settings' reference cannot be loaded.
        algorithm: How; alike.
    """

    def __init__(
        self,
        folder: Path,
        settings: SimulationSettings,
        folders: Mapping[str, Path],
        evaluation: Path,
        *,
        task: Task | None = None,
        algorithm: Algorithm | None = None,
    ) -> None:
        self.settings, task = settings, task or task_of(settings)
        model = make_model(task, 0)
        check_model(model)
        self.task, layers = task, layers_of(model, task.dense_layers)
        self._fixed = fixed_weights(task, settings.seed)
        scored = task.read_eval(evaluation)
        self._eval_size = len(scored)
        batch = settings.training.batch_size or task.batch_size
        epochs, boards = settings.training.epochs, any(g.board for g in settings.fleet)
        work = (
            workload_of(task, examples=1, epochs=epochs, batch=batch, given=scored)
            if boards  # it takes a second, and only boards take time
            else None
        )
        examples = counted(task, folders)
        self.fleet: SimulatedFleet = make_fleet(folders, examples, work, settings)
        self.algorithm = algorithm or load_algorithm(settings.algorithm)
        self._exchange = SimulationContext(
            task,
            layers,
            self.algorithm,
            run_settings(settings),
            self.fleet,
            batch,
            max(examples.values()),
        )
        self._kept = SimulationCheckpoints(folder, settings.task, layers, settings.seed)
        self.journal = RoundLog(folder)
        self._failures = 0  # of the algorithm, in rounds in a row
        self.model: Model | None = None
        self.family: MaskFamily | None = None
        if self.journal.records:  # goes on after the last whole round
            last = self.journal.records[-1].round
            found, self.family = self._kept.load(last)
            self.model = with_state(self.algorithm, task, found)

    @property
    def done(self) -> bool:
        """Whether all rounds are complete."""
        return self.journal.completed >= self.settings.rounds

    def step(self, pool: Workers, way: Dispatch | None = None) -> RoundRecord:
        """Plays the next round and writes it down; round 0 makes the masks.

        Args:
            pool: Who score, and train.
            way: How orders reach those who train; None hands them over.

        Raises:
            AlgorithmError: If a slot fails in round 0, or in too many rounds in a row.
            RunError: If a worker dies or too many rounds in a row are given up.
        """
        began, way = time.monotonic(), way or DirectDispatch(pool)
        failed: AlgorithmError | None = None
        if self.model is None or self.family is None:
            first = begin(self._exchange, way)
            self._kept.begin(first.model, first.family, first.findings)
            self.model, self.family, record = first.model, first.family, first.record
        else:
            try:
                record = self._round(pool, way, self.model, self.family)
                self._failures = 0
            except AlgorithmError as error:
                record = self._failed(self.model, failed := error)
        took = time.monotonic() - began
        record = msgspec.structs.replace(record, wall_s=took, wire=way.cost())
        self.journal.add(record)
        if failed is not None and self._failures >= MAX_FAILURES:
            raise run_failed(record.round, failed) from failed
        last = self.journal.records[-MAX_ABORTS:]
        if len(last) == MAX_ABORTS and all(r.note for r in last):
            raise RunError(
                f"{MAX_ABORTS} rounds in a row were given up; the last: {record.note}"
            )
        return record

    def _failed(self, base: Model, error: AlgorithmError) -> RoundRecord:
        """A round in which a slot of the algorithm failed: the model stays."""
        before, self._failures = self.journal.records[-1], self._failures + 1
        no = before.round + 1
        self._kept.save(no, base, None)
        return RoundRecord(
            round=no,
            accepted=[],
            asked=0,
            rate=self.settings.training.rate_at(no, self.settings.rounds),
            bytes_up=0,
            bytes_down=0,
            total_up=before.total_up,
            total_down=before.total_down,
            seconds={},
            clock_s=before.clock_s,
            wall_s=0.0,
            note=str(error),
        )

    def _round(
        self, pool: Workers, way: Dispatch, base: Model, family: MaskFamily
    ) -> RoundRecord:
        before = self.journal.records[-1]
        no = before.round + 1
        densities = named_slots(self.algorithm).assign(
            self.fleet.affordable, list(family.masks)
        )
        unable = self.journal.unable()
        goal = min(self.settings.cohort, len(self.fleet.devices) - len(unable))
        if goal < 1:
            said = "; ".join(f"{d}: {w}" for d, w in sorted(unable.items())[:3])
            raise RunError(
                f"no device can train: {said}",
                remedy="Mend what the devices say, then simulate in a new folder.",
            )
        cohort = self.fleet.cohort(no, goal, unable)
        outcome = self.fleet.play(no, {d: densities[d] for d in cohort}, goal)
        record = RoundRecord(
            round=no,
            accepted=[],
            asked=len(outcome.asked),
            rate=self.settings.training.rate_at(no, self.settings.rounds),
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
        trip = self._exchange.trip(
            way, no, chosen, base, family, self.journal.holders()
        )
        if len(trip.devices) < quorum_of(goal):
            few = f"{len(trip.devices)} of at least {quorum_of(goal)} could train"
            self._kept.save(no, base, None)
            return msgspec.structs.replace(record, note=few, unable=dict(trip.unable))
        model, after, coverage = next_step(
            self.algorithm, base, family, trip.contributions()
        )
        model = with_fixed(model, base, self._fixed)
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
            accepted=list(trip.devices),
            unable=dict(trip.unable),
            loss=trip.loss,
            scores=scores,
            bytes_up=(up := trip.bytes_up),
            bytes_down=trip.bytes_down,
            total_up=before.total_up + up,
            total_down=before.total_down + trip.bytes_down,
            mismatch=smaller.jaccard_distance(small),
            moved=moved,
            coverage=held,
            uncovered=bare,
            layers=layer_figures(after),
        )

    def _is_scored(self, no: int) -> bool:
        last = self.journal.completed + 1 >= self.settings.rounds
        return last or no % self.settings.evaluate_every == 0
