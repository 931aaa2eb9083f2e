"""The thread that trains: one task at a time, cancelled between steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from edge_sdk.agent.parts import Runner
from edge_sdk.device.limits.decision import Verdict
from edge_sdk.device.limits.enforcement import LimitsEnforcer
from edge_sdk.errors import (
    DensityError,
    EdgeError,
    EngineError,
    SparsityError,
    TaskError,
    two_sentences,
)
from edge_sdk.program.ceiling import MemoryExceededError
from edge_sdk.session import Broke
from edge_sdk.training.local import Stopped
from edge_sdk.training.progress_report import counted, steps_of
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.messages import (
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    TaskOrder,
)

__all__ = ["STATUS_S", "Outcome", "TrainingThread"]

log = logging.getLogger(__name__)

STATUS_S = 15.0  # between two statuses of one training, for displays


Outcome: TypeAlias = PackedUpdate | Broke | Verdict | Evaluated | DataDescribed


# What the same examples, model and settings would bring about again, whatever the task;
# a full disk, a memory that others use or a loss that ran away may pass, and an order
# of a lower density than the warm-up's may fit where that did not.
LASTING = (
    *(EngineError, TaskError, DensityError, SparsityError),
    *(TypeError, ValueError, LookupError, AttributeError, ImportError, AssertionError),
)


def _lasts(error: BaseException) -> bool:
    return isinstance(error, LASTING) and not isinstance(error, MemoryExceededError)


def named_blobs(
    order: TaskOrder | Evaluate, blobs: list[bytes]
) -> tuple[bytes, dict[str, bytes]]:
    """The base, and the other blobs by the names that a runner takes them by."""
    base, *others = blobs
    more = {}
    if order.mask.structure is not None:
        more["structure"] = others.pop(0)
    if order.program is not None:
        more["program"] = others.pop(0)
    if order.parts is not None:
        more["parts"] = others.pop(0)
    return base, more


class TrainingThread:
    """Trains on a thread of its own, and tells the agent's loop what comes of it.

    Args:
        runner: Trains.
        examples: How many the device has, for the share of a task that is done.
        limits_enforcer: Keeps to its owner's limits between steps, if there are any.
        moved_today: Bytes both ways since local midnight.
        put: Puts what comes of it into the agent's queue.
        stepped: Told four times a minute that training goes on.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        runner: Runner,
        examples: int,
        limits_enforcer: LimitsEnforcer | None,
        moved_today: Callable[[], int],
        put: Callable[[Outcome], None],
        stepped: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._runner, self._examples = runner, examples
        self._limits_enforcer = limits_enforcer
        self._moved_today, self._put, self._clock = moved_today, put, clock
        self._stepped = stepped
        self._cancel, self._ends = threading.Event(), threading.Event()
        self._yields = threading.Event()  # of the present measurement
        self._thread: threading.Thread | None = None
        self._describing = ""  # the statistics that are being made
        self.progress = 0  # permille of the latest task
        self.told_at = 0.0  # when the device last said how far it is

    def evaluate(
        self, order: Evaluate, blobs: list[bytes], memory: bytes = b""
    ) -> None:
        """Begins a measurement; `Evaluated` follows, unless a task begins before.

        A task waits for no more than the batch that is going through.

        Args:
            order: What to measure.
            blobs: The model, and as for a task what else the order names.
            memory: What the device's own entries go on from.
        """
        base, more = named_blobs(order, blobs)
        more["memory"] = memory
        ends, yields = self._ends, threading.Event()
        self._yields = yields
        self._answer(
            f"evaluating for {order.id}",
            lambda: self._runner.evaluate(
                order, base, lambda: ends.is_set() or yields.is_set(), **more
            ),
            lambda why: Evaluated(order.id, order.model.sha256, 0, why=why),
        )

    def describe(self, order: DescribeData) -> None:
        """Begins statistics of the examples; `DataDescribed` follows, once for each id.

        Args:
            order: What to say of them.
        """
        if self._describing == order.id:
            return  # it is asked again until it is answered
        self._describing = order.id
        self._answer(
            f"statistics for {order.id}",
            lambda: self._runner.describe(order, self._ends.is_set),
            lambda why: DataDescribed(order.id, why=why),
        )

    def _answer(
        self,
        what: str,
        make: Callable[[], Evaluated | DataDescribed],
        failed: Callable[[str], Evaluated | DataDescribed],
    ) -> None:
        """Runs a function on the thread, after what it does now; puts its answer."""
        ends, before = self._ends, self._thread

        def work() -> None:
            if before is not None:
                before.join()
            try:
                result = make()
            except Stopped:
                return
            except EdgeError as error:
                why = two_sentences(error, error.help)
                log.warning("%s failed: %s", what, why)
                result = failed(why[:500])
            except (Exception, SystemExit) as error:  # a user's model, as in training
                log.exception("%s failed", what)
                result = failed(f"{type(error).__name__}: {error}"[:500])
            if isinstance(result, DataDescribed):
                self._describing = ""
            if not ends.is_set():
                self._put(result)

        self._thread = threading.Thread(target=work, name="evaluate", daemon=True)
        self._thread.start()

    def start(self, order: TaskOrder, blobs: list[bytes], memory: bytes = b"") -> None:
        """Begins a task; `PackedUpdate` or `Broke` follows, unless it is cancelled.

        Args:
            order: What to do.
            blobs: Its base, the structure of a mask that has one, its program and the
                parts that stay apart where the order names them; in this order.
            memory: What its rule goes on from.
        """
        self._yields.set()
        base, more = named_blobs(order, blobs)
        if memory:
            more["memory"] = memory
        cancel, before = threading.Event(), self._thread
        self._cancel = cancel
        self.progress = 0  # that of the last task would read as all but done

        def work() -> None:
            if before is not None:  # a halted task may still be in its last step,
                before.join()  # and the runner's model is one for all tasks
            result: PackedUpdate | Broke
            try:
                stop = self._between_steps(order, cancel)
                result = self._runner.run(order, base, stop, **more)
            except Stopped:
                return
            except EdgeError as error:
                why = two_sentences(error, error.help)
                log.warning("task %s failed: %s", order.id, why)
                result = Broke(order.id, why, _lasts(error))
            except (
                Exception,
                SystemExit,
            ) as error:  # a user's model may raise anything
                log.exception("training of task %s failed", order.id)
                why = f"{type(error).__name__}: {error}"
                result = Broke(order.id, why, _lasts(error))
            if not cancel.is_set():
                self._put(result)

        self._thread = threading.Thread(target=work, name="train", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ends the task in hand before its next step; nothing follows."""
        self._cancel.set()

    def stop(self) -> None:
        """As `cancel`, and ends a measurement too; for the end of the agent."""
        self._ends.set()
        self.cancel()

    def join(self, seconds: float) -> None:
        """Waits for the thread, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _between_steps(
        self, order: TaskOrder, cancel: threading.Event
    ) -> Callable[[], bool]:
        """The callable that training asks before each step whether to stop."""
        stop: Callable[[], bool] = cancel.is_set
        if self._limits_enforcer is not None:
            stop = self._limits_enforcer.between_steps(
                cancel.is_set, self._moved_today, self._put
            )

        def count(permille: int) -> None:
            if not cancel.is_set():  # a halted task may still be in its last step
                self._count(permille)

        return counted(stop, steps_of(order.training, self._examples), count)

    def _count(self, permille: int) -> None:
        """Called by the training thread before each step."""
        self.progress = permille
        if self._clock() - self.told_at >= STATUS_S:
            self.told_at = self._clock()
            self._stepped()
