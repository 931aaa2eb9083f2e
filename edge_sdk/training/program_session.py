"""`ProgramSession`: one task's training on a program, natively on flat vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import EngineError
from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.optimizers import FlatSgd, clip_norm
from edge_sdk.program.runtime import OutOfRangeError
from edge_sdk.training.engine import Arrays, TrainingModel
from edge_sdk.wire.messages import Training

__all__ = ["Batches", "ProgramSession", "program_tally"]

_ODD = 0x9E3779B97F4A7C15  # so that the keys of two seeds' batches do not meet


class Batches(Protocol):
    """The prepared batches of one task's examples."""

    def __call__(
        self, index: NDArray[np.int64], *, augment: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at these positions, as the model takes them."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """The augmentation's random state, for a checkpoint."""
        ...

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave."""
        ...


def program_tally(
    model: ProgramModel, batches: Batches, count: int, metrics: Sequence[Metric]
) -> Tally:
    """Sums of the metrics over a program's predictions.

    A program ends in the loss in training mode only: it is told where training and
    evaluation compute the same, without chance and without batch norm.

    Args:
        model: At the values to measure; its gradients are overwritten.
        batches: Of the examples to measure on.
        count: How many there are.
        metrics: What is measured.
    """
    inputs, targets = batches(np.arange(count), augment=False)
    losses = None
    names = {o.name for o in model.program.training.operations}
    chance = ("dropout", "attention", "uniform", "batch_order")
    plain = not any(word in n for n in names for word in chance)
    if plain and not model.coupled:
        losses = model.backward(inputs, targets) * count
    return Tally().of_batch(metrics, model.predict(inputs), targets, losses)


@dataclass
class _Drawn:
    """Batches so far, which key their dropout masks."""

    count: int = 0


class ProgramSession:
    """A `TrainingSession` on a program.

    Args:
        model: Moved in place.
        batches: Of the device's own examples.
        plan: Rates, and what the optimizer does with them.
        micro_batch: Most examples that go through at once; 0 takes whole batches.
        ghost_norm: Accept batch norm's statistics per micro-batch.
        drawn: Of another session, beside which this one is.
    """

    def __init__(
        self,
        model: ProgramModel,
        batches: Batches,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
        drawn: _Drawn | None = None,
    ) -> None:
        self._model, self._batches, self._plan = model, batches, plan
        self._micro_batch, self._ghost_norm = micro_batch, ghost_norm
        self._drawn = drawn or _Drawn()
        self._optimizer = FlatSgd(
            model.kernels,
            rate=plan.learning_rate,
            momentum=plan.momentum,
            decay=plan.weight_decay,
        )

    @property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Everything the optimizer may change; views."""
        return self._model.parameters

    @property
    def kept(self) -> Mapping[str, NDArray[np.float32]]:
        """The kept values of every masked layer; views."""
        return self._model.kept

    @property
    def buffers(self) -> Mapping[str, NDArray[Any]]:
        """State that a forward pass changes by itself; views."""
        return self._model.buffers

    def gradients(self) -> Mapping[str, NDArray[np.float32]]:
        """The last batch's gradients; views."""
        return self._model.gradients

    def backward(self, index: NDArray[np.int64], *, augment: bool = True) -> float:
        """Replaces the gradients by those of the mean loss over these examples.

        Raises:
            OutOfRangeError: If a label or token is; names the example among the
                device's and its label.
        """
        inputs, targets = self._batches(index, augment=augment)
        self._drawn.count += 1
        try:
            return self._model.backward(
                inputs,
                targets,
                micro_batch=self._micro_batch,
                ghost_norm=self._ghost_norm,
                draw=self._plan.seed * _ODD + self._drawn.count,
            )
        except OutOfRangeError as error:
            at = error.sample
            if at < 0:
                raise
            label = f", whose label is {targets[at]}" if targets.ndim == 1 else ""
            whose = f"example {index[at]} of those trained on{label}"
            raise OutOfRangeError(error.layer, at, whose) from error

    def add(self, terms: Arrays, scale: float = 1.0) -> None:
        """Adds scale * term to the gradients of these names that there are."""
        for name, term in terms.items():
            gradient = self._model.gradients.get(name)
            if gradient is not None:
                gradient += np.float32(scale) * term.reshape(gradient.shape)

    def take(self, gradients: Arrays) -> None:
        """Replaces the gradients by these; the others are 0."""
        self._model.gradient_vector[:] = 0
        for name, gradient in gradients.items():
            self._model.gradients[name][...] = gradient

    def beside(self, model: TrainingModel) -> ProgramSession:
        """Another program's gradients on this session's batches."""
        if not isinstance(model, ProgramModel):
            raise EngineError(f"engine {model.engine} is not beside a program")
        return ProgramSession(
            *(model, self._batches, self._plan),
            micro_batch=self._micro_batch,
            ghost_norm=self._ghost_norm,
            drawn=self._drawn,
        )

    def step(self) -> None:
        """Takes the step that the gradients at hand ask for.

        Kept values may be trained as a power; see `edge_sdk.training.step.take_step`.
        """
        model, power = self._model, np.float32(self._plan.power or 1.0)
        moved = [n for n in model.kept if n in model.gradients] if power != 1 else []
        for name in moved:
            weight, gradient = model.parameters[name], model.gradients[name]
            weight[...] = np.copysign(np.abs(weight) ** (1 / power), weight)
            gradient *= power * np.abs(weight) ** (power - 1)
        if self._plan.clip:
            clip_norm(model.kernels, model.gradient_vector, self._plan.clip)
        self._optimizer.step(model.weight_vector, model.gradient_vector)
        for name in moved:
            weight = model.parameters[name]
            weight *= np.abs(weight) ** (power - 1)

    def state(self) -> dict[str, NDArray[Any]]:
        """Momentum, and the random state of augmentation and dropout."""
        return {
            **{f"m/{n}": a for n, a in self._optimizer.state().items()},
            **{f"b/{n}": a for n, a in self._batches.state().items()},
            "drawn": np.array([self._drawn.count], np.int64),
        }

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave in another life of the process."""
        found = {n[2:]: a for n, a in state.items() if n.startswith("m/")}
        if any(a.shape != self._model.weight_vector.shape for a in found.values()):
            raise ValueError("the momentum is of another model")
        self._optimizer.put_back(found)
        own = {n[2:]: a for n, a in state.items() if n.startswith("b/")}
        self._batches.put_back(own)
        self._drawn.count = int(state["drawn"][0]) if "drawn" in state else 0
