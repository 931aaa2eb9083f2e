"""`InnerModels`: models of smaller networks, kept as long as the own model is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryCeiling, StepPlan
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Boxes, Mask
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.memory_limit import StepMemory

__all__ = ["InnerModels"]

log = logging.getLogger(__name__)
# (a member's mask, its boxes) -> its model, or None where the own one computes it
Open: TypeAlias = Callable[[Mask, Boxes], TrainingModel | None]


class InnerModels:
    """The models of the smaller networks inside one model.

    Args:
        memory: What the device's owner says of a program's memory.
    """

    def __init__(self, memory: StepMemory) -> None:
        self._memory = memory
        self._own: TrainingModel | None = None
        self._found: dict[bytes, TrainingModel | None] = {}
        self._held: StepPlan | None = None

    def of(
        self,
        own: TrainingModel | None,
        members: Sequence[tuple[Mask, Boxes]],
        batch: int,
        made: Open,
    ) -> list[TrainingModel | None]:
        """The models of these members; those of another own model are given up.

        A member whose memory does not fit beside the others' has none.

        Args:
            own: The device's model, without a wrapper; None has no members.
            members: Masks and boxes, largest first.
            batch: Examples of a step.
            made: Opens a model.
        """
        if self._own is not own:
            self._own, self._found, self._held = own, {}, None
        for mask, boxes in members:
            if mask.digest not in self._found:
                self._found[mask.digest] = self._made(mask, boxes, batch, made)
        return [self._found[mask.digest] for mask, _ in members]

    def _made(
        self, mask: Mask, boxes: Boxes, batch: int, made: Open
    ) -> TrainingModel | None:
        try:
            model = made(mask, boxes)
            if isinstance(model, ProgramModel) and isinstance(self._own, ProgramModel):
                held = self._held or self._own.step_plan(batch)
                left = held.ceiling and MemoryCeiling(held.ceiling.nbytes, held.nbytes)
                whose = f" of the network of density {mask.density:.3g} inside"
                self._held = self._memory.hold(model, left, batch, whose)
        except EngineError as error:
            log.info("a smaller network takes the time of the own: %s", error)
            return None
        return model
