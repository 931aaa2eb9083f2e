"""Keeps a device inside its owner's limits while it runs: rests, pauses, says why."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable

from device_profiles import Caps
from device_profiles.hours import minutes_until_closed
from edge_sdk.datasets.growing.device_data import DeviceData
from edge_sdk.device.limits.decision import (
    Conditions,
    Go,
    Pause,
    Verdict,
    decide,
    read_conditions,
)
from edge_sdk.device.limits.memory import shrinking
from edge_sdk.device.limits.processor import rest_after_s
from edge_sdk.training.local import Stopped
from edge_sdk.training.program_engine.late_torch import LateTorchRunner
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.messages import (
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    TaskOrder,
)

__all__ = ["LimitsEnforcer", "MemoryFallbackRunner", "Read"]

log = logging.getLogger(__name__)

Read = Callable[[dt.datetime, int], Conditions]
# Sensors are read so often at most: a board heats up over tens of seconds.
LOOK_S = 2.0
# A pause is slept in slices, so that a cancelled task ends soon.
SLICE_S = 0.25


def _here() -> dt.datetime:
    return dt.datetime.now().astimezone()  # local: owners think in their own hours


def _nothing() -> None:
    """No reason of the data's to rest."""


def _read(now: dt.datetime, moved_today: int) -> Conditions:
    return read_conditions(now, moved_today=moved_today)


