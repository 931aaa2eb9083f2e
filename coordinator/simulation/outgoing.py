"""What a round sends out: orders, bases and structures, as the bytes that travel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.rounds.blobs import Publish, publish_blobs
from coordinator.rounds.tasks import order_for
from coordinator.settings import RunSettings
from coordinator.simulation.workers.interface import TrainingJob
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Manifest, TaskOrder
from edge_sdk.wire.values import CODECS, agreed

__all__ = ["EPOCH", "Outgoing", "outgoing"]

EPOCH = 1


@dataclass(frozen=True)
class Outgoing:
    """A round's tasks, in the order of its devices.

    Attributes:
        orders: What each device is asked.
        jobs: The same for a worker, with the device's folder.
        sent_bytes: Orders, bases, and structures of masks that are new to a device.
    """

    orders: list[TaskOrder]
    jobs: list[TrainingJob]
    sent_bytes: int


def outgoing(
    round_no: int,
    chosen: Mapping[str, float],
    base: Model,
    family: MaskFamily,
    *,
    algorithm: Algorithm,
    settings: RunSettings,
    batch_size: int,
    folders: Mapping[str, Path],
    known: Collection[str],
    make_ready: Publish,
    attempt: int = 0,
) -> Outgoing:
    """What goes to the chosen devices.

    Args:
        round_no: 0 for the warm-up.
        chosen: Device to the density it trains at.
        base: The model they start from.
        family: The round's masks.
        algorithm: Says what each does with it.
        settings: The run's.
        batch_size: Examples per step.
        folders: Device to where its examples are.
        known: Devices that have the masks already.
        make_ready: Makes a blob ready to be fetched in a round.
        attempt: How often the round was given up before.
    """
    codec = settings.codec
    down, up = (agreed(c, CODECS, zstd=codec.zstd) for c in (codec.down, codec.up))
    masks = {device: family.of(device, density) for device, density in chosen.items()}
    contents: dict[bytes, bytes] = {}

    def publish(content: bytes, no: int) -> Manifest:
        manifest = make_ready(content, no)
        contents[manifest.sha256] = content
        return manifest

    named = publish_blobs(
        publish, round_no, base, family, masks, dict.fromkeys(masks, down)
    )
    orders, jobs, sent = [], [], 0
    for device, density in chosen.items():
        start, mask = named[device].base, named[device].mask
        order = order_for(
            device,
            epoch=EPOCH,
            round_no=round_no,
            density=density,
            base=start,
            mask=mask,
            algorithm=algorithm,
            settings=settings,
            batch_size=batch_size,
            ttl_s=0.0,
            codec=up,
            attempt=attempt,
        )
        structure = contents[mask.structure.sha256] if mask.structure else b""
        job = TrainingJob(
            folders[device], pack(order), contents[start.sha256], structure
        )
        orders.append(order)
        jobs.append(job)
        sent += len(job.order) + len(job.base)
        sent += 0 if device in known else len(job.structure)
    return Outgoing(orders, jobs, sent)
