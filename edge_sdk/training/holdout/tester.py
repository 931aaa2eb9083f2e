"""`ModelTester`: a model that an order names, measured on a device's test examples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge_sdk.errors import DataError
from edge_sdk.evaluation.holdout import is_classes
from edge_sdk.evaluation.measure import measure_from
from edge_sdk.evaluation.metric import Metric, Sums, loss
from edge_sdk.evaluation.tally import Tally
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import ModelSource
from edge_sdk.training.holdout.describe import describe, summary_of
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.training.local import Stopped
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.rules.apart import OwnParts, own_parts
from edge_sdk.training.rules.control_variates import control_of
from edge_sdk.wire.evaluation import (
    DataDescribed,
    DataQuery,
    DataSummary,
    DescribeData,
    Evaluate,
    Evaluated,
)
from edge_sdk.wire.named import Holdout, MaskRecipe
from edge_sdk.wire.values import unpack_values

__all__ = ["ModelTester", "held_tally"]

log = logging.getLogger(__name__)

_BATCH = 64  # examples at once; forward passes keep no activations
_ONE_CLASS = "its test examples are all of one class"


@dataclass
class PartialTest:
    """Part of a test that is done, where a task has interrupted it.

    Attributes:
        name: Id and model of the order.
        held: The test examples.
        first: The first of them that is left.
        found: Sums over those before.
    """

    name: tuple[str, bytes] = ("", b"")
    held: Examples | None = None
    first: int = 0
    found: Tally = field(default_factory=Tally)


class ModelTester:
    """Carries out evaluation orders on one device; never beside a training.

    Args:
        task: Its metrics, loss and preparation.
        models: The device's; the one at hand is reused where the mask is the same.
        allowance: How many examples may go through at once.

    Attributes:
        examples: The device's own, those held out among them; set by who has them.
    """

    examples: DividedExamples

    def __init__(self, task: Task, models: ModelSource, allowance: Allowance) -> None:
        self._task, self._models, self._allowance = task, models, allowance
        self._progress = PartialTest()

    def run(
        self,
        order: Evaluate,
        base: bytes,
        stop: Callable[[], bool],
        *,
        structure: bytes = b"",
        program: bytes = b"",
        parts: bytes = b"",
        memory: bytes = b"",
    ) -> Evaluated:
        """Sums of the order's metrics; the same numbers each time it is asked.

        One that was stopped goes on where it was, if it is the next that is asked.

        Args:
            order: Model and metrics.
            base: The model's values.
            stop: Turns true when the answer is not wanted any more.
            structure: Of the mask, when it is not drawn from a seed.
            program: The model's training program; needed where there is no torch.
            parts: Entries that stay apart; empty for none.
            memory: What this device's own entries go on from.

        Raises:
            Stopped: If `stop` turned true.
            EdgeError: If the values do not fit the mask, or the model cannot run here.
        """
        self._models.program = program or self._models.program
        held, why = self.examples.held(order.holdout)
        data = None
        if order.describe is not None:
            try:
                data = self._summary(order.describe, order.holdout, stop)
            except DataError as error:  # the test is answered all the same
                log.warning("%s", error)
        if held is None:
            return Evaluated(order.id, order.model.sha256, 0, why=why[:500], data=data)
        metrics, failed = self._wanted(order)
        own = own_parts(parts, memory)
        self._models.frozen = frozenset(own.apart.frozen)
        self._models.adapters = own.apart.adapters
        name = order.id, order.model.sha256
        if self._progress.name != name or self._progress.held is not held:
            self._progress = PartialTest(name, held)
        found = held_tally(
            self._task,
            self._models,
            *(order.mask, structure, base, own),
            examples=self.examples.train(order.holdout),
            held=held,
            metrics=metrics,
            allowance=self._allowance,
            stop=stop,
            progress=self._progress,
        )
        self._progress = PartialTest()
        failed |= found.failed
        for metric in metrics:
            if metric.name not in found.sums and metric.name not in failed:
                failed[metric.name] = "it cannot be measured on this device's engine"
        return Evaluated(
            order.id,
            order.model.sha256,
            found.examples,
            {
                name: _short(found.sums[name])
                for name in order.metrics
                if name in found.sums
            },
            {name: why[:500] for name, why in failed.items()},
            _ONE_CLASS if _is_one_class(held) else "",
            data,
        )

    def describe(self, order: DescribeData, stop: Callable[[], bool]) -> DataDescribed:
        """Statistics of the examples that are trained on; the same numbers each time.

        Raises:
            Stopped: If `stop` turned true.
            DataError: If the examples have none of what is asked for.
        """
        return DataDescribed(order.id, self._summary(order.query, order.holdout, stop))

    def _summary(
        self, query: DataQuery, holdout: Holdout | None, stop: Callable[[], bool]
    ) -> DataSummary:
        examples = self.examples.train(holdout)
        return summary_of(describe(self._task, examples, query, stop))

    def _wanted(self, order: Evaluate) -> tuple[list[Metric], dict[str, str]]:
        """The order's metrics, and why this device has not all of them."""
        known = {metric.name: metric for metric in self._task.metrics}
        guessed = measure_from(order.measure).metric()
        if guessed is not None:
            known.setdefault(guessed.name, guessed)
        known.setdefault(loss.name, loss)
        unknown = "the task on this device has no metric of this name"
        return (
            [known[name] for name in order.metrics if name in known],
            {name: unknown for name in order.metrics if name not in known},
        )


def held_tally(
    task: Task,
    models: ModelSource,
    recipe: MaskRecipe,
    structure: bytes,
    base: bytes,
    own: OwnParts,
    *,
    examples: Examples,
    held: Examples,
    metrics: list[Metric],
    allowance: Allowance,
    stop: Callable[[], bool] = lambda: False,
    progress: PartialTest | None = None,
) -> Tally:
    """Sums of the metrics over the held-out examples, in evaluation mode.

    Args:
        task: Preparation and loss.
        models: Makes the model of the mask.
        recipe: How to have the mask.
        structure: Of one that is not drawn.
        base: Packed values on it.
        own: The entries that they lack.
        examples: Those trained on, of which engines may race on some.
        held: Those tested on.
        metrics: What is measured.
        allowance: How many examples may go through at once.
        stop: Asked between batches.
        progress: Where an earlier call was stopped; kept up to date.

    Raises:
        Stopped: If `stop` turned true.
    """
    mask = models.mask(recipe, structure)
    _, start = control_of(own.completed(unpack_values(base, mask)))
    model = models.on(mask, examples, allowance, task.batch_size)
    model.load(start.masked, start.dense)
    done, step = progress or PartialTest(), allowance.most or _BATCH
    for first in range(done.first, len(held), step):
        if stop():
            raise Stopped
        part = held.take(slice(first, first + step))
        done.found = done.found.plus(model.tally(task, part, metrics))
        done.first = first + step
    return done.found


def _is_one_class(held: Examples) -> bool:
    return is_classes(held.targets) and len(np.unique(held.targets)) == 1


def _short(sums: Sums) -> list[float]:
    """The same numbers; counts as whole ones, which take a byte or two each."""
    return [int(v) if v.is_integer() and abs(v) < 1 << 53 else v for v in sums.tolist()]
