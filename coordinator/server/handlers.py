"""Effects of devices' messages on the ledger and the round of a coordinator.

What a device is answered of its task is `protocol.handlers`'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.signed_offers import SignedOffers
from coordinator.ledger import Ledger
from coordinator.protocol.handlers import IDLE_S, TaskHandlers
from coordinator.protocol.publisher import Publisher
from coordinator.rate_limit import Seldom
from coordinator.rounds.state import Accepted, Acked, Offered, TaskPhase
from coordinator.rounds.tasks import round_of
from coordinator.rounds.validation import Refusal
from coordinator.server.devices.device_evaluation import DeviceEvaluation
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.run_program import needs_program
from coordinator.server.devices.statistics_round import StatisticsRound
from coordinator.server.round_controller import RoundController
from coordinator.server.round_opening import Part
from edge_sdk.errors import two_sentences
from edge_sdk.wire.blob import blob_id
from edge_sdk.wire.messages import (
    Cancel,
    Data,
    DataDescribed,
    Evaluated,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    TaskAck,
    Wait,
)
from edge_sdk.wire.secure.messages import (
    SecureKeys,
    SecureReady,
    SecureReveal,
    SecureShares,
)

__all__ = ["MessageHandlers"]

log = logging.getLogger(__name__)

_NUMBERS = "Correct the device's settings, profile or examples, or update flash-edge."
REFUSED_MS = 60_000
COMPILING_MS = 2_000  # until a device asks again whether its program is made
LATE = "its round is closed or went on without it; nothing is to be done"
REMIND_S = 60.0  # between two words on numbers that cannot be, to one device
KNOWN = 1 << 20  # devices that this is remembered for, of those that said hello


class MessageHandlers:
    """Answers of the coordinator to each message of a device.

    Args:
        ledger: Where what is accepted becomes durable.
        fleet: The devices.
        controller: The round in hand.
        publisher: Sends.
        tests: Models tested on devices.
        statistics: Of the devices' examples, before the first round.
        clock: Monotonic seconds.
        identities: The devices', whose signed offers are in the log; None for none.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: DeviceRegistry,
        controller: RoundController,
        publisher: Publisher,
        tests: DeviceEvaluation,
        statistics: StatisticsRound,
        clock: Callable[[], float],
        identities: IdentityRegistry | None,
    ) -> None:
        self._ledger, self._fleet, self._tests = ledger, fleet, tests
        self._offers = None if identities is None else SignedOffers(identities)
        self._controller, self._publisher = controller, publisher
        self._statistics, self._tasks = statistics, TaskHandlers(self, publisher, clock)
        self.sending = self._tasks.sending
        self._clock, self._reminded = clock, Seldom(REMIND_S, KNOWN)

    def answer(
        self, device: str, message: Message, *, boot: int = 0, packet: bytes = b""
    ) -> None:
        """Handles one message; duplicates and late ones are normal.

        Args:
            device: Whose it is.
            message: What it says.
            boot: Which of the device's lives says so.
            packet: What it came in, signature and all.

        Raises:
            RemoteProtocolError: If it is not a message that devices send.
        """
        match message:
            case Hello():
                self._hello(device, message, boot)
            case Wait(ms, why):
                self._pauses(device, ms / 1000, why)
            case Evaluated():
                self._tests.answered(device, message)
            case DataDescribed():
                self._statistics.answered(device, message)
            case SecureKeys() | SecureShares() | SecureReady() | SecureReveal():
                self._controller.told_of_masks(device, message)
            case _:
                if isinstance(message, Offer) and self._offers is not None:
                    self._offers.heard(device, message, packet)
                self._tasks.answer(device, message)
                if isinstance(message, TaskAck):
                    self._tests.acknowledged(device, message)

    def data(self, device: str, data: Data) -> None:
        """Takes a chunk of an update; the last one brings the whole before the gate.

        Args:
            device: Whose it is.
            data: The chunk; one that was not asked for is dropped.
        """
        self._tasks.data(device, data)

    def turn_away(self, device: str, message: Message, why: str) -> None:
        """A number in the message cannot be: nothing of the message is believed."""
        if isinstance(message, Hello):
            self._not_let_in(device, two_sentences(why, _NUMBERS))
        elif isinstance(message, Offer) and (
            part := self.open_part(device, message.task_id)
        ):
            self.reject(device, part, message, b"", Refusal(why, _NUMBERS))
        elif self._fleet.examples(device):  # it said hello: names are bounded
            self._ledger.refuse(device, self._controller.round_no, "malformed", why)
            if self._reminded.say(device, self._clock()) is not None:
                log.warning("dropped a message of %s: %s", device, why)
                self.tell(device, Wait(0, two_sentences(why, _NUMBERS)[:500]))

    def tick(self) -> None:
        """Calls the devices whose turn to upload has come."""
        self._tasks.tick()

    def dismiss(self, device: str, why: str = "the device was revoked") -> None:
        """A device is out: no round waits for it; what it gave still counts."""
        self._fleet.gone(device)
        part = self.open_part(device)
        if part is not None:
            self._fail(device, part.order.id, why)

    def _hello(self, device: str, hello: Hello, boot: int) -> None:
        program = self._fleet.program
        state = program.ask() if needs_program(hello) else "here"
        if state == "coming":
            self.tell(device, Wait(COMPILING_MS, "its training program is being made"))
            return
        why_not = f"it has no torch, and this model no program: {program.why_not}"
        told = why_not if state == "none" else self._fleet.hello(device, hello, boot)
        if told is not None:
            self._not_let_in(device, told)
        elif self._tasks.hello(device, hello.task_id):
            back = max(IDLE_S, self._controller.come_back_s(device))
            self._fleet.expect(device, back)
            why = self._fleet.cannot(device) or "no task for you just now"
            self.tell(device, Wait(int(1000 * back), why[:500]))
            self._tests.ask_about_base(device, self._ledger.last_task(device))

    def _not_let_in(self, device: str, why: str) -> None:
        log.warning("%s cannot take part: %s", device, why)
        self._fleet.densities.drop(device)
        self._ledger.refuse(device, self._controller.round_no, "turned-away", why)
        if (part := self.open_part(device)) is not None:  # of its life before
            self._fail(device, part.order.id, why)
        self.tell(device, Wait(REFUSED_MS, why[:500]))

    def _pauses(self, device: str, seconds: float, why: str) -> None:
        """Record a device's pause; the round does not wait for a longer one."""
        self._fleet.rests(device, seconds, why)
        if (part := self.open_part(device)) is None:
            return
        if seconds < self._controller.left_s():
            self._controller.timing.watch.pauses(device, seconds)
            return
        task_id = part.order.id
        self.tell(device, Cancel(task_id, f"the round does not wait: {why}"[:500]))
        self._fail(device, task_id, why)

    def _fail(
        self, device: str, task_id: str, why: str, *, lasting: bool = False
    ) -> None:
        self._ledger.move_task(task_id, TaskPhase.FAILED, why)
        self._controller.failed(device, why, lasting=lasting)

    # -- what the handlers of tasks ask and tell ---------------------------------------

    def open_part(self, device: str, task_id: str | None = None) -> Part | None:
        """The device's open part of the round in hand, if it is that task's."""
        return self._controller.open_part(device, task_id)

    def examples(self, device: str) -> int:
        """Number of examples in the device's HELLO; 0 without one."""
        return self._fleet.examples(device)

    def acknowledged(self, device: str, task_id: str) -> None:
        """Note that a device has its order."""
        self._ledger.move_task(task_id, TaskPhase.ACKED)
        self._controller.advance(Acked(device))

    def asked(self, device: str, need: Need) -> None:
        """Note that a device's update is requested, or comes without."""
        now = self._controller.round
        if now and now.tasks.get(device) is not TaskPhase.OFFERED:  # said again is none
            self._controller.advances(device)
        self._ledger.move_task(need.blob, TaskPhase.OFFERED)
        self._controller.advance(Offered(device))

    def advances(self, device: str, data: Data) -> None:
        """A chunk of its update has come that was missing."""
        self._controller.advances(device)

    def accept(
        self, device: str, part: Part, offer: Offer, content: bytes, norm: float
    ) -> None:
        """Blob and row; the receipt waits until they are durable."""
        signed = self._offers.of(device, offer) if self._offers else None
        accept = partial(self._ledger.accept, part.task, content, norm=norm)
        accept = partial(accept, signed=signed, blob=blob_id(offer.manifest))
        kept = accept(examples=offer.examples, metrics=offer.metrics)
        self._controller.advance(Accepted(device))
        self._controller.accepted(device, offer.metrics)
        if self._fleet.densities.gains(device, offer.metrics.get("training_s", 0.0)):
            self._fleet.program.ask()

        def durable() -> None:
            given = Receipt(offer.task_id, "accepted") if kept else None
            receipt = given or self.fate_of(device, offer.task_id)
            self._publisher.tell(device, receipt, round_no=part.order.round_no)

        self._ledger.once_durable(durable)

    def reject(
        self, device: str, part: Part, offer: Offer, content: bytes, why: Refusal
    ) -> None:
        """Counts the refusal and tells the device."""
        order = part.order
        log.warning("rejected the update of %s: %s", device, why.why)
        self._ledger.move_task(order.id, TaskPhase.REJECTED, why.why)
        self._ledger.refuse(device, order.round_no, "rejected", why.why)
        self.tell(device, Receipt(order.id, "rejected", why.told))
        self._controller.rejected(device, why.why)

    def corrupt(self, device: str, task_id: str, why: str) -> None:
        """Counts a chunk that is not what was offered."""
        self._ledger.refuse(device, round_of(task_id), "corrupt", why)

    def fail(self, device: str, task_id: str, why: str, *, lasting: bool) -> None:
        """The device says that it cannot do its task."""
        log.warning("%s cannot do its task: %s", device, why)
        self._fail(device, task_id, why, lasting=lasting)

    def fate_of(self, device: str, task_id: str) -> Receipt:
        """The receipt of a task that is no longer open, from the ledger."""
        task = self._ledger.task(task_id)
        if task is None or task.device != device:
            return Receipt(task_id, "unknown", "this run has no such task for you")
        if self._ledger.accepted_blob(task_id) is None:
            return Receipt(task_id, "late", LATE)
        return Receipt(task_id, "accepted")

    def fate_of_offer(self, device: str, offer: Offer) -> Receipt:
        """As `fate_of`, counted; another update than the one accepted is refused."""
        fate = self.fate_of(device, offer.task_id)
        kept = self._ledger.accepted_blob(offer.task_id)
        if fate.verdict == "accepted" and kept != blob_id(offer.manifest):
            why = (
                "another update for this task was accepted before. If this device was "
                "not set up anew, find out which other device uses its name."
            )
            log.warning("%s offers twice for task %s: %s", device, offer.task_id, why)
            fate = Receipt(offer.task_id, "equivocation", why)
        if fate.verdict in ("late", "equivocation"):
            self._ledger.refuse(device, round_of(offer.task_id), fate.verdict, fate.why)
        return fate

    def tell(self, device: str, message: Message) -> None:
        """Sends; a receipt only once what it says is durable."""
        no = self._controller.round_no
        send = partial(self._publisher.tell, device, message, round_no=no)
        if isinstance(message, Receipt):
            self._ledger.once_durable(send)
        else:
            send()
