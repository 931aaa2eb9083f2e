"""Blobs that a round's orders name by digest, published before the orders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import TypeAlias

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from edge_sdk.sparse import Mask
from edge_sdk.wire.blob import blob_id
from edge_sdk.wire.messages import Manifest, MaskRecipe, TaskOrder
from edge_sdk.wire.parts import pack_apart
from edge_sdk.wire.rules import Member
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import CODECS, pack_values

__all__ = ["OrderBlobs", "Publish", "publish_blobs", "publish_blobs_again"]

log = logging.getLogger(__name__)

Publish: TypeAlias = Callable[[bytes, int], Manifest]  # (content, round) -> its digests


@dataclass(frozen=True)
class OrderBlobs:
    """Blobs that one device's order names.

    Attributes:
        base: The values that it starts from, on its mask.
        mask: How it has its mask.
        members: The family's masks inside its own.
        program: The model's training program, where the device needs one.
        parts: The entries that stay apart, where the model has some.
    """

    base: Manifest
    mask: MaskRecipe
    members: tuple[Member, ...] = ()
    program: Manifest | None = None
    parts: Manifest | None = None


def publish_blobs(
    publish: Publish,
    no: int,
    base: Model,
    family: MaskFamily,
    masks: Mapping[str, Mask],
    codecs: Mapping[str, str],
    programs: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, OrderBlobs]:
    """Publishes each mask, base and program once; returns what each order names.

    Args:
        publish: Makes a blob ready to be fetched in a round.
        no: The round.
        base: The global model.
        family: The masks there are.
        masks: Device -> its mask, one of the family's.
        codecs: Device -> the codec of its base.
        programs: Device -> its training program, of devices that need one.
    """
    made = {c: publish(c, no) for c in sorted(set(programs.values()))}
    apart = base.apart
    parts = publish(pack_apart(apart), no) if apart else None
    recipes: dict[bytes, MaskRecipe] = {}
    bases: dict[tuple[bytes, str], Manifest] = {}
    named = {}
    for device, mask in sorted(masks.items()):
        if mask.digest not in recipes:
            recipes[mask.digest] = _recipe(publish, family, mask, no)
        key = mask.digest, codecs[device]
        if key not in bases:
            bases[key] = publish(pack_values(base.sent(mask), mask, codec=key[1]), no)
        members = family.members(mask)
        start, recipe = bases[key], recipes[mask.digest]
        program = made[programs[device]] if device in programs else None
        named[device] = OrderBlobs(start, recipe, members, program, parts)
    return named


def publish_blobs_again(
    publish: Publish,
    no: int,
    base: Model,
    family: MaskFamily,
    orders: Iterable[tuple[str, TaskOrder]],
    program: Callable[[], bytes] = bytes,
) -> None:
    """Publishes what a round's orders name, after a crash.

    An order names its base by digest only: the codec is the one that gives it.

    Args:
        publish: Makes a blob ready to be fetched in a round.
        no: The round.
        base: The global model.
        family: The masks there are.
        orders: (device, its order) of the round.
        program: Reads the run's training program, where an order names it.
    """
    given = [*orders]
    if any(order.program for _, order in given) and (content := program()):
        publish(content, no)
    if apart := base.apart:
        publish(pack_apart(apart), no)
    wanted = {order.base.sha256: (device, order) for device, order in given}
    for digest, (device, order) in sorted(wanted.items()):
        mask = family.of(device, order.density)
        _recipe(publish, family, mask, no)
        packed = (pack_values(base.sent(mask), mask, codec=codec) for codec in CODECS)
        found = next((p for p in packed if sha256(p).digest() == digest), None)
        if found is None:
            log.warning("base %s cannot be made again", blob_id(order.base)[:12])
        else:
            publish(found, no)


def _recipe(publish: Publish, family: MaskFamily, mask: Mask, no: int) -> MaskRecipe:
    """Make the recipe of a mask; publish its structure if it cannot be drawn."""
    if family.drawn(mask):
        return family.recipe(mask)
    return family.recipe(mask, publish(encode_structure(mask), no))
