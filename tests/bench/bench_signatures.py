"""Measures what signatures cost: processor time of one update's messages, both ends.

Run from the root of the project:
    python tests/bench/bench_signatures.py [--bytes N]

One task as the protocol sends it: order, ack, offer, need, chunks, receipt, progress
left out. Encoded and signed by its sender, checked and decoded by its receiver, with
and without signatures, interleaved. Figures of the day: docs/scale.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_sdk.identity.signatures import Seal, signer, verifier
from edge_sdk.wire.blob import chunk_of, manifest_of
from edge_sdk.wire.codec import Header, decode, encode, tag_of
from edge_sdk.wire.messages import Data, Message, Need, Offer, Receipt, TaskAck

REPEATS = 201
DEVICE, COORDINATOR = "device-1", "coordinator"


def main() -> None:
    """Prints one line per side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=251_016, help="of one update")
    chosen = parser.parse_args()
    payload = np.random.default_rng(1).bytes(chosen.bytes)
    manifest = manifest_of(payload)
    chunks = range(len(manifest.chunks))
    up: list[Message] = [
        TaskAck("1-a"),
        Offer("1-a", manifest, bytes(32), "fp32", 600, 1.0, {"loss": 0.1}),
        *(Data("1-a", i, chunk_of(payload, manifest, i)) for i in chunks),
    ]
    down: list[Message] = [
        Need("1-a", [(0, len(chunks))], 16),
        Receipt("1-a", "accepted"),
    ]
    keys = {DEVICE: Ed25519PrivateKey.generate()}
    keys[COORDINATOR] = Ed25519PrivateKey.generate()
    raw = {
        who: key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        for who, key in keys.items()
    }
    known = verifier(lambda who: [raw[who]])
    seals = {who: Seal(signer(lambda k=key: k), known) for who, key in keys.items()}
    for name, source, messages in (("up", DEVICE, up), ("down", COORDINATOR, down)):
        plain, signed = _interleaved(source, messages, seals[source])
        print(
            f"{name}: {len(messages)} messages; ms of CPU to send "
            f"{plain[0]:.2f} plain, {signed[0]:.2f} signed; to receive "
            f"{plain[1]:.2f} plain, {signed[1]:.2f} signed"
        )


def _interleaved(
    source: str, messages: list[Message], seal: Seal
) -> tuple[tuple[float, float], tuple[float, float]]:
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(REPEATS):
        for signed in (False, True):
            found[signed].append(_cost(source, messages, seal if signed else None))
    plain, signed_ = (
        (statistics.median(a for a, _ in row), statistics.median(b for _, b in row))
        for row in (found[False], found[True])
    )
    return plain, signed_


def _cost(
    source: str, messages: list[Message], seal: Seal | None
) -> tuple[float, float]:
    """Milliseconds of CPU to send and to receive them."""
    heads = [
        Header(tag_of(message), "demo", source, "x", 1, 1, no)
        for no, message in enumerate(messages, 1)
    ]
    began = time.process_time()
    packets = [
        encode(head, message, sign=seal.sign if seal else None)
        for head, message in zip(heads, messages, strict=True)
    ]
    sent = time.process_time()
    for packet in packets:
        decode(packet, verify=seal.verify if seal else None)
    return 1e3 * (sent - began), 1e3 * (time.process_time() - sent)


if __name__ == "__main__":
    main()
