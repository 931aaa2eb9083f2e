"""Measures one update of each codec: bytes against dense fp32, and the time to pack it.

Run from the root of the project:
    python tests/bench/bench_codecs.py [--density D] [--json FILE]

Changes are random. What a whole federation sends, with messages, warm-up and TCP:
tests/bench/bench_wire.py. Figures of the day: docs/codecs.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_sdk.json_text import to_json
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of
from edge_sdk.wire.structure import CODES, encode_structure
from edge_sdk.wire.values import Values, pack_values, unpack_values
from edge_sdk.zoo.resnet import ResNet18Cifar
from edge_sdk.zoo.small import MnistNet

CODECS = ("fp32", "fp16", "int8", "int4")
# Weights outside the mask, as their tasks have them.
MODELS: dict[str, tuple[Callable[[], nn.Module], frozenset[str]]] = {
    "MNISTNet": (MnistNet, frozenset({"conv1.weight", "fc2.weight"})),
    "ResNet18-CIFAR": (ResNet18Cifar, frozenset({"conv1.weight"})),
}
REPEATS = 9


def main() -> None:
    """Prints a table per model; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--json", type=Path, help="file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: _model(name, chosen.density) for name in MODELS}
    if chosen.json:
        chosen.json.write_text(to_json(found, indent=1), encoding="utf-8")


def _model(name: str, density: float) -> dict[str, Any]:
    make, kept_dense = MODELS[name]
    model = make()
    layers = layers_of(model, kept_dense)
    mask = draw(layers, exact_counts(uniform(layers), layers, density), 1)
    values = _random(model, mask)
    whole = sum(np.asarray(v).nbytes for v in model.state_dict().values())
    print(f"{name}, density {density:g}: {whole} bytes dense in fp32")
    rows = [_codec(values, mask, codec, whole) for codec in CODECS]
    structure = {c: len(encode_structure(mask, codes=(c,))) for c in CODES}
    print("its mask: " + ", ".join(f"{c} {n} bytes" for c, n in structure.items()))
    return {"dense": whole, "codecs": rows, "structure": structure}


def _random(model: nn.Module, mask: Mask) -> Values:
    rng = np.random.default_rng(1)
    dense = {
        name: (
            rng.normal(0, 0.01, value.shape).astype(np.float32)
            if value.is_floating_point()
            else value.numpy()
        )
        for name, value in model.state_dict().items()
        if name not in mask
    }
    masked = {
        name: rng.normal(0, 0.01, mask.counts[name]).astype(np.float32) for name in mask
    }
    return Values(mask.digest, masked, dense)


def _codec(values: Values, mask: Mask, codec: str, whole: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    payload = pack_values(values, mask, codec=codec, rng=rng)
    small = pack_values(values, mask, codec=f"{codec}+zstd", rng=rng)
    row = {
        "codec": codec,
        "bytes": len(payload),
        "ratio": round(whole / len(payload), 1),
        "ratio zstd": round(whole / len(small), 1),
        "pack ms": _ms(lambda: pack_values(values, mask, codec=codec, rng=rng)),
        "unpack ms": _ms(lambda: unpack_values(payload, mask, codec=codec)),
    }
    print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def _ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return round(1e3 * statistics.median(times), 1)


if __name__ == "__main__":
    main()
