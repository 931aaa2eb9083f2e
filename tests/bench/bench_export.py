"""Measures exports of trained checkpoints beside the goals of docs/export.md.

Run from the root of the project:
    python tests/bench/bench_export.py [--json FILE] [--models mnistnet,resnet18]
        [--densities 0.05,0.1] [--arm]
    python tests/bench/bench_export.py --checkpoint FILE --data FOLDER   (your own)

What is trained, and how little: trained.py. Times are processor time of the one thread
that computes, in bursts of one runtime after the other, medians of all but each burst's
first runs: single interleaved calls would measure a cache that the other side's weights
have emptied. Load times are the least of three processes. Every format passes its gates
on the way, or the bench ends there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulated import instructions, program
from trained import MODELS, evaluation, task_of, trained

import export
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.infer import NativeModel
from edge_sdk.json_text import to_json
from export.measure.timing import Timing, machine, time_file
from export.rebuild import Source, from_checkpoint
from export.runtime import open_session

DENSITIES = (0.05, 0.1, 0.2)
FORMATS = ("onnx-sparse", "onnx-fp16", "onnx-int8", "ort", "native", "native-int8")
SIZE = {0.05: 15.0, 0.1: 8.0, 0.2: 4.2}
INT8_SIZE = {0.05: 35.0, 0.1: 20.0}  # above 5 M parameters
SPEED = ((0.125, 4.0), (0.25, 2.0), (0.5, 1.1))
BURST, BURSTS = 20, 12


def latencies(
    runs: dict[str, Callable[[], object]],
) -> dict[str, tuple[float, float, float]]:
    """p50, p90 and least microseconds of processor time of each, bursts alternating."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(BURSTS):
        for name, run in runs.items():
            taken = []
            for _ in range(BURST):
                start = time.thread_time()  # not the turns of other processes
                run()
                taken.append(1e6 * (time.thread_time() - start))
            found[name] += taken[BURST // 4 :]
    return {
        name: (
            float(np.percentile(all_, 50)),
            float(np.percentile(all_, 90)),
            min(all_),
        )
        for name, all_ in found.items()
    }


def fresh(name: str, file: Path, example: Path) -> Timing:
    """Load time and memory, in processes of their own: the least of three."""
    timings = [time_file(name, file, example, seconds=0.05) for _ in range(3)]
    load = min(t.load_ms for t in timings)
    return replace(min(timings, key=lambda t: t.peak_rss_mib), load_ms=load)


def measure(
    source: Source, label: str, data: Path, folder: Path
) -> list[dict[str, Any]]:
    """One row per format."""
    files = {"onnx": folder / "dense.onnx"}
    dense = export.build_source(source, format="onnx", out=files["onnx"], data=data)
    reports = {}
    for name in FORMATS:
        files[name] = folder / f"m.{'flsp' if name == 'native' else name}"
        if name == "native-int8":
            files[name] = folder / "m8.flsp"
        report = export.build_source(source, format=name, out=files[name], data=data)
        reports[name] = report
    batch = source.inputs(data, 1).batch
    example = folder / "example.npy"
    np.save(example, batch)
    times = latencies({name: runner(file, batch) for name, file in files.items()})
    reference = fresh("onnx", files["onnx"], example)
    parameters = sum(p.numel() for p in source.model.parameters())
    rows = []
    for name, report in reports.items():
        timing = fresh(name, files[name], example)
        accuracy = report.findings.accuracy
        rows.append({
            "model": label, "format": name, "bytes": report.file_bytes,
            "dense_bytes": dense.file_bytes, "size": round(report.size_ratio, 2),
            "density": source.mask.density, "mac_density": round(report.mac_density, 3),
            "parameters": parameters,
            "dense_p50_us": round(times["onnx"][0], 1),
            "dense_p90_us": round(times["onnx"][1], 1),
            "p50_us": round(times[name][0], 1), "p90_us": round(times[name][1], 1),
            "speed": round(times["onnx"][0] / times[name][0], 2),
            "speed_of_minima": round(times["onnx"][2] / times[name][2], 2),
            "load": round(timing.load_ms / reference.load_ms, 2),
            "memory": round(timing.peak_rss_mib / reference.peak_rss_mib, 2),
            "parity": report.findings.parity.max_relative,
            "bitwise": report.findings.bitwise,
            "accuracy": None if accuracy is None else accuracy.exact,
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


def goals(row: dict[str, Any], density: float | None) -> list[tuple[str, bool]]:
    """What the row has to reach, and whether it does."""
    found = []
    name = row["format"]
    if name == "onnx-sparse":
        if density in SIZE:
            small = row["bytes"] < 2**20 and density == 0.05
            least = 14.0 if small else SIZE[density]
            found.append((f"size {least}x", row["size"] >= least))
        found += [
            ("parity", row["parity"] <= 1e-5),
            ("bitwise", row["bitwise"] is True),
        ]
        found.append(("load 2.5", row["load"] <= 2.5))
    if name == "onnx-int8":
        if row["parameters"] > 5e6 and density in INT8_SIZE:
            least = INT8_SIZE[density]
            found.append((f"size {least}x", row["size"] >= least))
        found.append(("0.5 points", row["lost_points"] <= 0.5))
    if name == "native":
        found.append(("parity", row["parity"] <= 1e-5))
        least = next((s for d, s in SPEED if row["mac_density"] <= d), 0.0)
        if least:
            found.append((f"speed {least}x", row["speed"] >= least))
        if row["model"].startswith("resnet18") and density == 0.05:
            found.append(("memory 0.25", row["memory"] <= 0.25))
    return found


def main() -> int:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--densities", default=",".join(map(str, DENSITIES)))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--arm", action="store_true", help="count instructions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs: list[tuple[str, float | None, Callable[[Path], tuple[Source, Path]]]]
    if options.checkpoint:
        if options.data is None:
            parser.error("--checkpoint needs --data, the folder of its eval.npz")
        own = load_checkpoint(options.checkpoint)
        jobs = [(own.task, None, lambda _: (from_checkpoint(own), options.data))]
    else:
        jobs = [
            (f"{name} {d}", d, lambda folder, name=name, d=d: prepared(name, d, folder))
            for name in options.models.split(",")
            for d in map(float, options.densities.split(","))
        ]
    head = f"{'model':14}{'format':12}{'size':>7}{'MACs':>6}{'dense us':>9}{'p50':>7}"
    head += f"{'p90':>7}{'speed':>7}{'least':>7}{'load':>6}{'mem':>6}"
    print(f"{head}  parity  lost  goals")
    everything = []
    for label, density, make in jobs:
        with tempfile.TemporaryDirectory() as scratch:
            source, data = make(Path(scratch))
            rows = measure(source, label, data, Path(scratch))
            if options.arm:
                batch = source.inputs(data, 1).batch
                native = Path(scratch) / "m.flsp"
                tool = program(Path(scratch))
                count = instructions(tool, native, batch, Path(scratch))
                print(f"{label}: {count / 1e6:.2f} M aarch64 instructions")
                rows[-2]["aarch64_instructions"] = count
        for row in rows:
            reached = goals(row, density)
            everything.append({**row, "goals": dict(reached)})
            words = ", ".join(f"{w} {'ok' if ok else 'MISSED'}" for w, ok in reached)
            lost = (
                "    -" if row["lost_points"] is None else f"{row['lost_points']:5.2f}"
            )
            print(
                f"{row['model']:14}{row['format']:12}{row['size']:6.1f}x"
                f"{row['mac_density']:6.3f}{row['dense_p50_us']:9.0f}{row['p50_us']:7.0f}"
                f"{row['p90_us']:7.0f}{row['speed']:6.2f}x{row['speed_of_minima']:6.2f}x"
                f"{row['load']:6.2f}{row['memory']:6.2f}"
                f"  {row['parity']:.0e} {lost}  {words}",
                flush=True,
            )
    if options.json:
        values = {"machine": machine(), "versions": export.builder.versions(),
                  "rows": everything}  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(to_json(values, indent=2))
    return 0


def prepared(name: str, density: float, folder: Path) -> tuple[Source, Path]:
    """The trained model, and a folder with its evaluation examples."""
    return (
        from_checkpoint(trained(name, density), task=task_of(name)),
        evaluation(name, folder),
    )


if __name__ == "__main__":
    sys.exit(main())
