"""Loop of the coordinator: it empties the event queue, closes and opens rounds."""

from __future__ import annotations

import time
from collections.abc import Callable

from coordinator.algorithms.load import load_algorithm
from coordinator.delivery.sender import DeliverySender
from coordinator.delivery.store import DeliveryStore
from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.run_log import begin_log
from coordinator.ledger import Ledger
from coordinator.protocol.announcements import RunState, announcement
from coordinator.protocol.events import (
    DeviceRevoked,
    EvaluationDone,
    EventQueue,
    Item,
    KeyRotated,
    MessageGroups,
    TransportConnected,
    Unlinked,
)
from coordinator.protocol.link import Connect
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.receiver import MessageReceiver
from coordinator.rounds.state import RoundPhase
from coordinator.rounds.tasks import held_out
from coordinator.server.broker_cleanup import Wiping
from coordinator.server.devices.device_evaluation import DeviceEvaluation
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.drift_reports import DriftReports
from coordinator.server.devices.round_workload import round_workload
from coordinator.server.devices.run_program import RunProgram
from coordinator.server.devices.statistics_round import StatisticsRound
from coordinator.server.dispatch import MessageDispatcher
from coordinator.server.evaluation import Evaluator, Probe
from coordinator.server.global_model import GlobalModel
from coordinator.server.handlers import MessageHandlers
from coordinator.server.live_view import LiveView
from coordinator.server.round_controller import RoundController
from coordinator.server.run_end import RunEnd
from coordinator.settings import RunSettings
from coordinator.views.run_view import Observe
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.terminal import log_from_now_on
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.client import together
from edge_sdk.wire import topics

__all__ = ["Connect", "Server"]

TICK_S = 0.5
RETURN_S = 20.0  # a resumed run gives the fleet this long to come back before a round


