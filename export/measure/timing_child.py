"""One model in a process of its own: load time, latency, peak memory, as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.infer.compressed import is_compressed, plain_name, read_plain
from edge_sdk.infer.session_inputs import feeds

__all__ = ["main"]

_WARM = 5
Batch: TypeAlias = NDArray[np.float32]


def main(arguments: list[str]) -> int:
    """Runs ``FILE INPUT.npy THREADS SECONDS`` and prints one line of JSON."""
    file, given, threads, seconds = arguments
    example = np.load(given)[:1]
    opener = _opener(file)  # imports are not the model's load time
    start = time.perf_counter()
    run = opener(file, example, int(threads))
    run()
    load_ms = 1e3 * (time.perf_counter() - start)
    for _ in range(_WARM):
        run()
    taken: list[float] = []
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end or len(taken) < 10:
        start = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - start))
    figures = {
        "load_ms": round(load_ms, 3),
        "p50_ms": round(float(np.percentile(taken, 50)), 4),
        "p90_ms": round(float(np.percentile(taken, 90)), 4),
        "runs": len(taken),
        "peak_rss_mib": round(_peak_kib() / 1024, 1),
        "threads": int(threads),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _opener(file: str) -> Callable[[str, Batch, int], Callable[[], object]]:
    """Imports what runs the file, and only that."""
    if plain_name(Path(file)).suffix == ".flsp":
        from edge_sdk.infer import NativeModel  # noqa: PLC0415 - not for onnxruntime
        from edge_sdk.infer.library import runtime_library  # noqa: PLC0415

        runtime_library()

        def open_native(
            file: str, example: Batch, threads: int
        ) -> Callable[[], object]:
            model = NativeModel(_content(file), threads=threads)
            return lambda: model.run(example)

        return open_native
    import onnxruntime as ort  # noqa: PLC0415 - not for the native runtime

    def open_onnx(file: str, example: Batch, threads: int) -> Callable[[], object]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        session = ort.InferenceSession(_content(file), options, providers=providers)
        feed = feeds(session, example)
        return lambda: session.run(None, feed)

    return open_onnx


def _content(file: str) -> str | bytes:
    """The file for a runtime to open, or the bytes out of its layer."""
    path = Path(file)
    return read_plain(path) if is_compressed(path) else file


def _peak_kib() -> int:
    """Peak resident memory; getrusage would include the parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(li for li in status.splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
