"""One secure round of masks by units, in memory, and what its sums have to be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import assume
from msgspec import UNSET
from secure_fleet import drawn

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.privacy import PrivacySettings
from coordinator.algorithms.unit_masks import by_units, widths
from coordinator.ledger import UpdateRow
from coordinator.rounds.secure.answers import keys_said, read_answer
from coordinator.rounds.secure.orders import masked_orders
from coordinator.rounds.secure.stages import SecureState
from coordinator.server.secure.sums import keep_sum
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.discrete_gaussian import own_noise
from edge_sdk.sparse import LayerShape
from edge_sdk.sparse.units import Units
from edge_sdk.training.update import packed_change
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder, Training
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.secure.fixed_point import pack_ring, unpack_ring
from edge_sdk.wire.secure.layout import unflat
from edge_sdk.wire.secure.messages import SecureShares
from edge_sdk.wire.values import Values

__all__ = ["holds", "network", "noise_in", "order_of", "round_of", "share_of"]

FULL, CLIP = 100, 0.25  # examples of a whole weight; largest value


class Memory:
    """Masked updates and their sums, in the place of a ledger."""

    def __init__(self) -> None:
        self.rows: list[UpdateRow] = []
        self.blobs: dict[str, bytes] = {}
        self.means: Sequence[Any] = ()

    def frozen(self, no: int) -> list[UpdateRow]:
        return self.rows

    def blob(self, name: str) -> bytes:
        return self.blobs[name]

    def store(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.blobs[name] = content
        return name

    def secure(self, no: int) -> list[tuple[str, str, bytes]]:
        return []

    def keep_sum(self, no: int, means: Sequence[Any], blob: str) -> None:
        self.means = means


def network(plan: Any, first: int, second: int, densities: Sequence[float]) -> Any:
    """A family of masks, and a model with entries of units, without, and of none."""
    blocks = 2 if first % 2 == 0 else 1
    one = Units("a.weight", first, blocks, ("a.bias", "norm.weight", "a.table"))
    two = Units("b.weight", second, 1, ("b.bias",))
    layers = (
        LayerShape("a.weight", (first, 5), outputs=one),
        LayerShape("b.weight", (second, first), inputs=one, outputs=two),
        LayerShape("c.weight", (3, second), inputs=two),
    )
    if plan is widths:
        family = widths(layers, densities, None, 3)
    else:
        family = by_units(np.ones(3), layers, densities, 3)
    shapes = {"a.bias": (first,), "norm.weight": (first,), "a.table": (first, 2)}
    shapes |= {"b.bias": (second,), "c.bias": (3,), "scale": ()}
    dense: dict[str, Any] = {n: np.ones(s, np.float32) for n, s in shapes.items()}
    dense["seen"] = np.zeros((), np.int64)
    masked = {n: np.ones(c, np.float32) for n, c in family.top.counts.items()}
    return family, Model(family.top, masked, dense)


def share_of(device: str, how: Any) -> float:
    """Share of a whole weight that a device has: every other one has half."""
    examples = FULL // (1 + int(device[2:]) % 2)
    return min(examples, int(how.most_examples)) / int(how.most_examples)


def order_of(family: MaskFamily, device: str, density: float) -> TaskOrder:
    recipe = family.recipe(family.masks[density])
    given = manifest_of(b"base"), recipe, Frozen(), Training(1, 8, 0.1)
    return TaskOrder(f"1-{device}", 1, density, *given, 60_000, 0, "fp32")


def holds(family: MaskFamily, base: Model, density: float) -> dict[str, Any]:
    """Entry -> True where a device of this density has a value."""
    mask = family.masks[density]
    found = {name: np.array(mask[name]) for name in mask}
    idle = family.idle(mask)
    for name, entry in base.dense.items():
        if entry.dtype.kind == "f":
            own = np.ones(entry.shape, np.bool_)
            if name in idle:
                own[idle[name]] = False
            found[name] = own
    return found


def change_of(
    family: MaskFamily, base: Model, density: float, step: float, rng: Any
) -> tuple[dict[str, Any], Values]:
    """Whole numbers of all entries, and the change that they are, unrounded.

    What the density does not hold has large values: they must not be seen.
    """
    mask, held = family.masks[density], holds(family, base, density)
    most = int(CLIP / step) // 12
    whole = {n: rng.integers(-most, most + 1, own.shape) for n, own in held.items()}
    change = Values(
        mask.digest,
        {n: whole[n][mask[n]] * step for n in mask},
        {
            **{
                n: np.where(held[n], whole[n] * step, 1e9)
                for n in held
                if n not in mask
            },
            "seen": np.ones((), np.int64),
        },
    )
    return {n: np.where(held[n], whole[n], 0) for n in held}, change


def devices_of(fleet: dict[str, float], orders: Any, state: SecureState) -> Any:
    """The state with all keys and neighbours, and the devices' own."""
    own = {}
    for device in fleet:
        how = orders[device].secure
        begun = steps.begin(f"1-{device}", "fed", device, how, drawn(device))
        said = steps.keys_of(begun, None)
        state = keys_said(state, device, said, "fed", None).state
        own[device] = begun
    return state.with_graph(0)[0], own


