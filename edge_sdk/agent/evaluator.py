"""`DeviceEvaluator`: orders to measure a model, beside the session and never before it.

An order waits until the device's own task is trained: the model is then most often here
already, as the base of that task. The next task interrupts a measurement, which goes on
after it where it was, so that no round waits for one and a slow device ends it all the
same. It survives no restart beside a task that carries it, and needs none, since the
coordinator asks again until it is answered, and the answer is always the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from edge_sdk.agent.training_thread import TrainingThread
from edge_sdk.errors import EdgeError, StateError
from edge_sdk.session import SessionPhase
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.wire import topics
from edge_sdk.wire.messages import (
    BaseTest,
    BaseTested,
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    Message,
    TaskAck,
    TaskOrder,
)

__all__ = ["DeviceEvaluator"]

log = logging.getLogger(__name__)

# A task is trained, or there is none: the processor has nothing better to do.
FREE = (SessionPhase.UPLOAD, SessionPhase.IDLE)


@dataclass(slots=True)
class _Wanted:
    """Measurement that is wanted, or under way.

    Attributes:
        order: Model and metrics.
        rides: Whether it came with a task, so that the answer goes with the
            acknowledgement of the next one.
    """

    order: Evaluate
    rides: bool

    def named(self) -> tuple[str, bytes]:
        """Id and model, as the answer repeats them."""
        return self.order.id, self.order.model.sha256


class DeviceEvaluator:
    """One device's evaluations; its methods are called by the agent's one loop.

    Args:
        fetcher: Gets the model where it is not here.
        blobs: What is here.
        say: Sends a message to the coordinator.
        work: The thread that trains, and measures.
        remembered: What a task left of this device's own entries.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        blobs: BlobFolder,
        say: Callable[[Message], None],
        work: TrainingThread,
        remembered: Callable[[str], bytes],
    ) -> None:
        self._fetcher, self._blobs = fetcher, blobs
        self._say, self._work, self._remembered = say, work, remembered
        self._interrupted: _Wanted | None = None  # goes on before others begin
        self._wanted: _Wanted | None = None  # the next to be measured
        self._measured: _Wanted | None = None  # now
        self._answer: Evaluated | None = None  # the last one
        self._unsaid = False  # it waits for an acknowledgement that it can go with
        self._warned = ""  # of the last answer
        self._begun = ""  # the task whose test was taken last

    @property
    def busy(self) -> bool:
        """True while a model is being measured."""
        return self._measured is not None

    def begin(self, task: TaskOrder | None) -> None:
        """Takes the test that comes with a task, once, to be made when it is trained.

        Args:
            task: The device's present one, after a restart also that of before.
        """
        if task is None or task.test is None or task.id == self._begun:
            return
        self._begun = task.id
        self._fetcher.drop()
        self._wanted = _Wanted(_order_of(task, task.test), rides=True)

    def interrupt(self) -> None:
        """A task is about to be trained: what is measured now goes on after it."""
        self._fetcher.drop()
        # One that did not go on since the last task lacks its model: that is over.
        self._interrupted, self._measured = self._measured, None

    def greet(self, phase: SessionPhase) -> None:
        """Sends the answer that waits, where no task has come to go with for long.

        Args:
            phase: Of the device's own task, as it says HELLO.
        """
        if phase is SessionPhase.IDLE:
            self._say_answer()

    def take(self, order: Evaluate | DescribeData, phase: SessionPhase) -> None:
        """Takes an order, goes on with it, or answers it again.

        Args:
            order: What to measure; a newer one takes the place of one that waits.
            phase: Of the device's own task.
        """
        if isinstance(order, DescribeData):  # it needs nothing but the examples
            self._work.describe(order)
            return
        wanted, answer = _Wanted(order, rides=False), self._answer
        if answer is not None and (answer.id, answer.model) == wanted.named():
            self._unsaid = False
            self._say(answer)
            return
        self._say_answer()
        begun = self._measured or self._interrupted
        if begun is not None and begun.named() == wanted.named():
            begun.rides = False
        elif self._wanted == wanted:
            for need in self._fetcher.needs():
                self._say(need)
            self.go_on(phase)
        else:
            self._fetcher.drop()
            self._wanted = wanted
            self.go_on(phase)

    def with_answer(self, ack: Message) -> Message:
        """An acknowledgement with the answer that waits for one; others as they are."""
        answer = self._answer
        if answer is None or not self._unsaid or not isinstance(ack, TaskAck):
            return ack
        self._unsaid = False
        told = answer.examples, answer.sums, answer.failed, answer.why, answer.data
        return replace(ack, tested=BaseTested(answer.id, *told))

    def go_on(self, phase: SessionPhase) -> None:
        """Begins to fetch or to measure, where the device's own task lets it."""
        wanted = self._next
        if wanted is None or self._measured is not None or phase not in FREE:
            return
        order = wanted.order
        found = (order.model, order.mask.structure, order.program, order.parts)
        blobs = tuple(blob for blob in found if blob is not None)
        try:
            if self._fetcher.wanted != blobs:
                self._fetcher.begin(blobs, lambda b: self._blobs.open(b, blobs))
            for need in self._fetcher.ask():
                self._say(need)
            if self._fetcher.whole:
                own = self._remembered(order.after) if order.after else b""
                self._work.evaluate(order, self._fetcher.contents(), own)
                self._take_off(wanted)
                self._measured = wanted
        except EdgeError as error:
            self._fail(wanted, error)

    def chunk(
        self, topic: topics.ChunkTopic, name: str, chunk: bytes, phase: SessionPhase
    ) -> None:
        """A chunk arrived, of this model or of another blob.

        Raises:
            RemoteProtocolError: If it is not what the manifest names.
        """
        wanted = self._next
        if wanted is None:
            return
        try:
            self._fetcher.take(topic, name, chunk)
        except StateError as error:
            self._fail(wanted, error)
        else:
            self.go_on(phase)

    def finish(self, answer: Evaluated | DataDescribed, phase: SessionPhase) -> None:
        """The measurement has ended; the answer is sent, or waits to go with an ack.

        Args:
            answer: What was found.
            phase: Of the device's own task.
        """
        if isinstance(answer, DataDescribed):
            self._say(answer)
            return
        measured, self._measured = self._measured, None
        if measured is None and self._interrupted is not None:
            # It had ended when a task began: nothing else is measured in between.
            measured, self._interrupted = self._interrupted, None
        log.info("%s: measured on %d test examples", answer.id, answer.examples)
        self._warn(answer)
        self._answered(answer, rides=measured is not None and measured.rides)
        self.go_on(phase)

    def _warn(self, answer: Evaluated) -> None:
        """Logs why metrics have no value here, once until that changes."""
        failed = [f"metric {name}: {why}" for name, why in answer.failed.items()]
        said = "; ".join(filter(None, [answer.why, *failed]))
        if said and said != self._warned:
            log.warning("the test of a model on this device: %s", said)
            self._warned = said

    @property
    def _next(self) -> _Wanted | None:
        return self._interrupted or self._wanted

    def _take_off(self, wanted: _Wanted) -> None:
        if wanted is self._interrupted:
            self._interrupted = None
        else:
            self._wanted = None

    def _say_answer(self) -> None:
        if self._answer is not None and self._unsaid:
            self._unsaid = False
            self._say(self._answer)

    def _fail(self, wanted: _Wanted, error: EdgeError) -> None:
        self._take_off(wanted)
        self._fetcher.drop()
        failed = Evaluated(*wanted.named(), 0, why=str(error)[:500])
        self._answered(failed, rides=wanted.rides)

    def _answered(self, answer: Evaluated, *, rides: bool) -> None:
        self._say_answer()  # the one before: nobody took it along
        self._answer, self._unsaid = answer, True
        if not rides or (self._wanted is not None and not self._wanted.rides):
            self._say_answer()


def _order_of(task: TaskOrder, test: BaseTest) -> Evaluate:
    return Evaluate(
        id=task.id,
        round_no=task.round_no,
        model=task.base,
        mask=task.mask,
        metrics=test.metrics,
        holdout=task.holdout,
        measure=test.measure,
        program=task.program,
        parts=task.parts,
        after=task.after,
        describe=test.describe,
    )
