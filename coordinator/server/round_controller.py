"""The round in hand: what devices say moves it, and the loop opens and ends it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from coordinator.algorithms.base import Algorithm
from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import Ledger, RoundRow
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.state import (
    OPEN,
    Deadline,
    Event,
    Failed,
    Freeze,
    GiveUp,
    Issue,
    Rejected,
    Reopened,
    Round,
    RoundPhase,
    Selected,
    TaskPhase,
    advance,
)
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.standing import LATE
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_closing import RoundCloser
from coordinator.server.round_opening import OpenRound, Part, RoundOpener, TestsOf
from coordinator.server.round_timing import RoundTiming
from coordinator.server.secure.secure_rounds import secure_rounds
from coordinator.settings import RunSettings
from edge_sdk.wire.messages import Message, Status

__all__ = ["RoundController"]

log = logging.getLogger(__name__)
LOOK_S = 1.0  # between two looks for orders that nobody has acknowledged
RESEND_S = 15.0  # an order that is not acknowledged by then is sent again, then later


class RoundController:
    """The round in hand, and how the next one comes about.

    Args:
        settings: The run.
        algorithm: Its algorithm.
        ledger: Its durable memory.
        global_model: Its models.
        fleet: Its devices.
        publisher: Sends.
        tests: (round, devices) -> tests of the base that go with tasks.
        epoch: This coordinator's epoch.
        batch_size: Examples per step where the settings leave it to the task.
        clock: Monotonic seconds.
        identities: The run's; None for one machine without any.

    Attributes:
        timing: Its pace and its deadline.
    """

    def __init__(
        self,
        settings: RunSettings,
        algorithm: Algorithm,
        ledger: Ledger,
        global_model: GlobalModel,
        fleet: DeviceRegistry,
        publisher: Publisher,
        tests: TestsOf,
        *,
        epoch: int,
        batch_size: int,
        clock: Callable[[], float],
        identities: IdentityRegistry | None = None,
    ) -> None:
        given = settings, ledger, publisher, global_model, identities, clock
        self._secure = secure_rounds(*given)
        self._ledger, self._fleet, self._publisher = ledger, fleet, publisher
        self._clock = clock
        self.timing = timing = RoundTiming(settings, algorithm, fleet, clock)
        self._opener = RoundOpener(
            *(settings, algorithm, ledger, global_model, fleet, publisher, timing),
            tests,
            epoch=epoch,
            batch_size=batch_size,
        )
        own = settings, ledger, global_model, fleet, publisher, timing, clock
        self._closer = RoundCloser(*own)
        self._now: OpenRound | None = None
        self._due: Callable[[], None] | None = None  # how `tick` ends the round
        # Orders that nobody has acknowledged: when again, and after which gap.
        self._unheard: dict[str, tuple[float, float]] = {}
        self._look_at = 0.0  # when one of them may be due; a look is at every device

    @property
    def round(self) -> Round | None:
        """The state of the round in hand; None between rounds."""
        return None if self._now is None else self._now.state

    @property
    def round_no(self) -> int:
        """Number of the round in hand; 0 for the warm-up and between rounds."""
        return 0 if self.round is None else self.round.no

    def is_over(self) -> bool:
        """Return whether `tick` ends the round without waiting for anything."""
        return self._due is not None and self._secure is None

    @property
    def phase(self) -> str:
        """Present phase of the run, in a few words."""
        if self.round is None:
            return "between rounds"
        return f"round {self.round_no}" if self.round_no else "warm-up"

    def take_finished(self) -> list[int]:
        """The rounds closed since this was asked last."""
        finished, self._closer.finished = self._closer.finished, []
        return finished

    def tick(self) -> None:
        """Ends the round if it is over; says again what nobody acknowledged.

        The only place where rounds are closed and aborted: the handling of a message
        changes the round's state, and the loop comes here after it.

        Raises:
            AlgorithmError: If a slot has failed in `MAX_FAILURES` rounds in a row.
        """
        if self._due is None and self.timing.over() and not self._extends():
            self.advance(Deadline())
        if self._waits_for_masks():
            return
        if self._due is not None:
            self._due()
            self._now, self._due, self._unheard = None, None, {}
            self.timing.end()
        elif self._now is not None and self._clock() >= self._look_at:
            self._say_again(self._now)

    def open(self) -> None:
        """Starts the warm-up or the next round with the devices present.

        Raises:
            AlgorithmError: As `tick`.
            RunError: If no device that the run knows can do its part.
        """
        if self._clock() < self._closer.not_before:
            return
        with self._closer.aborting(lambda: self._opener.no):
            self._now = self._opener.open(failing=self._closer.failing)
        if self._now is None:
            self.timing.end()
        elif self._now.state.phase is RoundPhase.CLOSING:
            self._due = partial(self._closer.close, self._now)
        else:
            self.advance(Selected(tuple(self._now.parts)))

    def reopen(self, row: RoundRow) -> None:
        """Picks up a round that a crash interrupted: same tasks, same bases."""
        about = {"round": row.no}
        log.info("resuming round %d in phase %s", row.no, row.phase.value, extra=about)
        self._now = self._opener.reopen(row)
        if row.phase is RoundPhase.CLOSING:
            self._due = partial(self._closer.close, self._now, frozen=True)
        else:  # perhaps killed between the last update's commit and the close
            self.advance(Reopened())

    def advance(self, event: Event) -> None:
        """Feeds the round; `tick` ends it where it says so."""
        if self._now is None:
            return
        state, effects = advance(self._now.state, event)
        self._now = now = OpenRound(state, self._now.parts, self._now.attempt)
        for effect in effects:
            match effect:
                case Issue():
                    for part in now.parts.values():
                        self._send(part, RESEND_S)
                case Freeze():
                    self._due = partial(self._closer.close, now)
                case GiveUp(why):
                    self._due = partial(self._closer.give_up, now, why)

    def _waits_for_masks(self) -> bool:
        """Go on with a secure round; return whether its close waits for that."""
        if self._secure is None or self._now is None:
            return False
        done, why = self._secure.tick(self._now, self.failed)
        if why:
            self._due = partial(self._closer.give_up, self._now, why)
        return not (done or why)

    def told_of_masks(self, device: str, message: Message) -> None:
        """A device says something of a secure round."""
        if self._secure is not None and self._now is not None:
            self._secure.take(self._now, device, message, self.failed)

    def accepted(self, device: str, metrics: Mapping[str, float]) -> None:
        """The device's update is in the round; its metrics tell how fast it is."""
        self.timing.watch.took(device, metrics)
        self._fleet.standings.succeeded(device)
        self._shorten_deadline()

    def rejected(self, device: str, why: str) -> None:
        """The device's update did not pass the gate."""
        self.timing.watch.failed(device)
        if self.round is not None:
            self._fleet.standings.failed(device, self.round.no, why)
        self.advance(Rejected(device))
        self._shorten_deadline()

    def failed(self, device: str, why: str, *, lasting: bool = False) -> None:
        """The device cannot do its task.

        Args:
            device: Its name.
            why: In its own words.
            lasting: Whether it says that it cannot do any other, either.
        """
        self.timing.watch.failed(device)
        if self.round is not None:
            weight = LATE if self._fleet.pauses(device) else 1.0
            given = device, self.round.no, why
            self._fleet.standings.failed(*given, weight=weight, lasting=lasting)
        self.advance(Failed(device))
        self._shorten_deadline()

    def saw(self, device: str, status: Status) -> None:
        """A device says how far it is: a deadline may wait for it."""
        if isinstance(status.progress, int) and status.phase == "training":
            self.advances(device, status.progress / 1000)

    def advances(self, device: str, share: float = 1.0) -> None:
        """So much of the device's task is done; 1 while its update is on its way."""
        if self.open_part(device) is not None:
            self.timing.advances(device, share)

    def _shorten_deadline(self) -> None:
        """People look for the deadline in the ledger, so it says what comes nearer."""
        if self.timing.shorten_deadline(self.round) and self.round is not None:
            self._ledger.wait_until(self.round.no, self.left_s())

    def left_s(self) -> float:
        """Seconds until the deadline; 0 between rounds."""
        return self.timing.left_s()

    def come_back_s(self, device: str) -> float:
        """Seconds after which a device without a task should ask again."""
        return self.timing.come_back_s(device, self.round_no)

    def open_part(self, device: str, task_id: str | None = None) -> Part | None:
        """A device's open part of the round in hand, if any.

        Args:
            device: Its name.
            task_id: The task that is meant; None for whichever it has.
        """
        now = self._now
        running = now is not None and now.state.phase is RoundPhase.RUN
        if now is None or not running or now.state.tasks.get(device) not in OPEN:
            return None
        part = now.parts.get(device)
        return part if part and task_id in (None, part.task.id) else None

    def _send(self, part: Part, gap_s: float) -> None:
        device, order = part.task.device, part.order
        self._fleet.expect(device, self.timing.left_s())
        self._unheard[device] = self._clock() + gap_s, 2 * gap_s
        packed = part.task.order_bytes
        self._publisher.tell(device, order, round_no=order.round_no, packed=packed)

    def _say_again(self, now: OpenRound) -> None:
        """An order, or its acknowledgement, may have been lost."""
        here, self._look_at = self._fleet.present(), self._clock() + LOOK_S
        for device, (at, gap_s) in list(self._unheard.items()):
            if now.state.tasks.get(device) is not TaskPhase.ASSIGNED:
                del self._unheard[device]
            elif self._clock() >= at and device in here:
                self._send(now.parts[device], gap_s)

    def _extends(self) -> bool:
        """Extend the deadline for devices that report progress; return if so."""
        now = self.round
        running = now is not None and now.phase is RoundPhase.RUN
        if now is None or not running or not self.timing.extend(now):
            return False
        left_s = self.timing.left_s()
        log.info("the deadline is extended by %.0f s: devices report progress", left_s)
        self._ledger.wait_until(now.no, left_s)
        for device, phase in now.tasks.items():
            if phase in OPEN:
                self._fleet.expect(device, left_s)
        return True
