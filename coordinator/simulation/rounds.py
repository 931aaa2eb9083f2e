"""Plays a run: the coordinator's own steps, with workers where the network would be."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.algorithms.passes import passes_of
from coordinator.algorithms.slots import MAX_FAILURES, named_slots, run_failed
from coordinator.rounds.state import quorum_of
from coordinator.rounds.tasks import held_out, measured_at
from coordinator.server.evaluation import Probe
from coordinator.server.global_model import GlobalModel
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.data.folders import counted as examples_of
from coordinator.simulation.data.folders import task_of
from coordinator.simulation.data.statistics import gather
from coordinator.simulation.dispatch import DirectDispatch, Dispatch
from coordinator.simulation.fleet import SimulatedFleet, make_fleet
from coordinator.simulation.incoming import counted
from coordinator.simulation.initial_round import begin
from coordinator.simulation.record import (
    RoundLog,
    RoundRecord,
    coverage_figures,
    layer_figures,
)
from coordinator.simulation.round_trip import NOT_ASKED, SimulationContext
from coordinator.simulation.settings import SimulationSettings, run_settings
from coordinator.simulation.workers.interface import Workers
from coordinator.simulation.workers.scoring import scores_of, tests_of
from coordinator.views.history import mean_loss
from coordinator.views.scores import shown
from edge_sdk.errors import AlgorithmError, RunError
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.model_state import check_model
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Task
from edge_sdk.training.scoring import metrics_for

__all__ = ["Simulation"]

log = logging.getLogger(__name__)

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
        self.settings, self._folders = settings, folders
        task = run_task(task or task_of(settings), settings)
        check_model(make_model(task, 0))
        self.task = task
        self.scored = scored = task.read_eval(evaluation)
        self._eval_size = len(scored)
        self._metrics = metrics_for(task, scored)
        batch = settings.training.batch_size or task.batch_size
        epochs, boards = settings.training.epochs, any(g.board for g in settings.fleet)
        self.algorithm = algorithm or load_algorithm(settings.algorithm)
        work = None
        if boards:  # it takes a second, and only boards take time
            work = replace(
                workload_of(task, examples=1, epochs=epochs, batch=batch, given=scored),
                batch_passes=passes_of(self.algorithm, settings.densities),
            )
        examples, self._refused = examples_of(task, folders)
        # Who is refused stays in the fleet, with one example and never asked: so the
        # others' boards and names on a broker do not depend on it.
        examples = {device: examples.get(device, 1) for device in folders}
        self.fleet: SimulatedFleet = make_fleet(folders, examples, work, settings)
        ours = run_settings(settings)
        self._context = SimulationContext(self.algorithm, ours, self.fleet, batch)
        self.journal = RoundLog(folder)
        self._failures = 0  # of the algorithm, in rounds in a row
        self._memory = SimulationMemory(folder, self.journal.records)
        probe = Probe(task, scored)
        self._global_model = GlobalModel(
            ours,
            task,
            self.algorithm,
            self._memory,
            probe,
            digests=False,
            secret=sha256(f"noise {settings.seed}".encode()).digest,
        )
        if self.journal.records:  # goes on after the last whole round
            self._global_model.load()

    @property
    def model(self) -> Model | None:
        """The global model; None before round 0."""
        return self._global_model.model

    @property
    def family(self) -> MaskFamily | None:
        """Masks of the simulation; None before round 0."""
        return self._global_model.family

    @property
    def done(self) -> bool:
        """True once all rounds are complete."""
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
        known = self.journal.unable()
        refused = {d: why for d, why in self._refused.items() if d not in known}
        for device, why in refused.items():
            log.warning(NOT_ASKED, device, why)
        if self.model is None:
            settings = self._context.settings
            gather(settings, self.task, self._folders, self._refused, self._memory)
            record = begin(
                *(self._context, way, self._global_model, self._memory),
                unable=self._refused,
            )
        else:
            try:
                record = self._round(pool, way)
                self._failures = 0
            except AlgorithmError as error:
                record = self._failed(failed := error)
        record = msgspec.structs.replace(
            record,
            wall_s=time.monotonic() - began,
            wire=way.cost(),
            unable={**refused, **record.unable},
        )
        self.journal.add(record)
        if failed is not None and self._failures >= MAX_FAILURES:
            raise run_failed(record.round, failed) from failed
        last = self.journal.records[-MAX_ABORTS:]
        if len(last) == MAX_ABORTS and all(r.note for r in last):
            raise RunError(
                f"{MAX_ABORTS} rounds in a row were given up; the last: {record.note}"
            )
        return record

    def _failed(self, error: AlgorithmError) -> RoundRecord:
        """A round in which a slot of the algorithm failed: the model stays."""
        self._failures += 1
        return msgspec.structs.replace(self._begun(), note=str(error))

    def _begun(self) -> RoundRecord:
        """The next round's record, as if nobody had been asked."""
        before = self.journal.records[-1]
        no = before.round + 1
        return RoundRecord(
            round=no,
            accepted=[],
            asked=0,
            rate=self.settings.training.rate_at(
                self.journal.completed + 1, self.settings.rounds
            ),
            bytes_up=0,
            bytes_down=0,
            total_up=before.total_up,
            total_down=before.total_down,
            clock_s=before.clock_s,
            wall_s=0.0,
        )

    def _round(self, pool: Workers, way: Dispatch) -> RoundRecord:
        record = self._begun()
        no = record.round
        base, family = self._global_model.base_of(no)
        slots, able = named_slots(self.algorithm), self.fleet.affordable
        densities = slots.assign(able, list(family.masks))
        settings, place = self._context.settings, self.journal.completed + 1
        measured = measured_at(densities, base, settings, place)
        unable = {**self._refused, **self.journal.unable()}
        out = {d for d in self.fleet.devices if d in unable or d not in densities}
        goal = min(self.settings.cohort, len(self.fleet.devices) - len(out))
        if goal < 1:
            said = "; ".join(f"{d}: {w}" for d, w in sorted(unable.items())[:3])
            raise RunError(
                f"no device can train: {said}",
                remedy="Correct what the devices report, then simulate in a new "
                "folder.",
            )
        cohort = self.fleet.cohort(no, goal, out)
        outcome = self.fleet.play(no, {d: measured[d] for d in cohort}, goal)
        record = msgspec.structs.replace(
            record,
            asked=len(outcome.asked),
            seconds=dict(outcome.seconds),
            clock_s=record.clock_s + outcome.clock_s,
            note=outcome.note,
        )
        if outcome.note:
            return record
        trip = self._context.trip(
            *(way, no, {d: measured[d] for d in outcome.accepted}, base, family),
            place=place,
            known=self.journal.holders(),
            asked=self.journal.trained(),
            remembers=self._memory
            if self.algorithm.init_state or base.personal
            else None,
        )
        record = msgspec.structs.replace(
            record,
            unable=dict(trip.unable),
            refused=dict(trip.refused),
            bytes_up=trip.bytes_up,
            bytes_down=trip.bytes_down,
            total_up=record.total_up + trip.bytes_up,
            total_down=record.total_down + trip.bytes_down,
        )
        if len(trip.rows) < quorum_of(goal):
            few = f"{len(trip.rows)} of at least {quorum_of(goal)} updates passed"
            return msgspec.structs.replace(record, note=f"{few}; {trip.why()}")
        self._memory.payloads = dict(trip.payloads)
        found = counted(
            trip.rows,
            self.journal.norms(no),
            self._context.settings.bounds,
            goal,
            lambda rows: self._global_model.unsound(no, rows),
        )
        for device, why in found.left_out.items():
            log.warning("left out the update of %s: %s", device, why)
        record = msgspec.structs.replace(
            record, refused={**trip.refused, **found.left_out}, cut=dict(found.cut)
        )
        if found.why:
            return msgspec.structs.replace(record, note=found.why)
        self._global_model.grow(no, found.rows)
        model, after = self._global_model.base_of(no + 1)
        scores, tests, holdout = {}, {}, held_out(self._context.settings)
        if self._is_scored(no):
            scores = scores_of(
                *(pool, model, after, self._eval_size), metrics=self._metrics
            )
        if scores and holdout is not None:
            asked = {d: (self.fleet.devices[d], x) for d, x in densities.items()}
            tests = tests_of(pool, model, after, asked, holdout, self._metrics)
        small, smaller = list(family.masks.values())[-1], list(after.masks.values())[-1]
        assert self._global_model.coverage is not None  # noqa: S101 - it has just grown
        held, bare = coverage_figures(self._global_model.coverage)
        return msgspec.structs.replace(
            record,
            accepted=[row.device for row in found.rows],
            norms={row.device: row.norm for row in found.rows},
            loss=mean_loss(found.rows),
            scores=scores,
            metric=shown(self._metrics[0]) if scores else None,
            on_devices=tests,
            mismatch=smaller.jaccard_distance(small),
            moved=after is not family,
            coverage=held,
            uncovered=bare,
            layers=layer_figures(after),
        )

    def _is_scored(self, no: int) -> bool:
        last = self.journal.completed + 1 >= self.settings.rounds
        return last or no % self.settings.evaluate_every == 0
