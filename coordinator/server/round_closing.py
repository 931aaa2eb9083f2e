"""Ends rounds: the aggregate, its check and its commit, or an abort that says why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from coordinator.algorithms.privacy import keep_spent
from coordinator.algorithms.slots import MAX_FAILURES, run_failed
from coordinator.ledger import Ledger, UpdateRow
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.deadlines import abort_pause_s
from coordinator.rounds.model_check import Unsound, sound_rows
from coordinator.rounds.state import OPEN, Round, TaskPhase
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.standing import LATE
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_opening import OpenRound
from coordinator.server.round_timing import RoundTiming
from coordinator.settings import RunSettings, rounds_kept
from edge_sdk.errors import (
    AlgorithmError,
    BrokerError,
    CheckpointError,
    EdgeError,
    RunError,
    StateError,
    two_sentences,
)
from edge_sdk.transport.client import together
from edge_sdk.wire.messages import Cancel, Wait

__all__ = ["RoundCloser"]

log = logging.getLogger(__name__)

SPOILED = "Lower the learning rate, or look for broken examples on the device."
# So many rounds in a row are aborted at once; then each waits longer than the last. The
# run ends only where nobody is left that has not failed.
MAX_ABORTS = 5
SAID = 400  # characters of an exception that a message repeats
# A close that takes less lets its last receipts wait for it: one commit for both.
QUICK_S = 0.2


class RoundCloser:
    """Closes rounds and aborts them; both only ever in the coordinator's loop.

    Args:
        settings: The run.
        ledger: Its durable memory.
        global_model: Its models.
        fleet: Its devices.
        publisher: Sends.
        timing: Of the round in hand.
        clock: Monotonic seconds.

    Attributes:
        finished: Rounds closed since somebody took note.
        not_before: Monotonic seconds before which no other round begins.
    """

    def __init__(
        self,
        settings: RunSettings,
        ledger: Ledger,
        global_model: GlobalModel,
        fleet: DeviceRegistry,
        publisher: Publisher,
        timing: RoundTiming,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._ledger = settings, ledger
        self._global_model = global_model
        self._fleet, self._publisher, self._timing = fleet, publisher, timing
        self._clock = clock
        self._limit = partial(
            shares,
            clip=settings.bounds.clip,
            weight=settings.bounds.weight,
            influence=settings.bounds.influence,
        )
        self._aborts = 0  # for want of updates, in a row
        self._failures = 0  # of the algorithm, in rounds in a row
        self._took_s = QUICK_S  # the last close; the first may take any time
        self.finished: list[int] = []
        self.not_before = 0.0

    @property
    def failing(self) -> bool:
        """True if so many rounds in a row were aborted that each waits longer."""
        return self._aborts >= MAX_ABORTS

    def close(self, now: OpenRound, *, frozen: bool = False) -> None:
        """Aggregates a round's updates; a crash in here repeats it with the same bytes.

        It is over once the next commit is done, which its caller sees to.

        Args:
            now: The round, closing.
            frozen: Whether its membership is fixed in the ledger.

        Raises:
            AlgorithmError: As `aborting`.
        """
        no = now.state.no
        with self.aborting(lambda: no, now):
            # The members of a masked sum were fixed before it was unmasked.
            masked = no > 0 and self._settings.privacy.secure_aggregation
            if not (frozen or masked):
                self._freeze(no)
            began = self._clock()
            rows, why = sound_rows(
                self._ledger.frozen(no),
                now.state.goal,
                now.state.quorum,
                partial(self._global_model.unsound, no),
                partial(self._leave_out, no),
            )
            if why:
                self.give_up(now, why)
                return
            with self._ledger.together():  # with the next round's tasks, if it opens
                name = self._global_model.grow(no, rows)
                self._timing.watch.close(self._fleet.present())
                self._judge(now.state)
                self._ledger.finish(no, model=name)
                keep_spent(self._ledger, self._settings)
                self._let_go(no)
            self._took_s = self._clock() - began
            self._aborts = self._failures = 0
            self.finished.append(no)

    def _freeze(self, no: int) -> None:
        """Fixes who is in the round, with a commit of its own where a close is slow.

        Its last receipts wait for that commit, or for that of the round's end.
        """
        with self._ledger.together() if self._took_s < QUICK_S else together():
            self._ledger.freeze(no, self._limit)

    def _let_go(self, no: int) -> None:
        """Deletes what an ended round leaves behind of those long before it."""
        keep = rounds_kept(self._settings)
        old = keep if self._settings.keep_updates else 2
        if old:
            self._ledger.forget_blobs(no - old)
        if keep:
            self._ledger.fold(no - keep)

    def give_up(self, now: OpenRound, why: str) -> None:
        """Aborts a round for want of updates: after many in a row, the next waits.

        Args:
            now: The round.
            why: In words.
        """
        self._abort(now.state.no, now, why)
        self._aborts += 1
        if self.failing:
            pause_s = abort_pause_s(self._aborts - MAX_ABORTS)
            self.not_before = self._clock() + pause_s
            log.error(
                "%d rounds in a row were aborted; the next one begins in %.0f s. Read "
                "the devices' logs. The last: %s",
                *(self._aborts, pause_s, why),
            )

    @contextmanager
    def aborting(
        self, no: Callable[[], int], now: OpenRound | None = None
    ) -> Iterator[None]:
        """Aborts a round where a slot fails, or what scores its model.

        No device is the cause: the next round is tried at once, from the same model.

        Args:
            no: Gives its number.
            now: The round; None for one that is being opened.

        Raises:
            AlgorithmError: If that was so in `MAX_FAILURES` rounds in a row.
        """
        try:
            yield
        except AlgorithmError as error:
            self._fail(no(), now, error)
        except (BrokerError, CheckpointError, RunError, StateError):
            raise
        except EdgeError as error:
            self._fail(no(), now, AlgorithmError(str(error), remedy=error.help))
        except Exception as error:
            log.exception("a round cannot be completed")
            said = " ".join(str(error).split())[:SAID]
            self._fail(no(), now, AlgorithmError(f"{type(error).__name__}: {said}"))

    def _fail(self, no: int, now: OpenRound | None, error: AlgorithmError) -> None:
        if now is None:  # it could not be opened, and is counted all the same
            place, rounds = self._ledger.place(no), self._settings.rounds
            rate = self._settings.training.rate_at(place, rounds)
            self._ledger.plan_round(no, goal=0, quorum=0, rate=rate, base="")
        failures = self._ledger.get("algorithm_failures") or 0
        self._ledger.put("algorithm_failures", failures + 1)
        self._abort(no, now, str(error))
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise run_failed(no, error) from error

    def _leave_out(self, no: int, wrong: Unsound) -> list[UpdateRow]:
        """The frozen updates without those of devices that spoil the model."""
        why = wrong.verdict
        for device in wrong.devices:
            log.warning(
                "left out the update of %s: %s",
                *(device, why),
                extra={"round": no, "device": device},
            )
            self._fleet.standings.failed(device, no, why)
            self._publisher.tell(device, Wait(0, two_sentences(why, SPOILED)[:500]))
        self._ledger.leave_out(no, wrong.devices, why, self._limit)
        return self._ledger.frozen(no)

    def _abort(self, no: int, now: OpenRound | None, why: str) -> None:
        name = f"round {no}" if no else "the warm-up"
        log.warning("%s aborted: %s", name, why, extra={"round": no})
        self._ledger.settle()  # who was accepted up to now is told
        if now is not None:
            self._judge(now.state)
        self._timing.watch.close(self._fleet.present())
        self._ledger.abort(no, why)
        asked = now.parts if now is not None else ()
        for task in self._ledger.tasks(no):
            if task.phase is TaskPhase.EXPIRED and task.device in asked:
                self._publisher.tell(task.device, Cancel(task.id, why), round_no=no)
        if no == 0:
            attempt = now.attempt if now else self._ledger.get("warm_up_attempts") or 0
            self._ledger.put("warm_up_attempts", attempt + 1)

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
