"""Stages of a secure round: who is in, what each device is told, and when.

Rule 1. Keys and shares each have a time; who is late for one is out of the round.
Rule 2. What devices are told is frozen first: a coordinator that starts again tells
        them the same.
Rule 3. Who has sent shares and then no update was dropped: its masks are taken away
        with its neighbours' shares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET

from coordinator.rounds.secure.graph import holders, threshold_of
from coordinator.rounds.secure.unmask import SecureCohort
from edge_sdk.secure.known import Known, without_known
from edge_sdk.secure.shares import derived_places
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecureKeys,
    SecureNoise,
    SecurePeer,
    SecurePeers,
    SecureReveal,
    SecureShares,
    SecureUnmask,
)

__all__ = ["SecureState", "Stage", "from_rows"]

TAG = 16  # bytes that encryption adds to a share


class Stage(str, Enum):
    """Stages of a secure round, named by what they wait for."""

    KEYS = "keys"
    SHARES = "shares"
    UPDATES = "updates"


class _Graph(msgspec.Struct, frozen=True):
    holders: dict[str, list[str]]


class _Cohort(msgspec.Struct, frozen=True):
    levels: dict[str, int]


@dataclass(frozen=True)
class SecureState:
    """A secure round.

    Attributes:
        orders: Device to its order.
        keys: Device to its keys, and the identity that signed them.
        graph: Device to its holders; empty before it is frozen.
        shares: Device to what it has encrypted to its holders.
        levels: Device to how much of the vector it sends; empty before it is frozen.
        ready: Who can mask its update.
        revealed: Device to what it has revealed.
        known: Device to the identities that it is not told again.
    """

    orders: Mapping[str, TaskOrder]
    keys: Mapping[str, tuple[SecureKeys, bytes]] = field(default_factory=dict)
    graph: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shares: Mapping[str, list[bytes]] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    ready: frozenset[str] = frozenset()
    revealed: Mapping[str, list[bytes]] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        """The stage of the round, before its updates are frozen."""
        if not self.graph:
            return Stage.KEYS
        return Stage.UPDATES if self.levels else Stage.SHARES

    @property
    def least(self) -> int:
        """Devices that a sum has at least: the noise of fewer is too little."""
        noise = self.noise
        least = max(o.secure.least for o in self.orders.values() if o.secure)
        return least if noise is None else max(least, noise.survivors)

    @property
    def noise(self) -> SecureNoise | None:
        """The noise as devices were told of it; None where they draw none."""
        noise = self._how().noise
        return None if noise is UNSET else noise

    def fewest(self, arrived: Collection[str]) -> int:
        """Devices in a sum, of the values that the fewest hold."""
        tops = [self.levels[device] for device in arrived]
        return tops.count(max(tops, default=0))

    def here(self) -> Collection[str]:
        """Devices that have done what the stage asks."""
        done: dict[Stage, Collection[str]] = {
            Stage.KEYS: self.keys.keys(),
            Stage.SHARES: self.shares.keys(),
        }
        return done.get(self.stage, self.ready)

    def asked(self) -> Collection[str]:
        """Devices that the stage asks."""
        if self.stage is Stage.KEYS:
            return self.orders.keys()
        return self.levels.keys() if self.levels else self.graph.keys()

    # -- freezing ----------------------------------------------------------------------

    def with_graph(self, degree: int) -> tuple[SecureState, bytes]:
        """The state with neighbours drawn among those whose keys are here; its bytes.

        Args:
            degree: Neighbours of each; 0 for as many as are needed.
        """
        levels = {device: self._size(device) for device in self.keys}
        drawn = holders(levels, self._how().id, degree)
        frozen = pack(_Graph({device: list(own) for device, own in drawn.items()}))
        return replace(self, graph=drawn), frozen

    def with_cohort(self) -> tuple[SecureState, bytes]:
        """The state with its cohort: those whose shares are here; its bytes.

        What only few devices hold is not summed: they send as much as others do.
        """
        own = {device: self._size(device) for device in self.shares}
        tops = sorted(own.values(), reverse=True)
        most = tops[self.least - 1] if len(tops) >= self.least else 1
        levels = {device: min(level, most) for device, level in own.items()}
        return replace(self, levels=levels), pack(_Cohort(levels))

    def _how(self) -> Any:
        return next(order.secure for order in self.orders.values())

    def _size(self, device: str) -> int:
        secure = self.orders[device].secure
        return len(secure.sizes) if secure is not None else 1

    def cohort(self) -> SecureCohort:
        """The cohort, to take masks away."""
        widest = max(
            (o.secure.sizes for o in self.orders.values() if o.secure), key=len
        )
        how = self._how()
        return SecureCohort(
            how.id,
            how.bits,
            tuple(widest),
            {device: keys for device, (keys, _) in self.keys.items()},
            self.graph,
            self.levels,
        )

    # -- what devices are told ---------------------------------------------------------

    def peers(self, device: str) -> SecurePeers:
        """The holders of a device's shares."""
        listed = []
        for other in self.graph[device]:
            keys, identity = self.keys[other]
            listed.append(
                SecurePeer(
                    *(other, identity, keys.share_key, keys.mask_key, keys.signature)
                )
            )
        threshold = threshold_of(len(listed))
        lean = without_known(self.known.get(device, {}), listed)
        return SecurePeers(self.orders[device].id, threshold, lean)

    def delivery(self, device: str) -> SecureDelivery:
        """The shares that its peers have encrypted to a device."""
        mine = self.graph[device]
        given = [
            self.shares[other][self.graph[other].index(device)]
            if other in self.levels
            else b""
            for other in mine
        ]
        levels = bytes(self.levels.get(other, 0) for other in mine)
        return SecureDelivery(self.orders[device].id, given, levels)

    def unmask(self, device: str, arrived: Collection[str]) -> SecureUnmask:
        """The fates of the updates of a device's peers."""
        fates = bytes(
            (1 if other in arrived else 2) if other in self.levels else 0
            for other in self.graph[device]
        )
        return SecureUnmask(self.orders[device].id, fates)

    def too_few(self, arrived: Collection[str]) -> str:
        """The reason why updates are too few for a sum; "" if they are not."""
        tops = [self.levels[device] for device in arrived]
        for level in range(1, max(tops, default=1) + 1):
            held = len([top for top in tops if top >= level])
            if held < self.least:
                size = "" if level == 1 else f" with the values of size {level}"
                why = "privacy.min_devices"
                if self.noise is not None:
                    why = "their noise is sized for so many"
                return (
                    f"{held} masked updates{size} arrived; a sum is of at least "
                    f"{self.least} devices ({why})"
                )
        return ""

    # -- what devices say --------------------------------------------------------------

    def misfit(self, device: str, said: SecureShares | SecureReveal) -> str:
        """The reason why shares or answers cannot be of a device; "" if they can."""
        if device not in self.graph:
            return "its keys are not in this round"
        mine, secret = self.graph[device], self._how().secret
        sizes: list[tuple[int, ...]]
        if isinstance(said, SecureShares):
            own = mine.index(device)
            unsent = derived_places(own, threshold_of(len(mine)), len(mine)) | {own}
            sizes = [
                (0,) if at in unsent else (2 * secret + TAG,) for at in range(len(mine))
            ]
        else:  # a share that it could not read is not revealed
            sizes = [(0, secret) if self.levels.get(other) else (0,) for other in mine]
        held = [len(share) for share in said.shares]
        if len(held) != len(sizes) or any(
            size not in fit for size, fit in zip(held, sizes, strict=True)
        ):
            return f"its shares do not fit its {len(mine)} neighbours"
        return ""


def from_rows(
    orders: Mapping[str, TaskOrder], rows: Iterable[tuple[str, str, bytes]]
) -> SecureState:
    """The state that a ledger has kept.

    Args:
        orders: Device to its order.
        rows: (device, kind, content).
    """
    keys, shares, revealed = {}, {}, {}
    graph: Mapping[str, tuple[str, ...]] = {}
    levels: Mapping[str, int] = {}
    for device, kind, content in rows:
        if kind == "graph":
            drawn = unpack(content, _Graph).holders
            graph = {name: tuple(own) for name, own in drawn.items()}
        elif kind == "cohort":
            levels = unpack(content, _Cohort).levels
        elif device not in orders:
            continue
        elif kind == "keys":
            keys[device] = unpack(content[32:], SecureKeys), _identity(content[:32])
        elif kind == "shares":
            shares[device] = unpack(content, SecureShares).shares
        elif kind == "reveal":
            revealed[device] = unpack(content, SecureReveal).shares
    return SecureState(orders, keys, graph, shares, levels, frozenset(), revealed)


def _identity(raw: bytes) -> bytes:
    return raw if any(raw) else b""
