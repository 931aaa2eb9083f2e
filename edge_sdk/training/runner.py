"""One task from order to packed update: draw the mask, train, take the difference."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import nn
from typing_extensions import assert_never

from edge_sdk.errors import EngineError, MaskMismatchError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import Examples, Task
from edge_sdk.sparse import LayerShape, Mask, draw, exact_counts, top_k, uniform
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Outcome, tensors, train
from edge_sdk.training.moving import Scorer, saliency, train_moving
from edge_sdk.training.progress import Progress
from edge_sdk.training.sparse import choose_engine, keep_activations
from edge_sdk.training.swat import swat_model
from edge_sdk.training.warmup import measure_sensitivity
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import (
    Frozen,
    MaskRecipe,
    Offer,
    OneStep,
    Regrow,
    Rewire,
    Score,
    Swat,
    TaskOrder,
    WarmUp,
)
from edge_sdk.wire.structure import decode_structure
from edge_sdk.wire.values import (
    Evidence,
    Values,
    pack_evidence,
    pack_values,
    unpack_values,
)

__all__ = ["Activations", "MicroBatch", "Packed", "TaskRunner", "mask_of"]

log = logging.getLogger(__name__)

EngineName = Literal["auto", "sparse", "masked"]
Activations = Literal["fp32", "bf16"]
# (density, "sparse" or "masked", batch size) -> most examples that may go through at
# once, at least 1; None where not even one fits into the memory allowed.
MicroBatch: TypeAlias = Callable[[float, Literal["sparse", "masked"], int], int | None]


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

    Memory is held down by two explicit values. `micro_batch` splits every step of a
    task, warm-up and engine race included: a number, or a function that is asked anew
    for every order, so its answer may follow what the device's owner allows at that
    moment (`edge_sdk.governor.micro_batch` is the arithmetic). Where the function says
    that nothing fits, the order ends in an `EngineError`, which reaches the coordinator
    as its reason. `activations` halves what the sparse engine keeps for the backward
    pass.

    Args:
        task: What to train.
        examples: The device's private examples.
        engine: Which training engine to use.
        micro_batch: Most examples that go through at once; 0 takes the whole batch.
        ghost_norm: Accept batch norm's statistics per micro-batch; a model with batch
            norm is refused otherwise where a batch has to be split.
        activations: How activations wait for the backward pass on the sparse engine.
        clock: Monotonic seconds in which pauses of the owner's do not pass.
        progress: Where a reboot finds how far training was; None starts over.

    Attributes:
        most: Most examples that go through at once whatever was foreseen; 0 is no
            bound. Set by who has seen memory run out (`edge_sdk.warden.Frugal`).
    """

    def __init__(
        self,
        task: Task,
        examples: Examples,
        engine: EngineName,
        *,
        micro_batch: int | MicroBatch = 0,
        ghost_norm: bool = False,
        activations: Activations = "fp32",
        clock: Callable[[], float] = time.monotonic,
        progress: Progress | None = None,
    ) -> None:
        self.most, self._clock, self._progress = 0, clock, progress
        self.task, self.examples, self._engine = task, examples, engine
        self._micro_batch, self._ghost_norm = micro_batch, ghost_norm
        self._activations = activations
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

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> Packed:
        """Carries out an order.

        Args:
            order: What to do.
            base: The model to start from.
            stop: Turns true when the result is not wanted any more.
            structure: The mask's, when it is not drawn from a seed.

        Raises:
            Stopped: If `stop` turned true.
            EdgeError: If the base does not fit the mask, or training breaks.
        """
        began = time.monotonic()
        mask = self._mask(order.mask, structure)
        start = unpack_values(base, mask)
        match order.rule:
            case Frozen():
                outcome, change = self._frozen(order, mask, start, stop)
                payload, norm = _packed(order, change, mask)
            case OneStep():
                once = structs.replace(order.training, epochs=1, max_steps=1)
                order = structs.replace(order, training=once)
                outcome, change = self._frozen(order, mask, start, stop)
                payload, norm = _packed(order, change, mask)
            case WarmUp() as rule:
                outcome, counts = self._warm_up(order, rule, mask, start, stop)
                payload, norm = pack_evidence(Evidence(counts)), 0.0
            case Score(count):
                module, scorer = self._dense(order, mask, start)
                scores, outcome = saliency(
                    module, mask, scorer, order.training, count=count
                )
                found = Values(mask.digest, scores, {})
                payload, norm = pack_values(found, mask, codec=order.codec), 0.0
            case Rewire() | Regrow() as rule:
                mask, change, outcome = self._moving(order, rule, mask, start, stop)
                payload, norm = _packed(order, change, mask, structure=True)
            case Swat() as rule:
                mask, change, outcome = self._swat(order, rule, mask, start, stop)
                payload, norm = _packed(order, change, mask, structure=True)
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
        outcome = self._train(model, order, start, stop)
        change = Values(
            mask.digest,
            _difference(model.values(), start.masked),
            _difference(model.dense(), start.dense),
        )
        return outcome, change

    def _swat(
        self,
        order: TaskOrder,
        rule: Swat,
        mask: Mask,
        start: Values,
        stop: Callable[[], bool],
    ) -> tuple[Mask, Values, Outcome]:
        """The mask of the largest weights at the end, and the change on it."""
        profile, sizes = uniform(self.layers), self.layers
        taking_part = exact_counts(profile, sizes, rule.density)
        model = swat_model(self.task.model(), mask, taking_part, rule.density)
        outcome = self._train(model, order, start, stop)
        sent = exact_counts(profile, sizes, rule.sent)
        after = model.values()
        places = {n: top_k(np.abs(w), sent[n]) for n, w in after.items()}
        largest = Mask({n: p.reshape(mask[n].shape) for n, p in places.items()})
        moved = _difference(after, start.masked)
        change = Values(
            largest.digest,
            {n: moved[n][places[n]] for n in moved},
            _difference(model.dense(), start.dense),
        )
        return largest, change, outcome

    def _train(
        self,
        model: TrainingModel,
        order: TaskOrder,
        start: Values,
        stop: Callable[[], bool],
    ) -> Outcome:
        model.load(start.masked, start.dense)
        size = self._size(model.mask.density, model.engine, order.training.batch_size)
        progress = self._progress
        return train(
            model,
            self.task,
            self.examples,
            order.training,
            micro_batch=size,
            ghost_norm=self._ghost_norm,
            stop=stop,
            clock=self._clock,
            progress=progress.of(order.id, model.engine) if progress else None,
        )

    def _warm_up(
        self,
        order: TaskOrder,
        rule: WarmUp,
        mask: Mask,
        start: Values,
        stop: Callable[[], bool],
    ) -> tuple[Outcome, dict[str, int]]:
        module, scorer = self._dense(order, mask, start)
        counts, outcome = measure_sensitivity(
            module,
            mask,
            self.task,
            self.examples,
            rule,
            order.training,
            micro_batch=scorer.micro_batch,
            ghost_norm=self._ghost_norm,
            stop=stop,
        )
        return outcome, counts

    def _moving(
        self,
        order: TaskOrder,
        rule: Rewire | Regrow,
        mask: Mask,
        start: Values,
        stop: Callable[[], bool],
    ) -> tuple[Mask, Values, Outcome]:
        """The mask at the end, and the change on it; what was not kept began at 0."""
        module, scorer = self._dense(order, mask, start)
        before = {n: module.get_parameter(n).detach().numpy().copy() for n in mask}
        moved, outcome = train_moving(
            module, mask, scorer, rule, order.training, stop=stop
        )
        state = {n: t.detach().numpy() for n, t in module.state_dict().items()}
        change = Values(
            moved.digest,
            {n: (state[n] - before[n])[moved[n]] for n in moved},
            _difference({n: state[n] for n in start.dense}, start.dense),
        )
        return moved, change, outcome

    def _dense(
        self, order: TaskOrder, mask: Mask, start: Values
    ) -> tuple[nn.Module, Scorer]:
        """The model with dense weights, 0 off the mask, and how batches go through."""
        module = self.task.model()
        state: dict[str, NDArray[Any]] = dict(start.dense)
        for name in mask:
            weight = np.zeros(mask[name].shape, np.float32)
            weight[mask[name]] = start.masked[name]
            state[name] = weight
        module.load_state_dict(
            {n: torch.from_numpy(np.array(a)) for n, a in state.items()}
        )
        # Its weights are dense, as the masked engine's are.
        size = self._size(mask.density, "masked", order.training.batch_size)
        return module, Scorer(self.task, self.examples, size, self._ghost_norm)

    def _mask(self, recipe: MaskRecipe, structure: bytes) -> Mask:
        if self._model is not None and self._model.mask.digest == recipe.digest:
            return self._model.mask
        if recipe.structure is not None:
            return decode_structure(structure, self.layers, recipe.digest)
        return mask_of(recipe, self.layers)

    def _prepared(self, mask: Mask, batch_size: int) -> TrainingModel:
        """The model on the engine chosen for this mask; a new mask races again."""
        if self._model is None or self._model.mask.digest != mask.digest:
            self._model = None  # two models at once would not keep to a ceiling
            engine, size = self._contest(mask.density, batch_size)
            self._model = choose_engine(
                self.task.model(),
                mask,
                engine=engine,
                example_batch=tensors(self.task, self.examples, slice(0, size)),
                loss=self.task.loss,
            )
            log.info("engine %s: %s", self._model.engine, self._model.reason)
            if self._activations == "bf16":
                keep_activations(self._model.module, torch.bfloat16)
                if self._model.engine == "masked":
                    log.info("activations = bf16: the masked engine keeps float32")
        return self._model

    def _contest(self, density: float, batch_size: int) -> tuple[EngineName, int]:
        """Which engines may race, and the batch that fits both."""
        if self._engine != "auto":
            return self._engine, 1  # no race
        if not callable(self._micro_batch):
            return "auto", self._size(density, "masked", batch_size)
        sizes = {
            engine: self._micro_batch(density, engine, batch_size) or 0
            for engine in ("sparse", "masked")
        }
        if sizes["masked"] or not sizes["sparse"]:
            return "auto", self._size(density, "masked", batch_size)
        log.info("engine sparse: the masked one does not fit into the memory allowed")
        return "sparse", sizes["sparse"]

    def _size(self, density: float, engine: str, batch_size: int) -> int:
        """Most examples that go through at once.

        Raises:
            EngineError: If not even one fits into the memory allowed.
        """
        most = min(self.most or batch_size, batch_size)
        if not callable(self._micro_batch):
            return min(self._micro_batch or batch_size, most)
        size = self._micro_batch(
            density, "sparse" if engine == "sparse" else "masked", batch_size
        )
        if not size:
            raise EngineError(
                f"not even one example fits into the memory this device may use "
                f"({engine} engine, density {density:.3g})",
                remedy="Raise caps.ram_mib, or take a lower density or model.",
            )
        size = min(size, most)
        if size < batch_size:
            log.info("micro-batches of %d of %d examples", size, batch_size)
        return size


def _packed(
    order: TaskOrder, change: Values, mask: Mask, *, structure: bool = False
) -> tuple[bytes, float]:
    """The payload of a change, and the norm of what is sent."""
    payload = pack_values(
        change, mask, codec=order.codec, rng=_rounding(order), structure=structure
    )
    return payload, unpack_values(payload, mask).norm()


def _rounding(order: TaskOrder) -> np.random.Generator:
    """A restarted device rounds the same update the same way."""
    return np.random.default_rng([*b"rounding", order.round_no, order.training.seed])


def _difference(
    after: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {name: after[name] - before[name] for name in after}
