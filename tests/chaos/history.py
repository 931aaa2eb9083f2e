"""What must be true of a federation's history, whatever happened to it.

Pure functions over what is left: the ledger's rows, every blob and checkpoint that ever
lay on the coordinator's disk, and the devices' journals. `check` returns violations in
words; none means that the history is sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import CandidateMasks
from coordinator.algorithms.findings import mean_findings
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Contribution, Model, clipped
from coordinator.algorithms.methods.equal_counts import data_free
from coordinator.checkpoints.masks import unpack_family
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.round_step import (
    findings_at_hand,
    first_model,
    next_step,
    start_model,
    warm_up_family,
    with_parts,
)
from coordinator.rounds.tasks import mask_seed
from coordinator.settings import RunSettings
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.errors import EdgeError
from edge_sdk.storage.journal import KEEP_FINISHED, JournalRecord
from edge_sdk.tasks.cost import weight_uses
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.evidence import unpack_evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import unpack_update

__all__ = ["History", "check"]

OVER = ("done", "aborted")
# Verdicts that say: your update is in no round.
REFUSED = ("late", "rejected", "unknown", "equivocation", "failed", "cancelled")


@dataclass(frozen=True)
class History:
    """What is left of a run.

    Attributes:
        settings: The run's.
        folder: The run's folder.
        rounds: Rows of the ledger, by number.
        tasks: Rows of the ledger.
        updates: Rows of the ledger.
        counts: The kept counts (and boxes of units) that the ledger holds, or None
            before the warm-up's end.
        blobs: Name to content of every blob that ever lay there.
        checkpoints: File name to every distinct content that ever lay there.
        journals: Device to its record.
        over: Whether all processes have ended: only then must all be closed.
    """

    settings: RunSettings
    folder: Path
    rounds: tuple[Mapping[str, Any], ...]
    tasks: Mapping[str, Mapping[str, Any]]
    updates: Mapping[str, Mapping[str, Any]]
    counts: Any
    blobs: Mapping[str, bytes]
    checkpoints: Mapping[str, tuple[bytes, ...]]
    journals: Mapping[str, JournalRecord]
    over: bool


def check(history: History) -> list[str]:
    """Every violation found, in words; an empty list for a sound history."""
    found: list[str] = []
    for rule in (_chain, _counted_once, _promises, _receipts, _models, _deployed):
        found += rule(history)
    return found


def _chain(history: History) -> Iterator[str]:
    """Rounds follow each other, each on the model of the last committed one.

    Round 0 is the warm-up: an algorithm that has none begins with round 1, whose base
    is the first model and not named.
    """
    model = None
    first = 0 if load_algorithm(history.settings.algorithm).warms_up else 1
    for expected, row in enumerate(history.rounds, first):
        no, phase = row["no"], row["phase"]
        if no != expected:
            yield f"round {no} stands where round {expected} should"
        if (row["base"] or None) != model:
            yield f"round {no} stands on {row['base']!r}, the last model is {model!r}"
        if phase not in OVER and (history.over or row is not history.rounds[-1]):
            yield f"round {no} is left in phase {phase}"
        yield from _closed_well(history, row)
        model = row["model"] or model
    if history.over:
        done = sum(r["phase"] == "done" and r["no"] > 0 for r in history.rounds)
        if done < history.settings.rounds:
            yield f"{done} rounds of {history.settings.rounds} are done"


def _closed_well(history: History, row: Mapping[str, Any]) -> Iterator[str]:
    """A committed round has a model and its quorum, any other has no model."""
    no = row["no"]
    if row["phase"] != "done":
        if row["model"]:
            yield f"round {no} is {row['phase']} and has a model"
        return
    if row["model"] not in history.checkpoints:
        yield f"the model {row['model']} of round {no} was never seen"
    members = sum(u["round"] == no for u in history.updates.values())
    if members < row["quorum"]:
        yield f"round {no} is done with {members}, below {row['quorum']}"


def _counted_once(history: History) -> Iterator[str]:
    """No device twice in a round; a row only for a task it was given."""
    seen: set[tuple[int, str]] = set()
    for task, row in history.updates.items():
        if (row["round"], row["device"]) in seen:
            yield f"{row['device']} is counted twice in round {row['round']}"
        seen.add((row["round"], row["device"]))
        owner = history.tasks.get(task)
        if owner is None:
            yield f"an update of {row['device']} answers no task"
        elif (owner["round"], owner["device"]) != (row["round"], row["device"]):
            yield f"the update for task {task} is filed under another round or device"


def _promises(history: History) -> Iterator[str]:
    """Tasks, rows and blobs agree, in open rounds too."""
    phases = {r["no"]: r["phase"] for r in history.rounds}
    for task, row in history.tasks.items():
        counted = task in history.updates
        if (row["phase"] == "accepted") != counted:
            yield f"task {task} is {row['phase']}; an update of it: {counted}"
        open_task = row["phase"] in ("assigned", "acked", "offered")
        if open_task and phases[row["round"]] in (*OVER, "closing"):
            yield f"task {task} is open in round {row['round']} that is closed"
    for row in history.updates.values():
        no, content = row["round"], history.blobs.get(row["blob"])
        who = f"the update of {row['device']} in round {no}"
        if content is None:
            yield f"{who} has no blob"
        elif hashlib.sha256(content).hexdigest() != row["blob"]:
            yield f"{who} has a damaged blob"
        frozen = phases[no] in ("closing", "done")
        if bool(row["frozen"]) != frozen:
            yield f"{who} is{'' if row['frozen'] else ' not'} frozen: {phases[no]}"


def _receipts(history: History) -> Iterator[str]:
    """A device holds "accepted" exactly when its update, as it made it, is in."""
    for device, record in history.journals.items():
        verdicts = dict(record.finished)
        if len(verdicts) < len(record.finished):
            yield f"{device} ended a task twice"
        for task, verdict in record.finished:
            row = history.updates.get(task)
            if verdict == "accepted" and row is None:
                yield f"{device} holds a receipt for {task}; it is in no round"
            if verdict in REFUSED and row is not None:
                yield f"{device} was told {verdict} for {task}; it is counted"
        for task, row in history.updates.items():
            if row["device"] == device:
                yield from _remembered(history, record, task, row)


def _remembered(
    history: History, record: JournalRecord, task: str, row: Mapping[str, Any]
) -> Iterator[str]:
    """What is counted is what the device made, and it knows how that ended."""
    device, made = row["device"], dict(record.packed)
    if task in made and made[task].hex() != row["blob"]:
        yield f"{device} made another update for {task} than is counted"
    if task not in made and len(made) < KEEP_FINISHED:
        yield f"{device} is counted for {task} and never made an update"
    held = record.order is not None and record.order.id == task
    known = held or task in dict(record.finished)
    if history.over and not known and len(record.finished) < KEEP_FINISHED:
        yield f"{device} is counted for {task} and has forgotten it"


def _models(history: History) -> Iterator[str]:
    """Each model is its base plus the aggregate, bit for bit, from two sides.

    Once from the ledger's frozen rows, once from what the devices say they made and
    were told is in.
    """
    if history.counts is None:
        return
    chain = _Chain(history)
    yield from chain.first()
    for row in history.rounds:
        if row["phase"] != "done" or row["no"] == 0 or row["model"] is None:
            continue
        no = row["no"]
        contents = history.checkpoints.get(row["model"], ())
        if len(contents) != 1:
            yield f"{row['model']} had {len(contents)} different contents"
            continue
        rows = sorted(
            (u for u in history.updates.values() if u["round"] == no),
            key=lambda u: str(u["device"]),
        )
        ours = {u["task"]: u["blob"] for u in rows}
        theirs = chain.told(no)
        unsure = {t: blob for t, blob in ours.items() if t not in theirs}
        # A receipt that has not arrived yet leaves the device unsure, not wrong.
        for side, members in (("ledger", ours), ("devices", unsure | theirs)):
            try:
                made = chain.grown(row["base"] or model_name(0), no, members)
                same = _same(made, chain.model(row["model"]))
            except (KeyError, ValueError, EdgeError) as error:
                yield f"round {no} cannot be recomputed from the {side}: {error!r}"
                continue
            if not same:
                yield f"the model of round {no} is not what the {side} add up to"


def _deployed(history: History) -> Iterator[str]:
    """What is shipped is the last model, on each density's mask."""
    if not history.over or history.counts is None:
        return
    chain = _Chain(history)
    last = [r["model"] for r in history.rounds if r["model"]][-1]
    if last not in history.checkpoints:
        return  # said by the chain
    try:
        model = chain.model(last)
    except EdgeError as error:
        yield f"the last model cannot be read: {error}"
        return
    for density, mask in chain.family(history.settings.rounds).masks.items():
        path = history.folder / "models" / f"density-{density:g}.safetensors"
        if not path.exists():
            yield f"{path.name} was not written"
            continue
        shipped, wanted = load_checkpoint(path), model.on(mask)
        same = shipped.mask.digest == mask.digest
        same &= _equal(shipped.values, wanted.masked)
        same &= _equal(shipped.dense, wanted.dense)
        if not same:
            yield f"{path.name} is not the last model"


