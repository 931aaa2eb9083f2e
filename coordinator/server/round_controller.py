"""Conducts rounds: opens them, issues tasks, and closes them as the pure round says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.slots import MAX_FAILURES, named_slots, run_failed
from coordinator.checkpoints.models import model_name
from coordinator.ledger import Ledger, RoundRow, TaskRow, UpdateRow
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.blobs import publish_blobs, publish_blobs_again
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.deadlines import abort_pause_s
from coordinator.rounds.selection import RoundDraft, asks_everybody, draft_round
from coordinator.rounds.state import (
    OPEN,
    Deadline,
    Event,
    Failed,
    Freeze,
    GiveUp,
    Issue,
    Planned,
    Rejected,
    Reopened,
    Round,
    RoundPhase,
    Saved,
    Selected,
    TaskPhase,
    advance,
    quorum_of,
)
from coordinator.rounds.tasks import order_for
from coordinator.rounds.warm_up_attempts import ATTEMPTS, Attempt, next_attempt
from coordinator.server.device_registry import DeviceRegistry
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_timing import RoundTiming
from coordinator.server.standing import LATE
from coordinator.settings import RunSettings
from edge_sdk.errors import (
    AlgorithmError,
    BrokerError,
    CheckpointError,
    EdgeError,
    RunError,
    StateError,
    two_sentences,
)
from edge_sdk.sparse import Mask
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Cancel, Status, TaskOrder, Wait

__all__ = ["Part", "RoundController"]

log = logging.getLogger(__name__)

SPOILED = "Lower the learning rate, or look for broken examples on the device."
# So many rounds in a row are aborted at once; then each waits longer than the last. The
# run ends only where nobody is left that has not failed.
MAX_ABORTS = 5
SAID = 400  # characters of an exception that a message repeats
RESEND_S = 15.0  # an order that is not acknowledged by then is sent again, then later


@dataclass(frozen=True, slots=True)
class Part:
    """One device's part of the round in hand.

    Attributes:
        task: As the ledger has it.
        order: What the device was told.
        base: What its update is a change to.
        mask: What it trains on.
    """

    task: TaskRow
    order: TaskOrder
    base: Model
    mask: Mask


class RoundController:
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
        lineage: GlobalModel,
        fleet: DeviceRegistry,
        post: Publisher,
        *,
        epoch: int,
        batch_size: int,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._algorithm, self._ledger = settings, algorithm, ledger
        self._lineage, self._fleet, self._post = lineage, fleet, post
        self._epoch, self._batch = epoch, batch_size
        self._limit = partial(
            shares,
            clip=settings.gate.clip,
            weight=settings.gate.weight,
            influence=settings.gate.influence,
        )
        self._aborts, self._not_before = 0, 0.0
        self._clock, self._attempt = clock, 0
        self._unheard: dict[
            str, tuple[float, float]
        ] = {}  # when again, after which gap
        self._timing = RoundTiming(settings, algorithm, fleet, clock)
        self.round: Round | None = None
        self._parts: dict[str, Part] = {}  # of the round in hand, by device
        self.finished: list[int] = []  # rounds closed since somebody took note
        self._due: Callable[[], None] | None = None  # how `tick` ends the round
        self._failures = 0  # of the algorithm, in rounds in a row
        self._no = 0  # the round that is being opened

    @property
    def phase(self) -> str:
        """Present phase of the run, in a few words."""
        if self.round is None:
            return "between rounds"
        return "warm-up" if self.round.no == 0 else f"round {self.round.no}"

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which the round is closed; None between rounds."""
        return self._timing.deadline

    def tick(self) -> None:
        """Ends the round if it is over; says again what nobody acknowledged.

        The only place where rounds are closed and aborted: the handling of a message
        changes the round's state, and the loop comes here after it.

        Raises:
            AlgorithmError: If a slot has failed in `MAX_FAILURES` rounds in a row.
        """
        if self._due is None and self._timing.over() and not self._extends():
            self.advance(Deadline())
        if self._due is not None:
            due, self._due = self._due, None
            due()
        if self.round is not None and self.round.phase is RoundPhase.RUN:
            self._say_again(self.round)

    def open(self) -> None:
        """Starts the warm-up or the next round with the devices present.

        Raises:
            AlgorithmError: As `tick`.
            RunError: If no device that the run knows can do its part.
        """
        if self._clock() >= self._not_before:
            with self._failing():
                self._open()

    def _open(self) -> None:
        past = [r for r in self._ledger.rounds() if r.phase is not RoundPhase.PLAN]
        self._no = 0
        if self._lineage.model is None and not self._algorithm.warms_up:
            self._lineage.plan_masks()
        self._fleet.correct(self._timing.drift())
        attempt = Attempt(0, (), frozenset())
        if self._lineage.model is None:
            attempt = self._next_attempt(past)
        else:
            self._no = past[-1].no + 1 if past else 1
        no = self._no
        able, beside = self._may_be_asked(no)
        if not able or self._aborts >= MAX_ABORTS:
            self._end_if_hopeless()
        if attempt.no:
            able = {d: own for d, own in able.items() if d in attempt.able}
            if not able:
                self._end_warm_up(attempt, past)
                return
        base, family = self._lineage.base_of(no)
        densities = named_slots(self._algorithm).assign(able, list(family.masks))
        if not densities:
            return
        draft = draft_round(
            no,
            densities,
            self._timing.pace(densities, beside) if no else None,
            settings=self._settings,
            affordable=able,
            masks=family.masks,
            asked=round(self._timing.watch.asked),
            answered=round(self._timing.watch.answered),
            beside=beside,
            kept=len(attempt.kept),
            everybody=asks_everybody(self._algorithm),
        )
        if draft is None:
            return
        self._attempt = attempt.no
        quorum = quorum_of(draft.goal)
        last = [r.model for r in past if r.model]
        self._ledger.plan_round(
            no,
            goal=draft.goal,
            quorum=quorum,
            rate=self._settings.training.rate_at(no, self._settings.rounds),
            base=last[-1] if last else "",
        )
        kept = dict.fromkeys(attempt.kept, TaskPhase.ACCEPTED)
        self.round = Round(no, draft.goal, quorum, tasks=kept)
        self.advance(Planned())
        self._issue(draft, base, family)
        self.advance(Selected(draft.cohort))

    def reopen(self, row: RoundRow) -> None:
        """Picks up a round that a crash interrupted: same tasks, same bases."""
        tasks = self._ledger.tasks(row.no)
        log.info(
            "resuming round %d in phase %s",
            *(row.no, row.phase.value),
            extra={"round": row.no},
        )
        base, family = self._lineage.base_of(row.no)
        self._parts = {
            t.device: Part(t, order, base, family.of(t.device, order.density))
            for t in tasks
            for order in (t.order(self._ledger.folder),)
        }
        orders = [(device, part.order) for device, part in self._parts.items()]
        publish_blobs_again(self._post.shelve, row.no, base, family, orders)
        phases = {t.device: t.phase for t in tasks}
        self.round = Round(row.no, row.goal, row.quorum, row.phase, phases)
        had = max((o.ttl_ms / 1000 for _, o in orders), default=0.0)
        self._timing.start_again(had)
        self._ledger.wait_until(row.no, self.left_s())
        self._attempt = self._ledger.get("warm_up_attempts") or 0
        if row.phase is RoundPhase.CLOSING:
            self._due = self._close
        else:  # perhaps killed between the last update's commit and the close
            self.advance(Reopened())

    def advance(self, event: Event) -> None:
        """Feeds the round; `tick` ends it where it says so."""
        if self.round is None:
            return
        self.round, effects = advance(self.round, event)
        for effect in effects:
            match effect:
                case Issue():
                    self._unheard = {}
                    for part in self._parts.values():
                        self._send(part, RESEND_S)
                case Freeze():
                    self._due = self._freeze
                case GiveUp(why):
                    self._due = partial(self._give_up, self.round.no, why)

    def accepted(self, device: str, metrics: Mapping[str, float]) -> None:
        """The device's update is durable; its metrics tell how fast it is."""
        self._timing.watch.took(device, metrics)
        self._fleet.standings.succeeded(device)
        self._hurry()

    def rejected(self, device: str, why: str) -> None:
        """The device's update did not pass the gate."""
        self._timing.watch.failed(device)
        if self.round is not None:
            self._fleet.standings.failed(device, self.round.no, why)
        self.advance(Rejected(device))
        self._hurry()

    def failed(self, device: str, why: str, *, lasting: bool = False) -> None:
        """The device cannot do its task.

        Args:
            device: Its name.
            why: In its own words.
            lasting: Whether it says that it cannot do any other, either.
        """
        self._timing.watch.failed(device)
        if self.round is not None:
            weight = LATE if self._fleet.pauses(device) else 1.0
            self._fleet.standings.failed(
                device, self.round.no, why, weight=weight, lasting=lasting
            )
        self.advance(Failed(device))
        self._hurry()

    def saw(self, device: str, status: Status) -> None:
        """A device says how far it is: a deadline may wait for it."""
        if isinstance(status.progress, int) and status.phase == "training":
            self.advances(device, status.progress / 1000)

    def advances(self, device: str, share: float = 1.0) -> None:
        """So much of the device's task is done; 1 while its update is on its way."""
        if self.open_part(device) is not None:
            self._timing.advances(device, share)

    def _hurry(self) -> None:
        """People look for the deadline in the ledger, so it says what comes nearer."""
        if self._timing.hurry(self.round) and self.round is not None:
            self._ledger.wait_until(self.round.no, self.left_s())

    def pauses(self, device: str, seconds: float) -> None:
        """The device's owner holds it back for so long."""
        self._timing.watch.pauses(device, seconds)

    def left_s(self) -> float:
        """Seconds until the deadline; 0 between rounds."""
        return self._timing.left_s()

    def come_back_s(self, device: str) -> float:
        """Seconds after which a device without a task should ask again."""
        return self._timing.come_back_s(device, self.round.no if self.round else 0)

    def open_part(self, device: str, task_id: str | None = None) -> Part | None:
        """A device's open part of the round in hand, if any.

        Args:
            device: Its name.
            task_id: The task that is meant; None for whichever it has.
        """
        now = self.round
        if now is None or now.phase is not RoundPhase.RUN:
            return None
        if now.tasks.get(device) not in OPEN:
            return None
        part = self._parts.get(device)
        return part if part and task_id in (None, part.task.id) else None

    # -- whom to ask -------------------------------------------------------------------

    def _may_be_asked(self, no: int) -> tuple[dict[str, float], set[str]]:
        """Affordable densities of devices to ask, and those not counted on.

        Where all who are here sit out for some rounds, they are asked early.
        """
        here, standings = self._fleet.affordable(), self._fleet.standings
        able = {d: x for d, x in here.items() if standings.of(d).may_be_asked(no)}
        if not able:
            able = {d: x for d, x in here.items() if not standings.of(d).lasting}
        return able, {d for d in able if standings.of(d).why}

    def _end_if_hopeless(self) -> None:
        reasons = self._fleet.hopeless(failing=self._aborts >= MAX_ABORTS)
        if reasons:
            raise RunError(
                f"no device can take part: {reasons}",
                remedy="Correct the cause that each one names, or lower the "
                "densities, or raise "
                "round_budget_s or the caps; then: flash-coordinator resume.",
            )

    def _next_attempt(self, past: list[RoundRow]) -> Attempt:
        """Whom the warm-up may ask; a ledger of 0.1.0 counts no attempts."""
        given_up = self._ledger.get("warm_up_attempts") or len(past)
        tasks = {t.device: t.phase for t in self._ledger.tasks(0)}
        here, _ = self._may_be_asked(0)
        return next_attempt(given_up, tasks, here)

    def _end_warm_up(self, attempt: Attempt, past: list[RoundRow]) -> None:
        """Close the warm-up when no device is left: with the evidence it has."""
        why, self._attempt = past[-1].note if past else "", attempt.no
        if attempt.kept and attempt.no <= ATTEMPTS:
            log.warning(
                "the warm-up continues with the evidence of %s alone: %s",
                *(", ".join(attempt.kept), why),
                extra={"round": 0},
            )
            self._ledger.freeze(0, self._limit)
            kept = dict.fromkeys(attempt.kept, TaskPhase.ACCEPTED)
            self.round = Round(0, len(kept), 1, RoundPhase.CLOSING, kept)
            self._close()
            return
        note = (
            f"nobody could do the warm-up ({why}): the run continues with layer "
            "densities that need no data, those of equal-counts"
        )
        log.warning("%s", note, extra={"round": 0})
        self._lineage.plan_without_data()
        self._ledger.finish(0, model=model_name(0), note=note)

    # -- what goes out -----------------------------------------------------------------

    def _send(self, part: Part, gap_s: float) -> None:
        device, order = part.task.device, part.order
        self._fleet.expect(device, self._timing.left_s())
        self._unheard[device] = self._clock() + gap_s, 2 * gap_s
        self._post.tell(device, order, round_no=order.round_no)

    def _say_again(self, now: Round) -> None:
        """An order, or its acknowledgement, may have been lost."""
        here = self._fleet.present()
        for device, (at, gap_s) in list(self._unheard.items()):
            if now.tasks.get(device) is not TaskPhase.ASSIGNED:
                del self._unheard[device]
            elif self._clock() >= at and device in here:
                self._send(self._parts[device], gap_s)

    def _extends(self) -> bool:
        """Extend the deadline for devices that report progress; return if so."""
        now = self.round
        if (
            now is None
            or now.phase is not RoundPhase.RUN
            or not self._timing.extend(now)
        ):
            return False
        left_s = self._timing.left_s()
        log.info("the deadline is extended by %.0f s: devices report progress", left_s)
        self._ledger.wait_until(now.no, left_s)
        for device, phase in now.tasks.items():
            if phase in OPEN:
                self._fleet.expect(device, left_s)
        return True

    def _issue(self, draft: RoundDraft, base: Model, family: MaskFamily) -> None:
        """Makes the cohort's tasks durable and its bases public."""
        no = draft.no
        self._post.wipe(before_round=no - 1)
        codecs = {device: self._fleet.codecs(device) for device in draft.cohort}
        named = publish_blobs(
            self._post.shelve,
            no,
            base,
            family,
            {device: family.of(device, d) for device, d in draft.densities.items()},
            {device: codec for device, (_, codec) in codecs.items()},
        )
        ttl = self._timing.start(draft)
        self._ledger.wait_until(no, ttl)
        orders = {
            device: order_for(
                device,
                epoch=self._epoch,
                round_no=no,
                density=density,
                base=named[device].base,
                mask=named[device].mask,
                algorithm=self._algorithm,
                settings=self._settings,
                batch_size=self._batch,
                ttl_s=ttl,
                codec=codecs[device][0],
                steps=draft.steps_of(device),
                attempt=self._attempt,
            )
            for device, density in draft.densities.items()
        }
        tasks = [
            TaskRow(
                *(o.id, no, device, o.density, TaskPhase.ASSIGNED, pack(o)),
                base_bytes=o.base.size,
            )
            for device, o in sorted(orders.items())
        ]
        self._parts = {
            t.device: Part(t, orders[t.device], base, family.of(t.device, t.density))
            for t in tasks
        }
        self._ledger.issue_tasks(no, tasks)

    def _freeze(self) -> None:
        if self.round is not None:
            self._ledger.freeze(self.round.no, self._limit)
            self._close()

    def _close(self) -> None:
        """Aggregates the frozen rows; a crash here repeats it with the same result."""
        if self.round is None:
            return
        no = self.round.no
        with self._failing():
            rows = self._sound_rows(self.round)
            if rows is None:
                return
            name = self._lineage.grow(no, rows)
            self._timing.watch.close(self._fleet.present())
            self._judge(self.round)
            self._ledger.finish(no, model=name)
            self._ledger.forget_blobs(no - 2)
            self._aborts = self._failures = 0
            self.finished.append(no)
            self.advance(Saved())
            self._leave()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Aborts the round in hand where a slot fails, or what scores the model.

        No device is the cause: the next round is tried at once, from the same model.

        Raises:
            AlgorithmError: If that was so in `MAX_FAILURES` rounds in a row.
        """
        try:
            yield
        except AlgorithmError as error:
            self._fail(error)
        except (BrokerError, CheckpointError, RunError, StateError):
            raise
        except EdgeError as error:
            self._fail(AlgorithmError(str(error), remedy=error.help))
        except Exception as error:
            log.exception("a round cannot be completed")
            said = " ".join(str(error).split())[:SAID]
            self._fail(AlgorithmError(f"{type(error).__name__}: {said}"))

    def _fail(self, error: AlgorithmError) -> None:
        if self.round is None:  # it could not be opened, and is counted all the same
            no, rate = self._no, self._settings.training.rate_at
            lasting = rate(no, self._settings.rounds)
            self._ledger.plan_round(no, goal=0, quorum=0, rate=lasting, base="")
        else:
            no = self.round.no
        failures = self._ledger.get("algorithm_failures") or 0
        self._ledger.put("algorithm_failures", failures + 1)
        self._abort(no, str(error))
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise run_failed(no, error) from error

    def _sound_rows(self, now: Round) -> list[UpdateRow] | None:
        """The frozen updates that make a sound model; who spoils it is left out.

        Those are no part of its goal any more. None if too few are left: the round is
        given up then, and its base stays.
        """
        no, goal = now.no, now.goal
        while True:
            rows = self._ledger.frozen(no)
            wrong = self._lineage.unsound(no, rows)
            if wrong is None:
                return rows
            why = f"its update spoils the model of the round: {wrong.why}"
            for device in wrong.devices:
                log.warning(
                    "left out the update of %s: %s",
                    *(device, why),
                    extra={"round": no, "device": device},
                )
                self._fleet.standings.failed(device, no, why)
                self._post.tell(device, Wait(0, two_sentences(why, SPOILED)[:500]))
            self._ledger.leave_out(no, wrong.devices, why, self._limit)
            goal -= len(wrong.devices)
            left = len(rows) - len(wrong.devices)
            if not wrong.devices or left < max(1, min(now.quorum, quorum_of(goal))):
                named = ", ".join(wrong.devices) or "no device can be named"
                self._give_up(no, f"{wrong.why}; spoilt by: {named}")
                return None

    def _give_up(self, no: int, why: str) -> None:
        """Aborts a round for want of updates: after many in a row, the next waits."""
        self._abort(no, why)
        self._aborts += 1
        if self._aborts >= MAX_ABORTS:
            pause_s = abort_pause_s(self._aborts - MAX_ABORTS)
            self._not_before = self._clock() + pause_s
            log.error(
                "%d rounds in a row were aborted; the next one begins in %.0f s. Read "
                "the devices' logs. The last: %s",
                *(self._aborts, pause_s, why),
            )

    def _abort(self, no: int, why: str) -> None:
        name = f"round {no}" if no else "the warm-up"
        log.warning("%s aborted: %s", name, why, extra={"round": no})
        if self.round is not None:
            self._judge(self.round)
        self._timing.watch.close(self._fleet.present())
        self._ledger.abort(no, why)
        for task in self._ledger.tasks(no):
            if task.phase is TaskPhase.EXPIRED and task.device in self._parts:
                self._post.tell(task.device, Cancel(task.id, why), round_no=no)
        if no == 0:
            self._ledger.put("warm_up_attempts", self._attempt + 1)
        self._leave()

    def _judge(self, now: Round) -> None:
        """Count a failure for devices that were late while others answered."""
        anybody = now.count(TaskPhase.ACCEPTED) > 0
        for device, phase in now.tasks.items():
            if phase in OPEN:  # the round had its goal before
                self._fleet.standings.not_needed(device, now.no)
            elif phase is TaskPhase.EXPIRED and anybody:
                self._fleet.standings.failed(
                    device, now.no, "it did not answer in time", weight=LATE
                )

    def _leave(self) -> None:
        self._parts, self._unheard = {}, {}
        self.round = None
        self._timing.end()