class LimitsEnforcer:
    """One device's limits, looked at between steps and before a task is taken.

    Args:
        caps: What the owner allows.
        cores: The board's processor cores, of which `caps.cpu_share` is a part.
        now: The local time.
        clock: Monotonic seconds.
        sleep: Sleeps so many seconds.
        read: What the device is in, from local time and the bytes of today.
        rests: Why no work is to begin for now, and for how long; None where it may.
    """

    def __init__(
        self,
        caps: Caps,
        *,
        cores: int = 1,
        now: Callable[[], dt.datetime] = _here,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        read: Read = _read,
        rests: Callable[[], Pause | None] = _nothing,
    ) -> None:
        self._rests = rests
        self._caps, self._cores = caps, cores
        self._now, self._clock, self._sleep, self._read = now, clock, sleep, read
        self._verdict: Verdict = Go()
        self._looked: float | None = None
        self._paused_s = 0.0
        self._lock = threading.Lock()  # the agent's loop and its training both ask

    def today(self) -> str:
        """The local date, by which bytes are counted."""
        return self._now().date().isoformat()

    def open_minutes(self) -> int | None:
        """Minutes until the owner's hours end; None where they never do."""
        now = self._now()
        return minutes_until_closed(self._caps.hours, 60 * now.hour + now.minute)

    def verdict(self, moved_today: int) -> Verdict:
        """Decide if the device may begin work now.

        Args:
            moved_today: Bytes over the link since local midnight.
        """
        found = self._limits(moved_today)
        rest = self._rests() if isinstance(found, Go) else None
        return found if rest is None else rest

    def _limits(self, moved_today: int) -> Verdict:
        """Ask the owner's limits; reads sensors every 2 s at most."""
        with self._lock:
            at = self._clock()
            if self._looked is None or at - self._looked >= LOOK_S:
                self._looked = at
                seen = self._read(self._now(), moved_today)
                paused = isinstance(self._verdict, Pause)
                self._verdict = decide(self._caps, seen, paused=paused)
            return self._verdict

    def working_s(self) -> float:
        """Monotonic seconds in which pauses do not pass; times training."""
        return self._clock() - self._paused_s

    def between_steps(
        self,
        cancelled: Callable[[], bool],
        moved_today: Callable[[], int],
        tell: Callable[[Verdict], None],
    ) -> Callable[[], bool]:
        """A callable that training asks before each step whether to stop.

        It returns late where the processor's share asks for a rest, and where the
        device has to pause; the half-trained model stays in memory meanwhile.

        Args:
            cancelled: Whether the task is no longer wanted.
            moved_today: Bytes of today.
            tell: Told when a pause begins, lasts longer than told, and ends.
        """
        last: list[float] = []  # when the step in hand began

        def stop() -> bool:
            if last:
                took = self._clock() - last[0]
                rest = rest_after_s(
                    took, cores=self._cores, cpu_share=self._caps.cpu_share
                )
                self._doze(rest, cancelled)
            self._wait(cancelled, moved_today, tell)
            last[:] = [self._clock()]
            return cancelled()

        return stop

    def _wait(
        self,
        cancelled: Callable[[], bool],
        moved_today: Callable[[], int],
        tell: Callable[[Verdict], None],
    ) -> None:
        began = until = self._clock()
        while isinstance(verdict := self._limits(moved_today()), Pause):
            if cancelled():
                break
            if self._clock() >= until:  # told again only when what was told is over
                until = self._clock() + verdict.seconds
                log.info("training pauses: %s", verdict.why)
                tell(verdict)
            self._doze(min(verdict.seconds, LOOK_S), cancelled)
        if until > began:
            self._paused_s += self._clock() - began
            log.info("training continues")
            tell(Go())

    def _doze(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0 and not cancelled():
            self._sleep(min(left, SLICE_S))


class MemoryFallbackRunner:
    """A runner that goes on with half the examples at once when memory runs out.

    Under a hard cap (`edge_sdk.device.limits.memory.hold_to`) an allocation fails where
    the kernel would have killed the process. What was found to fit is remembered for
    later tasks.

    Args:
        runner: Trains; repeats an order from its start.
        data: The examples, where they come and go between tasks.
    """

    def __init__(
        self, runner: TaskRunner | LateTorchRunner, data: DeviceData | None = None
    ) -> None:
        self._runner, self._data = runner, data
        self._seen = None if data is None else data.examples
        if data is not None:
            data.check = runner.check

    @property
    def engine(self) -> str:
        """Engine of the last task."""
        return self._runner.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here."""
        return self._runner.engines

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
        memory: bytes = b"",
        program: bytes = b"",
        parts: bytes = b"",
    ) -> PackedUpdate:
        """Carries out an order.

        Raises:
            EngineError: Not even one example fits; and as `TaskRunner.run`.
            DataError: If the examples' file was written over while it was mapped.
        """
        batch = order.training.batch_size
        self._refresh()
        self._check_whole()
        if self._data is not None and order.round_no:  # a warm-up's is in no model
            self._data.trains(order.id)

        def attempt(size: int) -> PackedUpdate:
            if size < batch and size != self._runner.allowance.most:
                log.warning("memory ran out: %d of %d examples at once", size, batch)
            self._runner.allowance.most = size if size < batch else 0
            more = structure, memory, program, parts
            return self._runner.run(order, base, stop, *more)

        try:
            done = shrinking(attempt, min(self._runner.allowance.most or batch, batch))
        except Stopped:
            raise
        except Exception:  # a label of half a file is not the task's fault
            self._check_whole()
            raise
        finally:
            self._runner.release()  # until the next task it is the board's
        self._check_whole()
        return done

    def _check_whole(self) -> None:
        if self._data is not None:
            self._data.check_whole()

    def describe(self, order: DescribeData, stop: Callable[[], bool]) -> DataDescribed:
        """Makes statistics of the examples as they are now; see `ModelTester`."""
        self._refresh()
        self._check_whole()
        return self._runner.tester.describe(order, stop)

    def _refresh(self) -> None:
        """Has what came to a source that grows among the examples."""
        if self._data is None:
            return
        self._data.refresh()
        if self._seen is not self._data.examples:  # or they came while it rested
            self._seen, tester = self._data.examples, self._runner.tester
            tester.examples = tester.examples.over(self._seen, self._data.held)

    def evaluate(
        self, order: Evaluate, base: bytes, stop: Callable[[], bool], **blobs: bytes
    ) -> Evaluated:
        """Measures a model; see `TaskRunner.evaluate`."""
        try:
            return self._runner.evaluate(order, base, stop, **blobs)
        finally:
            self._runner.release()
