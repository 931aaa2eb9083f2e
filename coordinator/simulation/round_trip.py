"""What goes out to a round's devices and what comes back; the same in every round."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger import UpdateRow
from coordinator.rounds.validation import Refusal
from coordinator.settings import RunSettings
from coordinator.simulation.dispatch import Dispatch
from coordinator.simulation.fleet import SimulatedFleet
from coordinator.simulation.incoming import row_of
from coordinator.simulation.outgoing import outgoing
from coordinator.simulation.workers.interface import Unable
from edge_sdk.wire.codec import pack

__all__ = ["RoundTrip", "SimulationContext"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundTrip:
    """One round's way out and back.

    Attributes:
        rows: Updates that passed the gate, by device.
        payloads: Task to the packed update.
        refused: Device to why it gave no update that passes, this time.
        unable: Device to why it cannot train, this time or any other.
        bytes_up: Offers and payloads, as packed for the wire.
        bytes_down: Orders, bases and structures.
    """

    rows: tuple[UpdateRow, ...]
    payloads: Mapping[str, bytes]
    refused: Mapping[str, str]
    unable: Mapping[str, str]
    bytes_up: int
    bytes_down: int

    def why(self) -> str:
        """What some of its devices lack, in words."""
        said = {**self.refused, **self.unable}
        return "; ".join(f"{d}: {why}" for d, why in sorted(said.items())[:3])


@dataclass(frozen=True)
class SimulationContext:
    """A run's unchanging side: who there is and how they are asked.

    Attributes:
        algorithm: How they train.
        settings: The run's, as a coordinator has them.
        fleet: The devices.
        batch_size: Examples per step.
    """

    algorithm: Algorithm
    settings: RunSettings
    fleet: SimulatedFleet
    batch_size: int

    def trip(
        self,
        way: Dispatch,
        no: int,
        chosen: Mapping[str, float],
        base: Model,
        family: MaskFamily,
        *,
        known: Collection[str] = (),
        attempt: int = 0,
    ) -> RoundTrip:
        """Has the chosen devices carry out their part of a round.

        Args:
            way: How orders reach those who train.
            no: The round.
            chosen: Device to the density it trains at.
            base: The model they start from.
            family: The round's masks.
            known: Devices that have the masks already.
            attempt: How often the round was given up before.

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
            attempt=attempt,
        )
        done = way.carry(no, list(chosen), out)
        rows: list[UpdateRow] = []
        unable: dict[str, str] = {}
        refused: dict[str, str] = {}
        payloads: dict[str, bytes] = {}
        up = 0
        for device, order, one in zip(chosen, out.orders, done, strict=True):
            if isinstance(one, Unable):
                (unable if one.lasting else refused)[device] = one.why
                continue
            up += len(pack(one.offer)) + len(one.payload)
            start = family.of(device, order.density)
            row = row_of(device, order, one, base, start, devices[device].examples)
            if isinstance(row, Refusal):
                refused[device] = row.told
            else:
                rows.append(row)
                payloads[order.id] = one.payload
        for device, why in unable.items():
            log.warning("%s cannot train and is not asked again: %s", device, why)
        for device, why in refused.items():
            log.warning("rejected the update of %s: %s", device, why)
        return RoundTrip(tuple(rows), payloads, refused, unable, up, out.sent_bytes)
