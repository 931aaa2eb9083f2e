"""Answers to what a device says of its task: the same for real and simulated fleets.

Who is asked, when a round ends and where an update is kept is for the `Rounds` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from coordinator.algorithms.dense import Entries
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.uploads import Upload, UploadQueue
from coordinator.rounds.validation import Refusal, check_offer, check_payload
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.sparse import Mask
from edge_sdk.wire.messages import (
    Data,
    Fail,
    Message,
    Need,
    Offer,
    Receipt,
    TaskAck,
    TaskOrder,
    Wait,
)
from edge_sdk.wire.values import Values

__all__ = [
    "IDLE_S",
    "TURN_MS",
    "OpenPart",
    "Rounds",
    "TaskHandlers",
    "checked_norm",
    "offer_refusal",
]

IDLE_S = 30.0  # a device without a task need not ask sooner: tasks are sent to it
TURN_MS = 30_000  # a device that waits for its turn is called; this is if that is lost


class OpenPart(Protocol):
    """One device's open part of the round in hand."""

    @property
    def order(self) -> TaskOrder:
        """Order of the device."""
        ...

    @property
    def dense(self) -> Entries:
        """Dense entries that the device was sent."""
        ...

    @property
    def mask(self) -> Mask:
        """Mask that the device trains on."""
        ...


P = TypeVar("P", bound=OpenPart)


class Rounds(Protocol[P]):
    """The round in hand, as the handlers ask of it and tell it."""

    def open_part(self, device: str, task_id: str | None = None) -> P | None:
        """The device's open part; None if it has none, or another than is meant."""
        ...

    def examples(self, device: str) -> int:
        """Number of examples in the device's HELLO; 0 without one."""
        ...

    def fate_of(self, device: str, task_id: str) -> Receipt:
        """The receipt of a task that is no longer open."""
        ...

    def fate_of_offer(self, device: str, offer: Offer) -> Receipt:
        """The same of an update that is offered for it."""
        ...

    def acknowledged(self, device: str, task_id: str) -> None:
        """Note that a device has its order."""
        ...

    def asked(self, device: str, need: Need) -> None:
        """Chunks of its update are asked for, or come without."""
        ...

    def advances(self, device: str, data: Data) -> None:
        """A chunk of its update has come that was missing."""
        ...

    def accept(
        self, device: str, part: P, offer: Offer, content: bytes, norm: float
    ) -> None:
        """Accept an update that has passed; the round sends the receipt."""
        ...

    def reject(
        self, device: str, part: P, offer: Offer, content: bytes, why: Refusal
    ) -> None:
        """Reject an update that has not passed; the round sends the receipt.

        `content` is empty where the update was refused by its offer.
        """
        ...

    def corrupt(self, device: str, task_id: str, why: str) -> None:
        """A chunk is not what was offered; the receipt follows."""
        ...

    def fail(self, device: str, task_id: str, why: str, *, lasting: bool) -> None:
        """The device cannot do its task."""
        ...

    def tell(self, device: str, message: Message) -> None:
        """Sends a message."""
        ...


def offer_refusal(offer: Offer, part: OpenPart, examples: int) -> Refusal | None:
    """The refusal of an update by its offer; None if it may be requested.

    Args:
        offer: What the device says of it.
        part: What the device was asked.
        examples: How many it has.
    """
    sizes = {name: part.mask[name].size for name in part.mask}
    return check_offer(
        offer,
        part.order,
        max_examples=examples,
        dense=part.dense,
        sizes=sizes,
    )


def checked_norm(content: bytes, offer: Offer, part: OpenPart) -> float | Refusal:
    """The length (L2) of an update's change, 0 of evidence; or why it does not pass."""
    checked = check_payload(
        content, part.order, part.mask, part.dense, examples=offer.examples
    )
    if isinstance(checked, Refusal):
        return checked
    return checked.norm() if isinstance(checked, Values) else 0.0


