"""`DeviceEvaluator`: orders to measure a model, beside the session and never before it.

An order waits until the device's own task is trained: the model is then most often here
already, as the base of that task. It survives no restart and needs none, since the
coordinator asks again until it is answered, and the answer is always the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_sdk.agent.training_thread import TrainingThread
from edge_sdk.errors import EdgeError, StateError
from edge_sdk.session import SessionPhase
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.wire import topics
from edge_sdk.wire.messages import (
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    Message,
)

__all__ = ["DeviceEvaluator"]

log = logging.getLogger(__name__)

# A task is trained, or there is none: the processor has nothing better to do.
FREE = (SessionPhase.UPLOAD, SessionPhase.IDLE)


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
        self._order: Evaluate | None = None  # not answered yet
        self._measuring = False
        self._answer: Evaluated | None = None  # the last one

    @property
    def busy(self) -> bool:
        """True while a model is being measured."""
        return self._measuring

    def take(self, order: Evaluate | DescribeData, phase: SessionPhase) -> None:
        """Takes an order, goes on with it, or answers it again.

        Args:
            order: What to measure; a newer one takes the place of one that waits.
            phase: Of the device's own task.
        """
        if isinstance(order, DescribeData):  # it needs nothing but the examples
            self._work.describe(order)
            return
        answer = self._answer
        if answer is not None and (answer.id, answer.model) == _named(order):
            self._say(answer)
        elif self._measuring:
            pass  # one at a time; what is still wanted is said again
        elif self._order == order:
            for need in self._fetcher.needs():
                self._say(need)
            self.go_on(phase)
        else:
            self._fetcher.drop()
            self._order = order
            self.go_on(phase)

    def go_on(self, phase: SessionPhase) -> None:
        """Begins to fetch or to measure, where the device's own task lets it."""
        order = self._order
        if order is None or self._measuring or phase not in FREE:
            return
        found = (order.model, order.mask.structure, order.program, order.parts)
        wanted = tuple(blob for blob in found if blob is not None)
        try:
            if self._fetcher.wanted != wanted:
                self._fetcher.begin(wanted, lambda b: self._blobs.open(b, wanted))
            self._fetcher.ask()
            if self._fetcher.whole:
                own = self._remembered(order.after) if order.after else b""
                self._work.evaluate(order, self._fetcher.contents(), own)
                self._measuring = True
        except EdgeError as error:
            self._fail(order, error)

    def chunk(
        self, topic: topics.ChunkTopic, name: str, chunk: bytes, phase: SessionPhase
    ) -> None:
        """A chunk arrived, of this model or of another blob.

        Raises:
            RemoteProtocolError: If it is not what the manifest names.
        """
        order = self._order
        if order is None:
            return
        try:
            self._fetcher.take(topic, name, chunk)
        except StateError as error:
            self._fail(order, error)
        else:
            self.go_on(phase)

    def finish(self, answer: Evaluated | DataDescribed) -> None:
        """The measurement has ended; the answer is sent."""
        if isinstance(answer, DataDescribed):
            self._say(answer)
            return
        self._measuring, self._answer = False, answer
        if self._order is not None and _named(self._order) == (answer.id, answer.model):
            self._order = None
        log.info("%s: measured on %d test examples", answer.id, answer.examples)
        self._say(answer)

    def _fail(self, order: Evaluate, error: EdgeError) -> None:
        self._order = None
        self._fetcher.drop()
        model = order.model.sha256
        self.finish(Evaluated(order.id, model, 0, why=str(error)[:500]))


def _named(order: Evaluate) -> tuple[str, bytes]:
    return order.id, order.model.sha256
