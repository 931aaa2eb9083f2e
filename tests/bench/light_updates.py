"""Updates of light devices: one made for all, with a number of each near its end."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from edge_sdk.sparse import draw
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.blob import chunk_of, manifest_of
from edge_sdk.wire.messages import Manifest, TaskOrder
from edge_sdk.wire.values import Values, pack_values, unpack_values


class SharedUpdate:
    """One update of all devices; each puts its own number near the end, in one chunk.

    What lies before is hashed once for all of them, however large the chunks: devices
    share their cores with the coordinator that is measured.
    """

    def __init__(self, payload: bytes, at: int, norm: float, chunk_size: int) -> None:
        self.norm, self._at, self._payload = norm, at, payload
        self._manifest = manifest_of(payload, chunk_size)
        self._own = at // chunk_size  # the chunk with the number in it
        start = self._own * chunk_size
        self._stop = min(start + chunk_size, len(payload))
        assert at + 4 <= self._stop, "the number lies in two chunks"
        self._before, self._behind = payload[start:at], payload[at + 4 : self._stop]
        self._whole = hashlib.sha256(payload[:at])
        self._chunk = hashlib.sha256(self._before)

    def manifest(self, number: int) -> Manifest:
        """Digests of the device's payload, which nobody else sends."""
        whole, chunk = self._whole.copy(), self._chunk.copy()
        own = _number(number) + self._behind
        chunk.update(own)
        whole.update(own + self._payload[self._stop :])
        chunks = [*self._manifest.chunks]
        chunks[self._own] = chunk.digest()
        return msgspec.structs.replace(
            self._manifest, sha256=whole.digest(), chunks=chunks
        )

    def chunk(self, number: int, index: int) -> bytes:
        """A chunk of the device's payload."""
        if index == self._own:
            return b"".join((self._before, _number(number), self._behind))
        return chunk_of(self._payload, self._manifest, index)


def _number(number: int) -> bytes:
    return np.float32(1e-6 * (number + 1)).astype("<f4").tobytes()


class Updates:
    """An update for each mask and codec."""

    def __init__(self, task: str) -> None:
        found = load_task(task)
        self._layers = layers_of(found.model(), found.dense_layers)
        self._made: dict[tuple[bytes, str, int], SharedUpdate] = {}

    def of(self, order: TaskOrder, base: bytes) -> SharedUpdate:
        """The update that answers an order."""
        key = order.mask.digest, order.codec, order.chunk_size
        if key not in self._made:
            self._made[key] = self._make(order, base)
        return self._made[key]

    def _make(self, order: TaskOrder, base: bytes) -> SharedUpdate:
        assert order.codec == "fp32", "the number is put in as a float"
        mask = draw(self._layers, order.mask.counts, order.mask.seed)
        start, rng = unpack_values(base, mask), np.random.default_rng(1)
        masked = {
            n: rng.normal(0, 1e-3, v.shape).astype(np.float32)
            for n, v in start.masked.items()
        }
        dense = {n: np.zeros_like(a) for n, a in start.dense.items()}
        payload = pack_values(Values(mask.digest, masked, dense), mask)
        *_, last = masked.values()
        norm = float(np.sqrt(sum(float(v @ v) for v in masked.values())))
        at = payload.index(last.astype("<f4").tobytes())
        return SharedUpdate(payload, at, norm, order.chunk_size)
