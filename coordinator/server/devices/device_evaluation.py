"""Models tested on the devices that deploy them: who is asked, what the answers say.

A device is asked about the model that its task begins with by the order of that task,
and answers with the acknowledgement of the next one. An idle device that says HELLO
without having answered is asked by itself. Nothing waits for the answers: a round
closes as if nobody was asked. What is asked follows from the ledger alone, so a
coordinator that was killed asks the same, and gets the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from msgspec import UNSET

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger import EvaluationRow, Ledger, TaskRow
from coordinator.ledger.device_rows import TOGETHER
from coordinator.protocol.publisher import Publisher
from coordinator.rounds.blobs import OrderBlobs, publish_blobs
from coordinator.server.devices.answers import AnswerWarnings, answer_row, together
from coordinator.server.devices.drift_reports import DriftReports
from edge_sdk.evaluation.interval import worse_text
from edge_sdk.evaluation.measure import Measure
from edge_sdk.evaluation.metric import Metric
from edge_sdk.wire.messages import (
    BaseTest,
    BaseTested,
    Evaluate,
    Evaluated,
    TaskAck,
    TaskOrder,
)
from edge_sdk.wire.named import Holdout

__all__ = ["DeviceEvaluation", "Question"]

log = logging.getLogger(__name__)

AGAIN_S = 30.0  # between two times that a device is asked, where it is idle
# (the round that gave the model, its density, the order) of a device
Question: TypeAlias = tuple[int, float, Evaluate]


class Measures(Protocol):
    """Metrics of the run, the primary one first."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """Everything that is measured."""
        ...

    @property
    def measure(self) -> Measure:
        """The share of right answers of a task without metrics."""
        ...


@dataclass(frozen=True)
class _Asked:
    """The last question to a device, and its time."""

    at: float
    order: Evaluate
    round_no: int
    density: float

    @property
    def of(self) -> tuple[int, float]:
        """The round that gave the model, and the device's density."""
        return self.round_no, self.density

    @property
    def named(self) -> tuple[str, bytes]:
        """The question's id and the digest of its model, as an answer repeats them."""
        return self.order.id, self.order.model.sha256


def _named(answer: Evaluated | BaseTested) -> tuple[str, bytes]:
    return answer.id, answer.model if isinstance(answer, Evaluated) else b""


