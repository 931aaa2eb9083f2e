"""Work of one worker: train an order, score a part of the evaluation set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.simulation.workers.interface import (
    DENSE,
    ChunkScore,
    Engine,
    EvaluationChunk,
    TrainingJob,
)
from edge_sdk.errors import DataError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.training.masked import masked_model
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.scoring import metrics_for, tally
from edge_sdk.training.sparse.model import sparse_model
from edge_sdk.training.torch_engine.session import TorchModel
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.recipe import mask_of, named_layers
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import unpack_values

__all__ = ["JobRunner"]

SCORED_MODELS = 4  # kept per worker


class JobRunner:
    """State that a worker keeps between jobs, only to be faster.

    Args:
        task: What is trained.
        evaluation: The whole evaluation set.
        engine: The run's; above `DENSE` the masked one is taken all the same.
    """

    def __init__(self, task: Task, evaluation: Examples, engine: Engine) -> None:
        self._task, self._evaluation, self._engine = task, evaluation, engine
        self._layers = layers_of(task.model(), task.dense_layers)
        self._metrics = metrics_for(task, evaluation)
        self._runners: dict[Engine, TaskRunner] = {}
        self._scored: dict[bytes, TorchModel] = {}

    def train(self, work: TrainingJob, examples: Examples) -> PackedUpdate:
        """Carries out a device's order on its examples.

        Raises:
            TaskError: If the model or loss raises; names the device and the line.
        """
        order = unpack(work.order, TaskOrder)
        engine = self._engine if order.density <= DENSE else "masked"
        if engine not in self._runners:
            self._runners[engine] = TaskRunner(self._task, examples, engine)
        runner = self._runners[engine]
        runner.examples = examples
        with (
            _named(work.folder.name),
            blamed(self._task.name, f"training on {work.folder.name}"),
        ):
            return runner.run(
                order, work.base, lambda: False, work.structure, work.memory
            )

    def score(self, chunk: EvaluationChunk) -> ChunkScore:
        """Scores a model on a part of the evaluation set.

        Raises:
            TaskError: If the task's model, loss or metrics raise; names the line.
        """
        model = self._model(chunk)
        values = unpack_values(chunk.values, model.mask)
        model.load(values.masked, values.dense)
        model.train(False)  # noqa: FBT003 - as in torch
        part = self._evaluation.take(slice(chunk.start, chunk.stop))
        with blamed(self._task.name, "scoring"):
            return ChunkScore(tally(model, self._task, part, self._metrics))

    def _model(self, chunk: EvaluationChunk) -> TorchModel:
        recipe = chunk.recipe
        if recipe.digest not in self._scored:
            while len(self._scored) >= SCORED_MODELS:
                self._scored.pop(next(iter(self._scored)))
            layers = named_layers(recipe, self._layers)
            if chunk.structure:
                mask = decode_structure(chunk.structure, layers, recipe.digest)
            else:
                mask = mask_of(recipe, layers)
            self._scored[recipe.digest] = self._make(mask)
        return self._scored[recipe.digest]

    def _make(self, mask: Mask) -> TorchModel:
        if self._engine == "sparse" and mask.density <= DENSE:
            return sparse_model(self._task.model(), mask)
        return masked_model(self._task.model(), mask)


@contextmanager
def _named(device: str) -> Iterator[None]:
    """Name the device in an error of its examples or losses."""
    try:
        yield
    except DataError as error:
        if device in str(error):
            raise
        raise DataError(f"device {device}: {error}", remedy=error.help) from error
