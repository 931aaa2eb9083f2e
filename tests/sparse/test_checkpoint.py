from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from edge_sdk.checkpoint import (
    Checkpoint,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)
from edge_sdk.errors import CheckpointError
from edge_sdk.sparse import LayerShape, draw

LAYERS = (LayerShape("conv.weight", (4, 2, 3, 3), 2), LayerShape("fc.weight", (3, 8)))
GOLDEN = "5f750379c3b82a2c3213a79e431eff16c064ee46c038bc245b3d7f0086d311fd"


def small() -> Checkpoint:
    mask = draw(LAYERS, {"conv.weight": 10, "fc.weight": 8}, 1)
    return Checkpoint(
        task="digits",
        round_no=3,
        layers=LAYERS,
        mask=mask,
        values={n: np.arange(mask.counts[n], dtype=np.float32) for n in mask},
        dense={
            "fc.bias": np.array([1, 2, 3], np.float32),
            "bn.num_batches_tracked": np.array(5, np.int64),
        },
        metrics={"accuracy": 0.5, "loss": 1.25},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "models" / "one.safetensors"
    save_checkpoint(found, small())
    return found


def test_a_checkpoint_round_trips_with_kept_zeros(path: Path) -> None:
    saved, found = small(), load_checkpoint(path)
    assert (found.task, found.round_no, found.layers) == ("digits", 3, LAYERS)
    assert found.mask == saved.mask
    assert list(found.mask) == list(saved.mask)
    assert found.metrics == saved.metrics
    for part in ("values", "dense"):
        before, after = getattr(saved, part), getattr(found, part)
        assert list(before) == list(after)
        for name in before:
            np.testing.assert_array_equal(after[name], before[name], strict=True)
    assert found.values["fc.weight"][0] == 0.0
    state = found.state()
    assert state["conv.weight"].shape == (4, 2, 3, 3)
    assert not state["conv.weight"][~found.mask["conv.weight"]].any()
    assert found.csr("fc.weight").nnz == 8


def test_the_format_is_golden(path: Path) -> None:
    """Another version reads it: keys, order and bytes are the format."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    assert header["__metadata__"]["format"] == "flash-edge checkpoint 1"
    assert sorted(header["__metadata__"]) == [
        "dense",
        "density",
        "format",
        "layers",
        "mask_digest",
        "metrics",
        "round",
        "task",
    ]
    assert sorted(load(content)) == [
        "dense/bn.num_batches_tracked",
        "dense/fc.bias",
        "sparse/conv.weight/indices",
        "sparse/conv.weight/indptr",
        "sparse/conv.weight/values",
        "sparse/fc.weight/indices",
        "sparse/fc.weight/indptr",
        "sparse/fc.weight/values",
    ]
    assert end % 8 == 0
    assert hashlib.sha256(content).hexdigest() == GOLDEN


def test_every_truncation_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for end in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"one\.safetensors"):
            load_checkpoint(path)


@given(data=st.data())
def test_a_flipped_byte_never_raises_anything_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Values have no digest in the file; structure and mask have."""
    path = tmp_path_factory.mktemp("flip") / "one.safetensors"
    save_checkpoint(path, small())
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, end))
    content[at] ^= data.draw(st.sampled_from([1, 2, 4, 8, 0x10, 0x80, 0xFF]))
    path.write_bytes(content)
    try:
        found = load_checkpoint(path)
    except CheckpointError:
        return
    assert found.mask == small().mask


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(CheckpointError, match="not a flash-edge checkpoint"):
        load_checkpoint(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_checkpoint(missing)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_a_parent_that_is_a_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="could not be written"):
        replace_file(tmp_path / "file" / "x", b"new")


def test_two_threads_may_replace_the_same_file(tmp_path: Path) -> None:
    path, failed = tmp_path / "x", []

    def work(content: bytes) -> None:
        try:
            for _ in range(40):
                replace_file(path, content)
        except CheckpointError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(bytes([i]) * 999,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert set(path.read_bytes()) in ({1}, {2})
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE refuses the write as a full disk does, at whatever byte."""
    path = tmp_path / "x"
    replace_file(path, b"old")
    code = (
        "import resource, signal, sys, pathlib\n"
        "from edge_sdk.checkpoint import replace_file\n"
        "from edge_sdk.errors import CheckpointError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    replace_file(pathlib.Path(sys.argv[1]), bytes(5000))\n"
        "except CheckpointError as error:\n"
        "    print(error, error.help)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=True
    )
    assert b"could not be written" in done.stdout
    assert b"free space" in done.stdout
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
