"""Answers devices: hello, acknowledgements, offers, chunks; receipts for them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.ledger import Ledger
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.uploads import Upload, UploadQueue
from coordinator.rounds.state import Accepted, Acked, Offered, TaskPhase
from coordinator.rounds.validation import Refusal, check_offer, check_payload
from coordinator.server.device_registry import DeviceRegistry
from coordinator.server.round_controller import RoundController
from edge_sdk.errors import RemoteProtocolError, two_sentences
from edge_sdk.wire.blob import blob_id
from edge_sdk.wire.messages import (
    Cancel,
    Data,
    Fail,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    TaskAck,
    TaskOrder,
    Wait,
)
from edge_sdk.wire.values import Values

__all__ = ["IDLE_S", "TURN_MS", "MessageHandlers"]

log = logging.getLogger(__name__)

_NUMBERS = (
    "Correct the device's settings, profile or examples, or update flash-edge on it."
)

IDLE_S = 30.0  # a device without a task need not ask sooner: tasks are sent to it
REFUSED_MS = 60_000
REMIND_S = 60.0  # between two words on numbers that cannot be, to one device
TURN_MS = 30_000  # a device that waits for its turn is called; this is if that is lost


class MessageHandlers:
    """What the coordinator says to each message of a device.

    Args:
        ledger: Where what is accepted becomes durable.
        fleet: The devices.
        conductor: The round in hand.
        post: Sends.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: DeviceRegistry,
        conductor: RoundController,
        post: Publisher,
        clock: Callable[[], float],
    ) -> None:
        self._ledger, self._fleet = ledger, fleet
        self._conductor, self._post = conductor, post
        self._intake, self._clock = UploadQueue(clock), clock
        self._reminded: dict[str, float] = {}  # only of who said hello
        self._serves = -1  # the round whose uploads the intake holds

    def answer(self, device: str, message: Message, *, boot: int = 0) -> None:
        """Handles one message; duplicates and late ones are normal.

        Args:
            device: Whose it is.
            message: What it says.
            boot: Which of the device's lives says so.

        Raises:
            RemoteProtocolError: If it is not a message that devices send.
        """
        match message:
            case Hello():
                self._hello(device, message, boot)
            case TaskAck(task_id):
                if self._conductor.open_part(device, task_id):
                    self._ledger.move_task(task_id, TaskPhase.ACKED)
                    self._conductor.advance(Acked(device))
            case Offer():
                self._offer(device, message)
            case Fail(task_id, why, lasting):
                if self._conductor.open_part(device, task_id):
                    log.warning("%s cannot do its task: %s", device, why)
                    self._fail(device, task_id, why, lasting=lasting is True)
            case Wait(ms, why):
                self._pauses(device, ms / 1000, why)
            case Need():
                self._post.send_again(message)
            case _:
                raise RemoteProtocolError("a device does not send that")

    def turn_away(self, device: str, message: Message, why: str) -> None:
        """A number in the message cannot be: nothing of the message is believed."""
        if isinstance(message, Hello):
            self._not_let_in(device, two_sentences(why, _NUMBERS))
        elif isinstance(message, Offer) and (
            part := self._conductor.open_part(device, message.task_id)
        ):
            self._reject(device, part.order, Refusal(why, _NUMBERS))
        elif self._fleet.examples(device):  # it said hello: names are bounded
            now, at = self._conductor.round, self._clock()
            self._ledger.refuse(device, now.no if now else 0, "malformed", why)
            if at - self._reminded.get(device, -REMIND_S) >= REMIND_S:
                self._reminded[device] = at
                log.warning("dropped a message of %s: %s", device, why)
                self._tell(device, Wait(0, two_sentences(why, _NUMBERS)[:500]))

    def tick(self) -> None:
        """Calls the devices whose turn to upload has come."""
        for device, need in self._intake.called():
            self._ask(device, need)

    def dismiss(self, device: str, why: str = "the device was revoked") -> None:
        """A device is out: no round waits for it; what it gave still counts."""
        self._fleet.gone(device)
        part = self._conductor.open_part(device)
        if part is not None:
            self._fail(device, part.order.id, why)

    def _hello(self, device: str, hello: Hello, boot: int) -> None:
        refused = self._fleet.hello(device, hello, boot)
        if refused is not None:
            self._not_let_in(device, refused)
            return
        part = self._conductor.open_part(device)
        ours = None if part is None else part.order.id
        if hello.task_id is not None and hello.task_id != ours:
            # What it holds is of no use here: it has to let go before it takes more.
            self._tell(device, self._fate_of(device, hello.task_id))
        if part is not None and hello.task_id != ours:
            self._tell(device, part.order)
        elif part is None and hello.task_id is None:
            back = max(IDLE_S, self._conductor.come_back_s(device))
            self._fleet.expect(device, back)
            why = self._fleet.cannot(device) or "no task for you just now"
            self._tell(device, Wait(int(1000 * back), why[:500]))

    def _not_let_in(self, device: str, why: str) -> None:
        log.warning("%s cannot take part: %s", device, why)
        now = self._conductor.round
        self._ledger.refuse(device, now.no if now else 0, "turned-away", why)
        self._tell(device, Wait(REFUSED_MS, why[:500]))

    def _pauses(self, device: str, seconds: float, why: str) -> None:
        """Its owner's limits hold it back; a round does not wait for longer pauses."""
        self._fleet.rests(device, seconds, why)
        part = self._conductor.open_part(device)
        if part is None:
            return
        if seconds < self._conductor.left_s():
            self._conductor.pauses(device, seconds)
            return
        task_id = part.order.id
        self._tell(device, Cancel(task_id, f"the round does not wait: {why}"[:500]))
        self._fail(device, task_id, why)

    def _fail(
        self, device: str, task_id: str, why: str, *, lasting: bool = False
    ) -> None:
        self._ledger.move_task(task_id, TaskPhase.FAILED, why)
        self._conductor.failed(device, why, lasting=lasting)

    def _offer(self, device: str, offer: Offer) -> None:
        part = self._conductor.open_part(device, offer.task_id)
        if part is None:
            self._tell(device, self._fate_of_offer(device, offer))
            return
        most = self._fleet.examples(device)
        if not most:
            return  # its HELLO to this coordinator was lost; both come again
        order, dense = part.order, part.base.dense
        sizes = {name: part.mask[name].size for name in part.mask}
        refused = check_offer(offer, order, max_examples=most, dense=dense, sizes=sizes)
        if refused is not None:
            self._reject(device, order, refused)
            return
        if order.round_no != self._serves:  # uploads of a closed round free their slots
            self._intake.forget()
            self._serves = order.round_no
        need = self._intake.offer(device, offer)
        if need is None:
            self._tell(device, Wait(TURN_MS, "others are uploading"))
            return
        self._ask(device, need)

    def _ask(self, device: str, need: Need) -> None:
        self._ledger.move_task(need.blob, TaskPhase.OFFERED)
        self._conductor.advance(Offered(device))
        self._conductor.advances(device)
        self._tell(device, need)

    def data(self, device: str, data: Data) -> None:
        """Takes a chunk of an update; the last one brings the whole before the gate.

        Args:
            device: Whose it is.
            data: The chunk; one that was not asked for is dropped.
        """
        try:
            upload, need = self._intake.data(device, data)
        except RemoteProtocolError as error:
            self._ledger.refuse(device, _round_of(data.task_id), "corrupt", str(error))
            self._tell(device, Receipt(data.task_id, "corrupt", str(error)[:500]))
            return
        if upload is not None:
            self._accept(device, upload)
            self.tick()
            return
        self._conductor.advances(device)
        if need is not None:
            self._tell(device, need)

    def _accept(self, device: str, upload: Upload) -> None:
        """Gate, blob, row; what follows from it waits until they are durable."""
        offer = upload.offer
        part = self._conductor.open_part(device, offer.task_id)
        if part is None:
            self._tell(device, self._fate_of(device, offer.task_id))
            return
        order, content = part.order, upload.assembly.content()
        checked = check_payload(
            content, order, part.mask, part.base.dense, examples=offer.examples
        )
        if isinstance(checked, Refusal):
            self._reject(device, order, checked)
            return
        self._ledger.accept(
            part.task,
            content,
            examples=offer.examples,
            norm=checked.norm() if isinstance(checked, Values) else 0.0,
            metrics=offer.metrics,
        )
        self._conductor.advance(Accepted(device))

        def durable() -> None:
            receipt = self._fate_of(device, order.id)
            self._post.tell(device, receipt, round_no=order.round_no)
            self._conductor.accepted(device, offer.metrics)

        self._ledger.once_durable(durable)

    def _reject(self, device: str, order: TaskOrder, refused: Refusal) -> None:
        log.warning("rejected the update of %s: %s", device, refused.why)
        self._ledger.move_task(order.id, TaskPhase.REJECTED, refused.why)
        self._ledger.refuse(device, order.round_no, "rejected", refused.why)
        self._tell(device, Receipt(order.id, "rejected", refused.told))
        self._conductor.rejected(device, refused.why)

    def _fate_of(self, device: str, task_id: str) -> Receipt:
        """What became of a task that is not open any more, as the ledger has it."""
        task = self._ledger.task(task_id)
        if task is None or task.device != device:
            return Receipt(task_id, "unknown", "this run has no such task for you")
        if self._ledger.accepted_blob(task_id) is None:
            why = "its round is closed or went on without it; nothing is to be done"
            return Receipt(task_id, "late", why)
        return Receipt(task_id, "accepted")

    def _fate_of_offer(self, device: str, offer: Offer) -> Receipt:
        """As `_fate_of`, counted; another update than the one accepted is refused."""
        fate = self._fate_of(device, offer.task_id)
        kept = self._ledger.accepted_blob(offer.task_id)
        if fate.verdict == "accepted" and kept != blob_id(offer.manifest):
            why = (
                "another update for this task was accepted before. If this device was "
                "not set up anew, look who else uses its name."
            )
            log.warning("%s offers twice for task %s: %s", device, offer.task_id, why)
            fate = Receipt(offer.task_id, "equivocation", why)
        if fate.verdict in ("late", "equivocation"):
            no = _round_of(offer.task_id)
            self._ledger.refuse(device, no, fate.verdict, fate.why)
        return fate

    def _tell(self, device: str, message: Message) -> None:
        """Sends; a receipt only once what it says is durable, never before."""
        now = self._conductor.round
        no = now.no if now else 0
        if isinstance(message, Receipt):
            self._ledger.once_durable(
                lambda: self._post.tell(device, message, round_no=no)
            )
        else:
            self._post.tell(device, message, round_no=no)


def _round_of(task_id: str) -> int:
    """The round that a task's id begins with; 0 if it is not one of ours."""
    head = task_id.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 10 else 0
