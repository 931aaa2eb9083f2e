"""Many light devices and a coordinator of one secure round, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.rounds.secure.graph import holders
from coordinator.rounds.secure.unmask import SecureCohort
from edge_sdk.identity.signatures import is_signed, signer
from edge_sdk.secure import device_round as steps
from edge_sdk.wire.secure.fixed_point import Ring, dtype_of, steps_of
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecureKeys,
    SecurePeer,
    SecurePeers,
    SecureRound,
    SecureUnmask,
)

ROUND = bytes(range(16))


def drawn(seed: str) -> Callable[[int], bytes]:
    """Random bytes that a test can have again."""
    state = [0]

    def more(count: int) -> bytes:
        state[0] += 1
        text = f"{seed} {state[0]}".encode()
        return hashlib.shake_128(text).digest(count)

    return more


def how(sizes: tuple[int, ...], devices: int, *, bits: int = 16) -> SecureRound:
    steps = steps_of(bits, devices)
    return SecureRound(ROUND, bits, steps, 0.25, 100, 3, list(sizes), secret=16)


@dataclass
class Fleet:
    """Devices of one round; `levels` says how much of the vector each one has."""

    levels: Mapping[str, int]
    sizes: tuple[int, ...]
    bits: int = 16
    degree: int = 0
    states: dict[str, steps.DeviceRound] = field(default_factory=dict)
    keys: dict[str, SecureKeys] = field(default_factory=dict)
    sent: dict[str, list[bytes]] = field(default_factory=dict)
    vectors: dict[str, Ring] = field(default_factory=dict)
    revealed: dict[str, list[bytes]] = field(default_factory=dict)
    cohort: SecureCohort | None = None

    @staticmethod
    @cache
    def identity(name: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(
            hashlib.sha256(name.encode()).digest()
        )

    def begin(self, names: Collection[str]) -> None:
        for name in names:
            own = self.sizes[: self.levels[name]]
            state = steps.begin(
                f"1-{name}",
                "fed",
                name,
                how(own, len(self.levels), bits=self.bits),
                drawn(name),
            )
            self.states[name] = state
            key = self.identity(name)
            self.keys[name] = steps.keys_of(state, signer(lambda k=key: k))

    def peers(self, name: str) -> SecurePeers:
        assert self.cohort is not None
        listed = [
            SecurePeer(
                other,
                self.identity(other).public_key().public_bytes_raw(),
                self.keys[other].share_key,
                self.keys[other].mask_key,
                self.keys[other].signature,
            )
            for other in self.cohort.holders[name]
        ]
        return SecurePeers(f"1-{name}", self.cohort.threshold(name), listed)

    def introduce(self) -> None:
        self.cohort = SecureCohort(
            ROUND,
            self.bits,
            self.sizes,
            self.keys,
            holders({n: self.levels[n] for n in self.keys}, ROUND, self.degree),
            {},
        )

    def share(self, names: Collection[str]) -> None:
        for name in names:
            state = steps.shares(self.states[name], self.peers(name), is_signed)
            self.states[name] = state
            self.sent[name] = state.sent

    def delivery(self, name: str) -> SecureDelivery:
        assert self.cohort is not None
        mine = self.cohort.holders[name]
        given = [
            self.sent[other][self.cohort.holders[other].index(name)]
            if other in self.sent
            else b""
            for other in mine
        ]
        levels = bytes(self.cohort.levels.get(other, 0) for other in mine)
        return SecureDelivery(f"1-{name}", given, levels)

    def close(self) -> None:
        assert self.cohort is not None
        self.cohort = SecureCohort(
            self.cohort.round_id,
            self.bits,
            self.sizes,
            self.keys,
            self.cohort.holders,
            {name: self.levels[name] for name in self.sent},
        )

    def upload(self, plain: Mapping[str, Ring]) -> None:
        for name, vector in plain.items():
            state = steps.with_shares(self.states[name], self.delivery(name))
            self.states[name], self.vectors[name] = steps.mask(state, vector)

    def unmask(self, name: str) -> SecureUnmask:
        assert self.cohort is not None
        fates = [
            (1 if other in self.vectors else 2) if other in self.cohort.levels else 0
            for other in self.cohort.holders[name]
        ]
        return SecureUnmask(f"1-{name}", bytes(fates))

    def reveal(self, names: Collection[str]) -> None:
        for name in names:
            self.states[name], said = steps.reveal(self.states[name], self.unmask(name))
            self.revealed[name] = said.shares


def plain_vectors(fleet: Fleet, names: Collection[str], seed: int) -> dict[str, Ring]:
    rng = np.random.default_rng(seed)
    most = steps_of(fleet.bits, len(fleet.levels))
    return {
        name: rng.integers(-most, most + 1, fleet.sizes[fleet.levels[name] - 1]).astype(
            dtype_of(fleet.bits)
        )
        for name in sorted(names)
    }
