"""What a round sends out: orders, bases and structures, as the bytes that travel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.aggregate import Model
from coordinator.algorithm import Algorithm, Family
from coordinator.orders import order_for
from coordinator.settings import RunSettings
from coordinator.simulation.workers import Work
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Manifest, TaskOrder
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import CODECS, agreed, pack_values

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
    jobs: list[Work]
    sent_bytes: int


def outgoing(
    round_no: int,
    chosen: Mapping[str, float],
    base: Model,
    family: Family,
    *,
    algorithm: Algorithm,
    settings: RunSettings,
    batch_size: int,
    folders: Mapping[str, Path],
    known: Collection[str],
    shelve: Callable[[bytes, int], Manifest],
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
        shelve: Makes a blob ready to be fetched in a round; gives its digests.
    """
    codec = settings.codec
    down, up = (agreed(c, CODECS, zstd=codec.zstd) for c in (codec.down, codec.up))
    masks = {device: family.of(device, density) for device, density in chosen.items()}
    shared = {mask.digest: mask for mask in masks.values()}
    bases = {d: pack_values(base.on(m), m, codec=down) for d, m in shared.items()}
    structures = {
        digest: b"" if family.drawn(mask) else encode_structure(mask)
        for digest, mask in shared.items()
    }
    recipes = {
        digest: family.recipe(
            mask, shelve(structures[digest], round_no) if structures[digest] else None
        )
        for digest, mask in shared.items()
    }
    manifests = {digest: shelve(base, round_no) for digest, base in bases.items()}
    orders, jobs, sent = [], [], 0
    for device, density in chosen.items():
        digest = masks[device].digest
        order = order_for(
            device,
            epoch=EPOCH,
            round_no=round_no,
            density=density,
            base=manifests[digest],
            mask=recipes[digest],
            algorithm=algorithm,
            settings=settings,
            batch_size=batch_size,
            ttl_s=0.0,
            codec=up,
        )
        job = Work(folders[device], pack(order), bases[digest], structures[digest])
        orders.append(order)
        jobs.append(job)
        sent += len(job.order) + len(job.base)
        sent += 0 if device in known else len(job.structure)
    return Outgoing(orders, jobs, sent)
