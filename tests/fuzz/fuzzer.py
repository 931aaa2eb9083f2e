"""Mutated inputs for every decoder: only RemoteProtocolError, and little memory.

    python tests/fuzz/fuzzer.py --inputs 10000000 --seed 1

Seeds are real bytes of every format; each input is one of them with a few mutations
(flip, set to a telling byte, cut, repeat, insert, splice with another). The same seed
gives the same inputs. Whatever a decoder accepts must be of its type, so that a decoder
that accepts everything does not pass.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.infer.packed import files_in
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire import messages, rules, topics
from edge_sdk.wire.blob import Assembly, manifest_of
from edge_sdk.wire.codec import Envelope, Header, decode, encode, pack, tag_of, unpack
from edge_sdk.wire.evidence import Evidence, pack_evidence, unpack_evidence
from edge_sdk.wire.quantize import ZSTD, compress, decompress
from edge_sdk.wire.secure import messages as secure
from edge_sdk.wire.secure.messages import SecureMessage
from edge_sdk.wire.structure import CODES, decode_structure, encode_structure
from edge_sdk.wire.values import (
    CODECS,
    Values,
    mask_in,
    pack_values,
    unpack_moved,
    unpack_values,
)

__all__ = ["MAX_PEAK", "TARGETS", "Outcome", "Target", "run"]

MAX_PEAK = 32 << 20  # bytes that decoding one input may take
SAMPLE = 512  # every so many inputs are decoded under tracemalloc, which is slow
ADDRESS_SPACE = 1 << 30  # bytes beyond what the process has when it begins
TELLING = bytes.fromhex("00017f80818f909fa0bfc0c1c4c6c7c9cacbcfd0d3d4d9dbdcdddedfe0ff")

LAYERS = [LayerShape("conv", (8, 4, 3, 3)), LayerShape("fc", (20, 50))]
MASK = draw(LAYERS, {"conv": 30, "fc": 50}, 3)
SIZES = {layer.name: layer.numel for layer in LAYERS}
Decode = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """One decoder, and real bytes of what it decodes."""

    decode: Decode
    seeds: list[bytes]
    gives: type | tuple[type, ...]


@dataclass
class Outcome:
    """What a run found."""

    inputs: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[str, str, str]] = field(default_factory=list)
    peak: int = 0  # largest that tracemalloc saw for one input


def _manifest() -> messages.Manifest:
    return manifest_of(bytes(range(256)), chunk_size=100)


def _messages() -> Iterator[Any]:
    digest, manifest = bytes(32), _manifest()
    mask = messages.MaskRecipe(3, {"fc": 50, "conv": 30}, digest)
    moved = messages.MaskRecipe(0, {"fc": 50}, digest, manifest)
    training = messages.Training(1, 8, 0.1, max_steps=9)
    yield messages.Announce("running", "digits", 1, 3, ["fp32", "int8"])
    profile = {"board": "pi-4b", "ram_mib": 2048, "caps": {"cpu_share": 0.5}}
    yield messages.Hello(
        "idle", None, "0.1", "digits", 9, profile, ["fp32"], ["masked"], 9
    )
    yield messages.Wait(1000, "others are uploading")
    for rule in (rules.Frozen(), rules.WarmUp()):
        yield messages.TaskOrder(
            "1-a", 1, 0.1, manifest, mask, rule, training, 60_000, 0, "int8"
        )
    yield messages.TaskOrder(
        "1-a", 1, 0.1, manifest, moved, rules.Frozen(), training, 1, 0, "fp32", True
    )
    yield messages.TaskOrder(
        *("1-a", 1, 0.1, manifest, moved, rules.Frozen(), training, 1, 0, "fp32"),
        test=messages.BaseTest(["accuracy", "loss"], "classes 0.0"),
    )
    member, units = rules.Member({"fc": 20}, {"fc": (4, 5)}), {"fc.bias": [4, 8]}
    masked = secure.SecureRound(
        *(bytes(16), 16, 341, 0.25, 100, 3, [20, 50], [member]), units=units
    )
    yield messages.TaskOrder(
        *("1-a", 1, 0.1, manifest, mask, rules.Frozen(), training, 1, 0, "fp32"),
        secure=masked,
    )
    yield messages.TaskAck("1-a")
    tested = messages.BaseTested("1-a", 50, {"accuracy": [40.0, 50.0]}, {"loss": "NaN"})
    yield messages.TaskAck("2-a", tested)
    yield messages.Fail("1-a", "no memory")
    yield messages.Offer("1-a", manifest, digest, "int8", 64, 1.5, {"loss": 0.25})
    yield messages.Need("1-a", [(0, 2), (7, 9)], 16)
    yield messages.Data("1-a", 1, bytes(300))
    yield messages.Receipt("1-a", "accepted")
    yield messages.Cancel("1-a", "aborted")
    yield messages.Status(online=True, phase="training", sent=1, received=2)
    yield messages.Revoked(digest, "lost")
    yield messages.Renew("soon over")
    yield messages.Request(bytes(40))
    yield messages.Certificate(bytes(40))
    yield messages.NextKey(2, digest)
    yield messages.Install(2, manifest, digest, digest)
    yield messages.Running(digest, "digits, round 3", 2, "failed", "no camera")
    yield messages.Evaluate("3-a", 2, manifest, moved, ["accuracy", "loss"])
    yield messages.Evaluated("3-a", digest, 50, {"accuracy": [40.0, 50.0]})
    query, summary = messages.DataQuery([2]), messages.DataSummary(3, 3, [0.5, 1.0])
    yield messages.DescribeData("statistics", query)
    yield messages.DataDescribed("statistics", summary)
    yield from _secure_messages()


def _secure_messages() -> Iterator[SecureMessage]:
    """One of each kind, between a device and two that hold its shares."""
    key, share = bytes(range(32)), bytes(48)
    peers = [
        secure.SecurePeer(name, key, key, key, bytes(64)) for name in ("pi-1", "pi-2")
    ]
    yield secure.SecureKeys("3-a", key, key, key, bytes(64))
    yield secure.SecureKeys("3-a", key, key, key, noise=True, units=True, known=key)
    yield secure.SecurePeers("3-a", 2, peers)
    yield secure.SecureShares("3-a", [b"", share])
    yield secure.SecureDelivery("3-a", [b"", share], bytes([1, 2]))
    yield secure.SecureReady("3-a")
    yield secure.SecureUnmask("3-a", bytes([1, 0]))
    yield secure.SecureReveal("3-a", [share, b""])
    yield secure.SecureReveal("3-a", why="too few devices are left")


def _packet(message: Any) -> bytes:
    header = Header(tag_of(message), "demo", "pi-1", "coordinator", 2, 3, 4, 5)
    return encode(header, message, sign=lambda _: bytes(64))


def _payload(codec: str, *, structure: bool = False) -> bytes:
    rng = np.random.default_rng(5)
    kept = {n: rng.normal(size=MASK.counts[n]).astype(np.float32) for n in MASK}
    dense: dict[str, Any] = {
        "fc.bias": np.ones(20, np.float32),
        "bn.running_var": np.ones(8, np.float32),
        "bn.seen": np.array(7, np.int64),
    }
    return pack_values(
        Values(MASK.digest, kept, dense), MASK, codec=codec, structure=structure
    )


def _assembled(data: bytes) -> object:
    """A manifest and then a chunk of it, as a device gets them."""
    assembly = Assembly(unpack(data, messages.Manifest))
    assembly.add(0, bytes(range(100)))
    return assembly.content() if assembly.complete else assembly.missing()


def _bundle() -> bytes:
    files = {"manifest.json": b"{}", "golden/input.npy": bytes(40)}
    packed: bytes = msgpack.packb(files)
    return packed


def targets() -> dict[str, Target]:
    """Every decoder of bytes that come from elsewhere."""
    found = {
        "envelope": Target(decode, [_packet(m) for m in _messages()], Envelope),
        "values": Target(
            lambda data: unpack_values(data, MASK),
            [_payload(c) for c in CODECS],
            Values,
        ),
        "bundle": Target(files_in, [_bundle()], dict),
        "moved": Target(
            lambda data: unpack_moved(data, MASK),
            [_payload("int8", structure=True)],
            tuple,
        ),
        "mask": Target(
            lambda data: mask_in(data, LAYERS),
            [_payload("fp32", structure=True), _payload("fp32")],
            (Mask, type(None)),
        ),
        "structure": Target(
            lambda data: decode_structure(data, LAYERS, MASK.digest),
            [encode_structure(MASK, codes=[code]) for code in CODES],
            Mask,
        ),
        "evidence": Target(
            lambda data: unpack_evidence(data, SIZES),
            [pack_evidence(Evidence({"conv": 30, "fc": 50}))],
            Evidence,
        ),
        "topic": Target(
            lambda data: topics.parse(data.decode("utf-8", "replace"), "demo"),
            [
                topics.announcement("demo").encode(),
                topics.chunk("demo", "ab" * 32, 7).encode(),
                topics.inbox("demo", "pi-1").encode(),
                topics.upload("demo", "pi-1", 0, data=True).encode(),
                topics.status("demo", "pi-1").encode(),
            ],
            object,
        ),
        "manifest": Target(_assembled, [pack(_manifest())], (bytes, list)),
    }
    for message in _messages():
        kind = type(message)
        known = found.get(kind.__name__)
        seeds = [*(known.seeds if known else []), pack(message)]
        found[kind.__name__] = Target(lambda d, k=kind: unpack(d, k), seeds, kind)
    if ZSTD:
        raw = bytes(200) + bytes(range(100))
        found["zstd"] = Target(
            lambda data: decompress(data, len(raw)), [compress(raw)], bytes
        )
    return found


TARGETS = targets()


def mutate(data: bytes, other: bytes, draws: list[int]) -> bytes:
    """One input: a seed with as many mutations as the draws say.

    Args:
        data: The seed.
        other: Another seed, to splice with.
        draws: Numbers below 2^30, used in order.
    """
    found = bytearray(data)
    for kind, where, what in zip(draws[0::3], draws[1::3], draws[2::3], strict=False):
        at = where % (len(found) + 1)
        match kind % 8:
            case 0 | 1 if at < len(found):
                found[at] ^= 1 << what % 8
            case 2 if at < len(found):
                found[at] = TELLING[what % len(TELLING)]
            case 3 if at < len(found):
                found[at] = what & 255
            case 4:
                del found[at : at + what % 9]
            case 5:
                found[at:at] = found[at : at + what % 33]
            case 6:
                found[at:at] = what.to_bytes(4, "big")[: what % 5]
            case 7:
                found[at:] = other[at : at + 1 + what % 200]
            case _:
                pass
    if draws[0] % 1009 == 0 and found:  # now and then a large one
        found[len(found) // 2 : len(found) // 2] = bytes(found) * (
            draws[1] % (65_536 // len(found) + 1)
        )
    return bytes(found)


def run(inputs: int, seed: int) -> Outcome:
    """So many inputs over all decoders; stops at nothing."""
    outcome, rng = Outcome(), np.random.default_rng(seed)
    names, every = list(TARGETS), [s for t in TARGETS.values() for s in t.seeds]
    while outcome.inputs < inputs:
        batch = min(20_000, inputs - outcome.inputs)
        for row in rng.integers(0, 1 << 30, size=(batch, 13)).tolist():
            outcome.inputs += 1
            name = names[row[0] % len(names)]
            target = TARGETS[name]
            seeds = target.seeds
            count = 3 * (1 + row[1] % 4)
            data = mutate(
                seeds[row[2] % len(seeds)],
                every[row[3] % len(every)],
                row[1 : 1 + count],
            )
            _one(outcome, name, target, data, measure=row[12] % SAMPLE == 0)
    return outcome


def _one(
    outcome: Outcome, name: str, target: Target, data: bytes, *, measure: bool
) -> None:
    if measure:
        tracemalloc.start()
    try:
        value = target.decode(data)
    except RemoteProtocolError:
        pass
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        outcome.crashes.append((name, data.hex(), f"{type(error).__name__}: {error}"))
    else:
        outcome.accepted[name] += 1
        if not isinstance(value, target.gives):
            outcome.crashes.append((name, data.hex(), f"it gave {type(value)}"))
    if measure:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        outcome.peak = max(outcome.peak, peak)
        if peak > MAX_PEAK:
            outcome.crashes.append((name, data.hex(), f"it took {peak} bytes"))


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - Linux only
        here = int(file.read().split()[0]) * resource.getpagesize()
    limit = here + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Prints what was found; 1 if anything."""
    parser = argparse.ArgumentParser(description="Fuzz every decoder.")
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    own = parser.parse_args()
    if sys.platform == "linux":
        _limit_memory()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, cpu = time.monotonic(), time.process_time()
    outcome = run(own.inputs, own.seed)
    taken, cpu = time.monotonic() - began, time.process_time() - cpu
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - rss
    print(
        f"{outcome.inputs} inputs of {len(TARGETS)} decoders, seed {own.seed}: "
        f"{len(outcome.crashes)} crashes, {sum(outcome.accepted.values())} accepted, "
        f"{outcome.inputs / cpu:.0f} a CPU second ({taken:.0f} s), "
        f"peak of one input {outcome.peak / 2**20:.2f} MiB, "
        f"the process grew by {grown:.0f} MiB"
    )
    for name, data, what in outcome.crashes[:20]:
        print(f"{name}: {what}: {data[:200]}")
    return 1 if outcome.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
