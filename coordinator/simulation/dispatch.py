"""How a round's orders get to those who train, and what they made of them gets back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.simulation.outgoing import Outgoing
from coordinator.simulation.record import Wire
from coordinator.simulation.workers.interface import Unable, Workers, trained
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import Manifest

__all__ = ["DirectDispatch", "Dispatch"]


class Dispatch(Protocol):
    """What is between the coordinator's steps and the workers."""

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Makes a base or a structure ready to be fetched in a round."""
        ...

    def carry(
        self, round_no: int, devices: Sequence[str], out: Outgoing
    ) -> list[PackedUpdate | Unable]:
        """What the devices made of their orders, in their order.

        Raises:
            RunError: If a worker died, or nothing gets through.
        """
        ...

    def cost(self) -> Wire | None:
        """What went over the devices' links since it was asked last."""
        ...


class DirectDispatch:
    """Nothing is: the bytes are handed over."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Only its digests are needed."""
        return manifest_of(content)

    def carry(
        self,
        round_no: int,
        devices: Sequence[str],
        out: Outgoing,
    ) -> list[PackedUpdate | Unable]:
        """Hands them over."""
        return trained(self._workers.train, out.jobs)

    def cost(self) -> None:
        """There are no links."""
