"""Instructions of one inference on aarch64, counted in an emulator: no board is needed.

qemu lists every block of code once and every execution of a block; the difference of a
run with two inferences and one with one is one inference, loading left out. Counts are
not times: they show no cache, no memory and no width of a processor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from edge_sdk.infer import NativeModel
from edge_sdk.infer.build import SOURCES, commands
from edge_sdk.kernels.build import find_compiler

__all__ = ["instructions", "program"]

_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "flsp.h"
int main(int argc, char** argv) {
  static float x[1 << 20], y[1 << 16];
  char error[256];
  flsp_model* model = flsp_open(argv[1], error, sizeof error);
  flsp_session* session = flsp_session_new(model, 1, error, sizeof error);
  FILE* file = fopen(argv[2], "rb");
  size_t n = fread(x, 4, 1 << 20, file);
  for (int i = 0; i < atoi(argv[3]); i++) flsp_run(session, x, y, 1);
  fwrite(y, 4, atoi(argv[4]), stdout);
  return n == 0;
}
"""


def program(folder: Path) -> Path:
    """The runtime with a driver, compiled for aarch64."""
    compiler = find_compiler("aarch64")
    if compiler is None or shutil.which("qemu-aarch64-static") is None:
        raise SystemExit("--arm needs g++-aarch64-linux-gnu and qemu-user-static")
    calls, objects = commands(compiler, "aarch64", folder)
    source = folder / "driver.c"
    source.write_text(_DRIVER)
    driver, out = folder / "driver.o", folder / "driver"
    calls.append(
        [compiler, "-xc", f"-I{SOURCES}", "-c", str(source), "-o", str(driver)]
    )
    for call in calls:
        subprocess.run(call, check=True)
    link = [compiler, "-static", *map(str, objects), str(driver), "-lpthread"]
    subprocess.run([*link, "-o", str(out)], check=True)
    return out


def instructions(tool: Path, file: Path, batch: np.ndarray, folder: Path) -> int:
    """Instructions of one inference; its outputs must be those of this machine."""
    given = folder / "input.f32"
    given.write_bytes(batch.tobytes())
    expected = NativeModel(file).run(batch)
    once, _ = _count(tool, file, given, 1, expected.size)
    twice, outputs = _count(tool, file, given, 2, expected.size)
    scale = float(np.abs(expected).max())
    error = float(np.abs(outputs - expected.reshape(-1)).max())
    if error > 1e-5 * scale:
        raise SystemExit(f"{file.name}: aarch64 outputs differ by {error / scale:.1e}")
    return twice - once


def _count(
    tool: Path, file: Path, given: Path, runs: int, size: int
) -> tuple[int, np.ndarray]:
    command = ["qemu-aarch64-static", "-d", "in_asm,exec,nochain", str(tool), str(file)]
    listing = re.compile(rb"^0x[0-9a-f]+:")
    trace = re.compile(rb"^Trace \d+: 0x[0-9a-f]+ \[[0-9a-f]+/([0-9a-f]+)/")
    lengths: dict[int, int] = {}
    start, length, total = 0, 0, 0
    with subprocess.Popen(
        [*command, str(given), str(runs), str(size)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if line.startswith(b"IN:"):
                start = length = 0
            elif listing.match(line):
                start = start or int(line[2 : line.index(b":")], 16)
                length += 1
                lengths[start] = length
            elif found := trace.match(line):
                total += lengths[int(found[1], 16)]
        outputs = np.frombuffer(process.stdout.read(), np.float32)
    return total, outputs
