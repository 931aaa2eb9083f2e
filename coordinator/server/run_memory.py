"""Storage that a run's models are made from: its last model, a round's updates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, Model, clipped
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.ledger import RoundRow, UpdateRow
from coordinator.rounds.state import RoundPhase
from coordinator.rounds.tasks import mask_seed
from edge_sdk.sparse import LayerShape
from edge_sdk.tasks.layers import first_kinds, layers_of
from edge_sdk.tasks.task import Task
from edge_sdk.wire.values import unpack_update

__all__ = ["RunMemory", "StoredUpdates", "load_model", "maskable"]


class RunMemory(Protocol):
    """Storage that a run's models are made from: a ledger, or a simulation's."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        ...

    def get(self, key: str) -> Any:
        """A stored JSON value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        ...

    def beside(self, write: Callable[[], None]) -> None:
        """Has a file written; it is durable before what is put is."""
        ...

    def blob(self, name: str) -> bytes:
        """The payload that an `UpdateRow` names."""
        ...

    def rounds(self) -> list[RoundRow]:
        """Every round, in order."""
        ...

    def place(self, no: int) -> int:
        """Place of a round among those that give a model: 1, 2, ..."""
        ...

    def last_counted(self, before: int) -> dict[str, str]:
        """Device -> its last task whose update is in an earlier round's model."""
        ...


class StoredUpdates:
    """A round's updates, read from the disk one at a time, as often as wanted."""

    def __init__(
        self,
        ledger: RunMemory,
        rows: Sequence[UpdateRow],
        family: MaskFamily,
        rate: Callable[[int], float] = lambda _steps: 0.0,
        known: Collection[str] = (),
    ) -> None:
        self._ledger, self._rows, self._family = ledger, rows, family
        self._rate, self._known = rate, known

    def __iter__(self) -> Iterator[Contribution]:
        for row in self._rows:
            start = self._family.of(row.device, row.density)
            mask, change = unpack_update(self._ledger.blob(row.blob), start)
            cut = clipped(change, row.scale)
            yield Contribution(
                *(row.device, mask, row.weight, cut),
                total_rate=self._rate(int(row.metrics.get("steps", 0))),
                first=row.device not in self._known,
            )


def maskable(
    task: Task, model: nn.Module, memory: RunMemory, *, begin: bool = False
) -> tuple[LayerShape, ...]:
    """The layers that a run masks: those that it began with, on every later start.

    Version 0.1.0 masked fewer kinds, and wrote down which layers only when its masks
    were drawn; a run of it that stands in its warm-up has its kinds.

    Args:
        task: What is trained.
        model: Of the task.
        memory: The run's.
        begin: Whether to write them down if the run has not done so yet.

    Raises:
        TaskError: If nothing is left to mask.
    """
    only = memory.get("layers") or memory.get("maskable")
    if only is None and memory.rounds():
        only = first_kinds(model)
    found = layers_of(model, task.dense_layers, only=only)
    if begin and memory.get("maskable") is None:
        memory.put("maskable", [layer.name for layer in found])
    return found


def load_model(
    store: ModelStore, memory: RunMemory, layers: tuple[LayerShape, ...], seed: int
) -> tuple[Model, MaskFamily] | None:
    """The model and masks that a run goes on from; None before its first.

    Raises:
        CheckpointError: If the model cannot be read.
        StateError: If the model or the masks cannot.
    """
    counts = memory.get("counts")
    if counts is None:
        return None
    done = [r for r in memory.rounds() if r.phase is RoundPhase.DONE and r.model]
    model = store.load(str(done[-1].model) if done else model_name(0))
    family = store.load_family(done[-1].no if done else 0)
    if family is None:  # never moved: drawn again
        plan = {"counts": counts, "boxes": memory.get("boxes")}
        family = MaskFamily.planned(layers, plan, mask_seed(seed, warm_up=False))
    return model, family
