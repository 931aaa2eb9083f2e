"""A minute of fuzzing of the native runtime, and files that once did harm.

`make fuzz-native` is the ten-minute one. FLASH_EDGE_FUZZ_SECONDS changes the minute.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from compiled import compiled
from fuzz import native_fuzzer
from fuzz.flsp_patch import patched

from edge_sdk.infer import build as infer_build
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import Kind, Operation, Program, Shape, Weight

pytestmark = [
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
    pytest.mark.timeout(3600),  # compiles five times the kernels, on any machine
]
SECONDS = float(os.environ.get("FLASH_EDGE_FUZZ_SECONDS", "60"))


@pytest.fixture(scope="module")
def tool() -> Path:
    compiler = find_compiler(this_machine())
    assert compiler is not None
    own = [native_fuzzer.HERE, Path(native_fuzzer.__file__), Path(infer_build.__file__)]
    sources = [infer_build.SOURCES, *own]
    made = compiled(
        "fuzzer", native_fuzzer.build, compiler=compiler, flags=(), sources=sources
    )
    return made / "fuzz"


@pytest.mark.slow
def test_mutated_files_are_refused_in_words_or_run_within_their_memory(
    tool: Path, tmp_path: Path
) -> None:
    figures = native_fuzzer.fuzz(tool, tmp_path, seconds=SECONDS, seed=7)
    assert "finding" not in figures, figures["finding"]
    # Mutants that are too wild never get past the first check.
    assert figures["runs"] > figures["seeds"]
    assert figures["kept"] > 0
    assert figures["blocks"] > figures["seed_blocks"]


def test_quick_mutants_meet_kernel_sets_and_are_counted(
    tool: Path, tmp_path: Path
) -> None:
    figures = native_fuzzer.fuzz(tool, tmp_path, seconds=3600, seed=5, mutants=1500)
    assert "finding" not in figures, figures["finding"]
    assert figures["inputs"] == 1500
    assert figures["opened"] > 300  # shapes follow a change, for every kind
    assert figures["blocks"] > figures["seed_blocks"]


def test_every_operation_and_encoding_has_a_seed() -> None:
    kinds, encodings = set(), set()
    for content in native_fuzzer.seed_files().values():
        counts = struct.unpack_from("<III", content, 20)
        tables = struct.unpack_from("<QQQ", content, 40)
        for index in range(counts[2]):
            kinds.add(struct.unpack_from("<i", content, tables[2] + 72 * index)[0])
        for index in range(counts[1]):
            encodings.add(struct.unpack_from("<ii", content, tables[1] + 64 * index))
    assert kinds == {int(kind) for kind in Kind}
    assert encodings == {(e, t) for e in (0, 1, 2) for t in (0, 1)}


# ------------------------------------------------------------------ what did harm


def wide(pad: int, side: int, *, rows: int = 1) -> bytes:
    """A 1 x 1 convolution with padding that only its left and top sides have."""
    rng = np.random.default_rng(0)
    weight = Weight(
        "w", rng.standard_normal((6, 4), np.float32), np.zeros(6, np.float32)
    )
    weight.matrix[rng.random((6, 4)) > 0.5] = 0
    made = Shape(6, rows + pad, side + pad)
    operation = Operation(Kind.CONV, 0, 1, weight=0, pad=(pad, pad))
    return write(Program((Shape(4, rows, side), made), (operation,), (weight,), 1), {})


def empty_patches(side: int) -> bytes:
    """A layer of side x side patches that keeps nothing: 65,536 phases of 840 bytes."""
    weight = Weight(
        "w", np.zeros((1, side * side), np.float32), np.zeros(1, np.float32)
    )
    window = {"kernel": (side, side), "stride": (side, side)}
    operation = Operation(Kind.CONV, 0, 1, weight=0, **window)
    shapes = (Shape(1, side, 2 * side), Shape(1, 1, 2))
    return write(Program(shapes, (operation,), (weight,), 1), {})


def depthwise(channels: int) -> bytes:
    """As many groups as channels, nothing kept: work for every pair of them, once."""
    weight = Weight(
        "w", np.zeros((channels, 1), np.float32), np.zeros(channels, np.float32)
    )
    shape = Shape(channels, 1, 2)
    operation = Operation(Kind.CONV, 0, 1, weight=0, groups=channels)
    return write(Program((shape, shape), (operation,), (weight,), 1), {})


def narrow() -> bytes:
    return native_fuzzer.seed_files()["narrow-float"]


HARM = {
    "pad_top of 64 on narrow rows wrote outside the scratch": lambda: patched(
        narrow(), {"op.0.pad_top": 64, "buffer.1.height": 67, "arena": 8192}
    ),
    "pad_top of 64 with the old output": lambda: patched(
        narrow(), {"op.0.pad_top": 64}
    ),
    "pad_left of 255 read before the arena": lambda: patched(
        native_fuzzer.seed_files()["vectors-float"], {"op.0.pad_left": 255}
    ),
    "padding wider than the input": lambda: wide(64, 4),
    "padding of whole vectors": lambda: wide(112, 16),
    "padding of 4,096": lambda: wide(4096, 1),
    "outputs that share their input's memory": lambda: patched(
        native_fuzzer.seed_files()["whole-float"], {"buffer.5.offset": 0}
    ),
    "kernel and stride of 256 held the loader for 40 seconds": (
        lambda: empty_patches(256)
    ),
    "a depthwise layer of 40,000 channels": lambda: depthwise(40_000),
}


@pytest.mark.parametrize("name", HARM)
def test_a_file_that_did_harm_does_none(tool: Path, tmp_path: Path, name: str) -> None:
    """Opened and run under the sanitizers, with opening's work counted, not timed."""
    file = tmp_path / "m.flsp"
    file.write_bytes(HARM[name]())
    done = native_fuzzer.replay(tool, file)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", native_fuzzer.seed_files())
def test_every_seed_runs_on_every_kernel_set(
    tool: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "m.flsp"
    file.write_bytes(native_fuzzer.seed_files()[name])
    done = native_fuzzer.replay(tool, file)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
