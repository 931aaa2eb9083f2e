"""torch's models of a device's task, each on the engine chosen for its mask."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import available, kernels, unavailable_reason
from edge_sdk.sparse import Boxes, Mask
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.model_state import check_model
from edge_sdk.tasks.parts.adapted_model import adapted
from edge_sdk.tasks.parts.freeze import task_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.torch_modules.copying import copy_model
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.masked import masked_model
from edge_sdk.training.memory_limit import (
    Activations,
    Allowance,
    EngineName,
    StepMemory,
)
from edge_sdk.training.rules.inner_models import InnerModels
from edge_sdk.training.rules.swat import with_sparse_passes
from edge_sdk.training.torch_engine.candidates import candidate_losses
from edge_sdk.training.torch_engine.choice import Race, choose_engine
from edge_sdk.training.torch_engine.dense import (
    DenseModel,
    dense_model,
    whole_program,
)
from edge_sdk.training.torch_engine.narrow import NarrowedModel, narrowed
from edge_sdk.training.torch_engine.placement import Placement
from edge_sdk.training.torch_engine.program import (
    ProgramOnTorch,
    captured,
    program_model,
)
from edge_sdk.wire.messages import MaskRecipe
from edge_sdk.wire.recipe import mask_of, named_layers
from edge_sdk.wire.rules import CandidateLosses, Swat, TopK
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import Values

__all__ = ["TorchModels"]

log = logging.getLogger(__name__)
_COMPARED_ON = 8  # examples on which a captured program takes steps beside torch


class TorchModels:
    """A `ModelSource`: the last mask and its model; another mask races its engines.

    Args:
        task: Whose model.
        engine: Which training engine to use.
        activations: How activations wait for the backward pass of a program.
        memory_plan: What the device's owner says of a program's.
        placement: The device that torch computes on; None for the processor.
    """

    def __init__(
        self,
        task: Task,
        engine: EngineName,
        activations: Activations,
        memory_plan: StepMemory = StepMemory(),  # noqa: B008 - frozen
        placement: Placement | None = None,
    ) -> None:
        model = make_model(task, 0)
        check_model(model)
        self._maskable = layers_of(model, task.dense_layers)
        self.layers = self._maskable  # those that the run masks
        self._task, self._engine, self._activations = task, engine, activations
        self._memory_plan, self._placement = memory_plan, placement
        self._model: TrainingModel | None = None
        self.program = b""  # of the order in hand
        self.frozen: frozenset[str] = frozenset()  # likewise
        self.adapters: Mapping[str, int] = {}  # likewise
        self._made_with: tuple[frozenset[str], Mapping[str, int]] = frozenset(), {}
        self._ordered = task  # with what the order freezes and adapts
        self._raced = b""  # the program that took part in the last race
        self._captured: bytes | EngineError = b""  # here, where none was sent
        self._boxes: Boxes = {}  # of the last recipe
        self._inner = InnerModels(memory_plan)
        self._batch = task.batch_size  # of the last model

    @property
    def engine(self) -> str:
        """The engine of the model at hand; empty before the first."""
        return self._model.engine if self._model else ""

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here; ``program`` where the settings take one."""
        if unavailable_reason():
            return ("masked",)
        return ("masked",) if self._engine == "masked" else ("program", "masked")

    def release(self) -> None:
        """Gives memory that no model needs back to the system."""
        if available():
            kernels().library.fe_release_scratch()

    def check(self, examples: Examples) -> None:
        """Nothing: where torch is, examples are tried where they are read."""

    def mask(self, recipe: MaskRecipe, structure: bytes) -> Mask:
        """The mask of a recipe: the one at hand, or drawn, or out of its structure.

        Raises:
            EdgeError: As `mask_of` and `decode_structure`.
        """
        self._order_task()
        self._boxes = recipe.boxes
        self.layers = named_layers(recipe, self._maskable)
        if self._model is not None and self._model.mask.digest == recipe.digest:
            return self._model.mask
        if recipe.structure is not None:
            return decode_structure(structure, self.layers, recipe.digest)
        return mask_of(recipe, self.layers)

    def on(
        self, mask: Mask, examples: Examples, allowance: Allowance, batch_size: int
    ) -> TrainingModel:
        """The model on the engine chosen for this mask.

        Args:
            mask: Frozen.
            examples: Of which the engines race on some.
            allowance: How many examples go through at once.
            batch_size: Examples per step.

        Raises:
            EngineError: If the engine cannot run it, or not one example fits.
        """
        task, self._batch = self._order_task(), batch_size
        raced = self._model is not None and self._raced == self.program
        if not raced or self._model is None or self._model.mask.digest != mask.digest:
            self._raced = self.program
            self._model = None  # two models at once would not keep to a ceiling
            engine, size = allowance.contest(self._engine, mask.density, batch_size)
            race = Race(
                tensors(self._task, examples, slice(0, size)),
                samples=batch_size,
                steps=-(-len(examples) // size),
                placement=self._placement,
            )

            def on_engine(model: nn.Module, own: Mask) -> TrainingModel:
                return choose_engine(
                    *(model, own, self._task.loss, race),
                    lambda: self._capture(examples),
                    engine=engine,
                    program=self.program,
                    memory=self._memory_plan,
                )

            self._model = narrowed(
                *(task_model(task), mask, self.layers, self._boxes),
                *(race.batch[0], on_engine),
            )
            log.info("engine %s: %s", self._model.engine, self._model.reason)
            if self._activations == "bf16" and self._model.engine != "program":
                told = self._model.engine
                log.info("activations = bf16: the %s engine keeps float32", told)
        return self._model

    def inside(
        self, members: Sequence[tuple[Mask, Boxes]], examples: Examples
    ) -> Sequence[TrainingModel | None]:
        """Models of smaller networks; see `ModelSource.inside`.

        torch computes dense, whatever the mask: it has one only if it is narrower.
        """
        whole = self._model
        own = whole.inner if isinstance(whole, NarrowedModel) else whole
        batch = tensors(self._task, examples, slice(0, 2))

        def on_engine(model: nn.Module, mask: Mask) -> TrainingModel:
            if isinstance(own, ProgramOnTorch):
                file = self.program or self._capture(examples)
                reason = "a smaller network"
                return program_model(model, mask, file, batch[0], reason=reason)
            return masked_model(copy_model(model), mask, placement=self._placement)

        def made(mask: Mask, boxes: Boxes) -> TrainingModel | None:
            with torch.random.fork_rng(devices=[]):
                fresh = task_model(self._order_task())
                found = narrowed(fresh, mask, self.layers, boxes, batch[0], on_engine)
            if isinstance(found, NarrowedModel):
                return found.inner
            return found if isinstance(found, ProgramOnTorch) else None

        return self._inner.of(own, members, self._batch, made)

    def _capture(self, examples: Examples) -> bytes:
        """The program of the whole model; the second time the same, or why not."""
        if isinstance(self._captured, EngineError):
            raise self._captured
        if not self._captured:
            few = np.arange(_COMPARED_ON) % len(examples)
            batch = tensors(self._task, examples, few)
            try:
                self._captured = captured(
                    task_model(self._order_task()), self._task.loss, batch
                )
            except EngineError as error:
                self._captured = error
                raise
        return self._captured

    def dense(
        self, mask: Mask, start: Values, *, thawed: bool = False
    ) -> TrainingModel:
        """The model under a full mask, at a mask's values."""
        module = dense_model(self._order_task(), mask, start)
        if self._engine == "program" and self.program and not thawed:
            with contextlib.suppress(EngineError):  # torch computes, too
                return whole_program(module, mask, self.program)
        return DenseModel(module, mask, thawed=thawed)

    def swat(self, rule: Swat | TopK, mask: Mask) -> TrainingModel:
        """The model with a rule's sparse passes over dense weights."""
        return with_sparse_passes(
            rule, task_model(self._order_task()), mask, self.layers
        )

    def candidate_losses(
        self,
        rule: CandidateLosses,
        mask: Mask,
        start: Values,
        examples: Examples,
        parts: Sequence[NDArray[np.int64]],
    ) -> list[float]:
        """The mean loss of each candidate mask of the base, in evaluation mode."""
        module = dense_model(self._order_task(), mask, start)
        return candidate_losses(module, self.layers, self._task, examples, rule, parts)

    def _order_task(self) -> Task:
        """The task with what the order freezes and adapts; drops a model without."""
        if (self.frozen, self.adapters) != self._made_with:
            self._model, self._captured = None, b""
            changed = self.adapters != self._made_with[1]
            self._ordered = replace(
                self._task,
                model=adapted(self._task.model, self.adapters),
                frozen=tuple(sorted(self.frozen)),
            )
            if changed:
                model = make_model(self._ordered, 0)
                self._maskable = layers_of(model, self._task.dense_layers)
            self._made_with = self.frozen, dict(self.adapters)
        return self._ordered
