"""Transport of a round's orders to the workers, and of their results back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from coordinator.algorithms.dense import Entries
from coordinator.protocol.handlers import checked_norm, offer_refusal
from coordinator.rounds.validation import Refusal
from coordinator.simulation.record import Wire
from coordinator.simulation.workers.interface import (
    TrainingJob,
    Unable,
    Workers,
    trained,
)
from edge_sdk.sparse import Mask
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Manifest, Offer, TaskOrder

__all__ = ["DirectDispatch", "Dispatch", "SimulatedPart", "TaskResult"]


@dataclass(frozen=True)
class SimulatedPart:
    """One device's part of a round.

    Attributes:
        order: What it is asked.
        dense: Dense entries that it is sent.
        mask: What it trains on.
        examples: How many it has.
        job: The same for a worker: bytes as they travel, and its folder.
    """

    order: TaskOrder
    dense: Entries
    mask: Mask
    examples: int
    job: TrainingJob


@dataclass(frozen=True)
class TaskResult:
    """Result of an order.

    Attributes:
        offer: What the device said of its update; None where it has none.
        payload: The update, packed; empty where it was not asked for.
        norm: L2 norm of its change.
        why: Why it does not count, in words; empty if it passed.
        lasting: Whether the device could do no other task, either.
        memory: What it remembers from here on; empty where it keeps that itself.
    """

    offer: Offer | None = None
    payload: bytes = b""
    norm: float = 0.0
    why: str = ""
    lasting: bool = False
    memory: bytes = b""

    @property
    def sent_bytes(self) -> int:
        """Of offer and payload, as packed for the wire."""
        return 0 if self.offer is None else len(pack(self.offer)) + len(self.payload)


class Dispatch(Protocol):
    """Transport between the coordinator's steps and the workers."""

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Makes a base or a structure ready to be fetched in a round."""
        ...

    def carry(
        self, round_no: int, parts: Mapping[str, SimulatedPart]
    ) -> Mapping[str, TaskResult]:
        """Send orders to devices; return their results in the same order.

        Raises:
            RunError: If a worker died, or nothing gets through.
        """
        ...

    def cost(self) -> Wire | None:
        """Traffic of the devices' links since the last call."""
        ...


class DirectDispatch:
    """Dispatch without a network: hands the bytes over."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Only its digests are needed."""
        return manifest_of(content)

    def carry(
        self, round_no: int, parts: Mapping[str, SimulatedPart]
    ) -> Mapping[str, TaskResult]:
        """Hands them over."""
        done = trained(self._workers.train, [part.job for part in parts.values()])
        pairs = zip(parts.items(), done, strict=True)
        return {device: _result(part, one) for (device, part), one in pairs}

    def cost(self) -> None:
        """There are no links."""


def _result(part: SimulatedPart, done: PackedUpdate | Unable) -> TaskResult:
    if isinstance(done, Unable):
        return TaskResult(why=done.why, lasting=done.lasting)
    refused = offer_refusal(done.offer, part, part.examples)
    if refused is not None:
        return TaskResult(done.offer, why=refused.told)
    norm = checked_norm(done.payload, done.offer, part)
    if isinstance(norm, Refusal):
        return TaskResult(done.offer, done.payload, why=norm.told)
    return TaskResult(done.offer, done.payload, norm, memory=done.memory)
