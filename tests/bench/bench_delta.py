"""What a delta of the model against the last one would save; prints a table.

    python tests/bench/bench_delta.py

One device trains `digits` round after round under a frozen mask; each row compares the
next base as it travels with its bitwise difference to the last one, both tried with
zstd, and with the change itself in int8.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.quantize import compress, encode
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values, pack_values, unpack_values

ROUNDS = (1, 2, 5, 10, 20)


def main() -> None:
    """Trains and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepare_folders(
            "digits", folder / "cache", folder / "data", ["pi-1"], alpha=1.0, seed=1
        )
        examples = load_partition(data["pi-1"])
    task = load_task("digits")
    layers = layers_of(task.model(), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, 0.2)
    mask = draw(layers, counts, 5)
    state = initial_state(task, 1)
    kept = {n: state.pop(n)[mask[n]] for n in mask}
    model = Values(mask.digest, kept, state)
    runner = TaskRunner(task, examples, "masked")
    print(f"{mask.nnz} kept values; bytes of them per codec, zstd where it is smaller")
    print("round  fp16  xor fp16  int8  xor int8  change as int8  unchanged values")
    for no in range(1, max(ROUNDS) + 1):
        base = pack_values(model, mask)
        order = TaskOrder(
            id=f"{no}-a",
            round_no=no,
            density=0.2,
            base=manifest_of(base),
            mask=MaskRecipe(5, counts, mask.digest),
            rule=Frozen(),
            training=Training(1, 16, 0.05 * 0.9**no, max_steps=20, seed=no),
            ttl_ms=1000,
            shard=0,
            codec="fp32",
        )
        change = unpack_values(runner.run(order, base, lambda: False).payload, mask)
        grown = Values(
            mask.digest,
            {n: v + change.masked[n] for n, v in model.masked.items()},
            {n: v + change.dense[n] for n, v in model.dense.items()},
        )
        if no in ROUNDS:
            print(_row(no, model, grown))
        model = grown


def _row(no: int, before: Values, after: Values) -> str:
    cells = []
    for codec in ("fp16", "int8"):
        one, two = (_coded(codec, v) for v in (before, after))
        xor = bytes(np.frombuffer(one, np.uint8) ^ np.frombuffer(two, np.uint8))
        cells += [_small(two), min(_small(xor), _small(_planes(xor)))]
    change = {n: after.masked[n] - v for n, v in before.masked.items()}
    direct = b"".join(encode("int8", v) for v in change.values())
    old, new = (np.concatenate(list(v.masked.values())) for v in (before, after))
    same = float(np.mean(old.astype(np.float16) == new.astype(np.float16)))
    return (
        f"{no:5d} {cells[0]:5d} {cells[1]:9d} {cells[2]:5d} {cells[3]:9d} "
        f"{_small(direct):15d} {same:17.0%}"
    )


def _coded(codec: str, values: Values) -> bytes:
    return b"".join(encode(codec, v) for v in values.masked.values())


def _planes(data: bytes) -> bytes:
    """Low bytes first, then high bytes: what they share is then side by side."""
    return data[0::2] + data[1::2]


def _small(data: bytes) -> int:
    return min(len(data), len(compress(data)))


if __name__ == "__main__":
    main()