class DeviceEvaluation:
    """Asks devices to test models, and records what they answer.

    Args:
        scorer: Says what is measured.
        holdout: What devices hold out; None asks nobody.
        reports: Takes what they tell of their examples beside.
        ledger: What was asked and answered.
        publisher: Sends.
        evaluates: Whether a device knows evaluation orders; those of 0.1.0 do not.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        scorer: Measures,
        holdout: Holdout | None,
        reports: DriftReports,
        ledger: Ledger,
        publisher: Publisher,
        evaluates: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._metrics, measure = scorer.metrics, scorer.measure
        self._right = measure.text() if measure.name else ""
        self._holdout, self._reports = holdout, reports
        self._ledger, self._publisher = ledger, publisher
        self._evaluates, self._clock = evaluates, clock
        self._warnings = AnswerWarnings()
        self._asked: dict[str, _Asked] = {}
        self._asked_before: dict[str, _Asked] = {}

    def with_tasks(self, no: int, devices: Iterable[str]) -> dict[str, BaseTest]:
        """The test that goes with the task of each device that is asked for one.

        Args:
            no: The round of the tasks, which the ledger has.
            devices: Those with a task.
        """
        if self._holdout is None or not self._base(no):
            return {}
        names = [metric.name for metric in self._metrics]
        test = BaseTest(names, self._right, self._reports.query)
        return {device: test for device in devices if self._evaluates(device)}

    def ask_about_base(self, device: str, task: TaskRow | None) -> None:
        """Asks a device about the model that its task began with, unless it said so.

        Args:
            device: Its name.
            task: Its last one, of the round in hand or the one before; None of a
                device without one, or whose base the broker keeps no more.
        """
        if self._holdout is None or task is None or not self._evaluates(device):
            return
        found = self._of_task(task)
        if found is not None:
            self.ask(device, found)

    def ask(self, device: str, question: Question) -> None:
        """Asks a device, unless the ledger has its answer or it was just asked."""
        no, density, order = question
        if self._ledger.has_evaluated(no, device) or not self._evaluates(device):
            return
        before, now = self._asked.get(device), self._clock()
        if before and before.order.id == order.id:
            if now - before.at < AGAIN_S:
                return
        elif before:
            self._asked_before[device] = before  # its answer may be on its way
        self._asked[device] = _Asked(now, order, no, density)
        self._publisher.tell(device, order, round_no=no)

    def acknowledged(self, device: str, ack: TaskAck) -> None:
        """Records the answer that comes with an acknowledgement, as `answered`."""
        if ack.tested is not UNSET:
            self.answered(device, ack.tested)

    def answered(self, device: str, answer: Evaluated | BaseTested) -> None:
        """Records an answer that was asked for; another changes nothing.

        Raises:
            RemoteProtocolError: If its sums are not those of the metrics.
        """
        given = self._asked.get(device), self._asked_before.get(device)
        asked = next((a for a in given if a and a.named == _named(answer)), None)
        found = self._by_task(device, answer) if asked is None else asked.of
        if found is None:
            return  # of an earlier life: it is asked again if it is still wanted
        no, density = found
        if self._ledger.has_evaluated(no, device):
            return
        if answer.data is not None:
            self._reports.take(device, no, answer.data)
        row = answer_row(no, density, device, answer, self._metrics)
        if self._warnings.warn(row, device):
            self._ledger.note_test(device, row.why)
        self._ledger.record_evaluation(row)
        rows = [
            one
            for one in self._ledger.evaluations(row.round)
            if one.density == row.density and one.device != TOGETHER
        ]
        whole = together(rows, self._metrics)
        self._warnings.warn(whole, f"devices at density {density:g}")
        self._ledger.record_evaluation(whole)
        self._compare(whole, rows)

    def _compare(self, whole: EvaluationRow, rows: list[EvaluationRow]) -> None:
        """Marks a model that is worse on the devices that tested the one before."""
        no, density = whole.round, whole.density
        done = [r.no for r in self._ledger.rounds() if r.model and 0 < r.no < no]
        if not done:
            return
        first = self._metrics[0]
        past = self._ledger.evaluations(done[-1])
        old = {r.device: r.sums.get(first.name) for r in past if r.density == density}
        both = [
            (np.array(before), np.array(after))
            for row in rows
            if (before := old.get(row.device)) and (after := row.sums.get(first.name))
            if len(before) == len(after) == len(whole.sums[first.name])
        ]
        sums = [b for b, _ in both], [a for _, a in both]
        why = worse_text(first, *sums, f"{len(both)} devices")
        self._ledger.mark_worse(no, f"on devices, density {density:g}", why)

    def questions(
        self,
        no: int,
        model: Model,
        family: MaskFamily,
        able: Mapping[str, float],
        codecs: Mapping[str, str],
        programs: Callable[[Iterable[str]], Mapping[str, bytes]],
    ) -> dict[str, Question]:
        """Publishes a model that is no task's base, and makes each device's question.

        Args:
            no: The round that gave the model.
            model: On the family's top mask.
            family: Its masks.
            able: Device -> the largest density that it affords.
            codecs: Device -> the codec of its models.
            programs: The training program of each device that needs one.
        """
        fits = {
            device: max((d for d in family.masks if d <= own), default=None)
            for device, own in able.items()
            if self._holdout is not None and self._evaluates(device)
        }
        chosen = {device: d for device, d in fits.items() if d is not None}
        masks = {device: family.of(device, d) for device, d in chosen.items()}
        named = publish_blobs(
            *(self._publisher.shelve, no + 1, model, family, masks, codecs),
            programs(chosen),
        )
        counted = self._ledger.last_counted(no + 1)
        return {
            device: (
                *(no, d),
                self._order(f"test-{no}", no, named[device], counted.get(device, "")),
            )
            for device, d in chosen.items()
        }

    def waiting(self, no: int, devices: Iterable[str]) -> set[str]:
        """Devices that have not answered about a round's model."""
        return {d for d in devices if not self._ledger.has_evaluated(no, d)}

    def _order(
        self, name: str, no: int, blobs: TaskOrder | OrderBlobs, after: str = ""
    ) -> Evaluate:
        return Evaluate(
            id=name,
            round_no=no,
            model=blobs.base,
            mask=blobs.mask,
            metrics=[metric.name for metric in self._metrics],
            holdout=self._holdout,
            measure=self._right,
            program=blobs.program,
            parts=blobs.parts,
            after=blobs.after if isinstance(blobs, TaskOrder) else after,
            describe=self._reports.query,
        )

    def _by_task(
        self, device: str, answer: Evaluated | BaseTested
    ) -> tuple[int, float] | None:
        """(round of the model, density) of the task that an answer names."""
        task = self._ledger.task(answer.id)
        if task is None or task.device != device:
            return None
        order, no = task.order(self._ledger.folder), self._base(task.round_no)
        other = isinstance(answer, Evaluated) and answer.model != order.base.sha256
        return None if order.test is None or other or not no else (no, task.density)

    def _of_task(self, task: TaskRow) -> Question | None:
        """The model that a task began with; None of the first, which is not trained."""
        no = self._base(task.round_no)
        if not no:
            return None
        order = task.order(self._ledger.folder)
        return no, task.density, self._order(order.id, no, order)

    def _base(self, no: int) -> int:
        """The round that gave the model that a round begins with; 0 of an untrained."""
        rounds = self._ledger.rounds()
        base = next((r.base for r in rounds if r.no == no), "")
        made = [r.no for r in rounds if base and r.model == base and r.no < no]
        return made[-1] if made else 0
