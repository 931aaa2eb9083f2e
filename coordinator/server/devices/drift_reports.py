"""Reports of devices on their examples: labels, drift, classes that nobody had before.

They come with the answers of tests. Of each device the first report and the last one's
summary are kept, so the ledger does not grow with the rounds.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray

from coordinator.algorithms.base import Algorithm
from coordinator.ledger import Ledger
from coordinator.rounds.data_statistics.drift import (
    Redrawn,
    drift_of,
    fleet_shift,
    label_counts,
)
from coordinator.rounds.data_statistics.joined import read_summary
from coordinator.rounds.data_statistics.question import query_of
from coordinator.rounds.state import RoundPhase
from coordinator.settings import RunSettings
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.json_text import to_json
from edge_sdk.tasks.task import Task
from edge_sdk.wire.evaluation import DataQuery, DataSummary

__all__ = ["DriftReports", "draws_again"]

log = logging.getLogger(__name__)

CLASSES = "classes_seen"  # of the ledger: those there were when reports began
REDRAWN = "redrawn"  # of the ledger: the drift at which masks were last drawn
EXAMPLES = 1 << 40  # a device's count may have grown since its HELLO


class DriftReports:
    """Takes what devices tell of their examples beside tests.

    Args:
        settings: The run's; asks for nothing unless it wants reports.
        task: Its labels and its examples' shape.
        ledger: Keeps the first report, and the last one's words.

    Attributes:
        query: What devices are asked; None for nothing.
    """

    def __init__(self, settings: RunSettings, task: Task, ledger: Ledger) -> None:
        self._settings, self._task, self._ledger = settings, task, ledger
        self.query: DataQuery | None = None
        if settings.drift.report:
            plain = query_of(settings, task)
            self.query = DataQuery(plain.shape, plain.classes)

    def take(self, device: str, round_no: int, given: DataSummary) -> None:
        """Records a device's report; one that cannot be is refused by name.

        Args:
            device: Whose.
            round_no: The round whose model it has just tested.
            given: What it says.
        """
        if self.query is None:
            return
        example = tuple(self._task.input_shape)
        try:
            now = read_summary(given, self.query, example, EXAMPLES)
        except RemoteProtocolError as error:
            log.warning(
                "the report of %s on its examples is refused: %s", device, error
            )
            self._ledger.refuse(device, round_no, "rejected", f"report: {error}")
            return
        kept = self._ledger.first_report(device)
        if not kept:
            kept = to_json(to_builtins(given))
            self._ledger.count_traffic(device, data_first=kept)
        first = read_summary(
            DataSummary(**json.loads(kept)), self.query, example, EXAMPLES
        )
        found = drift_of(
            first,
            now,
            band=self._settings.drift.band,
            seen=self._seen(round_no, now.classes),
            labels=self._task.labels,
        )
        before = self._ledger.drift_of(device)
        if found.text and found.text != before:
            log.warning("the data of %s: %s", device, found.text)
        self._ledger.count_traffic(
            device,
            labels=label_counts(now, self._task.labels),
            shift=found.shift,
            drift=found.text,
        )

    def _seen(self, round_no: int, classes: NDArray[np.float64]) -> set[int]:
        """Classes of the first round of reports; later ones are new."""
        kept = self._ledger.get(CLASSES) or {"round": round_no, "classes": []}
        seen = set(kept["classes"])
        mine = set(np.flatnonzero(classes).tolist())
        if round_no <= kept["round"] and not mine <= seen:
            seen |= mine
            self._ledger.put(CLASSES, {**kept, "classes": sorted(seen)})
        return seen


def draws_again(algorithm: Algorithm, ledger: Ledger, no: int) -> bool:
    """Note that a round draws masks again, before its orders are; False if it does not.

    Args:
        algorithm: Whose `on_drift`.
        ledger: The run's; knows the devices' drift.
        no: The round that is opened, or opened again after a crash.
    """
    if not (algorithm.on_drift and no):
        return False
    given_up = {r.no for r in ledger.rounds() if r.phase is RoundPhase.ABORTED}
    shift = fleet_shift((d.shift, d.examples) for d in ledger.devices())
    known = Redrawn(**ledger.get(REDRAWN) or {})
    now = known.again(no, shift, most=algorithm.on_drift, given_up=given_up)
    if now is None:
        return False
    log.info(
        "round %d draws masks again: the fleet's drift was %.2f when they were drawn, "
        "and is %.2f",
        *(no, now.before, shift),
        extra={"round": no},
    )
    ledger.put(REDRAWN, asdict(now))
    return True