class Server:
    """Runs one federation to its end, from wherever the ledger says it stands.

    Args:
        settings: The run.
        task: Its task.
        evaluation: What the global model is scored on here; None for devices alone.
        ledger: Its durable memory, held exclusively.
        connect: Makes the transport.
        identities: Its identities; None for one machine without any.
        linger: Whether to go on after the last round until every delivery is over.
        mute: Has the broker refuse a device that floods for a while, where it can.
        observe: Told what there is to see, a few times a second.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        evaluation: Examples | None,
        ledger: Ledger,
        connect: Connect,
        *,
        identities: IdentityRegistry | None = None,
        linger: bool = False,
        observe: Observe = lambda _: None,
        mute: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._ledger, self._clock = settings, ledger, clock
        self._inbox = EventQueue(clock)
        self._stopping, self._phase = False, ""
        epoch = ledger.next_epoch()
        self._log_rotated = begin_log(ledger, settings, identities)
        algorithm = load_algorithm(settings.algorithm)
        batch = settings.training.batch_size or task.batch_size
        probe = None if evaluation is None else Probe(task, evaluation)
        self._global_model = GlobalModel(settings, task, algorithm, ledger, probe)
        load = round_workload(settings, task, algorithm, batch, evaluation, ledger)
        program = RunProgram(task, evaluation, ledger)
        self._fleet = DeviceRegistry(settings, load, ledger, clock, program)
        self._evaluator = Evaluator(task, evaluation, self._inbox.scored, ledger)
        self._transport = connect(self._inbox.deliver, self._inbox.link)
        name = settings.federation
        self._publisher = Publisher(
            *(self._transport, name, epoch),
            None if identities is None else identities.seal.sign,
            clock,
            (lambda: 0) if identities is None else identities.seal.number,
        )
        self._deliveries = DeliverySender(
            DeliveryStore(ledger.folder), self._publisher, clock
        )
        self._linger, self._wiping = linger, Wiping(name, self._transport, clock)
        self._refused = () if identities is None else sorted(identities.refused())
        self._receiver = MessageReceiver(name, identities, self._publisher, clock)
        asked = ledger, self._publisher, self._fleet.densities.evaluates, clock
        reports = DriftReports(settings, task, ledger)
        tests = DeviceEvaluation(self._evaluator, held_out(settings), reports, *asked)
        self._controller = RoundController(
            settings,
            algorithm,
            ledger,
            self._global_model,
            self._fleet,
            self._publisher,
            tests.with_tasks,
            epoch=epoch,
            batch_size=batch,
            clock=clock,
            identities=identities,
        )
        self._statistics = StatisticsRound(
            *(settings, task, ledger, self._fleet, self._publisher, clock)
        )
        self._handlers = MessageHandlers(
            *(ledger, self._fleet, self._controller, self._publisher),
            *(tests, self._statistics, clock),
            identities,
        )
        self._dispatcher = MessageDispatcher(
            *(name, self._receiver, self._fleet, self._deliveries, self._handlers),
            *(self._controller, ledger, self._wiping, clock, mute),
            self._publisher.orders.__getitem__,
        )
        self._view = LiveView(
            settings.rounds, ledger, self._fleet, self._controller, observe, clock
        )
        made = self._global_model, self._evaluator, self._fleet, self._deliveries
        tests_of = tests, self._controller.timing
        self._end = RunEnd(ledger, *made, *tests_of, self._turn, clock, settings)
        until = self._controller.is_over, self._handlers.sending
        self._groups = MessageGroups(self._inbox, ledger, self._handle, *until, clock)
        self._transport.subscribe(*topics.heard_by_coordinator(name))

    # -- other threads -----------------------------------------------------------------

    def revoked(self, device: str) -> None:
        """Tells the loop that a device is not accepted any more."""
        self._inbox.put(DeviceRevoked(device))

    def rotated(self) -> None:
        """Tells the loop that another key signs from now on."""
        self._inbox.put(KeyRotated())

    def stop(self) -> None:
        """Ends `run` soon; the ledger keeps everything for `resume`."""
        self._stopping = True
        self._inbox.wake()

    # -- the loop ----------------------------------------------------------------------

    def run(self) -> bool:
        """Runs until all rounds are done, or `stop`; True if it has become longer.

        Raises:
            RunError: If no device can take part, or too many rounds in a row abort.
            StateError: If the disk refuses, or another coordinator has taken over.
        """
        try:
            self._run()
            return not self._stopping and self._end.extended
        finally:
            self._inbox.close()  # whoever waits for room there waits in vain

    def _run(self) -> None:
        self._fleet.unlinked()  # what an earlier life was told of who is here
        for device in self._refused:  # also while no coordinator ran
            self._dismiss(device)
        self._receiver.announcements.publish_keys()
        self._announce("waiting")
        self._global_model.load()
        rounds = self._ledger.rounds()
        if rounds and rounds[-1].phase in (RoundPhase.RUN, RoundPhase.CLOSING):
            self._controller.reopen(rounds[-1])
        while not self._stopping and not self._end.reached:
            if self._controller.round is None and self._end.extended:
                return
            self._go_on()
            now = self._controller.round
            log_from_now_on(round=None if now is None else now.no)
            self._view.tick(self._phase)
            self._handlers.tick()
            self._wiping.tick()
            self._deliveries.tick(self._fleet.online)
            self._take(TICK_S)
        if not self._stopping:
            self._finish()
        self._view.draw(self._phase)

    def close(self) -> None:
        """Announce that the run is stopped, unless it is done, and disconnect."""
        over = self._end.reached and not self._end.extended
        if not over and not self._receiver.announcements.taken_over:
            self._announce("stopped")
        self._evaluator.close()
        self._transport.close()
        self._fleet.program.close()

    def _go_on(self) -> None:
        """Opens the next round when none is in hand; lets deadlines pass."""
        controller = self._controller
        controller.tick()
        for no in (ended := controller.take_finished()):
            self._end.submit(no)
        if controller.round is None and not self._end.reached:
            self._open_round()
        if ended and controller.round is None:
            self._ledger.settle()  # no tasks have taken the round's end along

    def _open_round(self) -> None:
        wanted, here = self._settings.wait_for, len(self._fleet.joined())
        if here < wanted and (self._is_returning() or not self._ledger.rounds()):
            self._phase = self._view.waiting(wanted, here, linked=self._inbox.linked)
            return
        self._phase = self._view.pausing(pausing := self._fleet.pausing())
        if here > len(pausing) and not self._statistics.over:
            self._phase = self._statistics.phase
        elif here > len(pausing):
            with together():  # the round's orders
                self._controller.open()
            self._view.opened = True
            self._announce("running")

    def _take(self, timeout: float) -> None:
        self._fleet.tick()
        self._groups.take(timeout)

    def _handle(self, item: Item) -> None:
        match item:
            case ReceivedMessage():  # nearly all are
                self._dispatcher.hear(item)
            case TransportConnected():
                self._publisher.after_connect()
            case Unlinked():
                self._fleet.unlinked()
            case DeviceRevoked(device):
                self._receiver.dismiss(device)
                self._handlers.dismiss(device)
                self._dismiss(device)
            case KeyRotated():
                self._receiver.announcements.rotated()
                self._log_rotated()
            case EvaluationDone(round_no, density, metrics, worse):
                with self._ledger.together():
                    self._ledger.record_score(round_no, density, metrics)
                self._end.scored(round_no, density, worse)

    def _dismiss(self, device: str) -> None:
        """Displays say that it was revoked; the broker keeps nothing of it."""
        self._ledger.dismiss(device)
        self._wiping.begin(device)

    def _finish(self) -> None:
        if not self._end.score():
            return
        self._end.deliver(lambda: self._linger or self._is_returning())
        if not self._end.release():
            return
        self._phase = "done"
        self._end.collect_last_words(lambda: self._announce("done"))

    def _turn(self, phase: str) -> bool:
        """Handle what comes while something is waited for; False if `stop` was."""
        self._phase = phase
        self._take(TICK_S)
        self._view.draw(phase)
        return not self._stopping

    def _is_returning(self) -> bool:
        """True while a resumed run's devices may be on their way back."""
        return self._inbox.since_linked_s() < RETURN_S

    def _announce(self, state: RunState) -> None:
        no = self._controller.round_no
        self._publisher.announce(announcement(self._settings, state, no))
