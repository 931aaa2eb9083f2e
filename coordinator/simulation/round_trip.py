"""Exchange with a round's devices; the same in every round."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger import UpdateRow
from coordinator.rounds.blobs import publish_blobs
from coordinator.rounds.tasks import order_for
from coordinator.settings import RunSettings
from coordinator.simulation.checkpoints import EPOCH, SimulationMemory
from coordinator.simulation.dispatch import Dispatch, SimulatedPart, TaskResult
from coordinator.simulation.fleet import SimulatedFleet
from coordinator.simulation.workers.interface import TrainingJob
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Manifest, TaskOrder
from edge_sdk.wire.values import CODECS, agreed

__all__ = ["NOT_ASKED", "RoundTrip", "SimulationContext"]

log = logging.getLogger(__name__)

NOT_ASKED = "%s cannot train and is not asked again: %s"


@dataclass(frozen=True)
class RoundTrip:
    """One round's way out and back.

    Attributes:
        rows: Updates that passed the gate, by device.
        payloads: Task to the packed update.
        refused: Device to why it gave no update that passes, this time.
        unable: Device to why it cannot train, this time or any other.
        bytes_up: Offers and payloads, as packed for the wire.
        bytes_down: Orders, bases, and structures of masks and parts that stay apart
            where they are new to a device.
    """

    rows: tuple[UpdateRow, ...]
    payloads: Mapping[str, bytes]
    refused: Mapping[str, str]
    unable: Mapping[str, str]
    bytes_up: int
    bytes_down: int

    def why(self) -> str:
        """The reasons why some of its devices gave no update, in words."""
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
        place: int = 0,
        known: Collection[str] = (),
        asked: Collection[str] = (),
        attempt: int = 0,
        remembers: SimulationMemory | None = None,
    ) -> RoundTrip:
        """Has the chosen devices carry out their part of a round.

        Args:
            way: How orders reach those who train.
            no: The round.
            chosen: Device to the density it trains at.
            base: The model they start from.
            family: The round's masks.
            place: The round's among those that give a model; 0 of round 0.
            known: Devices that have the masks already.
            asked: Devices that have the parts that stay apart already.
            attempt: How often the round was given up before.
            remembers: Where devices' memories lie, where they have some.

        Raises:
            RunError: If a worker died, or nothing gets through.
        """
        memories = remembers.of_devices(no, chosen) if remembers else {}
        parts = self._parts(way, no, chosen, base, family, place, attempt, memories)
        done = way.carry(no, parts)
        rows: list[UpdateRow] = []
        payloads: dict[str, bytes] = {}
        refused: dict[str, str] = {}
        unable: dict[str, str] = {}
        for device, part in parts.items():
            one = done[device]
            if one.memory and device in memories:
                memories[device][1].keep(part.order, one.memory)
            if one.why:
                _warn(device, one)
                (unable if one.lasting else refused)[device] = one.why
            elif one.offer is not None:
                rows.append(_row(device, part.order, one))
                payloads[part.order.id] = one.payload
        return RoundTrip(
            *(tuple(rows), payloads, refused, unable),
            sum(done[device].sent_bytes for device in parts),
            sum(_sent(p.job, d in known, d in asked) for d, p in parts.items()),
        )

    def _parts(
        self,
        way: Dispatch,
        no: int,
        chosen: Mapping[str, float],
        base: Model,
        family: MaskFamily,
        place: int,
        attempt: int,
        memories: Mapping[str, tuple[str, DeviceMemory]],
    ) -> dict[str, SimulatedPart]:
        """Parts of a round for the chosen devices, in their order."""
        codec = self.settings.codec
        down, up = (agreed(c, CODECS, zstd=codec.zstd) for c in (codec.down, codec.up))
        masks = {device: family.of(device, own) for device, own in chosen.items()}
        contents: dict[bytes, bytes] = {}

        def publish(content: bytes, round_no: int) -> Manifest:
            manifest = way.shelve(content, round_no)
            contents[manifest.sha256] = content
            return manifest

        codecs = dict.fromkeys(masks, down)
        named = publish_blobs(publish, no, base, family, masks, codecs)
        parts = {}
        for device, density in chosen.items():
            start, recipe = named[device].base, named[device].mask
            one = self.fleet.devices[device]
            order = order_for(
                device,
                named[device],
                epoch=EPOCH,
                round_no=no,
                place=place,
                density=density,
                algorithm=self.algorithm,
                settings=self.settings,
                batch_size=self.batch_size,
                ttl_s=0.0,
                codec=up,
                attempt=attempt,
                after=memories[device][0] if device in memories else "",
            )
            structure = contents[recipe.structure.sha256] if recipe.structure else b""
            apart = named[device].parts
            job = TrainingJob(
                *(one.folder, pack(order), contents[start.sha256], structure),
                memory=memories[device][1].read(order) if device in memories else b"",
                parts=contents[apart.sha256] if apart else b"",
            )
            dense = base.dense_sent(masks[device])
            parts[device] = SimulatedPart(
                order, dense, masks[device], one.examples, job
            )
        return parts


def _row(device: str, order: TaskOrder, one: TaskResult) -> UpdateRow:
    """An accepted update as a ledger has it; its payload is named by its task."""
    assert one.offer is not None  # noqa: S101 - it has passed
    return UpdateRow(
        *(order.id, device, order.density, order.id, one.offer.examples),
        norm=one.norm,
        metrics=dict(one.offer.metrics),
        scale=1.0,
        weight=one.offer.examples,
    )


def _sent(job: TrainingJob, masks: bool, parts: bool) -> int:  # noqa: FBT001 - are known
    structure = 0 if masks else len(job.structure)
    apart = 0 if parts else len(job.parts)
    return len(job.order) + len(job.base) + structure + apart


def _warn(device: str, one: TaskResult) -> None:
    if one.lasting:
        log.warning(NOT_ASKED, device, one.why)
    else:
        log.warning("rejected the update of %s: %s", device, one.why)
