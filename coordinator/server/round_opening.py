"""Opens rounds: a round's tasks are durable before the first of them is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.dense import Entries
from coordinator.algorithms.mean import Model
from coordinator.algorithms.slots import named_slots
from coordinator.checkpoints.models import model_name
from coordinator.ledger import Ledger, RoundRow, TaskRow
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.uploads import unasked_bytes
from coordinator.rounds.blobs import publish_blobs, publish_blobs_again
from coordinator.rounds.selection import RoundDraft, asks_everybody, draft_round
from coordinator.rounds.state import (
    Planned,
    Round,
    RoundPhase,
    TaskPhase,
    advance,
    quorum_of,
)
from coordinator.rounds.tasks import measured_at, order_for
from coordinator.rounds.warm_up_attempts import ATTEMPTS, Attempt, next_attempt
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.drift_reports import draws_again
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_timing import RoundTiming
from coordinator.server.secure.noisy_rounds import secure_orders
from coordinator.settings import RunSettings
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import BaseTest, TaskOrder

__all__ = ["OpenRound", "Part", "RoundOpener", "TestsOf"]

log = logging.getLogger(__name__)

TestsOf: TypeAlias = Callable[[int, Iterable[str]], Mapping[str, BaseTest]]


@dataclass(frozen=True, slots=True)
class Part:
    """One device's part of the round in hand.

    Attributes:
        task: As the ledger has it.
        order: What the device was told.
        dense: Dense entries that it was sent.
        mask: What it trains on.
    """

    task: TaskRow
    order: TaskOrder
    dense: Entries
    mask: Mask


@dataclass(frozen=True, slots=True)
class OpenRound:
    """The round in hand.

    Attributes:
        state: Where it is.
        parts: Device -> its part.
        attempt: How often the warm-up was given up before; 0 for any other round.
    """

    state: Round
    parts: Mapping[str, Part]
    attempt: int = 0


class RoundOpener:
    """Opens the warm-up and the rounds after it.

    Args:
        settings: The run.
        algorithm: Its algorithm.
        ledger: Its durable memory.
        global_model: Its models.
        fleet: Its devices.
        publisher: Sends.
        timing: Sets the pace and the deadline.
        tests: (round, devices) -> tests of the base that go with tasks.
        epoch: This coordinator's epoch.
        batch_size: Examples per step where the settings leave it to the task.

    Attributes:
        no: The round that was tried last.
    """

    def __init__(
        self,
        settings: RunSettings,
        algorithm: Algorithm,
        ledger: Ledger,
        global_model: GlobalModel,
        fleet: DeviceRegistry,
        publisher: Publisher,
        timing: RoundTiming,
        tests: TestsOf,
        *,
        epoch: int,
        batch_size: int,
    ) -> None:
        self._settings, self._algorithm, self._ledger = settings, algorithm, ledger
        self._global_model, self._fleet = global_model, fleet
        self._publisher, self._timing = publisher, timing
        self._epoch, self._batch, self._tests = epoch, batch_size, tests
        self.no = 0

    def open(self, *, failing: bool) -> OpenRound | None:
        """Makes a round's tasks durable and its bases public.

        Args:
            failing: Whether many rounds in a row were aborted: the run ends then if no
                device is left that has not failed.

        Returns:
            The round, its tasks not sent, or to be closed at once where the warm-up
            goes on with what it has; None if nobody can be asked.

        Raises:
            AlgorithmError: If a slot fails.
            RunError: If no device that the run knows can do its part.
        """
        past = [r for r in self._ledger.rounds() if r.phase is not RoundPhase.PLAN]
        self.no = 0
        if self._global_model.model is None and not self._algorithm.warms_up:
            self._global_model.plan_masks()
        self._fleet.densities.correct(self._timing.drift())
        if begun := self._global_model.model is not None:
            self.no = past[-1].no + 1 if past else 1
        attempt = Attempt(0, (), frozenset()) if begun else self._next_attempt(past)
        able, beside = self._fleet.standings.to_ask(self._fleet.affordable(), self.no)
        if not able or failing:
            self._end_if_hopeless(failing=failing)
        if attempt.no:
            able = {d: own for d, own in able.items() if d in attempt.able}
            if not able:
                return self._end_warm_up(attempt, past)
        base, family = self._global_model.base_of(self.no)
        how, limits = self._settings.selection, self._fleet.owner_limits
        densities = named_slots(self._algorithm).assign(able, list(family.masks))
        place = self._ledger.place(self.no)
        densities = measured_at(densities, base, self._settings, place)
        if not densities:
            return None
        draft = draft_round(
            self.no,
            densities,
            self._timing.pace(densities, beside) if self.no else None,
            settings=self._settings,
            affordable=able,
            masks=family.masks,
            asked=round(self._timing.watch.asked),
            answered=round(self._timing.watch.answered),
            beside=beside,
            kept=len(attempt.kept),
            everybody=asks_everybody(self._algorithm),
            turns=self._ledger.last_asked() if how == "round-robin" else {},
            candidates=limits.candidates(able) if how == "fair" else {},
        )
        if draft is None:
            return None
        quorum, done = quorum_of(draft.goal), ["", *(r.model for r in past if r.model)]
        rate = self._settings.training.rate_at(place, self._settings.rounds)
        self._ledger.plan_round(
            self.no, goal=draft.goal, quorum=quorum, rate=rate, base=done[-1]
        )
        kept = dict.fromkeys(attempt.kept, TaskPhase.ACCEPTED)
        state, _ = advance(Round(self.no, draft.goal, quorum, tasks=kept), Planned())
        parts = self._issue(draft, attempt.no, base, family)
        return OpenRound(state, parts, attempt.no)

    def reopen(self, row: RoundRow) -> OpenRound:
        """Takes up a round that a crash interrupted, running or closing, as it was."""
        tasks = self._ledger.tasks(row.no)
        base, family = self._global_model.base_of(row.no)
        orders = {t.device: t.order(self._ledger.folder) for t in tasks}
        program = self._fleet.program.kept
        publish_blobs_again(
            self._publisher.shelve, row.no, base, family, orders.items(), program
        )
        phases = {t.device: t.phase for t in tasks}
        most_ms = max((o.ttl_ms for o in orders.values()), default=0)
        self._timing.start_again(most_ms / 1000)
        self._ledger.wait_until(row.no, self._timing.left_s())
        return OpenRound(
            Round(row.no, row.goal, row.quorum, row.phase, phases),
            _parts(tasks, orders, base, family),
            self._ledger.get("warm_up_attempts") or 0,
        )

    def _issue(
        self, draft: RoundDraft, attempt: int, base: Model, family: MaskFamily
    ) -> Mapping[str, Part]:
        """Makes the cohort's tasks durable and its bases public."""
        no, packet = draft.no, self._publisher.packet
        self._publisher.wipe(before_round=no - 1)
        codecs = {d: self._fleet.densities.codecs(d) for d in draft.cohort}
        masks = {device: family.of(device, d) for device, d in draft.densities.items()}
        down = {device: codec for device, (_, codec) in codecs.items()}
        given = masks, down, self._fleet.programs(draft.cohort)
        named = publish_blobs(self._publisher.shelve, no, base, family, *given)
        remembers = self._algorithm.init_state is not None or bool(base.personal)
        counted = self._ledger.last_counted(no) if remembers else {}
        place = self._ledger.place(no)
        drifted = draws_again(self._algorithm, self._ledger, no)
        tests, ttl = self._tests(no, draft.densities), self._timing.start(draft)
        self._ledger.wait_until(no, ttl)
        orders = {
            device: order_for(
                device,
                named[device],
                epoch=self._epoch,
                round_no=no,
                place=place,
                density=density,
                algorithm=self._algorithm,
                settings=self._settings,
                batch_size=self._batch,
                ttl_s=ttl,
                codec=codecs[device][0],
                steps=draft.steps_of(device),
                attempt=attempt,
                after=counted.get(device, ""),
                drifted=drifted,
                test=tests.get(device),
                chunk_size=self._fleet.densities.chunk_size(device, packet),
                unasked=unasked_bytes(len(draft.cohort)),
            )
            for device, density in draft.densities.items()
        }
        if self._settings.privacy.secure_aggregation:
            examples = {device: self._fleet.examples(device) for device in orders}
            secure = self._settings, self._ledger, orders, family, base, examples
            orders = secure_orders(*secure)
        new = TaskPhase.ASSIGNED
        tasks = [
            TaskRow(o.id, no, device, o.density, new, pack(o), o.base.size)
            for device, o in sorted(orders.items())
        ]
        self._ledger.issue_tasks(no, tasks, masks)
        return _parts(tasks, orders, base, family)

    def _end_if_hopeless(self, *, failing: bool) -> None:
        reasons = self._fleet.hopeless(failing=failing)
        if reasons:
            raise RunError(
                f"no device can take part: {reasons}",
                remedy="Correct the cause that each one names, or lower the densities, "
                "or raise round_budget_s or the caps; then: flash-coordinator resume.",
            )

    def _next_attempt(self, past: list[RoundRow]) -> Attempt:
        """Whom the warm-up may ask; a ledger of 0.1.0 counts no attempts."""
        given_up = self._ledger.get("warm_up_attempts") or len(past)
        tasks = {t.device: t.phase for t in self._ledger.tasks(0)}
        able, _ = self._fleet.standings.to_ask(self._fleet.affordable(), 0)
        return next_attempt(given_up, tasks, able)

    def _end_warm_up(self, attempt: Attempt, past: list[RoundRow]) -> OpenRound | None:
        """Close the warm-up when no device is left: with the evidence it has."""
        why = past[-1].note if past else ""
        if attempt.kept and attempt.no <= ATTEMPTS:
            log.warning(
                "the warm-up continues with the evidence of %s alone: %s",
                *(", ".join(attempt.kept), why),
                extra={"round": 0},
            )
            kept = dict.fromkeys(attempt.kept, TaskPhase.ACCEPTED)
            state = Round(0, len(kept), 1, RoundPhase.CLOSING, kept)
            return OpenRound(state, {}, attempt.no)
        note = (
            f"nobody could do the warm-up ({why}): the run continues with layer "
            "densities that need no data, those of equal-counts"
        )
        log.warning("%s", note, extra={"round": 0})
        self._global_model.plan_without_data()
        self._ledger.finish(0, model=model_name(0), note=note)
        return None


def _parts(
    tasks: list[TaskRow],
    orders: Mapping[str, TaskOrder],
    base: Model,
    family: MaskFamily,
) -> dict[str, Part]:
    held = {t.device: family.of(t.device, t.density) for t in tasks}
    sent = {d: base.dense_sent(mask) for d, mask in held.items()}
    return {d: Part(t, orders[d], sent[d], held[d]) for t in tasks for d in (t.device,)}
