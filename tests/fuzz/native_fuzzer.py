"""Fuzzes the loader and kernels of the native runtime: C++ under sanitizers.

`make fuzz-native` runs it for ten minutes. The mutator knows the file format
(``native/mutate.h``) and repairs checksums; what it keeps is chosen by the basic blocks
that were reached. Every mutant is opened and run on every kernel set of the machine.
With ``--mutants`` most of them meet one set, and runs are short: a million takes
minutes. Every 100,000 mutants of a process a line on stderr says how far it is.

    PYTHONPATH=tests python tests/fuzz/native_fuzzer.py --seconds 600 --jobs 2 --seed 1
    PYTHONPATH=tests python tests/fuzz/native_fuzzer.py --mutants 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from compiled import compiled
from fuzz.running import figures_of

from edge_sdk.infer.build import SOURCES, commands
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import (
    Binary,
    Cell,
    ElementFunction,
    Function,
    Kind,
    Operation,
    Order,
    Program,
    Reduction,
    Shape,
    Spread,
    Weight,
)

HERE = Path(__file__).resolve().parent / "native"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# One region of registers: kernels.cpp compiles in three quarters of the time.
CHECKED = ("-O1", "-g1", "-fira-region=one", *SANITIZERS)
TRACED = (*CHECKED, "-fsanitize-coverage=trace-pc")


def build(folder: Path) -> Path:
    """The fuzzer as one executable; of the runtime's code it counts basic blocks."""
    compiler, own, out = _compiler(), folder / "fuzz.o", folder / "fuzz"
    plain = [compiler, "-std=c++17", *CHECKED, f"-I{SOURCES}", "-c"]
    _compile([*plain, str(HERE / "fuzz.cpp"), "-o", str(own)])
    parts = [*map(str, checked_runtime()), str(own)]
    _compile([compiler, *SANITIZERS, *parts, "-lpthread", "-o", str(out)])
    return out


def checked_runtime() -> list[Path]:
    """The runtime's objects under the sanitizers, compiled once per version.

    They call ``__sanitizer_cov_trace_pc`` in every basic block.
    """
    compiler, machine = _compiler(), this_machine()

    def make(folder: Path) -> None:
        calls, _ = commands(compiler, machine, folder, extra=TRACED)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_compile, calls))

    # The calls without their folder: the flags of every object.
    calls, objects = commands(compiler, machine, Path(), extra=TRACED)
    flags = [word for call in calls for word in call]
    sources = [SOURCES]
    kept = compiled(
        "checked-runtime", make, compiler=compiler, flags=flags, sources=sources
    )
    return [kept / path.name for path in objects]


def _compiler() -> str:
    found = find_compiler(this_machine())
    assert found is not None
    return found


def _compile(call: list[str]) -> None:
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(call)} failed:\n{done.stderr[-3000:]}")


def fuzz(
    tool: Path, folder: Path, *, seconds: float, seed: int, mutants: int = 0
) -> dict[str, Any]:
    """Figures of one process; a finding is in words under "finding".

    Args:
        tool: Of `build`.
        folder: For seeds and findings.
        seconds: At most.
        seed: Of the mutations.
        mutants: So many quick ones: most of them meet one kernel set, and runs are
            short. 0 has every mutant meet all kernel sets until the time is over.
    """
    seeds = folder / f"seeds-{seed}"
    seeds.mkdir()
    for name, content in seed_files().items():
        (seeds / f"{name}.flsp").write_bytes(content)
    finding = folder / f"finding-{seed}.flsp"
    call = [tool, seeds, str(seconds), str(seed), finding]
    figures = figures_of([*call, str(mutants)] if mutants else call, f"seed {seed}")
    if "finding" in figures:
        figures["finding"] += f"\nits file: {finding}"
    return figures


def replay(tool: Path, file: Path) -> subprocess.CompletedProcess[str]:
    """Opens and runs one file as the fuzzer does; refusals are on stdout."""
    return subprocess.run([tool, file], capture_output=True, text=True, check=False)


