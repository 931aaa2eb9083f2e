"""What goes out to a round's devices and what comes back; the same in every round."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Contribution, Model
from coordinator.settings import RunSettings
from coordinator.simulation.dispatch import Dispatch
from coordinator.simulation.fleet import SimulatedFleet
from coordinator.simulation.incoming import (
    checked,
    contribution,
    mean_loss,
    received_bytes,
)
from coordinator.simulation.outgoing import Outgoing, outgoing
from coordinator.simulation.workers.interface import Unable
from edge_sdk.sparse import LayerShape
from edge_sdk.tasks.task import Task
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.evidence import Evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import Values

__all__ = ["RoundTrip", "SimulationContext"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimulationContext:
    """A run's unchanging side: who there is, what they train, how they are asked.

    Attributes:
        task: What is trained.
        layers: Its maskable layers.
        algorithm: How.
        settings: The run's, as a coordinator has them.
        fleet: The devices.
        batch_size: Examples per step.
        most: Examples of the device that has most.
    """

    task: Task
    layers: tuple[LayerShape, ...]
    algorithm: Algorithm
    settings: RunSettings
    fleet: SimulatedFleet
    batch_size: int
    most: int

    def trip(
        self,
        way: Dispatch,
        no: int,
        chosen: Mapping[str, float],
        base: Model,
        family: MaskFamily,
        known: Collection[str] = (),
    ) -> RoundTrip:
        """Has the chosen devices carry out their part of a round.

        Args:
            way: How orders reach those who train.
            no: The round.
            chosen: Device to the density it trains at.
            base: The model they start from.
            family: The round's masks.
            known: Devices that have the masks already.

        Raises:
            RunError: If a worker died, or nothing gets through.
        """
        devices = self.fleet.devices
        out = outgoing(
            no,
            chosen,
            base,
            family,
            algorithm=self.algorithm,
            settings=self.settings,
            batch_size=self.batch_size,
            folders={device: devices[device].folder for device in chosen},
            known=known,
            make_ready=way.shelve,
        )
        done = list(zip(chosen, way.carry(no, list(chosen), out), strict=True))
        for device, one in done:
            if isinstance(one, Unable):
                log.warning(
                    "%s cannot train and is not asked again: %s", device, one.why
                )
        return RoundTrip(
            base,
            family,
            self.most,
            out,
            {d: one for d, one in done if isinstance(one, PackedUpdate)},
            {d: one.why for d, one in done if isinstance(one, Unable)},
            dict(zip(chosen, out.orders, strict=True)),
        )


@dataclass(frozen=True)
class RoundTrip:
    """One round's way out and back.

    Attributes:
        base: The model they started from.
        family: The round's masks.
        most: Most examples that any device has.
        out: What went to them.
        packed: What each device made of it, in the order of all that follows.
        unable: Device to why it cannot train.
        orders: Device to what it was asked.
    """

    base: Model
    family: MaskFamily
    most: int
    out: Outgoing
    packed: Mapping[str, PackedUpdate]
    unable: Mapping[str, str]
    orders: Mapping[str, TaskOrder]

    @property
    def devices(self) -> tuple[str, ...]:
        """Who did its part."""
        return tuple(self.packed)

    @property
    def bytes_up(self) -> int:
        """Offers and payloads."""
        return received_bytes(list(self.packed.values()))

    @property
    def bytes_down(self) -> int:
        """Orders, bases and structures."""
        return self.out.sent_bytes

    @property
    def loss(self) -> float:
        """Mean training loss."""
        return mean_loss(list(self.packed.values()))

    def contributions(self) -> list[Contribution]:
        """Updates as the aggregate takes them.

        Raises:
            RunError: If one does not pass the gate.
        """
        return [
            contribution(
                device, self.orders[device], done, self.base, self.family, self.most
            )
            for device, done in self.packed.items()
        ]

    def evidence(self) -> list[Values | Evidence]:
        """What a warm-up returned, on the family's top mask.

        Raises:
            RunError: If one does not pass the gate.
        """
        return [
            checked(self.orders[device], done, self.base, self.family.top, self.most)
            for device, done in self.packed.items()
        ]
