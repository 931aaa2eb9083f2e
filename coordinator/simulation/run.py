"""Plays a run: the coordinator's own steps, with workers where the network would be."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec
import numpy as np

from coordinator.aggregate import Contribution, Coverage, Model
from coordinator.algorithm import Family, Findings
from coordinator.algorithms import ALGORITHMS
from coordinator.gate import Refused, check_offer, check_payload, read_update
from coordinator.orders import mask_seed, order_for, warm_up_cohort
from coordinator.simulation.fleet import Fleet, Outcome, make_fleet
from coordinator.simulation.places import counted, places_of
from coordinator.simulation.record import Journal, RoundRecord
from coordinator.simulation.settings import (
    SimulationSettings,
    check_simulation,
    run_settings,
)
from coordinator.simulation.workers import (
    Chunk,
    Work,
    engine_for,
    results,
    score_one,
    train_one,
    workers,
)
from coordinator.steps import (
    findings_at_hand,
    mean_findings,
    next_step,
    start_model,
    warm_up_family,
)
from coordinator.store import ModelStore, model_name
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import RunError, StateError
from edge_sdk.models.cost import workload_of
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import load_task
from edge_sdk.sparse import Mask
from edge_sdk.training.runner import Packed
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import CODECS, Evidence, Values, agreed, pack_values

__all__ = ["SETTINGS", "Simulation", "load_simulation", "simulate"]

log = logging.getLogger(__name__)

SETTINGS, PLAN = "settings.json", "plan.json"
EPOCH = 1
MAX_ABORTS = 5  # rounds in a row, as in a federation
CHUNK = (
    1000  # evaluation examples per job: fixed, so that sums do not depend on workers
)


def simulate(
    folder: Path,
    settings: SimulationSettings,
    *,
    worker_count: int,
    cache: Path | None = None,
    observe: Callable[[RoundRecord], None] = lambda _: None,
) -> list[RoundRecord]:
    """Runs a simulation in a folder to its end, or goes on with it.

    Args:
        folder: Settings, metrics and checkpoints; made if missing.
        settings: The run; those of the folder, if it has some.
        worker_count: Processes that train; the result does not depend on it.
        cache: Where fetched and partitioned data stay.
        observe: Told of every round.

    Returns:
        Every round's record.

    Raises:
        StateError: If the folder holds a run with other settings.
        EdgeError: If the run cannot start, a worker dies, or too many rounds abort.
    """
    check_simulation(settings)
    task = load_task(settings.task)
    engine = engine_for(task, settings.engine)
    settings = msgspec.structs.replace(settings, engine=engine)
    _claim(folder, settings)
    folders, evaluation = places_of(settings, cache=cache, progress=log.info)
    simulation = Simulation(folder, settings, folders, evaluation)
    if simulation.done:
        return simulation.journal.records
    with workers(worker_count, settings.task, evaluation, engine) as pool:
        while not simulation.done:
            observe(simulation.step(pool))
    return simulation.journal.records


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
        self.settings, self._run, self._folder = (
            settings,
            run_settings(settings),
            folder,
        )
        self.task = load_task(settings.task)
        self.algorithm = ALGORITHMS[settings.algorithm]
        self.layers = layers_of(self.task.model(), self.task.dense_layers)
        self._eval_size = len(self.task.eval_data(evaluation))
        self._batch = settings.training.batch_size or self.task.batch_size
        examples = counted(self.task, folders)
        work = workload_of(
            self.task,
            examples=1,
            epochs=settings.training.epochs,
            batch=self._batch,
        )
        self.fleet: Fleet = make_fleet(folders, examples, work, settings)
        self._store = ModelStore(folder, settings.task, self.layers)
        self.journal = Journal(folder)
        self.model: Model | None = None
        self.family: Family | None = None
        self._load()

    @property
    def done(self) -> bool:
        """Whether all rounds are complete."""
        done = sum(1 for r in self.journal.records if r.round and not r.note)
        return done >= self.settings.rounds

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
        densities = settings.densities
        outcome, sent, got = Outcome((), (), {}, 0.0, ""), 0, 0
        loss: float | None = None
        findings: Findings | None
        if algorithm.warms_up:
            family = warm_up_family(algorithm, self.layers, densities, seed)
            base = start_model(self.task, seed, family)
            wanted = min(settings.warm_up.devices, len(self.fleet.devices))
            cohort = warm_up_cohort(seed, self.fleet.affordable, wanted)
            level = max(family.masks)
            outcome = self.fleet.play(0, dict.fromkeys(cohort, level), wanted)
            if outcome.note:
                raise RunError(f"the warm-up failed: {outcome.note}")
            chosen = dict.fromkeys(outcome.accepted, level)
            orders, packed, sent, got = self._train(pool, 0, chosen, base, family)
            checked = [
                self._check(order, done, base, family.top)
                for order, done in zip(orders, packed, strict=True)
            ]
            findings = mean_findings(checked, self.layers)
            loss = _mean_loss(packed)
        else:
            found = findings_at_hand(algorithm, self.task, self.layers, densities, seed)
            findings = found
        at = mask_seed(seed, warm_up=False)
        family = algorithm.plan(self.layers, densities, findings, at)
        model = start_model(self.task, seed, family)
        if family.seed is None:
            self._store.save_family(0, family)
        self._store.save(model_name(0), model, 0)
        plan = {
            "evidence": None if findings is None else dict(findings.kept),
            "counts": {str(d): kept for d, kept in family.counts.items()},
        }
        replace_file(self._folder / PLAN, json.dumps(plan, indent=1).encode())
        self.model, self.family = model, family
        return RoundRecord(
            round=0,
            accepted=list(outcome.accepted),
            asked=len(outcome.asked),
            rate=self._run.training.rate_at(0, settings.rounds),
            loss=loss,
            bytes_up=got,
            bytes_down=sent,
            total_up=got,
            total_down=sent,
            layers=_layer_densities(family),
            seconds=dict(outcome.seconds),
            clock_s=outcome.clock_s,
            wall_s=0.0,
        )

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
            self._store.save(model_name(no), base, no)
            self._store.prune(no)
            return record
        chosen = {d: densities[d] for d in outcome.accepted}
        orders, packed, sent, got = self._train(pool, no, chosen, base, family)
        contributions = [
            self._contribution(device, order, done, base, family)
            for device, order, done in zip(chosen, orders, packed, strict=True)
        ]
        model, after, coverage = next_step(self.algorithm, base, family, contributions)
        scores = self._scores(pool, no, model, after)
        if after is not family:
            self._store.save_family(no, after)
        self._store.save(model_name(no), model, no)
        self._store.prune(no)
        small, smaller = list(family.masks.values())[-1], list(after.masks.values())[-1]
        self.model, self.family = model, after
        held, bare = _coverage(coverage)
        return msgspec.structs.replace(
            record,
            accepted=list(chosen),
            loss=_mean_loss(packed),
            scores=scores,
            bytes_up=got,
            bytes_down=sent,
            total_up=before.total_up + got,
            total_down=before.total_down + sent,
            mismatch=smaller.jaccard_distance(small),
            moved=after is not family,
            coverage=held,
            uncovered=bare,
            layers=_layer_densities(after),
        )

    def _train(
        self,
        pool: Executor,
        no: int,
        chosen: Mapping[str, float],
        base: Model,
        family: Family,
    ) -> tuple[list[TaskOrder], list[Packed], int, int]:
        """The devices' orders and what they made of them; bytes down and up."""
        codec = self.settings.codec
        down = agreed(codec.down, CODECS, zstd=codec.zstd)
        masks = {device: family.of(device, d) for device, d in chosen.items()}
        shared = {mask.digest: mask for mask in masks.values()}
        bases = {
            digest: pack_values(base.on(mask), mask, codec=down)
            for digest, mask in shared.items()
        }
        structures = {
            digest: b"" if family.drawn(mask) else encode_structure(mask)
            for digest, mask in shared.items()
        }
        recipes = {
            digest: family.recipe(
                mask, manifest_of(structures[digest]) if structures[digest] else None
            )
            for digest, mask in shared.items()
        }
        orders = [
            order_for(
                device,
                epoch=EPOCH,
                round_no=no,
                density=density,
                base=manifest_of(bases[masks[device].digest]),
                mask=recipes[masks[device].digest],
                algorithm=self.algorithm,
                settings=self._run,
                batch_size=self._batch,
                ttl_s=0.0,
                codec=agreed(codec.up, CODECS, zstd=codec.zstd),
            )
            for device, density in chosen.items()
        ]
        asked = [pack(order) for order in orders]
        jobs = [
            Work(
                self.fleet.devices[device].folder,
                order,
                bases[masks[device].digest],
                structures[masks[device].digest],
            )
            for device, order in zip(chosen, asked, strict=True)
        ]
        packed = results(pool, train_one, jobs)
        known = self._holders()
        sent = sum(len(job.order) + len(job.base) for job in jobs)
        sent += sum(
            len(job.structure)
            for device, job in zip(chosen, jobs, strict=True)
            if device not in known
        )
        got = sum(len(pack(done.offer)) + len(done.payload) for done in packed)
        return orders, packed, sent, got

    def _check(
        self, order: TaskOrder, done: Packed, base: Model, mask: Mask
    ) -> Values | Evidence:
        """The update, through the same gate as in a federation.

        Raises:
            RunError: If it does not pass: here nobody can be at fault but us.
        """
        most = max(one.examples for one in self.fleet.devices.values())
        sizes = {layer.name: layer.numel for layer in self.layers}
        refused = check_offer(
            done.offer, order, max_examples=most, dense=base.dense, sizes=sizes
        )
        found = refused or check_payload(done.payload, order, mask, base.dense)
        if isinstance(found, Refused):
            raise RunError(
                f"task {order.id} gave an update that is no good: {found.why}"
            )
        return found

    def _contribution(
        self, device: str, order: TaskOrder, done: Packed, base: Model, family: Family
    ) -> Contribution:
        start = family.of(device, order.density)
        self._check(order, done, base, start)
        mask, change = read_update(done.payload, start)
        return Contribution(device, mask, done.offer.examples, change)

    def _holders(self) -> set[str]:
        """Devices that have the masks as they are: nothing has moved since they did."""
        held: set[str] = set()
        for record in reversed(self.journal.records):
            if record.moved or not record.round:
                break
            held.update(record.accepted)
        return held

    def _scores(
        self, pool: Executor, no: int, model: Model, family: Family
    ) -> dict[str, dict[str, float]]:
        every, last = self.settings.evaluate_every, self.settings.rounds
        done = 1 + sum(1 for r in self.journal.records if r.round and not r.note)
        if no % every and done < last:
            return {}
        starts = range(0, self._eval_size, CHUNK)
        jobs = [
            Chunk(
                family.recipe(mask),
                b"" if family.drawn(mask) else encode_structure(mask),
                pack_values(model.on(mask), mask),
                start,
                min(start + CHUNK, self._eval_size),
            )
            for mask in family.masks.values()
            for start in starts
        ]
        found = results(pool, score_one, jobs)
        scores = {}
        for place, density in enumerate(family.masks):
            part = found[place * len(starts) : (place + 1) * len(starts)]
            scores[f"{density:g}"] = {
                name: sum(s.metrics[name] * s.examples for s in part) / self._eval_size
                for name in part[0].metrics
            }
        return scores

    def _load(self) -> None:
        """Takes up the run where its last whole round left it."""
        if not self.journal.records:
            return
        plan = json.loads((self._folder / PLAN).read_text("utf-8"))
        counts = {float(d): dict(kept) for d, kept in plan["counts"].items()}
        at = mask_seed(self.settings.seed, warm_up=False)
        last = self.journal.records[-1].round
        self.model = self._store.load(model_name(last))
        self.family = self._store.load_family(last) or Family.draw(
            self.layers, counts, at
        )


