"""Limit on the examples that go through at once, and on the engines that race."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_sdk.program.ceiling import MemoryCeiling, MemoryExceededError, StepPlan
from edge_sdk.program.model import ProgramModel

__all__ = [
    "Activations",
    "Allowance",
    "EngineName",
    "MicroBatch",
    "ReadCeiling",
    "StepMemory",
]

log = logging.getLogger(__name__)

Activations: TypeAlias = Literal["fp32", "bf16"]  # while they wait to go backward
EngineName: TypeAlias = Literal["auto", "program", "masked"]
# (density, "sparse" or "masked", batch size) -> most examples that may go through at
# once, at least 1; None where not even one fits into the memory allowed. "sparse" is
# what computes kept weights alone: a program.
MicroBatch: TypeAlias = Callable[[float, Literal["sparse", "masked"], int], int | None]
ReadCeiling: TypeAlias = Callable[[], MemoryCeiling | None]


@dataclass(frozen=True)
class StepMemory:
    """Settings of a device's owner about a program's memory.

    Attributes:
        ceiling: Reads the process's bound and what it holds; None where there is none.
        half: Activations may wait in bfloat16 where nothing else fits.
        ghost_norm: Batch norm may take its statistics per part of a batch.
    """

    ceiling: ReadCeiling | None = None
    half: bool = False
    ghost_norm: bool = False

    def read(self) -> MemoryCeiling | None:
        """The bound, and what is held at this moment."""
        return self.ceiling() if self.ceiling is not None else None

    def hold(
        self,
        model: ProgramModel,
        ceiling: MemoryCeiling | None,
        batch: int,
        whose: str = "",
    ) -> StepPlan:
        """Plans a model's steps below a ceiling, and logs the plan.

        Args:
            model: Newly opened.
            ceiling: As it was before that; None for no bound.
            batch: Examples of a step.
            whose: Words for a model that is not the device's own.

        Raises:
            EngineError: If no plan fits; names the smallest ceiling that works.
        """
        found = model.hold_to(
            ceiling, batch, ghost_norm=self.ghost_norm, half=self.half
        )
        log.info("memory plan%s: %s", whose, found.told())
        return found


class Allowance:
    """Limit on a batch's examples in memory at once.

    Args:
        micro_batch: Most examples that go through at once, 0 for the whole batch; or a
            function that is asked anew for every order, so its answer may follow what
            the device's owner allows at that moment (the arithmetic is
            `edge_sdk.device.limits.memory.micro_batch`).

    Attributes:
        most: Most examples that go through at once whatever was foreseen; 0 is no
            bound. Set when memory has run out (`MemoryFallbackRunner`).
    """

    def __init__(self, micro_batch: int | MicroBatch = 0) -> None:
        self._micro_batch, self.most = micro_batch, 0

    def size(self, density: float, engine: str, batch_size: int) -> int:
        """Most examples that go through at once.

        Raises:
            EngineError: If not even one fits into the memory allowed.
        """
        most = min(self.most or batch_size, batch_size)
        if not callable(self._micro_batch):
            return min(self._micro_batch or batch_size, most)
        size = self._micro_batch(
            density, "masked" if engine == "masked" else "sparse", batch_size
        )
        if not size:
            raise MemoryExceededError(
                f"not even one example fits into the memory this device may use "
                f"({engine} engine, density {density:.3g})",
                remedy="Raise caps.ram_mib, or take a lower density or model.",
            )
        size = min(size, most)
        if size < batch_size:
            log.info("micro-batches of %d of %d examples", size, batch_size)
        return size

    def contest(
        self, wanted: EngineName, density: float, batch_size: int
    ) -> tuple[EngineName, int]:
        """Choose the engines that may race, and the batch that fits both.

        Raises:
            EngineError: If not even one example fits into the memory allowed.
        """
        if wanted != "auto":
            return wanted, 1  # no race
        if not callable(self._micro_batch):
            return "auto", self.size(density, "masked", batch_size)
        sizes = {
            engine: self._micro_batch(density, engine, batch_size) or 0
            for engine in ("sparse", "masked")
        }
        if sizes["masked"] or not sizes["sparse"]:
            return "auto", self.size(density, "masked", batch_size)
        log.info("engine program: the masked one does not fit into the memory allowed")
        return "program", sizes["sparse"]
