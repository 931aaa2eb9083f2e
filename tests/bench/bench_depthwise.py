"""Measures calls of depth-wise layers alone beside onnxruntime.

Run from the root of the project:
    PYTHONPATH=tests .venv/bin/python tests/bench/bench_depthwise.py
        [--isa v4,v3] [--layers 3x2x144x56,5x1x672x14] [--turns 11]

A layer is KERNELxSTRIDExCHANNELSxSIDE: shapes of MobileNetV2 and EfficientNet-B0. One
thread, batch 1, processor time, bursts in turn, medians; outputs are compared first.
The ratio is of the whole call from Python. onnxruntime takes the best kernels of the
processor whatever --isa says, so that v3 stands beside AVX-512 where there is AVX-512.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from native_graphs import model_of, node

from edge_sdk.infer import NativeModel
from export.native.fileformat import write
from export.native.fuse import fuse
from export.native.lower import lower

LAYERS = (
    "3x1x32x112,3x2x96x112,3x1x144x56,3x2x144x56,3x1x192x28,3x2x192x28,3x2x240x28,"
    "3x1x384x14,3x1x576x14,3x2x576x14,3x1x960x7,5x2x144x56,5x1x240x28,5x1x480x14,"
    "5x1x672x14,5x2x672x14,5x1x1152x7"
)
WORK = 2e6  # values of a burst


def runs_of(layer: str, isas: list[str]) -> dict[str, Callable[[], Any]]:
    """The layer in onnxruntime and on each kernel set, on the same example."""
    side, stride, channels, size = map(int, layer.split("x"))
    random = np.random.default_rng(0)
    weight = random.standard_normal((channels, 1, side, side)) / side
    arrays = {
        "w": weight.astype(np.float32),
        "b": random.standard_normal(channels).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    conv = node(
        *("Conv", ["input", "w", "b"], ["c"]),
        group=channels,
        pads=[side // 2] * 4,
        strides=[stride] * 2,
    )
    shape = (channels, size, size)
    clip = node("Clip", ["c", "low", "high"], ["output"])
    model = model_of([conv, clip], arrays, shape)
    x = random.standard_normal((1, *shape)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    runs: dict[str, Callable[[], Any]] = {
        "dense": lambda: session.run(None, {"input": x})
    }
    (wanted,) = session.run(None, {"input": x})
    content = write(fuse(lower(model)), {})
    for isa in isas:
        os.environ["FLSP_ISA"] = isa
        native = NativeModel(content)
        os.environ.pop("FLSP_ISA")
        assert np.allclose(native.run(x), wanted, 1e-4, 1e-5)
        runs[isa] = lambda native=native: native.run(x)  # type: ignore[misc]
    return runs


def main(arguments: list[str]) -> int:
    """Prints a line per layer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", default="v4,v3")
    parser.add_argument("--layers", default=LAYERS)
    parser.add_argument("--turns", type=int, default=11)
    options = parser.parse_args(arguments)
    for layer in options.layers.split(","):
        _, _, channels, size = map(int, layer.split("x"))
        burst = max(4, int(WORK / (channels * size * size)))
        runs = runs_of(layer, options.isa.split(","))
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.turns):
            for name, run in runs.items():
                run()
                start = time.process_time_ns()
                for _ in range(burst):
                    run()
                taken[name].append((time.process_time_ns() - start) / 1e3 / burst)
        us = {name: statistics.median(values) for name, values in taken.items()}
        dense = us.pop("dense")
        speeds = "  ".join(f"{isa} {dense / one:.2f}x" for isa, one in us.items())
        print(f"{layer:14s} {dense:7.1f} us  {speeds}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
