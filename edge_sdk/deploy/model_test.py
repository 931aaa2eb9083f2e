"""`ModelTest`: a delivered model beside the live one, on this device's test examples.

Rule 1. Both are run as they would be here, with this device's own values in them, on
        examples that it never trained on. Without any, deliveries are refused.
Rule 2. A new model without a value of the task's primary metric is not made live.
Rule 3. Nor is one that is worse than the live one by more than `tolerance`. A live one
        that is of another task, or has no value, holds nobody up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.evaluation.measure import Measure
from edge_sdk.evaluation.metric import Metric, MetricFailure
from edge_sdk.evaluation.tally import Tally
from edge_sdk.infer import Bundle
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.batch import prepared_array
from edge_sdk.tasks.without_torch.halves import torch_is_here

__all__ = ["ModelTest"]

log = logging.getLogger(__name__)

_BATCH = 64  # examples at once
NO_HOLDOUT = (
    "models_tolerance is set, and this device has no test examples to compare models "
    "on: {why}. Set holdout in the run's settings or holdout_data in the task, or take "
    "models_tolerance out of device.toml"
)


@dataclass(frozen=True)
class ModelTest:
    """Compares a delivered model with the live one.

    Args:
        task: Its primary metric, loss and preparation.
        tolerance: How much worse a new model may be, in the metric's unit.
        held: This device's test examples; or None, and why there are none.
    """

    task: Task
    tolerance: float
    held: Callable[[], tuple[Examples | None, str]]

    def impossible(self) -> str:
        """The reason why no model can be tested here; empty if one can be."""
        held, why = self.held()
        return "" if held is not None and len(held) else NO_HOLDOUT.format(why=why)

    def __call__(self, name: str, new: Path, live: Path | None) -> None:
        """Refuse a new model by rules 2 and 3.

        Args:
            name: What to call it.
            new: Folder of its bundle.
            live: Folder of the live one's; None without one.

        Raises:
            ExportError: If it must not be made live; has both values.
        """
        held, why = self.held()
        if held is None:
            raise ExportError(NO_HOLDOUT.format(why=why))
        if held.casts is None and torch_is_here():  # no order has needed torch so far
            from edge_sdk.tasks.example_check import fitted  # noqa: PLC0415 - torch

            held = fitted(self.task, held, Path("this device"), known=False)
        metric = self._metric(held)
        where = f"{metric.name} on {len(held)} test examples"
        value = self._value(metric, Bundle(new), held)
        if not math.isfinite(value):
            raise ExportError(
                f"{name} has no {where}: they do not say, such as those of one class",
                remedy="The live model stays; hold out more examples.",
            )
        before = self._before(metric, live, Bundle(new), held)
        known = "there is none to compare with"
        if math.isfinite(before):
            known = f"the live model {before:.4g}"
        if metric.is_better(before, than=value, by=self.tolerance):
            raise ExportError(
                f"{name} has {value:.4g} {where}, {known}: worse by more than "
                f"{self.tolerance:g}",
                remedy="The live model stays; deliver a better one, or raise "
                "models_tolerance in device.toml.",
            )
        log.info("%s: %.4g %s, %s", name, value, where, known)

    def _before(
        self, metric: Metric, live: Path | None, new: Bundle, held: Examples
    ) -> float:
        """The live model's value; NaN where it cannot be compared."""
        if live is None:
            return math.nan
        try:
            bundle = Bundle(live)
            if bundle.manifest["task"] != new.manifest["task"]:
                return math.nan
            return self._value(metric, bundle, held)
        except EdgeError as error:
            log.warning("the live model cannot be tested: %s", error)
            return math.nan

    def _value(self, metric: Metric, bundle: Bundle, held: Examples) -> float:
        """The metric's value of a model.

        Raises:
            ExportError: If the metric fails.
            EdgeError: If the model cannot run on these examples.
        """
        found = _tally(self.task, metric, bundle.run, held)
        why = found.failed.get(metric.name)
        try:
            if why is None:
                return metric.value(found.sums[metric.name])
        except MetricFailure as failure:
            why = str(failure)
        raise ExportError(
            f"metric {metric.name} has no value: {why}",
            remedy="The live model stays; correct the metric in the task.",
        )

    def _metric(self, held: Examples) -> Metric:
        """The primary metric of the task, as tests of the run have it."""
        if torch_is_here():
            from edge_sdk.training.scoring import metrics_for  # noqa: PLC0415 - torch

            return metrics_for(self.task, held)[0]
        first = next(iter(self.task.metrics), None)
        guessed = Measure("classes").metric()
        if first is None and held.targets.dtype.kind in "iu" and guessed is not None:
            return guessed
        if first is None or first.name == "loss":
            raise ExportError(
                f"task {self.task.name} has no metric that is known without torch",
                remedy="Name one in the task: metrics=[accuracy()].",
            )
        return first


def _tally(
    task: Task,
    metric: Metric,
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    held: Examples,
) -> Tally:
    """Sums of the metric over the test examples."""
    if torch_is_here():
        import torch  # noqa: PLC0415 - an extra

        from edge_sdk.training.scoring import tally  # noqa: PLC0415 - torch

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(run(inputs.float().numpy()))

        return tally(predict, task, held, [metric], batch=_BATCH)
    found = Tally()
    for first in range(0, len(held), _BATCH):
        part = held.take(slice(first, first + _BATCH))
        inputs: NDArray[Any] = prepared_array(task, part.inputs)
        outputs = run(inputs.astype(np.float32, copy=False))
        found = found.of_batch([metric], outputs, np.asarray(part.targets))
    return found
