"""Conducts rounds: opens them, issues tasks, and closes them as the pure round says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256

from coordinator.aggregate import Model
from coordinator.algorithm import Algorithm, Family, LayerSensitivity, Trained
from coordinator.assignment import Drift
from coordinator.cohort import choose
from coordinator.fleet import Fleet
from coordinator.ledger import Ledger, RoundRow, TaskRow
from coordinator.limits import shares
from coordinator.lineage import Lineage
from coordinator.orders import order_for, warm_up_cohort
from coordinator.pacing import (
    FIRST_GRACE_S,
    Pace,
    come_back_s,
    over_selected,
    pace,
)
from coordinator.post import Post
from coordinator.rounds import (
    OPEN,
    Accepted,
    Deadline,
    Event,
    Failed,
    Freeze,
    GiveUp,
    Issue,
    Phase,
    Planned,
    Rejected,
    Round,
    Saved,
    Selected,
    TaskPhase,
    advance,
    quorum_of,
)
from coordinator.settings import RunSettings
from coordinator.stopwatch import Stopwatch
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask
from edge_sdk.wire.blob import blob_id
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Cancel, Manifest, MaskRecipe, TaskOrder
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import CODECS, pack_values

__all__ = ["Conductor"]

log = logging.getLogger(__name__)

MAX_ABORTS = 5  # rounds in a row; more means something is wrong with the run
# The warm-up is closed at its quorum; without one the run is over, so patience is long.
WARM_UP_SLACK = 10.0


class Conductor:
    """The round in hand, and how the next one comes about.

    Args:
        settings: The run.
        algorithm: Its algorithm.
        ledger: Its durable memory.
        lineage: Its models.
        fleet: Its devices.
        post: Sends.
        epoch: This coordinator's epoch.
        batch_size: Examples per step where the settings leave it to the task.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: RunSettings,
        algorithm: Algorithm,
        ledger: Ledger,
        lineage: Lineage,
        fleet: Fleet,
        post: Post,
        *,
        epoch: int,
        batch_size: int,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._algorithm, self._ledger = settings, algorithm, ledger
        self._lineage, self._fleet, self._post = lineage, fleet, post
        self._epoch, self._batch, self._clock = epoch, batch_size, clock
        self._limit = partial(
            shares, clip=settings.gate.clip, weight=settings.gate.weight
        )
        self._aborts = 0
        self._watch = Stopwatch(clock)
        self._opened = 0.0
        self.round: Round | None = None
        self.orders: dict[str, TaskOrder] = {}
        self._tasks: dict[str, TaskRow] = {}  # of the round in hand, by device
        self.deadline: float | None = None
        self.finished: list[int] = []  # rounds closed since somebody took note

    @property
    def phase(self) -> str:
        """What is being done, in a few words."""
        if self.round is None:
            return "between rounds"
        return "warm-up" if self.round.no == 0 else f"round {self.round.no}"

    def tick(self) -> None:
        """Lets the deadline pass if it has."""
        if self.deadline is not None and self._clock() >= self.deadline:
            self.advance(Deadline())

    def open(self) -> None:
        """Starts the warm-up or the next round with the devices present.

        Raises:
            RunError: If the warm-up has failed, or no device can take part.
        """
        if self._lineage.model is None and not self._algorithm.warms_up:
            self._lineage.plan_masks()
        self._fleet.correct(self._drift())
        refusals = self._fleet.refusals()
        if refusals:
            raise RunError(
                f"no device can take part: {refusals}",
                remedy="Lower the densities, or raise round_budget_s or the caps.",
            )
        past = [r for r in self._ledger.rounds() if r.phase is not Phase.PLAN]
        no = self._next_number(past)
        base, family = self._lineage.base_of(no)
        densities = self._algorithm.assign(self._fleet.affordable(), list(family.masks))
        if not densities:
            return
        found = self._pace(densities) if no else None
        if found is not None:
            densities = {d: own for d, own in densities.items() if d in found.steps}
            if not densities:
                return
        wanted = self._settings.cohort if no else self._settings.warm_up.devices
        goal = min(wanted or len(densities), len(densities))
        cohort = self._cohort(no, goal, densities)
        last = [r.model for r in past if r.model]
        self._ledger.plan_round(
            no,
            goal=goal,
            quorum=quorum_of(goal),
            rate=self._settings.training.rate_at(no, self._settings.rounds),
            base=last[-1] if last else "",
        )
        self.round = Round(no, goal, quorum_of(goal))
        self.advance(Planned())
        self._issue(no, cohort, densities, base, family, found)
        self.advance(Selected(cohort))

    def _drift(self) -> dict[str, Drift]:
        """Devices whose times left their profiles; asked between rounds only."""
        found = {d: self._watch.drift(d) for d in self._fleet.present()}
        return {device: drift for device, drift in found.items() if drift is not None}

    def _pace(self, densities: Mapping[str, float]) -> Pace:
        """How much of the next round fits whom; who rests is told to displays."""
        expected = {
            device: self._watch.expected(device, self._fleet.predicted(device, density))
            for device, density in densities.items()
        }
        found = pace(expected, self._settings.round_budget_s)
        self._watch.rest(found.resting)
        self._fleet.paced({**found.why, **found.resting})
        return found

    def reopen(self, row: RoundRow) -> None:
        """Picks up a round that a crash interrupted: same tasks, same bases."""
        tasks = self._ledger.tasks(row.no)
        self.orders = {t.id: unpack(t.order_bytes, TaskOrder) for t in tasks}
        self._tasks = {t.device: t for t in tasks}
        log.info(
            "picking up round %d in phase %s",
            *(row.no, row.phase.value),
            extra={"round": row.no},
        )
        base, family = self._lineage.base_of(row.no)
        self._shelve_again(row.no, base, family)
        phases = {t.device: t.phase for t in tasks}
        self.round = Round(row.no, row.goal, row.quorum, row.phase, phases)
        # Whom it waits for is known only once they are back: what it had, and a start.
        ttl = max((o.ttl_ms / 1000 for o in self.orders.values()), default=0.0)
        self._watch.start({})
        self._run_until(ttl + FIRST_GRACE_S)
        if row.phase is Phase.CLOSING:
            self._close()
        elif self.round.count(TaskPhase.ACCEPTED) >= row.goal:
            # Killed between the last update's commit and the close.
            self._ledger.freeze(row.no, self._limit)
            self.round = Round(row.no, row.goal, row.quorum, Phase.CLOSING, phases)
            self._close()

    def advance(self, event: Event) -> None:
        """Feeds the round and does what it says."""
        if self.round is None:
            return
        self.round, effects = advance(self.round, event)
        for effect in effects:
            match effect:
                case Issue():
                    for task in self._tasks.values():
                        order = self.orders[task.id]
                        self._post.tell(task.device, order, round_no=task.round_no)
                case Freeze():
                    self._ledger.freeze(self.round.no, self._limit)
                    self._close()
                    return
                case GiveUp(why):
                    self._give_up(self.round.no, why)
                    return

    def accepted(self, device: str, metrics: Mapping[str, float]) -> None:
        """The device's update is durable; its metrics tell how fast it is."""
        self._watch.took(device, metrics)
        self.advance(Accepted(device))
        self._hurry()

    def rejected(self, device: str) -> None:
        """The device's update did not pass the gate."""
        self._watch.failed(device)
        self.advance(Rejected(device))
        self._hurry()

    def failed(self, device: str) -> None:
        """The device cannot do its task."""
        self._watch.failed(device)
        self.advance(Failed(device))
        self._hurry()

    def pauses(self, device: str, seconds: float) -> None:
        """The device's owner holds it back for so long."""
        self._watch.pauses(device, seconds)

    def left_s(self) -> float:
        """Seconds until the deadline; 0 between rounds."""
        return 0.0 if self.deadline is None else max(0.0, self.deadline - self._clock())

    def come_back_s(self, device: str) -> float:
        """Seconds after which a device without a task should ask again."""
        return come_back_s(
            device,
            left_s=self.left_s(),
            devices=len(self._fleet.present()),
            salt=str(self.round.no if self.round else 0),
        )

    def open_task(self, device: str) -> TaskRow | None:
        """The device's open task of the round in hand, if any."""
        if self.round is None or self.round.phase is not Phase.RUN:
            return None
        if self.round.tasks.get(device) not in OPEN:
            return None
        return self._tasks.get(device)

    def _next_number(self, past: list[RoundRow]) -> int:
        if self._lineage.model is not None:
            return past[-1].no + 1 if past else 1
        if past:
            raise RunError(
                f"the warm-up was aborted: {past[-1].note}",
                remedy="Read the devices' logs, then start the run in a new folder.",
            )
        return 0

    def _cohort(
        self, no: int, goal: int, densities: Mapping[str, float]
    ) -> tuple[str, ...]:
        seed = self._settings.seed
        if no == 0:
            return warm_up_cohort(seed, self._fleet.affordable(), goal)
        count = over_selected(
            goal,
            len(densities),
            asked=round(self._watch.asked),
            answered=round(self._watch.answered),
        )
        return choose(seed, no, densities, count)

    def _issue(
        self,
        no: int,
        cohort: tuple[str, ...],
        densities: Mapping[str, float],
        base: Model,
        family: Family,
        found: Pace | None,
    ) -> None:
        """Makes the cohort's tasks durable and its bases public."""
        self._post.wipe(before_round=no - 1)
        chosen = {device: densities[device] for device in cohort}
        if no == 0:
            chosen = dict.fromkeys(cohort, max(family.masks))
        codecs = {device: self._fleet.codecs(device) for device in cohort}
        masks = {device: family.of(device, d) for device, d in chosen.items()}
        recipes: dict[bytes, MaskRecipe] = {}
        bases: dict[tuple[bytes, str], Manifest] = {}
        for device, mask in sorted(masks.items()):
            if mask.digest not in recipes:
                recipes[mask.digest] = self._recipe(family, mask, no)
            key = mask.digest, codecs[device][1]
            if key not in bases:
                packed = pack_values(base.on(mask), mask, codec=key[1])
                bases[key] = self._post.shelve(packed, no)
        ttl = self._start(found, cohort)
        cut = found.why if found else {}
        orders = {
            device: order_for(
                device,
                epoch=self._epoch,
                round_no=no,
                density=density,
                base=bases[masks[device].digest, codecs[device][1]],
                mask=recipes[masks[device].digest],
                algorithm=self._algorithm,
                settings=self._settings,
                batch_size=self._batch,
                ttl_s=ttl,
                codec=codecs[device][0],
                steps=found.steps[device] if found and device in cut else 0,
            )
            for device, density in chosen.items()
        }
        self.orders = {order.id: order for order in orders.values()}
        self._tasks = {
            device: TaskRow(
                *(o.id, no, device, o.density, TaskPhase.ASSIGNED, pack(o)),
                base_bytes=o.base.size,
            )
            for device, o in sorted(orders.items())
        }
        self._ledger.issue_tasks(no, list(self._tasks.values()))

    def _start(self, found: Pace | None, cohort: tuple[str, ...]) -> float:
        """Starts the round's clock; returns seconds to its deadline."""
        if found is not None:
            self._watch.start({device: found.steps[device] for device in cohort})
            return self._run_until(self._watch.deadline_s())
        self._watch.start({})
        told, warm_up = self._algorithm.evidence, self._settings.warm_up
        own = told.epochs if isinstance(told, LayerSensitivity | Trained) else 1
        epochs = warm_up.epochs or own
        slowest = max(
            self._fleet.warm_up_s(d, epochs, warm_up.max_steps) for d in cohort
        )
        return self._run_until(WARM_UP_SLACK * slowest + FIRST_GRACE_S)

    def _run_until(self, seconds: float) -> float:
        self._opened = self._clock()
        self.deadline = self._opened + seconds
        return seconds

    def _hurry(self) -> None:
        """Once the quorum is in, nobody overdue is waited for."""
        now = self.round
        if now is None or self.deadline is None or now.phase is not Phase.RUN:
            return
        if now.count(TaskPhase.ACCEPTED) >= now.quorum:
            self.deadline = min(self.deadline, self._opened + self._watch.hurry_s())

    def _shelve_again(self, no: int, base: Model, family: Family) -> None:
        """Publishes the bases that a round's orders name, after a crash.

        An order names its base by digest only: the codec is the one that gives it.
        """
        owners = {self.orders[t.id].base.sha256: t.device for t in self._tasks.values()}
        wanted = {o.base.sha256: o for o in self.orders.values()}
        for digest, order in sorted(wanted.items()):
            manifest = order.base
            mask = family.of(owners[digest], order.density)
            self._recipe(family, mask, no)
            packed = (pack_values(base.on(mask), mask, codec=codec) for codec in CODECS)
            found = next((p for p in packed if sha256(p).digest() == digest), None)
            if found is None:
                log.warning("base %s cannot be made again", blob_id(manifest)[:12])
            else:
                self._post.shelve(found, no)

    def _recipe(self, family: Family, mask: Mask, no: int) -> MaskRecipe:
        """What a device needs to have the mask; publishes its structure if need be."""
        if family.drawn(mask):
            return family.recipe(mask)
        return family.recipe(mask, self._post.shelve(encode_structure(mask), no))

    def _close(self) -> None:
        """Aggregates the frozen rows; a crash here repeats it with the same result."""
        if self.round is None:
            return
        no = self.round.no
        self._watch.close(self._fleet.present())
        rows = self._ledger.frozen(no)
        name = self._lineage.grow(no, rows)
        self._ledger.finish(no, model=name)
        self._ledger.forget_blobs(no - 2)
        self._aborts = 0
        self.finished.append(no)
        self.advance(Saved())
        self._leave()

    def _give_up(self, no: int, why: str) -> None:
        log.warning("round %d aborted: %s", no, why, extra={"round": no})
        self._watch.close(self._fleet.present())
        self._ledger.abort(no, why)
        for task in self._ledger.tasks(no):
            if task.phase is TaskPhase.EXPIRED:
                self._post.tell(task.device, Cancel(task.id, why), round_no=no)
        self._aborts += 1
        self._leave()
        if self._aborts >= MAX_ABORTS:
            raise RunError(
                f"{self._aborts} rounds in a row were aborted; the last: {why}"
            )

    def _leave(self) -> None:
        self.orders, self._tasks = {}, {}
        self.round = self.deadline = None
