"""Scores of the global model at each deployed density, beside the running round."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.checkpoints.models import ModelStore
from coordinator.server.run_memory import RunMemory, load_model, maskable
from coordinator.views.scores import shown
from edge_sdk.errors import DensityError, StateError
from edge_sdk.evaluation.interval import worse_text
from edge_sdk.evaluation.measure import VALUES
from edge_sdk.evaluation.metric import Sums, loss
from edge_sdk.evaluation.tally import total, values_of
from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.low_rank import fold_adapters
from edge_sdk.tasks.parts.run_task import adapted_task
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.scoring import measure_of, metrics_for, score, tallies
from edge_sdk.training.torch_engine.dense import dense_model

__all__ = ["Evaluator", "Probe", "Report", "trained_model"]

PROBED = 128  # examples; of a few milliseconds to a second, once a round
# A probe that takes a thread longer is shared by all: two threads of a short one wait
# for each other on a busy machine, 69 ms of a probe that takes one of them 1.2.
SHARED_S = 0.1

log = logging.getLogger(__name__)

# (round, density, metrics, why it is worse); called on the evaluator's thread
Report: TypeAlias = Callable[[int, float, Mapping[str, float], str], None]


class Probe:
    """The loss of a model on a few examples, while the caller waits.

    Args:
        task: Whose model and loss.
        examples: The evaluation set; some of it is taken, evenly.
    """

    def __init__(self, task: Task, examples: Examples) -> None:
        count = len(examples)
        places = np.linspace(0, count - 1, min(count, PROBED)).astype(np.int64)
        self._task, self._examples = task, examples.take(places)
        self._made: tuple[bytes, MaskedModel] | None = None
        self._shared = False  # among torch's threads

    def loss(self, model: Model) -> float | None:
        """The loss; None where the task cannot be evaluated at all."""
        try:
            if self._made is None or self._made[0] != model.mask.digest:
                ready = masked_model(self._task.model(), model.mask)
                self._made = model.mask.digest, ready
            ready = self._made[1]
            ready.load(model.masked, model.on(model.mask).dense)
            ready.train(mode=False)
            return self._loss(ready)
        except (Exception, SystemExit):  # a task's own code; the run goes on unchecked
            log.exception("the model could not be checked on the evaluation examples")
            return None

    def _loss(self, ready: MaskedModel) -> float:
        threads, began = torch.get_num_threads(), time.thread_time()
        if not self._shared:
            torch.set_num_threads(1)
        try:
            return score(ready, self._task, self._examples, (loss,))["loss"]
        finally:
            torch.set_num_threads(threads)
            self._shared = self._shared or time.thread_time() - began > SHARED_S


class Evaluator:
    """One worker thread that scores the newest model it was given.

    A model that arrives while another is being scored waits; one that arrives while
    one waits replaces it. So evaluation never holds the rounds up, and the last model
    of a run is always scored.

    Args:
        task: Whose model and loss.
        examples: The evaluation set; None of a run that has none here: nothing is
            scored then.
        report: Told of each result, densest first.
        ledger: Where the task's primary metric is noted, for people.

    Attributes:
        metrics: What is measured; the first is the task's primary metric.
        measure: What share of answers is right, where the task names no metrics.
    """

    def __init__(
        self, task: Task, examples: Examples | None, report: Report, ledger: RunMemory
    ) -> None:
        self.task, self._examples, self._report = task, examples, report
        self._before: dict[float, list[Sums]] = {}  # density -> of the last model
        self.metrics = metrics_for(task, examples)
        self.measure = VALUES if task.metrics else measure_of(task, examples)
        ledger.put("metric", asdict(shown(self.metrics[0])))
        self._changed = threading.Condition()
        self._waiting: tuple[int, Model, MaskFamily] | None = None
        self._closed = False
        self._models: dict[bytes, MaskedModel] = {}
        self._thread = threading.Thread(target=self._work, name="evaluate", daemon=True)
        self._thread.start()

    @property
    def scores(self) -> bool:
        """True if there are examples here to score on."""
        return self._examples is not None

    def submit(self, round_no: int, model: Model, family: MaskFamily) -> None:
        """Scores a round's model at every density of its family, if it can keep up."""
        if not self.scores:
            return
        with self._changed:
            self._waiting = round_no, model, family
            self._changed.notify()

    def close(self) -> None:
        """Drops what waits, finishes what is being scored, ends the thread."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)  # the devices of a demo want the other cores
        while (job := self._next()) is not None:
            round_no, model, family = job
            for density, mask in family.masks.items():
                if self._closed:
                    return
                try:
                    found = self._score(mask, model, density)
                    self._report(round_no, density, *found)
                except (Exception, SystemExit):  # the run goes on without this figure
                    log.exception(
                        "evaluating round %d at %s failed",
                        *(round_no, density),
                        extra={"round": round_no},
                    )

    def _next(self) -> tuple[int, Model, MaskFamily] | None:
        with self._changed:
            while self._waiting is None and not self._closed:
                self._changed.wait()
            job, self._waiting = self._waiting, None
            return job

    def _score(
        self, mask: Mask, model: Model, density: float
    ) -> tuple[dict[str, float], str]:
        """The metrics' values, and why the model is worse than the one before."""
        if mask.digest not in self._models:
            self._models[mask.digest] = masked_model(self.task.model(), mask)
        ready = self._models[mask.digest]
        values = model.on(mask)
        ready.load(values.masked, values.dense)
        ready.train(mode=False)
        assert self._examples is not None  # noqa: S101 - else nothing is submitted
        parts = [*tallies(ready, self.task, self._examples, self.metrics)]
        scores = values_of(self.metrics, total(parts), f"task {self.task.name}")
        first = self.metrics[0]
        after = [part.sums[first.name] for part in parts if first.name in part.sums]
        before, self._before[density] = self._before.get(density, []), after
        return scores, worse_text(first, before, after, f"{len(after)} batches")


def trained_model(
    task: Task,
    reference: str,
    memory: RunMemory,
    seed: int,
    density: float,
    adapters: Adapters | None = None,
) -> nn.Module:
    """The model in evaluation mode; its weights are dense, exactly 0 off the mask.

    Args:
        task: What was trained.
        reference: Its name in checkpoints.
        memory: The run's ledger, or what a simulation has in its place.
        seed: The run's.
        density: One of the run's.
        adapters: The run's; they are folded into their layers.

    Raises:
        DensityError: If the run has no such density; says which it has.
        StateError: If no masks are drawn yet, or a file is gone.
    """
    task = adapted_task(task, adapters or task.adapters)
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        layers = maskable(task, task.model(), memory)
    store = ModelStore(memory.folder, reference, layers)
    found = load_model(store, memory, layers, seed)
    if found is None:
        raise StateError(
            f"{memory.folder} holds no model yet",
            remedy="Wait until its warm-up is done.",
        )
    model, family = found
    if density not in family.masks:
        known = ", ".join(f"{d:g}" for d in family.masks)
        raise DensityError(
            f"the run has no model of density {density!r}",
            remedy=f"Ask for one of {known}.",
        )
    mask = family.masks[density]
    with torch.random.fork_rng(devices=[]):
        made = dense_model(task, mask, model.on(mask)).eval()
    fold_adapters(made)
    return made
