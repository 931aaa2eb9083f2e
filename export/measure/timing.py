"""Latency, load time and memory of a bundle's models, beside dense onnxruntime."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from edge_sdk.child_process import child_module, output_of
from edge_sdk.errors import ExportError
from edge_sdk.infer.bundle import read_manifest
from edge_sdk.infer.compressed import read_plain
from export.extras import require

__all__ = ["Timing", "bench", "machine", "time_file"]

_DENSE = "dense onnxruntime"
_MOST_THREADS = 256


@dataclass(frozen=True)
class Timing:
    """Measurements of one model in one process, batch 1.

    Attributes:
        name: Format, or "dense onnxruntime" for the reference.
        load_ms: Opening and first run, milliseconds.
        p50_ms: Median latency.
        p90_ms: 90th percentile.
        peak_rss_mib: Peak resident memory of the process, Python included.
        threads: Threads used.
        runs: Runs timed.
    """

    name: str
    load_ms: float
    p50_ms: float
    p90_ms: float
    peak_rss_mib: float
    threads: int
    runs: int


def machine() -> dict[str, Any]:
    """The machine a figure was measured on."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
    except OSError:
        pass
    return {
        "processor": model,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def time_file(
    name: str, file: Path, example: Path, *, threads: int = 1, seconds: float = 1.0
) -> Timing:
    """Times one file in a fresh process, so that memory is its own.

    Raises:
        ExportError: If the process fails; with its last line.
    """
    where = str(file), str(example)
    done = output_of(
        child_module("export.measure.timing_child", *where, str(threads), str(seconds))
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ExportError(f"{file.name} could not be timed: {last}")
    return Timing(name=name, **json.loads(done.stdout))


def bench(
    bundle: Path | str, *, threads: int = 1, seconds: float = 1.0
) -> list[Timing]:
    """Times every model of a bundle and, first, its dense form in onnxruntime.

    Args:
        bundle: The bundle's folder.
        threads: Threads per model.
        seconds: How long each is run.

    Raises:
        ExportError: If it is no bundle, or a model cannot run.
    """
    if not 1 <= threads <= _MOST_THREADS:
        raise ExportError(f"threads is {threads}", remedy=f"Give 1 to {_MOST_THREADS}.")
    if not (isfinite(seconds) and seconds > 0):
        raise ExportError(f"seconds is {seconds}", remedy="Give a number above 0.")
    folder = Path(bundle)
    models: Mapping[str, Any] = read_manifest(folder)["models"]
    example = folder / "golden" / "input.npy"
    timings = []
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch) / "dense.onnx"
        if _write_dense(folder, models, dense):
            timings.append(
                time_file(_DENSE, dense, example, threads=threads, seconds=seconds)
            )
        timings += [
            time_file(
                name, folder / entry["file"], example, threads=threads, seconds=seconds
            )
            for name, entry in models.items()
        ]
    return timings


def _write_dense(folder: Path, models: Mapping[str, Any], out: Path) -> bool:
    """The dense fp32 form of an exact ONNX model of the bundle, if it has one."""
    name = next((n for n in ("onnx", "onnx-sparse") if n in models), None)
    if name is None:
        return False
    require("onnx", "onnxruntime")
    import onnx  # noqa: PLC0415 - an extra

    from export.passes.unpack import dense_form  # noqa: PLC0415

    content = read_plain(folder / models[name]["file"])
    model = dense_form(onnx.ModelProto.FromString(content))
    out.write_bytes(model.SerializeToString())
    return True