def load_simulation(folder: Path) -> SimulationSettings | None:
    """The settings of a folder's run, or None if it holds none.

    Raises:
        StateError: If its settings cannot be read.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=SimulationSettings)
    except msgspec.MsgspecError as error:
        raise StateError(f"{path} cannot be read: {error}") from error


def _claim(folder: Path, settings: SimulationSettings) -> None:
    before = load_simulation(folder)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(settings), indent=1)
        replace_file(folder / SETTINGS, text)
    elif before != settings:
        differ = [
            name
            for name in settings.__struct_fields__
            if getattr(before, name) != getattr(settings, name)
        ]
        raise StateError(
            f"{folder} holds a simulation with other settings: {', '.join(differ)}",
            remedy="Choose another folder, or give only the folder to go on with it.",
        )


def _layer_densities(family: Family) -> dict[str, dict[str, float]]:
    sizes = {s.name: s.numel for s in family.layers}
    return {
        f"{density:g}": {n: round(k / sizes[n], 6) for n, k in mask.counts.items()}
        for density, mask in family.masks.items()
    }


def _coverage(coverage: Coverage) -> tuple[float, float]:
    """Devices per weight on average, and the share of weights that none held."""
    held = np.concatenate([c.reshape(-1) for c in coverage.values()])
    return float(held.mean()), float(np.mean(held == 0))


def _mean_loss(packed: Sequence[Packed]) -> float:
    return float(np.mean([done.offer.metrics["loss"] for done in packed]))