class _Chain:
    """The run's models, made again from what is left."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._task = run_task(load_task(history.settings.task), history.settings)
        model = self._task.model()
        self.layers = with_units(model, layers_of(model, self._task.dense_layers))
        self._fixed = fixed_weights(self._task, history.settings.seed)
        self.algorithm: Algorithm = load_algorithm(history.settings.algorithm)
        seed = mask_seed(history.settings.seed, warm_up=False)
        self._drawn = MaskFamily.planned(self.layers, history.counts, seed)
        self._orders = {
            t: unpack(row["order_bytes"], TaskOrder) for t, row in history.tasks.items()
        }

    def family(self, no: int) -> MaskFamily:
        """The masks after a round: the newest written until then, or those drawn."""
        names = (n for n in self._history.checkpoints if n.endswith(".masks"))
        until = [n for n in names if int(n[6:11]) <= no]
        if not until:
            return self._drawn
        return unpack_family(self._laid_down(max(until)), self.layers)

    def model(self, name: str) -> Model:
        """A checkpoint as it lay on the disk."""
        folder = self._laid_down(name).parent.parent
        store = ModelStore(folder, self._history.settings.task, self.layers)
        return with_parts(self._task, store.load(name))

    def _laid_down(self, name: str) -> Path:
        store = self._history.folder.parent / "check"  # its own disk may be full
        path = store / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._history.checkpoints[name][-1])
        return path

    def told(self, no: int) -> dict[str, str]:
        """Task to the digest of the update, where its device holds "accepted"."""
        return {
            task: dict(record.packed)[task].hex()
            for record in self._history.journals.values()
            for task, verdict in record.finished
            if verdict == "accepted"
            and task in dict(record.packed)
            and task in self._orders
            and self._orders[task].round_no == no
        }

    def grown(self, base: str, no: int, members: Mapping[str, str]) -> Model:
        """Base plus the aggregate of these updates, in the order of their devices."""
        tasks, contributions = self._history.tasks, []
        before, settings = self.family(no - 1), self._history.settings
        for task in sorted(members, key=lambda t: str(tasks[t]["device"])):
            device = tasks[task]["device"]
            start = before.of(device, self._orders[task].density)
            mask, change = unpack_update(self._history.blobs[members[task]], start)
            row = self._history.updates[task]
            cut = clipped(change, row["scale"])
            contributions.append(Contribution(device, mask, row["weight"], cut))
        context = RoundContext(no, settings.rounds, max(settings.densities))
        start_at = self.model(base)
        made, family, _ = next_step(
            *(self.algorithm, start_at, before, contributions),
            context,
            lambda: weight_uses(self._task),
        )
        if family is not before and family.masks != self.family(no).masks:
            raise ValueError("its masks are others than were written")
        return with_fixed(made, start_at, self._fixed)

    def first(self) -> Iterator[str]:
        """The masks follow from the evidence, the first model from the masks."""
        history = self._history
        seed, sizes = history.settings.seed, {x.name: x.numel for x in self.layers}
        warm = [u for u in history.updates.values() if u["round"] == 0]
        told, densities = self.algorithm.evidence, history.settings.densities
        if self.algorithm.warms_up and history.rounds[0]["phase"] == "done":
            candidates = told.count if isinstance(told, CandidateMasks) else 0
            blobs = (history.blobs[u["blob"]] for u in warm)
            reports = (unpack_evidence(b, sizes, candidates=candidates) for b in blobs)
            used, given = self.algorithm, (self.layers, densities, seed)
            if warm:
                found = mean_findings(reports, self.layers)
            else:  # no device could do it
                used = data_free(self.algorithm)
                found = findings_at_hand(used, self._task, *given)
            if warm and candidates:
                whole = warm_up_family(self.algorithm, *given)
                found = replace(found, model=start_model(self._task, seed, whole))
            at = mask_seed(seed, warm_up=False)
            plan = used.plan(self.layers, densities, found, at)
            if plan.masks != self.family(0).masks:
                yield "the masks do not follow from the warm-up's evidence"
            if json.loads(json.dumps(plan.plan())) != history.counts:
                yield "the masks do not follow from the warm-up's evidence"
        name = model_name(0)
        start = first_model(self.algorithm, self._task, seed, self.family(0), None)
        if name in history.checkpoints and not _same(start, self.model(name)):
            yield "the first model does not follow from the seed and the masks"


def _same(one: Model, other: Model) -> bool:
    return (
        one.mask.digest == other.mask.digest
        and _equal(one.masked, other.masked)
        and _equal(one.dense, other.dense)
    )


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return set(one) == set(other) and all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


def rows_of(db: Any, table: str) -> list[dict[str, Any]]:
    """A table's rows as plain values."""
    names = [c[1] for c in db.execute(f"PRAGMA table_info({table})")]
    query = f"SELECT * FROM {table}"  # noqa: S608 - our own table's name
    return [dict(zip(names, row, strict=True)) for row in db.execute(query)]


def counts_of(db: Any) -> Any:
    """The kept counts and boxes of units in the ledger, or None."""
    query = "SELECT key, value FROM meta WHERE key IN ('counts', 'boxes')"
    found = {row[0]: json.loads(row[1]) for row in db.execute(query)}
    return found if "counts" in found else None