class TaskHandlers(Generic[P]):
    """Answers of a coordinator to HELLO, acknowledgements, offers and chunks.

    Args:
        rounds: The round in hand.
        publisher: Sends blobs again.
        clock: Monotonic seconds.
    """

    def __init__(
        self, rounds: Rounds[P], publisher: Publisher, clock: Callable[[], float]
    ) -> None:
        self._rounds, self._publisher = rounds, publisher
        self._intake = UploadQueue(clock)
        self._serves = -1  # the round of the uploads that are queued

    def sending(self) -> bool:
        """Return whether a device sends chunks that it was asked for."""
        return self._intake.sending

    def hello(self, device: str, task_id: str | None) -> bool:
        """Says what a device has to do; whether that is nothing.

        Args:
            device: Its name.
            task_id: The task that it holds.
        """
        self._publisher.greeted()
        part = self._rounds.open_part(device)
        ours = None if part is None else part.order.id
        if task_id is not None and task_id != ours:
            # What it holds is of no use here: it has to let go before it takes more.
            self._rounds.tell(device, self._rounds.fate_of(device, task_id))
        if part is not None and task_id != ours:
            self._rounds.tell(device, part.order)
        return part is None and task_id is None

    def answer(self, device: str, message: Message) -> None:
        """Handles one message; duplicates and late ones are normal.

        Raises:
            RemoteProtocolError: If it is not a message that devices send.
        """
        match message:
            case TaskAck(task_id):
                if self._rounds.open_part(device, task_id):
                    self._rounds.acknowledged(device, task_id)
            case Offer():
                self._offer(device, message)
            case Data():
                self.data(device, message)
            case Fail(task_id, why, lasting):
                if self._rounds.open_part(device, task_id):
                    self._rounds.fail(device, task_id, why, lasting=lasting is True)
            case Need():
                self._publisher.send_again(message)
            case _:
                raise RemoteProtocolError("a device does not send that")

    def tick(self) -> None:
        """Calls the devices whose turn to upload has come."""
        if self._publisher.unheard_since is not None:
            self._publisher.tick()
        for device, need in self._intake.called():
            self._ask(device, need)

    def data(self, device: str, data: Data) -> None:
        """Takes a chunk of an update; the last one brings the whole before the gate.

        Args:
            device: Whose it is.
            data: The chunk; one that was not asked for is dropped.
        """
        try:
            upload, need = self._intake.data(device, data)
        except RemoteProtocolError as error:
            self._rounds.corrupt(device, data.task_id, str(error))
            receipt = Receipt(data.task_id, "corrupt", str(error)[:500])
            self._rounds.tell(device, receipt)
            return
        if upload is not None:
            self._whole(device, upload)
            self.tick()
            return
        if self._intake.was_missing:  # sent again is no progress
            self._rounds.advances(device, data)
        if need is not None:
            self._rounds.tell(device, need)

    def _offer(self, device: str, offer: Offer) -> None:
        part = self._rounds.open_part(device, offer.task_id)
        if part is None:
            self._rounds.tell(device, self._rounds.fate_of_offer(device, offer))
            return
        most = self._rounds.examples(device)
        if not most:
            return  # its HELLO to this coordinator was lost; both come again
        refused = offer_refusal(offer, part, most)
        if refused is not None:
            self._rounds.reject(device, part, offer, b"", refused)
            return
        if part.order.round_no != self._serves:  # a closed round's uploads free slots
            self._intake.forget()
            self._serves = part.order.round_no
        fits = offer.manifest.size <= part.order.unasked
        follows = (
            offer.follows is True and fits and not self._intake.knows(part.order.id)
        )
        need = self._intake.offer(device, offer, follows=follows)
        if need is None:
            self._rounds.tell(device, Wait(TURN_MS, "others are uploading"))
        elif follows:
            self._rounds.asked(device, need)
        else:
            self._ask(device, need)

    def _ask(self, device: str, need: Need) -> None:
        self._rounds.asked(device, need)
        self._rounds.tell(device, need)

    def _whole(self, device: str, upload: Upload) -> None:
        offer = upload.offer
        part = self._rounds.open_part(device, offer.task_id)
        if part is None:
            self._rounds.tell(device, self._rounds.fate_of(device, offer.task_id))
            return
        content = upload.assembly.content()
        norm = checked_norm(content, offer, part)
        if isinstance(norm, Refusal):
            self._rounds.reject(device, part, offer, content, norm)
        else:
            self._rounds.accept(device, part, offer, content, norm)
