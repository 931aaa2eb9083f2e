"""The `.flsp` file: its bytes, used where they lie, refused where they are wrong."""

import hashlib
import itertools
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import CheckpointError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import Encoding, store_weights, write
from export.native.program import Kind, Operation, Program, Shape, Weight

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
HEADER, WEIGHT = struct.Struct("<4sIQIIIIQQQQQQ"), struct.Struct("<iiiiQQQQQQ")
WORDS = {"values": 24, "gaps": 32, "counts": 40, "bias": 56}  # within a weight's record


def one_layer(
    matrix: np.ndarray, *, kind: Kind = Kind.LINEAR, side: int = 1, kernel: int = 1
) -> Program:
    rows, columns = matrix.shape
    bias = np.arange(rows, dtype=np.float32)
    shapes = (Shape(columns // kernel**2, side, side), Shape(rows, side, side))
    pad = (kernel // 2, kernel // 2)
    operation = Operation(kind, 0, 1, weight=0, kernel=(kernel, kernel), pad=pad)
    return Program(shapes, (operation,), (Weight("w", matrix, bias),), 1, (rows,))


def sparse_matrix() -> np.ndarray:
    matrix = np.zeros((3, 600), np.float32)
    matrix[0, [2, 3, 299]] = 5, 6, 7
    matrix[2, 0] = 8
    return matrix


def weight_of(content: bytes) -> tuple[int, ...]:
    weights_at = HEADER.unpack_from(content)[9]
    return WEIGHT.unpack_from(content, weights_at)


def part(content: bytes, at: int, dtype: type, count: int) -> list[float]:
    assert at % 64 == 0
    found: list[float] = np.frombuffer(content, dtype, count, at).tolist()
    return found


def test_kept_weights_lie_by_row_with_their_gaps() -> None:
    content = write(one_layer(sparse_matrix()), {})
    magic, version, size = HEADER.unpack_from(content)[:3]
    assert (magic, version, size) == (b"FLSP", 2, len(content))
    encoding, kind, rows, columns, entries, values, gaps, counts, _, bias = weight_of(
        content
    )
    assert (encoding, kind, rows, columns, entries) == (1, 0, 3, 600, 5)
    assert part(content, values, np.float32, 5) == [5, 6, 0, 7, 8]
    assert part(content, gaps, np.uint8, 5) == [2, 1, 255, 41, 0]
    assert part(content, counts, np.uint32, 3) == [4, 0, 1]
    assert part(content, bias, np.float32, 3) == [0, 1, 2]


def test_a_dense_convolution_lies_in_groups_of_four_rows() -> None:
    matrix = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    program = one_layer(matrix, kind=Kind.CONV, side=4)
    (stored,) = store_weights(program, int8=False)
    assert stored.encoding is Encoding.GROUPS
    assert stored.values.tolist() == [1, 3, 5, 7, 2, 4, 6, 8, 9, 0, 0, 0, 10, 0, 0, 0]


@pytest.mark.parametrize(
    ("int8", "digest"),
    [(False, "159b8b0369c7cf66"), (True, "f46502822886034a")],
)
def test_the_bytes_of_a_file_are_these(int8: bool, digest: str) -> None:
    """Another digest is another format: give it another version."""
    matrix = np.tile(sparse_matrix(), (2, 1))
    matrix[5] = 1
    content = write(one_layer(matrix), {"task": "golden"}, int8=int8)
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def sealed(content: bytearray) -> bytes:
    struct.pack_into("<I", content, 16, zlib.crc32(content[80:]))
    return bytes(content)


def test_a_file_of_another_format_says_what_to_do() -> None:
    content = bytearray(write(one_layer(sparse_matrix()), {}))
    struct.pack_into("<I", content, 4, 1)
    with pytest.raises(CheckpointError, match=r"format 1.*reads 2: export the check"):
        NativeModel(sealed(content))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize(
    ("at", "message"),
    [
        (lambda content, _: len(content) // 64 * 64 + 64, "the file ends inside"),
        (lambda content, _: len(content) // 64 * 64, "the file ends inside"),
        (lambda _, old: 2**64 - old, "the file ends inside"),
        (lambda _, old: old + 4, "at no multiple of 64"),
    ],
    ids=["behind", "across", "around", "between"],
)
def test_an_array_outside_the_file_or_out_of_line_is_refused(
    name: str, at: object, message: str
) -> None:
    content = bytearray(write(one_layer(sparse_matrix()), {}))
    where = HEADER.unpack_from(content)[9] + WORDS[name]
    (old,) = struct.unpack_from("<Q", content, where)
    struct.pack_into("<Q", content, where, at(content, old) % 2**64)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        NativeModel(sealed(content))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_column_is_outside_its_matrix(data: st.DataObject) -> None:
    """Whatever gaps and counts say: all of them are looked at before one is used."""
    program = one_layer(sparse_matrix())
    content = bytearray(write(program, {}))
    _, _, _, _, entries, _, gaps, counts, _, _ = weight_of(bytes(content))
    said = data.draw(st.lists(st.integers(0, 5), min_size=3, max_size=3))
    steps = data.draw(st.binary(min_size=entries, max_size=entries))
    struct.pack_into("<3I", content, counts, *said)
    content[gaps : gaps + entries] = steps
    ends = np.cumsum([0, *said])
    rows = [steps[a:b] for a, b in itertools.pairwise(ends)]
    fine = ends[-1] == entries and all(
        sum(row) < 600 and 0 not in row[1:] for row in rows
    )
    if fine:
        NativeModel(sealed(content)).run(np.ones((1, 600, 1, 1), np.float32))
    else:
        with pytest.raises(CheckpointError, match="a weight's"):
            NativeModel(sealed(content))


# ------------------------------------------------------------------ memory

CHILD = """
import json, re, sys
import numpy as np
from edge_sdk.infer import NativeModel

def anonymous():
    text = open("/proc/self/status").read()
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", text)[1])

def mapping(path):
    found = {}
    text = open("/proc/self/smaps").read()
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        if block.partition("\\n")[0].endswith(path):
            for name, kib in re.findall(r"(\\w+):\\s+(\\d+) kB", block):
                found[name] = found.get(name, 0) + 1024 * int(kib)
    return found

example = np.ones((1, *map(int, sys.argv[2:])), np.float32)
models = [NativeModel(sys.argv[1])]
models[0].run(example)
before = anonymous()
models.append(NativeModel(sys.argv[1]))
models[1].run(example)
print(json.dumps({"grown": anonymous() - before, **mapping(sys.argv[1])}), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("int8", [False, True])
def test_weights_are_pages_of_the_file_that_models_and_processes_share(
    tmp_path: Path, int8: bool
) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((1024, 512 * 9), np.float32)
    matrix[rng.random(matrix.shape) >= 0.25] = 0
    file = tmp_path / "m.flsp"
    program = one_layer(matrix, kind=Kind.CONV, side=4, kernel=3)
    with file.open("wb") as out:
        out.write(write(program, {"output_shape": [1024, 4, 4]}, int8=int8))
        out.flush()
        os.fsync(out.fileno())  # a page of the cache is dirty until then
    own = NativeModel(file)  # of this process: the child's pages are shared with it
    own.run(np.ones((1, 512, 4, 4), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, file, "512", "4", "4"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, size = json.loads(done.stdout), file.stat().st_size
    assert size > (2 << 20)
    assert found["Rss"] >= 2 * size * 0.95  # mapped twice
    assert found["Shared_Clean"] == found["Rss"]
    assert found["Private_Dirty"] == found["Shared_Dirty"] == found["Anonymous"] == 0
    assert found["grown"] < size / 4