def round_of(
    family: MaskFamily,
    base: Model,
    fleet: dict[str, float],
    lost: tuple[set[str], set[str]],
    privacy: PrivacySettings,
    seed: int,
) -> Any:
    """One round of so many devices; what was kept, what should be, and its state."""
    rng, memory = np.random.default_rng(seed), Memory()
    plain = {d: order_of(family, d, density) for d, density in fleet.items()}
    counts = {d: FULL // (1 + int(d[2:]) % 2) for d in fleet}
    given = plain, family, base, counts, privacy, len(fleet)
    orders = masked_orders(*given)
    state, own = devices_of(fleet, orders, SecureState(orders))
    here = [d for d in fleet if d not in lost[0]]
    for device in here:
        own[device] = steps.shares(own[device], state.peers(device), None)
        said = SecureShares(f"1-{device}", own[device].sent)
        state = read_answer(state, device, said, ()).state
    assume(len(here) >= state.least and len(here) > len(fleet) // 2)
    state = state.with_cohort()[0]
    whole: dict[str, Any] = {}
    for device in (d for d in here if d not in lost[1]):
        own[device] = steps.with_shares(own[device], state.delivery(device))
        order, how = orders[device], orders[device].secure
        mask = family.masks[fleet[device]]
        share = share_of(device, how)
        step = how.clip / how.steps / share
        whole[device], change = change_of(family, base, fleet[device], step, rng)
        payload, norm = packed_change(order, change, mask, counts[device])
        assert norm == 0
        vector = unpack_ring(payload, mask.digest, how.bits, how.sizes[-1])
        own[device], hidden = steps.mask(own[device], vector)
        name = memory.store(pack_ring(hidden, mask.digest))
        row = UpdateRow(f"1-{device}", device, fleet[device], name, counts[device],
                        norm=0.0, metrics={}, scale=1.0, weight=1.0)  # fmt: skip
        memory.rows.append(row)
    assume(len(whole) > len(fleet) // 2 and not state.too_few(list(whole)))
    for device in whole:
        asked = state.unmask(device, list(whole))
        own[device], said = steps.reveal(own[device], asked)
        state = read_answer(state, device, said, list(whole)).state
    assert keep_sum(memory, 1, state, base, family) == []
    return memory, whole, state, own


def noise_in(
    family: MaskFamily, base: Model, state: SecureState, own: Any, device: str
) -> dict[str, Any]:
    """What noise a device has added to each entry, in the entry's own shape."""
    level, order = state.levels[device], state.orders[device]
    how = order.secure
    densities = sorted(family.masks)[:level]
    mask = family.masks[densities[-1]]
    smaller = [family.masks[d] for d in densities[:-1]]
    vector = own_noise(
        own[device].noise, how.id, how.sizes[level - 1], how.noise.part
    ).astype(np.float64)
    units = {} if how.units is UNSET else how.units
    dense = {n: a for n, a in base.dense.items() if a.dtype.kind == "f"}
    drawn_as = unflat(vector, smaller, mask, dense, units)
    spread = {}
    for name in mask:
        spread[name] = np.zeros(mask[name].shape)
        spread[name][mask[name]] = drawn_as.masked[name]
    return {**spread, **drawn_as.dense}
