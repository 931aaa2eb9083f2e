"""One task from order to packed update: draw the mask, train, take the difference."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_never

from edge_sdk.errors import MaskMismatchError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import Examples, Task
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Outcome, tensors, train
from edge_sdk.training.sparse import choose_engine
from edge_sdk.training.warmup import measure_sensitivity
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import Frozen, MaskRecipe, Offer, TaskOrder, WarmUp
from edge_sdk.wire.values import (
    Evidence,
    Values,
    pack_evidence,
    pack_values,
    unpack_values,
)

__all__ = ["Packed", "TaskRunner", "mask_of"]

log = logging.getLogger(__name__)

EngineName = Literal["auto", "sparse", "masked"]


@dataclass(frozen=True)
class Packed:
    """A finished task: what to offer and the payload behind it."""

    offer: Offer
    payload: bytes


def mask_of(recipe: MaskRecipe, layers: tuple[LayerShape, ...]) -> Mask:
    """The mask a recipe describes.

    Raises:
        MaskMismatchError: If what is drawn here has another digest: the two sides run
            different models or versions.
        SparsityError: If a count does not fit its layer.
    """
    mask = draw(layers, recipe.counts, recipe.seed)
    if mask.digest != recipe.digest:
        raise MaskMismatchError(
            f"the mask drawn here is {mask.digest.hex()[:12]}, "
            f"the coordinator's is {recipe.digest.hex()[:12]}",
            remedy="Use the same task file on coordinator and device.",
        )
    return mask


class TaskRunner:
    """Trains the orders of one device; keeps the last mask and its model.

    Args:
        task: What to train.
        examples: The device's private examples.
        engine: Which training engine to use.
    """

    def __init__(self, task: Task, examples: Examples, engine: EngineName) -> None:
        self.task, self.examples, self._engine = task, examples, engine
        self.layers = layers_of(task.model(), task.dense_layers)
        self._model: TrainingModel | None = None

    @property
    def engine(self) -> str:
        """The engine of the last task, for reports; empty before the first."""
        return self._model.engine if self._model else ""

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here: sparse where its kernels load."""
        return ("masked",) if unavailable_reason() else ("sparse", "masked")

    def run(self, order: TaskOrder, base: bytes, stop: Callable[[], bool]) -> Packed:
        """Carries out an order.

        Raises:
            Stopped: If `stop` turned true.
            EdgeError: If the base does not fit the mask, or training breaks.
        """
        began = time.monotonic()
        mask = self._mask(order.mask)
        start = unpack_values(base, mask)
        match order.rule:
            case Frozen():
                outcome, change = self._frozen(order, mask, start, stop)
                payload = pack_values(
                    change, mask, codec=order.codec, rng=_rounding(order)
                )
                norm = _norm(unpack_values(payload, mask))  # of what is sent
            case WarmUp() as rule:
                outcome, counts = self._warm_up(order, rule, mask, start, stop)
                payload, norm = pack_evidence(Evidence(counts)), 0.0
            case _:
                assert_never(order.rule)
        offer = Offer(
            task_id=order.id,
            manifest=manifest_of(payload),
            mask_digest=mask.digest,
            codec=order.codec,
            examples=outcome.examples,
            norm=norm,
            metrics={
                "loss": outcome.loss,
                "steps": float(outcome.steps),
                "training_s": outcome.seconds,
                "seconds": time.monotonic() - began,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            },
        )
        return Packed(offer, payload)

    def _frozen(
        self, order: TaskOrder, mask: Mask, start: Values, stop: Callable[[], bool]
    ) -> tuple[Outcome, Values]:
        model = self._prepared(mask, order.training.batch_size)
        model.load(start.masked, start.dense)
        outcome = train(model, self.task, self.examples, order.training, stop=stop)
        change = Values(
            mask.digest,
            _difference(model.values(), start.masked),
            _difference(model.dense(), start.dense),
        )
        return outcome, change

    def _warm_up(
        self,
        order: TaskOrder,
        rule: WarmUp,
        mask: Mask,
        start: Values,
        stop: Callable[[], bool],
    ) -> tuple[Outcome, dict[str, int]]:
        module = self.task.model()
        state: dict[str, NDArray[Any]] = dict(start.dense)
        for name in mask:
            weight = np.zeros(mask[name].shape, np.float32)
            weight[mask[name]] = start.masked[name]
            state[name] = weight
        module.load_state_dict(
            {n: torch.from_numpy(np.array(a)) for n, a in state.items()}
        )
        counts, outcome = measure_sensitivity(
            module, mask, self.task, self.examples, rule, order.training, stop=stop
        )
        return outcome, counts

    def _mask(self, recipe: MaskRecipe) -> Mask:
        if self._model is not None and self._model.mask.digest == recipe.digest:
            return self._model.mask
        return mask_of(recipe, self.layers)

    def _prepared(self, mask: Mask, batch_size: int) -> TrainingModel:
        """The model on the engine chosen for this mask; a new mask races again."""
        if self._model is None or self._model.mask.digest != mask.digest:
            self._model = choose_engine(
                self.task.model(),
                mask,
                engine=self._engine,
                example_batch=tensors(self.task, self.examples, slice(0, batch_size)),
                loss=self.task.loss,
            )
            log.info("engine %s: %s", self._model.engine, self._model.reason)
        return self._model


def _rounding(order: TaskOrder) -> np.random.Generator:
    """A restarted device rounds the same update the same way."""
    return np.random.default_rng([*b"rounding", order.round_no, order.training.seed])


def _difference(
    after: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {name: after[name] - before[name] for name in after}


def _norm(change: Values) -> float:
    """L2 norm over every float of the change."""
    parts = [*change.masked.values(), *change.dense.values()]
    floats = [a.astype(np.float64).reshape(-1) for a in parts if a.dtype.kind == "f"]
    return math.sqrt(sum(float(a @ a) for a in floats))
