"""Ends a run: the last scores, a checkpoint per density, deliveries, last statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from coordinator.checkpoints.best import BestModels, BestRule, answered_rounds
from coordinator.checkpoints.models import KEEP, ModelStore, model_name
from coordinator.delivery.sender import DeliverySender
from coordinator.identity.run_log import LoggedBest, log_models
from coordinator.ledger import Ledger
from coordinator.rounds.round_step import with_parts
from coordinator.rounds.state import RoundPhase
from coordinator.server.devices.device_evaluation import DeviceEvaluation
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.evaluation import Evaluator
from coordinator.server.global_model import GlobalModel
from coordinator.server.round_timing import RoundTiming
from coordinator.settings import RunSettings
from coordinator.settings.extension import RELEASED, extended_rounds
from coordinator.views.device_scores import pooled
from edge_sdk.errors import StateError

__all__ = ["RunEnd", "extended_after"]

log = logging.getLogger(__name__)

EXTENDED = "extended"  # key of the ledger: to how many rounds, and after which one
LAST_WORDS_S = 5.0  # how long the end of a run waits for the devices' last status
LATE = 50  # rounds by which the scores of one may be late, and count for patience
EVALUATION_S = 1800.0  # the last model's scores are waited for, but not for ever


class RunEnd:
    """Scores, delivers and says goodbye after the last round.

    Args:
        ledger: The run's durable memory.
        global_model: Its models.
        evaluator: Scores them.
        fleet: Its devices.
        deliveries: Delivers models.
        tests: Models tested on devices.
        timing: Says how long such a test may take.
        turn: Handles what has come in the meantime and shows this phase of the run;
            False if the run is to stop.
        clock: Monotonic seconds.
        settings: Of the run, as this server knows it.
    """

    def __init__(
        self,
        ledger: Ledger,
        global_model: GlobalModel,
        evaluator: Evaluator,
        fleet: DeviceRegistry,
        deliveries: DeliverySender,
        tests: DeviceEvaluation,
        timing: RoundTiming,
        turn: Callable[[str], bool],
        clock: Callable[[], float],
        settings: RunSettings,
    ) -> None:
        self._rounds, self._settings = settings.rounds, settings
        first = evaluator.metrics[0]
        rule = BestRule(
            *(first.name, first.higher_is_better),
            *(settings.best.gain, settings.best.patience),
        )
        after = extended_after(ledger)
        self._best = BestModels(rule, LoggedBest(ledger), self._keep, after)
        # The last round whose model the evaluator was given, and that model.
        self._done = ledger.rounds_done()  # asked for in each turn of the loop
        self._seen = 0  # the scores of all rounds before it were looked at
        self._submitted, self._model = 0, (global_model.model, global_model.family)
        self._ledger, self._global_model = ledger, global_model
        self._evaluator = evaluator
        self._fleet, self._deliveries = fleet, deliveries
        self._tests, self._timing = tests, timing
        self._turn, self._clock = turn, clock
        self._look()

    @property
    def reached(self) -> bool:
        """True once all rounds are done, or no better model has come for long."""
        done = self._done
        return 0 < self._rounds <= done or bool(done and self._best.through)

    @property
    def extended(self) -> bool:
        """True where somebody has extended the run since it was last read."""
        return 0 < self._rounds < extended_rounds(self._ledger.folder)

    def submit(self, no: int) -> None:
        """Have the model of a round that has ended scored; the warm-up has none."""
        self._done = self._ledger.rounds_done()
        self._look()  # devices have tested the model that the round began with
        if no and self._global_model.model is not None:
            model, family = self._model = self._global_model.base_of(no + 1)
            self._evaluator.submit(no, model, family)
            self._submitted = no

    def scored(self, no: int, density: float, worse: str) -> None:
        """Keep the best model, and the newest one of a run without a last round.

        Args:
            no: The round whose model was scored.
            density: At which density.
            worse: Why it is worse than the one before; empty if it is not.
        """
        self._ledger.mark_worse(no, f"here, density {density:g}", worse)
        self._look()
        model, family = self._model
        if self._rounds or no != self._submitted or model is None or family is None:
            return
        found = self._ledger.scores(since=no).get(no, {})
        if set(found) >= set(family.masks):
            log_models(
                *(self._ledger, no),
                self._global_model.deploy(no, found, (model, family)).values(),
            )

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
            if not self._evaluator.scores:
                return set()
            return set(family.masks) - set(
                self._ledger.scores(since=last).get(last, {})
            )

        if missing() and self._submitted != last:
            self._evaluator.submit(last, model, family)
        give_up = self._clock() + EVALUATION_S
        while missing() and self._clock() <= give_up:
            if not self._turn("evaluating"):
                return False
        if not self._test(last):
            return False
        self._look(waits=False)
        scores = self._scores().get(last, {})
        self._global_model.deploy(last, scores)
        self._store.deploy(model, family, last, scores, name="last")
        if self._settings.best.deploy == "best":
            self._store.deploy_best(self._best.rounds())
            if lacking := sorted(set(family.masks) - set(self._best.rounds())):
                log.warning(
                    "density %s has no best model, as no round's %s has a value: the "
                    "last model is deployed. Let a device hold test examples that %s "
                    "can be had from, or name another primary metric",
                    ", ".join(f"{density:g}" for density in lacking),
                    *(self._evaluator.metrics[0].name,) * 2,
                )
        log_models(self._ledger, last, (self._ledger.folder / "models").iterdir())
        if self._best.through:
            log.info("the run ends: %s", self._best.through)
            self._ledger.put("ended", self._best.through)
        return True

    @property
    def _store(self) -> ModelStore:
        made = self._global_model
        return ModelStore(
            *(self._ledger.folder, self._settings.task, made.layers, self._ledger)
        )

    def _scores(self) -> dict[int, dict[float, dict[str, float]]]:
        """Scores of the last models: those given here, else of devices together."""
        scores = pooled(self._ledger.evaluation_values())
        for no, found in self._ledger.scores().items():
            scores[no] = {**scores.get(no, {}), **found}
        return scores

    def _look(self, *, waits: bool = True) -> None:
        """Look for a better model among those whose scores will not change any more."""
        done = [r.no for r in self._ledger.rounds() if r.phase is RoundPhase.DONE]
        if self._evaluator.scores:  # one scale: not here and there by turns
            scores = self._ledger.scores(self._seen)
            self._seen = max(0, (done or [0])[-1] - LATE)
        else:
            scores = self._scores()
        if waits and not self._evaluator.scores:
            asked = {t.device for no in done[-1:] for t in self._ledger.tasks(no)}
            rows = [r for no in done[-2:-1] for r in self._ledger.evaluations(no)]
            known = answered_rounds(done, asked, {row.device for row in rows})
            scores = {no: found for no, found in scores.items() if no in known}
        self._best.look(scores, set(done[-KEEP:]))

    def _keep(self, no: int, density: float, metrics: Mapping[str, float]) -> bool:
        """Writes a round's model as the best of a density; False if it is gone."""
        store, made = self._store, self._global_model
        try:
            model = with_parts(self._evaluator.task, store.load(model_name(no)))
        except StateError:
            return False
        family = store.load_family(no) or made.family
        if family is None or density not in family.masks:
            return False
        store.deploy(
            *(model, family, no, {density: metrics}), name="best", only=density
        )
        return True

    def _test(self, last: int) -> bool:
        """Have the devices that are here test the last model; False if stopped.

        Each has the time that a round would give it, from when it was asked.
        """
        able, codecs = self._fleet.affordable(), self._fleet.densities.codecs
        down = {device: codecs(device)[1] for device in able}
        questions = self._tests.questions(
            last,
            *self._global_model.base_of(last + 1),
            able,
            down,
            self._fleet.programs,
        )
        tested = {row.device: row.examples for row in self._ledger.evaluation_values()}
        asked = {device: density for device, (_, density, _) in questions.items()}
        left_s = self._timing.waits_for_tests_s(asked, tested)
        give_up: dict[str, float] = {}
        while waiting := self._tests.waiting(last, questions) & self._fleet.present():
            now = self._clock()
            for device in waiting:
                self._tests.ask(device, questions[device])
                give_up.setdefault(device, now + left_s[device])
            if all(now > give_up[device] for device in waiting):
                said = ", ".join(sorted(waiting))
                log.warning("the run ends without tests of its last model by %s", said)
                break
            if not self._turn("evaluating on devices"):
                return False
        return True

    def deliver(self, to_all: Callable[[], bool]) -> None:
        """Wait for the deliveries to devices that are here, or `to_all`."""
        while True:
            self._deliveries.tick(self._fleet.online)
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


def extended_after(ledger: Ledger) -> int:
    """The last round that ended before the run was extended; 0 where it was not.

    It is noted by the first coordinator that goes on, which also takes back that the
    run had ended.
    """
    noted, rounds = ledger.get(EXTENDED) or {}, extended_rounds(ledger.folder)
    if rounds and noted.get("rounds") != rounds:
        noted = {"rounds": rounds, "after": max(0, ledger.next_round() - 1)}
        ledger.put("ended", "")
        ledger.put(EXTENDED, noted)
    return int(noted.get("after", 0))
