"""Measures exports: size, load time, latency, memory, accuracy, beside the targets.

Run from the root of the project:
    python tests/bench/bench_export.py [--json FILE] [--models mnistnet,resnet18]
    python tests/bench/bench_export.py --checkpoint FILE --data FOLDER   (a trained one)

Without a checkpoint the weights are random under ERK masks of all layers: sizes and
times do not depend on their values; accuracy is measured on a trained checkpoint only.
Ratios are against dense fp32 ONNX and dense onnxruntime, batch 1, one thread, both
called from Python. Runs alternate in bursts of 20, medians of burst medians: single
interleaved calls would measure a cache that the other side's weights have emptied.
Figures of the day: docs/export.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import export
from edge_sdk.checkpoint import Checkpoint, load_checkpoint
from edge_sdk.infer import NativeModel
from edge_sdk.models.inventory import layers_of
from edge_sdk.models.task import Task
from edge_sdk.models.zoo import FemnistCnn, McMahanCnn, MnistNet, ResNet18Cifar
from edge_sdk.sparse import draw, erk, exact_counts
from export.rebuild import Source, from_checkpoint
from export.runtime import open_session
from export.timing import machine, time_file

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mnistnet": (MnistNet, (1, 28, 28)),
    "mcmahan": (McMahanCnn, (1, 28, 28)),
    "femnist": (FemnistCnn, (1, 28, 28)),
    "resnet18": (ResNet18Cifar, (3, 32, 32)),
}
DENSITIES = (0.05, 0.1, 0.2)
SIZE = {0.05: 15.0, 0.1: 8.0, 0.2: 4.2}
SPEED = ((0.125, 4.0), (0.25, 2.0), (0.5, 1.1))
BURST, BURSTS = 20, 12


def random_source(name: str, density: float) -> Source:
    """A model with random weights under an ERK mask."""
    make, shape = MODELS[name]
    torch.manual_seed(1)
    model = make()
    state = {n: t.detach().numpy().copy() for n, t in model.state_dict().items()}
    layers = layers_of(model, frozenset())
    mask = draw(layers, exact_counts(erk(layers), layers, density), 1)
    checkpoint = Checkpoint(
        task=name,
        round_no=0,
        layers=layers,
        mask=mask,
        values={s.name: state[s.name][mask[s.name]] for s in layers},
        dense={n: a for n, a in state.items() if n not in mask.layers},
        metrics={},
    )

    def none(folder: Path) -> Any:
        raise AssertionError(folder)

    task = Task(
        name=name,
        model=make,
        loss=F.cross_entropy,
        train_data=none,
        eval_data=none,
        input_shape=shape,
    )
    return from_checkpoint(checkpoint, task=task)


def latencies(
    dense: Callable[[], object], ours: Callable[[], object]
) -> tuple[float, float]:
    """Median microseconds of both, bursts alternating."""
    medians: tuple[list[float], list[float]] = ([], [])
    for _ in range(BURSTS):
        for run, found in ((dense, medians[0]), (ours, medians[1])):
            taken = []
            for _ in range(BURST):
                start = time.perf_counter()
                run()
                taken.append(1e6 * (time.perf_counter() - start))
            found.append(statistics.median(taken[BURST // 4 :]))
    return statistics.median(medians[0]), statistics.median(medians[1])


def measure(
    source: Source, label: str, data: Path | None, folder: Path
) -> list[dict[str, Any]]:
    """One row per format."""
    dense = folder / "dense.onnx"
    export.build_source(source, format="onnx", out=dense)
    session = open_session(str(dense))
    feed = {"input": np.zeros((1, *source.input_shape), np.float32)}
    example = folder / "example.npy"
    np.save(example, feed["input"])
    reference = time_file("dense", dense, example, seconds=0.3)
    formats = ["onnx-sparse", "onnx-fp16", "ort", "native", "native-int8"]
    rows = []
    for name in [*formats, *(["onnx-int8"] if data else [])]:
        file = folder / f"m.{'flsp' if name.startswith('native') else name}"
        report = export.build_source(source, format=name, out=file, data=data)
        run = runner(file, feed["input"])
        base, own = latencies(lambda: session.run(None, feed), run)
        timing = time_file(name, file, example, seconds=0.3)
        accuracy = report.findings.accuracy
        rows.append({
            "model": label, "format": name, "size": round(report.size_ratio, 2),
            "mac_density": round(report.mac_density, 3), "dense_us": round(base, 1),
            "own_us": round(own, 1), "speed": round(base / own, 2),
            "load": round(timing.load_ms / reference.load_ms, 2),
            "memory": round(timing.peak_rss_mib / reference.peak_rss_mib, 2),
            "parity": report.findings.parity.max_relative,
            "lost_points": None if accuracy is None else round(accuracy.lost_points, 2),
        })  # fmt: skip
    return rows


def runner(file: Path, batch: np.ndarray) -> Callable[[], object]:
    """A call that runs one example."""
    if file.suffix == ".flsp":
        model = NativeModel(file)
        return lambda: model.run(batch)
    session = open_session(str(file))
    return lambda: session.run(None, {"input": batch})


def target(row: dict[str, Any], density: float | None) -> str:
    """What the row has to reach, and whether it does."""
    marks = []
    if row["format"] == "onnx-sparse" and density in SIZE:
        wanted = SIZE[density]
        marks.append(f"size {wanted}x {'ok' if row['size'] >= wanted else 'MISSED'}")
    if row["format"] == "native":
        wanted = next((s for d, s in SPEED if row["mac_density"] <= d), 0.0)
        if wanted:
            met = "ok" if row["speed"] >= wanted else "MISSED"
            marks.append(f"speed {wanted}x {met}")
    return ", ".join(marks)


def main() -> int:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs: list[tuple[str, float | None, Callable[[], Source]]]
    if options.checkpoint:
        checkpoint = load_checkpoint(options.checkpoint)
        density = checkpoint.mask.density
        label = f"{checkpoint.task} {density:.3g}"
        jobs = [(label, density, lambda: from_checkpoint(checkpoint))]
    else:
        jobs = [
            (f"{name} {d}", d, lambda name=name, d=d: random_source(name, d))
            for name in options.models.split(",")
            for d in DENSITIES
        ]
    head = f"{'model':14}{'format':13}{'size':>7}{'MACs':>7}{'dense us':>10}{'us':>9}"
    print(f"{head}{'speed':>7}{'load':>6}{'mem':>6}  parity   target")
    everything = []
    for label, density, make in jobs:
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure(make(), label, options.data, Path(scratch))
        for row in rows:
            everything.append(row)
            print(
                f"{row['model']:14}{row['format']:13}{row['size']:6.1f}x"
                f"{row['mac_density']:7.3f}{row['dense_us']:10.0f}{row['own_us']:9.0f}"
                f"{row['speed']:6.2f}x{row['load']:6.2f}{row['memory']:6.2f}"
                f"  {row['parity']:.0e}  {target(row, density)}",
                flush=True,
            )
    if options.json:
        versions = {"onnx": onnx.__version__, "torch": torch.__version__}
        values = {"machine": machine(), "versions": versions, "rows": everything}
        options.json.write_text(json.dumps(values, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
