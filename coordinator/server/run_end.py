"""Ends a run: the last scores, a checkpoint per density, deliveries, last statuses."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.delivery.sender import DeliverySender
from coordinator.ledger import Ledger
from coordinator.rounds.state import RoundPhase
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.evaluation import Evaluator
from coordinator.server.global_model import GlobalModel
from coordinator.settings.extension import RELEASED, extended_rounds

__all__ = ["RunEnd"]

LAST_WORDS_S = 5.0  # how long the end of a run waits for the devices' last status
EVALUATION_S = 1800.0  # the last model's scores are waited for, but not for ever


class RunEnd:
    """Scores, delivers and says goodbye after the last round.

    Args:
        ledger: The run's durable memory.
        global_model: Its models.
        evaluator: Scores them.
        fleet: Its devices.
        deliveries: Delivers models.
        turn: Handles what has come in the meantime and shows this phase of the run;
            False if the run is to stop.
        clock: Monotonic seconds.
        rounds: Of the run, as this server knows it; 0 for no last one.
    """

    def __init__(
        self,
        ledger: Ledger,
        global_model: GlobalModel,
        evaluator: Evaluator,
        fleet: DeviceRegistry,
        deliveries: DeliverySender,
        turn: Callable[[str], bool],
        clock: Callable[[], float],
        *,
        rounds: int,
    ) -> None:
        self._rounds = rounds
        # The last round whose model the evaluator was given, and that model.
        self._submitted, self._model = 0, (global_model.model, global_model.family)
        self._ledger, self._global_model = ledger, global_model
        self._evaluator = evaluator
        self._fleet, self._deliveries = fleet, deliveries
        self._turn, self._clock = turn, clock

    @property
    def reached(self) -> bool:
        """True once all rounds are done."""
        return 0 < self._rounds <= self._ledger.rounds_done()

    @property
    def extended(self) -> bool:
        """True where somebody has extended the run since it was last read."""
        return 0 < self._rounds < extended_rounds(self._ledger.folder)

    def submit(self, no: int) -> None:
        """Have the model of a round that has ended scored; the warm-up has none."""
        if no and self._global_model.model is not None:
            model, family = self._model = self._global_model.base_of(no + 1)
            self._evaluator.submit(no, model, family)
            self._submitted = no

    def scored(self, no: int) -> None:
        """Write the models of a run without a last round as soon as one is scored."""
        model, family = self._model
        if self._rounds or no != self._submitted or model is None or family is None:
            return
        found = self._ledger.scores().get(no, {})
        if set(found) >= set(family.masks):
            self._global_model.deploy(no, found, (model, family))

    def release(self) -> bool:
        """Note that the run ends now; False where it was extended in the meantime.

        `flash-coordinator extend` looks after it has written, so one of the two sees
        the other.
        """
        self._ledger.put(RELEASED, 1)
        if self.extended:
            self._ledger.put(RELEASED, 0)
            return False
        return True

    def score(self) -> bool:
        """Write one checkpoint per density with its scores; `resume` repeats it.

        Returns:
            False if the run was stopped before.
        """
        last = max(r.no for r in self._ledger.rounds() if r.phase is RoundPhase.DONE)
        model, family = self._global_model.base_of(last + 1)

        def missing() -> set[float]:
            return set(family.masks) - set(self._ledger.scores().get(last, {}))

        if missing() and self._submitted != last:
            self._evaluator.submit(last, model, family)
        give_up = self._clock() + EVALUATION_S
        while missing() and self._clock() <= give_up:
            if not self._turn("evaluating"):
                return False
        self._global_model.deploy(last, self._ledger.scores().get(last, {}))
        return True

    def deliver(self, to_all: Callable[[], bool]) -> None:
        """Wait for the deliveries to devices that are here, or `to_all`."""
        while True:
            self._deliveries.tick(self._fleet.online())
            waiting = set(self._deliveries.pending())
            here = waiting & self._fleet.online()
            if not (waiting if to_all() else here):
                return
            if not self._turn(f"delivering: {len(waiting)} to go, {len(here)} here"):
                return

    def collect_last_words(self, announce: Callable[[], None]) -> None:
        """Devices answer the end with a last status: what they sent and received."""
        waiting = self._fleet.online()
        self._fleet.reported.clear()
        announce()
        give_up = self._clock() + LAST_WORDS_S
        while waiting - self._fleet.reported and self._clock() < give_up:
            self._turn("done")