# --------------------------------------------------------------------- seed files


def matrix(rows: int, columns: int, density: float) -> Weight:
    """Standard normal values of a fixed seed, kept at a density."""
    rng = np.random.default_rng(rows * 1000 + columns)
    values = rng.standard_normal((rows, columns), np.float32)
    values[rng.random(values.shape) >= density] = 0
    return Weight("w", values, rng.standard_normal(rows, np.float32))


def convolution(
    given: Shape,
    channels: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    density: float = 0.3,
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    input_scale: float = 0.0,
    zero: int = 0,
) -> Program:
    """One convolution, padded alike on both sides, and a clip."""
    sizes = zip((given.height, given.width), kernel, stride, pad, dilation, strict=True)
    side = [(n + 2 * p - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in sizes]
    weight = matrix(channels, given.channels // groups * kernel[0] * kernel[1], density)
    window = {"kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    operation = Operation(
        Kind.CONV, 0, 1, weight=0, groups=groups, low=0.0, high=6.0, extra=zero,
        input_scale=input_scale, **window,
    )  # fmt: skip
    made = Shape(channels, *side)
    return Program((given, made), (operation,), (weight,), 1)


def _programs() -> dict[str, Program]:
    image = Shape(4, 9, 17)
    pools = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}
    half, flat = Shape(4, 5, 9), Shape(180)
    whole = Program(
        (image, image, half, half, Shape(8, 5, 9), Shape(360), Shape(24), Shape(24)),
        (
            Operation(Kind.AFFINE, 0, 1, weight=0),
            Operation(Kind.MAX_POOL, 1, 2, **pools),
            Operation(Kind.ACTIVATION, 2, 3, extra=int(Function.HARD_SWISH), high=2.0),
            Operation(Kind.PLACE, 2, 4),
            Operation(Kind.PLACE, 3, 4, extra=4),
            Operation(Kind.FLATTEN, 4, 5),
            Operation(Kind.LINEAR, 5, 6, weight=1),
            Operation(Kind.ACTIVATION, 6, 7, extra=int(Function.SOFTMAX)),
        ),
        (matrix(4, 1, 1.0), matrix(24, 360, 0.2)),
        7,
    )
    residual = Program(
        (image, image, image, half, flat, Shape(10)),
        (
            Operation(Kind.CONV, 0, 1, weight=0, kernel=(3, 3), pad=(1, 1), low=0.0),
            Operation(Kind.CONV, 1, 2, 0, weight=1, kernel=(3, 3), pad=(1, 1)),
            Operation(Kind.AVERAGE_POOL, 2, 3, extra=1, **pools),
            Operation(Kind.FLATTEN, 3, 4),
            Operation(Kind.LINEAR, 4, 5, weight=2),
        ),
        (matrix(4, 36, 0.3), matrix(4, 36, 1.0), matrix(10, 180, 0.8)),
        5,
    )
    ends = Program(
        (image, image, image, Shape(4)),
        (
            Operation(Kind.ACTIVATION, 0, 1, extra=int(Function.TANH)),
            Operation(Kind.ADD, 0, 2, 1, low=-1.0),
            Operation(Kind.GLOBAL_AVERAGE, 2, 3),
        ),
        (),
        3,
    )
    return {
        "values": _values(),
        "whole": whole,
        "residual": residual,
        "ends": ends,
        "narrow": convolution(Shape(4, 4, 4), 6),
        "vectors": convolution(Shape(4, 16, 16), 6),
        "rows": convolution(Shape(4, 9, 21), 30),
        "direct": convolution(Shape(3, 8, 40), 4, density=0.5),
        "strided": convolution(Shape(4, 12, 20), 6, stride=(2, 2)),
        "dense": convolution(Shape(8, 8, 16), 16, density=1.0),
        "depthwise": convolution(Shape(8, 8, 32), 8, density=0.6, groups=8),
        "small planes": convolution(Shape(20, 7, 7), 20, density=0.6, groups=20),
        "small strided": convolution(Shape(9, 14, 14), 9, stride=(2, 2), groups=9),
        "sequence": convolution(Shape(4, 1, 60), 7, (1, 5), pad=(0, 2)),
        "causal": convolution(
            Shape(4, 1, 64), 6, (1, 3), pad=(0, 32), dilation=(1, 32)
        ),
        "table": _table(1.0),
        "pruned table": _table(0.3),
        "large table": _table(1.0, rows=60),
        "sorted": _sorted(),
        "first state": _first_state(),
        "last cell": _last_cell(),
        "places": _places(),
        "views": _views(),
    }


def _table(density: float, rows: int = 7) -> Program:
    """Rows of a table, as of an embedding."""
    operation = Operation(Kind.LOOK_UP, 0, 1, weight=0)
    return Program(
        (Shape(5), Shape(5, 1, 20)), (operation,), (matrix(rows, 20, density),), 1
    )


def _sorted() -> Program:
    """Each order, of the one before."""
    shapes = (Shape(3, 2, 30), *(Shape(3, 2, width) for width in (30, 20, 20, 7)))
    operations = tuple(
        Operation(Kind.SORT_ROW, at, at + 1, extra=int(order))
        for at, order in enumerate(Order)
    )
    return Program(shapes, operations, (), 4)


def _views() -> Program:
    """Rows that stay rows, rows that are turned, and values that lie apart."""
    shapes = Shape(6, 5, 7), Shape(6, 5, 7), Shape(10, 1, 21), Shape(7, 5, 2)
    operations = (
        Operation(Kind.VIEW, 0, 1, groups=2, pad=(48, 96), stride=(7, 1)),
        Operation(Kind.VIEW, 1, 2, groups=5, pad=(1, 144), stride=(0, 6), extra=3),
        Operation(Kind.VIEW, 2, 3, pad=(3, 2), stride=(16, 64), input_scale=0.25),
    )
    return Program(shapes, operations, (), 3)


def _first_state() -> Program:
    """An LSTM from a state and a cell that are computed."""
    shapes = Shape(5, 1, 16), Shape(2, 1, 16), Shape(2, 1, 4), Shape(5, 1, 4)
    operations = (
        Operation(Kind.TAKE, 0, 1),
        Operation(Kind.CROP, 1, 2),
        Operation(Kind.RECURRENT, 0, 3, 2, weight=0, extra=int(Cell.LSTM)),
    )
    return Program(shapes, operations, (matrix(16, 4, 0.5),), 3)


def _last_cell() -> Program:
    """An LSTM from its last step to its first, whose cell is a result."""
    shapes = Shape(5, 1, 16), Shape(6, 1, 4)
    extra = int(Cell.LSTM) + 16 + 32
    operation = Operation(Kind.RECURRENT, 0, 1, weight=0, extra=extra)
    return Program(shapes, (operation,), (matrix(16, 4, 0.5),), 1)


def _places() -> Program:
    """Values at computed places, and to computed places: one row of them, and many."""
    image = Shape(3, 5, 7)
    shapes = (image, image, Shape(1, 5, 7), image, image, image, Shape(3, 4, 9))
    operations = (
        Operation(Kind.FUNCTION, 0, 1, extra=int(ElementFunction.FLOOR)),
        Operation(Kind.TAKE, 1, 2),
        Operation(Kind.PICK, 0, 3, 2),
        Operation(Kind.PICK, 3, 4, 1),
        Operation(Kind.PUT, 4, 5, 1),
        Operation(Kind.PUT, 5, 6, 2, extra=1),
    )
    return Program(shapes, operations, (), 6)


def _values() -> Program:
    """Every operation on values and shapes, one after the other."""
    image, tall = Shape(4, 9, 17), Shape(4, 12, 18)
    shapes = (
        *(image, image, image, Shape(4), image, image, image),
        *(Shape(4, 19, 36), Shape(4, 9, 12), Shape(4, 9, 24), Shape(24, 4, 9)),
        *(tall, tall, tall, tall, Shape(4, 18, 12), Shape(4, 12, 12)),
        *(Shape(4, 12, 1), Shape(48), Shape(4, 1, 12), Shape(4, 1, 4)),
        Shape(4, 1, 4),
    )
    times = int(Binary.TIMES)
    per_channel = times + 16 * int(Spread.PER_CHANNEL)
    operations = (
        Operation(Kind.FUNCTION, 0, 1, extra=int(ElementFunction.SILU)),
        Operation(Kind.BINARY, 0, 2, 1, extra=times),
        Operation(Kind.GLOBAL_AVERAGE, 2, 3),
        Operation(Kind.BINARY, 2, 4, 3, extra=per_channel, high=3.0),
        Operation(Kind.SLOPE, 4, 5, weight=0),
        Operation(Kind.TAKE, 5, 6, groups=2),
        Operation(Kind.SPREAD, 6, 7, stride=(2, 2), pad=(1, 1)),
        Operation(Kind.CROP, 7, 8, stride=(2, 3), pad=(1, 2)),
        Operation(Kind.UPSAMPLE, 8, 9, stride=(1, 2)),
        Operation(Kind.TRANSPOSE, 9, 10, extra=4),
        Operation(Kind.RESHAPE, 10, 11),
        Operation(Kind.NORMALIZE, 11, 12, low=1e-5),
        Operation(Kind.COLUMN_AFFINE, 12, 13, weight=1),
        Operation(Kind.SOFTMAX_ROW, 13, 14),
        Operation(Kind.TRANSPOSE, 14, 15, extra=1),
        Operation(Kind.MATMUL, 14, 16, 15),
        Operation(Kind.REDUCE_ROW, 16, 17, extra=int(Reduction.LARGEST)),
        Operation(Kind.FLATTEN, 17, 18),
        Operation(Kind.RESHAPE, 18, 19),
        Operation(Kind.RECURRENT, 19, 20, weight=2, extra=int(Cell.GRU) + 16),
        Operation(Kind.BINARY, 20, 21, 20, extra=int(Binary.BIT_AND)),
    )
    weights = matrix(4, 1, 1.0), matrix(18, 1, 1.0), matrix(12, 4, 0.3)
    return Program(shapes, operations, weights, 21)


def seed_files() -> dict[str, bytes]:
    """Small exported programs of every operation, with float32 and with int8 values."""
    made = {
        f"{name}-{'int8' if int8 else 'float'}": write(
            program, {"task": name}, int8=int8
        )
        for name, program in _programs().items()
        for int8 in (False, True)
    }
    rounded = {
        "bytes": convolution(Shape(40, 6, 8), 24, input_scale=0.02, zero=100),
        "odd bytes": convolution(
            Shape(70, 7, 5), 20, stride=(2, 1), dilation=(1, 2), input_scale=0.05
        ),
        "dense bytes": convolution(Shape(16, 4, 9), 32, density=1.0, input_scale=0.1),
    }
    return made | {
        f"{name}-int8": write(program, {"task": name}, int8=True)
        for name, program in rounded.items()
    }


def main() -> int:
    """Runs for so long, or so many mutants, on so many cores; 1 on a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="600 if nothing is given")
    parser.add_argument("--mutants", type=int, default=0, help="quick ones in all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = options.seconds or (math.inf if options.mutants else 600.0)
    each = -(-options.mutants // options.jobs)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-native-"))
    tool = build(folder)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            pool.submit(fuzz, tool, folder, seconds=seconds, seed=seed, mutants=each)
            for seed in range(options.seed, options.seed + options.jobs)
        ]
        outcomes = [run.result() for run in runs]
    for outcome in outcomes:
        print(outcome.get("finding") or json.dumps(outcome))
    if any("finding" in outcome for outcome in outcomes):
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
