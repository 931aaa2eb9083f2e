"""Measures bytes and accuracy of a short federation, one codec after the other.

Run from the root of the project:
    python tests/bench/bench_protocol_bytes.py [--rounds N] [--seeds 1,2] [--json FILE]
        [--pairs int8/fp16,int8+zstd/fp16+zstd]

Every update is trained and packed by the device's own runner, every model by the
coordinator's own packing, every message is encoded; only the broker is left out. The
base of comparison is what dense FedAvg sends in fp32 over the same rounds, in the same
messages. One mask at the uniform density, no warm-up. Figures of the day:
docs/codecs.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coordinator.aggregate import Contribution, Model, coverage_mean
from coordinator.algorithm import Family
from edge_sdk.models.datasets import load_dataset
from edge_sdk.models.inventory import initial_state, layers_of
from edge_sdk.models.partition import lda
from edge_sdk.models.task import Examples, Task, load_task
from edge_sdk.sparse import exact_counts, uniform
from edge_sdk.training.local import score
from edge_sdk.training.masked import masked_model
from edge_sdk.training.runner import Packed, TaskRunner
from edge_sdk.wire.blob import chunk_of, manifest_of
from edge_sdk.wire.codec import Header, encode, tag_of
from edge_sdk.wire.messages import (
    Data,
    Frozen,
    Message,
    Need,
    Receipt,
    TaskAck,
    TaskOrder,
    Training,
)
from edge_sdk.wire.values import Values, pack_values, unpack_values

PAIRS = "fp32/fp32,fp16/fp16,int8/fp16,int8/int8,int4/fp16,int8+zstd/fp16+zstd"
DENSITY, DEVICES, STEPS, BATCH = 0.05, 4, 40, 32


@dataclass
class Traffic:
    """Bytes of payloads and of everything, each way."""

    up: int = 0
    down: int = 0
    messages: int = 0


def main() -> None:
    """Prints one line per pair of codecs, seeds averaged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--pairs", default=PAIRS, help="codecs up/down")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task(args.task)
    split = load_dataset(args.task, Path("~/.cache/flash-edge").expanduser())
    seeds = [int(seed) for seed in args.seeds.split(",")]
    dense = _dense_bytes(task)
    rows = []
    for pair in args.pairs.split(","):
        up, down = pair.split("/")
        found = [
            _federate(task, split, (up, down), args.rounds, seed) for seed in seeds
        ]
        rows.append(_row((up, down), found, dense, args.rounds))
        print(rows[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _row(
    pair: tuple[str, str], found: list[tuple[Traffic, float]], dense: int, rounds: int
) -> dict[str, Any]:
    tasks = rounds * DEVICES * len(found)
    up = sum(t.up for t, _ in found) / tasks
    down = sum(t.down for t, _ in found) / tasks
    messages = sum(t.messages for t, _ in found) / tasks
    return {
        "up": pair[0],
        "down": pair[1],
        "update": round(up),
        "model": round(down),
        "messages": round(messages),
        "ratio up": round(dense / up, 1),
        "ratio down": round(dense / down, 1),
        # Dense FedAvg has the same messages, and one envelope per chunk.
        "ratio of all": round((2 * dense + messages) / (up + down + messages), 1),
        "accuracy": [round(100 * accuracy, 2) for _, accuracy in found],
    }


def _dense_bytes(task: Task) -> int:
    return sum(a.nbytes for a in initial_state(task, 1).values())


def _federate(
    task: Task,
    split: tuple[Examples, Examples],
    codecs: tuple[str, str],
    rounds: int,
    seed: int,
) -> tuple[Traffic, float]:
    layers = layers_of(task.model(), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, DENSITY)
    family = Family.draw(layers, {DENSITY: counts}, seed)
    train, evaluation = split
    parts = lda(train.targets, DEVICES, 1.0, np.random.default_rng(seed))
    runners = [TaskRunner(task, train.take(part), "masked") for part in parts]
    state: dict[str, NDArray[Any]] = initial_state(task, seed)
    masked = {n: state.pop(n)[family.top[n]] for n in family.top}
    model, traffic = Model(family.top, masked, state), Traffic()
    for no in range(1, rounds + 1):
        base = pack_values(model.on(family.top), family.top, codec=codecs[1])
        changes: list[Contribution] = []
        for device, runner in enumerate(runners):
            order = _order(family, base, codecs[0], no, rounds, 1000 * seed + device)
            packed = runner.run(order, base, lambda: False)
            change = unpack_values(packed.payload, family.top, codec=codecs[0])
            changes.append(
                Contribution(str(device), family.top, packed.offer.examples, change)
            )
            traffic.up += len(packed.payload)
            traffic.down += len(base)
            traffic.messages += sum(_envelopes(order, packed))
        model, _ = coverage_mean(model, changes)
    return traffic, _accuracy(task, model.on(family.top), family, evaluation)


def _order(
    family: Family, base: bytes, codec: str, no: int, rounds: int, seed: int
) -> TaskOrder:
    rate = 0.1 * math.pow(0.02 / 0.1, (no - 1) / max(1, rounds - 1))
    return TaskOrder(
        id=f"{no}-0123456789abcdef",
        round_no=no,
        density=DENSITY,
        base=manifest_of(base),
        mask=family.recipe(family.top),
        rule=Frozen(),
        training=Training(1, BATCH, rate, max_steps=STEPS, seed=seed * 1000 + no),
        ttl_ms=60_000,
        shard=0,
        codec=codec,
    )


def _envelopes(order: TaskOrder, packed: Packed) -> Iterator[int]:
    """Bytes of a task's messages without the payload itself."""
    manifest = packed.offer.manifest
    said: list[Message] = [
        order,
        TaskAck(order.id),
        packed.offer,
        Need(order.id, [(0, len(manifest.chunks))], 16),
        Receipt(order.id, "accepted"),
    ]
    said += [
        Data(order.id, index, chunk_of(packed.payload, manifest, index))
        for index in range(len(manifest.chunks))
    ]
    for message in said:
        head = Header(
            tag_of(message), "demo", "device-1", "coordinator", 3_000_000, 1, 1 << 47
        )
        yield len(encode(head, message, sign=lambda _: bytes(64)))
    yield -len(packed.payload)


def _accuracy(task: Task, values: Values, family: Family, examples: Examples) -> float:
    ready = masked_model(task.model(), family.top)
    ready.load(values.masked, values.dense)
    ready.train(mode=False)
    return score(ready, task, examples)["accuracy"]


if __name__ == "__main__":
    main()
