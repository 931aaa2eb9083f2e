"""Choice of the engine that trains a model: a short race, chain by chain of layers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import Mask
from edge_sdk.training.copying import copy_model
from edge_sdk.training.sparse.convert import sparsify
from edge_sdk.training.sparse.graph import chains, trace
from edge_sdk.training.sparse.model import SparseModel, sparse_model
from edge_sdk.training.torch_engine.session import TorchModel

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Engine", "StepRace", "choose_engine"]

Engine = Literal["auto", "sparse", "masked"]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Clock = Callable[[], float]
_log = logging.getLogger(__name__)

# Below this density sparse won every layer of every ISA measured; see docs/engine.md.
_CONTESTED = 0.25
# A change of engine must gain this much, or noise would decide.
_MARGIN = 0.95
_STEPS = 3


@dataclass(frozen=True, eq=False)
class StepRace:
    """One batch that every contestant runs: forward, loss and backward."""

    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Loss
    clock: Clock

    def seconds(self, model: TorchModel) -> float:
        """The fastest of a few steps, after one that warms caches up."""
        model.train()
        times = []
        for _ in range(_STEPS + 1):
            start = self.clock()
            self.loss(model(self.inputs), self.targets).backward()  # type: ignore[no-untyped-call]
            times.append(self.clock() - start)
            for parameter in model.parameters():
                parameter.grad = None
        return min(times[1:])


def choose_engine(
    model: nn.Module,
    mask: Mask,
    *,
    engine: Engine = "auto",
    example_batch: tuple[torch.Tensor, torch.Tensor],
    loss: Loss,
    threads: int | None = None,
    clock: Clock = time.perf_counter,
) -> TorchModel:
    """The model under its mask on the engine asked for, or on the faster one.

    Auto converts the model, races it against the dense-masked engine on the example
    batch, and tries dense kernels for each chain of layers that keeps more than a
    quarter of its weights. A model that cannot be converted, or a machine without
    kernels, gets the dense-masked engine and one log line that says why. On CUDA dense
    kernels always win, so there is no race. The result's `reason` tells what was chosen
    and why.

    Args:
        model: Left alone; the engine trains a copy.
        mask: Patterns by weight name.
        engine: "auto", "sparse" or "masked".
        example_batch: (inputs, targets) as a training step gets them.
        loss: (predictions, targets) -> scalar.
        threads: Torch threads during the race; None leaves them as they are.
        clock: Seconds from any origin.

    Raises:
        EngineError: If "sparse" was asked for and is impossible, or the mask does not
            fit the model.
    """
    if engine == "masked":
        return _masked(model, mask, "engine = masked")
    if engine == "sparse":
        return sparse_model(model, mask)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        return _masked(model, mask, f"auto: dense kernels are faster on {device}")
    if missing := unavailable_reason_now():
        _log.warning("training runs dense-masked: %s", missing)
        return _masked(model, mask, f"auto: {missing}")
    try:
        sparse = sparse_model(model, mask)
        race = StepRace(*example_batch, loss, clock)
        with _undisturbed(threads):
            return _decide(model, mask, sparse, race)
    except EngineError as error:
        _log.warning("training runs dense-masked: %s", error)
        return _masked(model, mask, f"auto: {error}")


def unavailable_reason_now() -> str:
    """Try to build the kernels; the reason why there are none, or ""."""
    from edge_sdk.kernels.library import kernels  # noqa: PLC0415

    try:
        kernels()
    except EngineError as error:
        return unavailable_reason() or str(error)
    return ""


def _decide(
    model: nn.Module, mask: Mask, sparse: SparseModel, race: StepRace
) -> TorchModel:
    masked_s = race.seconds(_masked(model, mask, "race"))
    best_s, dense = race.seconds(sparse), frozenset[str]()
    for chain in _contested(model, mask):
        attempt = dense | set(chain)
        seconds = race.seconds(_mixed(model, mask, attempt, "race"))
        if seconds < _MARGIN * best_s:
            best_s, dense = seconds, attempt
    figures = (
        f"{best_s * 1e3:.1f} ms a step against {masked_s * 1e3:.1f} ms dense-masked "
        f"(batch {len(race.inputs)}, {torch.get_num_threads()} threads)"
    )
    if masked_s < _MARGIN * best_s:
        reason = f"auto: dense-masked is faster here, sparse takes {figures}"
        _log.info("%s", reason)
        return _masked(model, mask, reason)
    but = f", dense kernels for {', '.join(sorted(dense))}" if dense else ""
    reason = f"auto: sparse{but}: {figures}"
    _log.info("%s", reason)
    return _mixed(model, mask, dense, reason)


def _contested(model: nn.Module, mask: Mask) -> list[tuple[str, ...]]:
    """Chains that keep enough weights for dense kernels to have a chance."""
    found = []
    for chain in chains(trace(copy_model(model))):
        masks = [mask[f"{n}.weight"] for n in chain if f"{n}.weight" in mask.layers]
        kept, size = sum(int(m.sum()) for m in masks), sum(m.size for m in masks)
        if size and kept > _CONTESTED * size:
            found.append(chain)
    return found


def _mixed(
    model: nn.Module, mask: Mask, dense: Collection[str], reason: str
) -> SparseModel:
    return SparseModel(sparsify(model, mask, dense_chains=dense), mask, reason)


def _masked(model: nn.Module, mask: Mask, reason: str) -> TorchModel:
    from edge_sdk.training.masked import masked_model  # noqa: PLC0415 - its own room

    return masked_model(copy_model(model), mask, reason=reason)


@contextmanager
def _undisturbed(threads: int | None) -> Iterator[None]:
    """A race leaves neither random numbers nor thread counts changed."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)
