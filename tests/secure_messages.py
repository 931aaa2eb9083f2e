"""A checker of secure rounds: it reads every message that went through the broker."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordinator.algorithms.base import the_devices_own
from coordinator.algorithms.methods.fixed_masks import erk_frozen
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.secure.keys import expanded, public_of, seed_digest
from edge_sdk.secure.shamir import combine
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import Data, TaskOrder
from edge_sdk.wire.secure.messages import (
    SecureKeys,
    SecurePeers,
    SecureReveal,
    SecureUnmask,
)

__all__ = ["UNEQUAL", "RecordingBroker", "check"]


# Frozen masks of positions; each device trains the largest that it affords.
UNEQUAL = replace(erk_frozen(), name="unequal", assign=the_devices_own)


class RecordingBroker(MemoryBroker):
    """Keeps what goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str, Any]] = []  # source, destination, message
        self._before: list[tuple[type, str, Callable[[], object]]] = []

    def before(self, kind: type, to: str, do: Callable[[], object]) -> None:
        """Has something done once, before the first message of a kind goes to one."""
        self._before.append((kind, to, do))

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        try:
            found = decode(payload)
        except RemoteProtocolError:
            pass  # a chunk of a model, or a topic that is wiped
        else:
            head = found.header
            for one in list(self._before):
                if isinstance(found.message, one[0]) and head.destination == one[1]:
                    self._before.remove(one)
                    one[2]()
            self.said.append((head.source, head.destination, found.message))
        super().route(topic, payload, retain=retain)


def check(said: list[tuple[str, str, Any]]) -> dict[str, int]:  # noqa: C901, PLR0912
    """Reads a run's messages; counts what was found, and fails on what must not be.

    Of no device are shares of both secrets revealed, in whichever words they were asked
    for; each holder answers one list; no device sends two vectors for one task; and all
    that was revealed of a device gives one of its secrets at most.
    """
    ids: dict[str, bytes] = {}
    keys: dict[str, SecureKeys] = {}
    names: dict[tuple[bytes, str], str] = {}
    peers: dict[str, SecurePeers] = {}
    lists: dict[str, bytes] = {}
    answers: dict[str, list[bytes]] = {}
    chunks: dict[tuple[str, int], bytes] = {}
    owner: dict[str, str] = {}
    for _, destination, message in said:
        match message:
            case TaskOrder() if message.secure is not None:
                ids[message.id] = message.secure.id
                names[message.secure.id, destination] = message.id
                owner[message.id] = destination
            case SecureKeys():
                assert keys.setdefault(message.task_id, message) == message
            case SecurePeers():
                assert peers.setdefault(message.task_id, message) == message
            case SecureUnmask():
                assert lists.setdefault(message.task_id, message.fates) == message.fates
            case SecureReveal() if message.shares:
                before = answers.setdefault(message.task_id, message.shares)
                assert before == message.shares
            case Data():
                digest = hashlib.sha256(message.chunk).digest()
                place = message.task_id, message.index
                assert chunks.setdefault(place, digest) == digest, "two vectors"
            case _:
                pass
    revealed: dict[str, dict[str, dict[int, bytes]]] = defaultdict(
        lambda: {"seed": {}, "key": {}}
    )
    for holder, shares in answers.items():
        for peer, fate, share in zip(
            peers[holder].peers, lists[holder], shares, strict=True
        ):
            if not share:
                continue
            task = names[ids[holder], peer.name]
            here = [p.name for p in peers[task].peers].index(owner[holder]) + 1
            revealed[task]["seed" if fate == 1 else "key"][here] = share
    found = {"seed": 0, "key": 0}
    for task, kinds in revealed.items():
        assert not (kinds["seed"] and kinds["key"]), f"both secrets of {task}"
        fits = set()
        for shares_of in kinds.values():
            points = sorted(shares_of)[: peers[task].threshold]
            if len(points) < peers[task].threshold:
                continue
            secret = combine({point: shares_of[point] for point in points})
            if seed_digest(secret, ids[task]) == keys[task].seed:
                fits.add("seed")
            if public_of(expanded(secret, ids[task])) == keys[task].mask_key:
                fits.add("key")
        assert len(fits) <= 1, task
        for kind in fits:
            found[kind] += 1
    return found
