"""Interface of a training engine to the training loop, in numpy arrays.

The loop, the rules of an order, checkpoints and updates are written against these
protocols and import no torch. An engine computes with what it likes: torch's engines
(`edge_sdk.training.torch_engine`) give views of torch's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.sparse import Boxes, LayerShape, Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.wire.messages import MaskRecipe, Training
from edge_sdk.wire.rules import CandidateLosses, Swat, TopK
from edge_sdk.wire.values import Values

__all__ = ["Arrays", "ModelSource", "TrainingModel", "TrainingSession"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class TrainingModel(Protocol):
    """A model under a frozen mask, ready for a training loop.

    The trainable array of a masked layer is the flat vector of its kept values in
    canonical CSR order, so gradients, optimizer state and the wire all have nnz
    entries, and off-mask weights cannot move.
    """

    engine: str  # "program", "masked", "dense": for reports and checkpoints
    reason: str  # why this engine, in words
    mask: Mask

    def session(
        self,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
    ) -> TrainingSession:
        """One task's training, in training mode: a new optimizer, seeded by the plan.

        Args:
            task: Gives loss, preparation and augmentation.
            examples: The device's own.
            plan: Rates, seed, and what the optimizer does with them.
            micro_batch: Most examples that go through at once; 0 takes whole batches.
            ghost_norm: Accept batch norm's statistics per micro-batch.
        """
        ...

    def tally(self, task: Task, examples: Examples, metrics: Sequence[Metric]) -> Tally:
        """Sums of the metrics over examples that fit into memory, in evaluation mode.

        The loss is left out where the engine cannot tell it.
        """
        ...

    def load(self, values: Mapping[str, NDArray[np.float32]], dense: Arrays) -> None:
        """Takes over kept values (nnz,) per masked layer and every dense entry."""
        ...

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Kept values per masked layer, (nnz,) in canonical CSR order; copies."""
        ...

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other ``state_dict`` entry by its name; copies."""
        ...


class TrainingSession(Protocol):
    """The optimizer, the batches and the random generators of one task's training.

    All arrays are views of the model's own memory: what is written into them, the next
    step computes with. Kept values are flat, of nnz entries.
    """

    @property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Everything the optimizer may change, by the names of `values` and `dense`.

        What the user's model has with ``requires_grad = False`` is none of it.
        """
        ...

    @property
    def kept(self) -> Mapping[str, NDArray[np.float32]]:
        """The kept values of every masked layer, frozen ones too."""
        ...

    @property
    def buffers(self) -> Mapping[str, NDArray[Any]]:
        """State that a forward pass changes by itself: norm statistics above all."""
        ...

    def gradients(self) -> Mapping[str, NDArray[np.float32]]:
        """The last batch's gradients, by name; none of what it did not reach."""
        ...

    def backward(self, index: NDArray[np.int64], *, augment: bool = True) -> float:
        """Replaces the gradients by those of the mean loss over these examples.

        Args:
            index: Positions of the examples.
            augment: Whether the task's augmentation is applied.

        Returns:
            The mean loss.

        Raises:
            EngineError: If batch norm meets micro-batches without `ghost_norm`.
        """
        ...

    def add(self, terms: Arrays, scale: float = 1.0) -> None:
        """Adds scale * term to the gradients of these names that there are."""
        ...

    def take(self, gradients: Arrays) -> None:
        """Replaces the gradients by these; there are none of other names then."""
        ...

    def beside(self, model: TrainingModel) -> TrainingSession:
        """Another model's gradients on this session's batches and random numbers.

        Args:
            model: Of the same engine.
        """
        ...

    def step(self) -> None:
        """Takes the step that the gradients at hand ask for."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Momentum and random states, for a checkpoint; copies or views."""
        ...

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave in another life of the process.

        Raises:
            KeyError: If something is missing; also ValueError or RuntimeError.
        """
        ...


class ModelSource(Protocol):
    """The models that a device trains, made by one kind of engine for its task.

    Attributes:
        layers: The maskable layers, in the order of values on the wire.
        program: The model's training program, as orders send it; empty for none.
        frozen: Entries of the model that no training moves, by name, as orders say.
        adapters: Name of a layer to the rank of its adapter, as orders say.
    """

    layers: tuple[LayerShape, ...]
    program: bytes
    frozen: frozenset[str]
    adapters: Mapping[str, int]

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that can run here."""
        ...

    @property
    def engine(self) -> str:
        """The engine of the last model; empty before the first."""
        ...

    def release(self) -> None:
        """Gives memory that no model needs back to the system."""
        ...

    def check(self, examples: Examples) -> None:
        """Refuses examples of which the program at hand says that it cannot take them.

        Raises:
            DataError: Says which example, and why.
        """
        ...

    def mask(self, recipe: MaskRecipe, structure: bytes) -> Mask:
        """The mask of a recipe: the one at hand, or drawn, or out of its structure.

        Raises:
            EdgeError: As `mask_of` and `decode_structure`.
        """
        ...

    def on(
        self, mask: Mask, examples: Examples, allowance: Allowance, batch_size: int
    ) -> TrainingModel:
        """The model on the engine chosen for this mask.

        Raises:
            EngineError: If the engine cannot run it, or not one example fits.
        """
        ...

    def inside(
        self, members: Sequence[tuple[Mask, Boxes]], examples: Examples
    ) -> Sequence[TrainingModel | None]:
        """Models of smaller networks inside that of the last `on`, by the same engine.

        Their entries are as narrow as their units; values are zero, or as made, until
        `load`. None where the own model has to compute it.

        Args:
            members: Masks nested in the own, and the boxes that they were drawn in.
            examples: The device's own; narrower models are tried on some.
        """
        ...

    def dense(
        self, mask: Mask, start: Values, *, thawed: bool = False
    ) -> TrainingModel:
        """The model under a full mask, at a mask's values: every weight has a gradient.

        Args:
            mask: Off it weights are 0.
            start: The values on it, and the dense entries.
            thawed: Give frozen weights gradients, too.
        """
        ...

    def swat(self, rule: Swat | TopK, mask: Mask) -> TrainingModel:
        """The model with a rule's sparse passes over dense weights.

        Raises:
            EngineError: If the engine, or a layer, has no such passes.
        """
        ...

    def candidate_losses(
        self,
        rule: CandidateLosses,
        mask: Mask,
        start: Values,
        examples: Examples,
        parts: Sequence[NDArray[np.int64]],
    ) -> list[float]:
        """The mean loss of each candidate mask of the base, in evaluation mode.

        Args:
            rule: The candidates.
            mask: Of the base.
            start: The base's values.
            examples: The device's own.
            parts: Positions of the examples that go through at once.
        """
        ...
