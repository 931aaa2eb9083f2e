"""Work of one worker: train an order, score a part of the evaluation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import torch
from torch.utils._pytree import tree_map

from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.interface import (
    ChunkScore,
    EvaluationChunk,
    TrainingJob,
)
from edge_sdk.errors import DataError
from edge_sdk.evaluation.tally import Tally
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.open import open_program
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.parts.adapted_model import adapted
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.memory_limit import EngineName
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.scoring import metrics_for, tally
from edge_sdk.training.torch_engine.dense import SMALL
from edge_sdk.training.torch_engine.placement import placement_of
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.recipe import mask_of, named_layers
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import unpack_values

__all__ = ["JobRunner"]

# Per worker: those of a run's densities, so that no device opens one anew.
KEPT_MODELS = 4
DENSE = 0.5  # above this density torch's kernels are faster, but for small models

K = TypeVar("K")
V = TypeVar("V")
Predict: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class JobRunner:
    """State that a worker keeps between jobs, only to be faster.

    Args:
        task: What is trained.
        evaluation: The whole evaluation set.
        engine: The run's; above `DENSE` torch's is taken for a model that is not small.
    """

    def __init__(self, task: Task, evaluation: Examples, engine: Engine) -> None:
        self._task, self._evaluation, self._engine = task, evaluation, engine
        self._layers = layers_of(task.model(), task.dense_layers)
        self._metrics = metrics_for(task, evaluation)
        self._runners: dict[bytes, TaskRunner] = {}  # by mask: each keeps its model
        self._scored: dict[bytes, ProgramModel | MaskedModel] = {}

    def train(self, work: TrainingJob, examples: Examples) -> PackedUpdate:
        """Carries out a device's order on its examples.

        Raises:
            TaskError: If the model or loss raises; names the device and the line.
        """
        order = unpack(work.order, TaskOrder)
        engine = self._engine_at(order.density)

        def make() -> TaskRunner:
            words: EngineName = "program" if engine.program else "masked"
            device = "cpu" if engine.program else "auto"
            return TaskRunner(self._task, examples, words, device=device)

        key = engine.name.encode() + order.mask.digest
        runner = _kept(self._runners, key, make)
        runner.tester.examples = DividedExamples(examples)
        with (
            _named(work.folder.name),
            blamed(self._task.name, f"training on {work.folder.name}"),
        ):
            return runner.run(
                *(order, work.base, lambda: False, work.structure, work.memory),
                engine.program,
                parts=work.parts,
            )

    def score(
        self, chunk: EvaluationChunk, examples: Examples | None = None
    ) -> ChunkScore:
        """Scores a model on a part of the evaluation set, or on a device's own.

        Args:
            chunk: The model, and which examples.
            examples: All of the device's, where its test examples are meant.

        Raises:
            TaskError: If the task's model, loss or metrics raise; names the line.
        """
        part: Examples | None = None
        if examples is None or chunk.folder is None:
            part = self._evaluation.take(slice(chunk.start, chunk.stop))
        else:
            own = self._task.read_holdout(chunk.folder)
            part, why = DividedExamples(examples, own).held(chunk.holdout)
            if part is None:
                return ChunkScore(Tally(failed={"": why}))
        model = _kept(self._scored, chunk.recipe.digest, lambda: self._model(chunk))
        values = unpack_values(chunk.values, model.mask)
        model.load(values.masked, values.dense)
        with blamed(self._task.name, "scoring"):
            return ChunkScore(tally(_predict(model), self._task, part, self._metrics))

    def _model(self, chunk: EvaluationChunk) -> ProgramModel | MaskedModel:
        make, found = adapted(self._task.model, chunk.adapters), self._layers
        if chunk.adapters:
            found = layers_of(make(), self._task.dense_layers)
        layers = named_layers(chunk.recipe, found)
        if chunk.structure:
            mask = decode_structure(chunk.structure, layers, chunk.recipe.digest)
        else:
            mask = mask_of(chunk.recipe, layers)
        if program := self._engine_at(mask.density).program:
            return open_program(program, mask)
        where = placement_of("auto")
        return masked_model(make(), mask, placement=where)

    def _engine_at(self, density: float) -> Engine:
        small = sum(math.prod(layer.shape) for layer in self._layers) <= SMALL
        return self._engine if density <= DENSE or small else Engine("torch")


def _predict(model: ProgramModel | MaskedModel) -> Predict:
    """Outputs of a batch in evaluation mode."""
    if isinstance(model, ProgramModel):
        own = model
        return lambda inputs: tree_map(torch.from_numpy, own.predict(inputs.numpy()))
    return model.train(False)  # noqa: FBT003 - as in torch


def _kept(found: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """Return the entry of a key; made anew, it replaces the one longest unused."""
    if key not in found:
        while len(found) >= KEPT_MODELS:
            del found[next(iter(found))]
        return found.setdefault(key, make())
    found[key] = found.pop(key)
    return found[key]


@contextmanager
def _named(device: str) -> Iterator[None]:
    """Name the device in an error of its examples or losses."""
    try:
        yield
    except DataError as error:
        if device in str(error):
            raise
        raise DataError(f"device {device}: {error}", remedy=error.help) from error
