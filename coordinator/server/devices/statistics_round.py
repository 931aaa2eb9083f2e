"""The round before the first: statistics of the devices' examples, if a run wants any.

Nothing trains before they are known, so the warm-up waits. A coordinator that was
killed asks again: an answer is a function of question and examples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.ledger import Ledger
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.data_statistics.joined import STATISTICS, joined
from coordinator.rounds.data_statistics.question import (
    query_of,
    wants_statistics,
)
from coordinator.rounds.tasks import held_out
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.settings import RunSettings
from edge_sdk.tasks.task import Task
from edge_sdk.wire.messages import DataDescribed, DataQuery, DataSummary, DescribeData

__all__ = ["StatisticsRound"]

log = logging.getLogger(__name__)

AGAIN_S = 10.0  # until a device that has not answered is asked again


class StatisticsRound:
    """Asks every device that is here, and joins what they say.

    Args:
        settings: The run.
        task: Whose model may take the statistics.
        ledger: Keeps what was found.
        fleet: The devices.
        publisher: Sends.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        ledger: Ledger,
        fleet: DeviceRegistry,
        publisher: Publisher,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._task, self._ledger = settings, task, ledger
        self._fleet, self._publisher, self._clock = fleet, publisher, clock
        self._over = not wants_statistics(settings, task)
        self._answers: dict[str, DataSummary] = {}
        self._failed: dict[str, str] = {}  # device -> why it has none
        self._asked: dict[str, float] = {}
        self._began: float | None = None
        self._query = DataQuery()

    @property
    def over(self) -> bool:
        """True once nothing waits for the statistics; asks who has not answered."""
        if not self._over:
            self._over = bool(
                self._ledger.rounds() or self._ledger.get(STATISTICS) is not None
            )
        if not self._over:
            self._go_on()
        return self._over

    @property
    def phase(self) -> str:
        """Present phase in a few words."""
        done = len(self._answers) + len(self._failed)
        return f"statistics of the examples: {done} of {len(self._asked)} devices"

    def answered(self, device: str, answer: DataDescribed) -> None:
        """Takes a device's answer; one that was not asked for changes nothing."""
        if device not in self._asked or self._over or answer.id != STATISTICS:
            return
        self._failed.pop(device, None)
        if answer.data is None:
            self._answers.pop(device, None)
            self._failed[device] = answer.why or "it says nothing"
        else:
            self._answers[device] = answer.data

    def _go_on(self) -> None:
        now = self._clock()
        here = {d for d in self._fleet.present() if self._fleet.densities.evaluates(d)}
        waiting = here - self._answers.keys() - self._failed.keys()
        if self._began is None:
            self._began = now
            self._query = query_of(self._settings, self._task)
        if not waiting or now - self._began > self._settings.statistics.wait_s:
            self._end()
            return
        order = DescribeData(STATISTICS, self._query, held_out(self._settings))
        for device in waiting:
            if now - self._asked.get(device, -AGAIN_S) >= AGAIN_S:
                self._asked[device] = now
                self._publisher.tell(device, order, round_no=0)

    def _end(self) -> None:
        found = joined(
            self._answers,
            self._query,
            tuple(self._task.input_shape),
            {device: self._fleet.examples(device) for device in self._answers},
            weight=self._settings.gate.weight,
        )
        refused = {**self._failed, **found.refused}
        for device, why in sorted(found.refused.items()):
            log.warning("the statistics of %s do not count: %s", device, why)
            self._ledger.refuse(device, 0, "rejected", f"statistics: {why}")
        for device, why in sorted(self._failed.items()):
            log.warning("%s has no statistics: %s", device, why)
        for device, why in sorted(found.cut.items()):
            log.warning("the statistics of %s count less: %s", device, why)
        if found.sums is None:
            log.warning(
                "no device has statistics: the model keeps the initial values of %s",
                ", ".join(self._task.statistics) or "its buffers",
            )
        self._ledger.put(STATISTICS, {**found.plain(), "refused": refused})
        log.info("statistics of %d devices", len(found.devices))
        self._answers, self._over = {}, True
