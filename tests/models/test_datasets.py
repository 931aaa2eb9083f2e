"""The arrays of the shipped data sets, and idx files that are not what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from patience import patience

from edge_sdk.datasets.shipped import (
    load_dataset,
    load_digits,
    load_idx_folder,
    read_idx,
)
from edge_sdk.datasets.sources import idx_bytes
from edge_sdk.errors import DataError

arrays = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5))


@given(array=arrays, data=st.data())
def test_idx_round_trips_and_no_prefix_of_it_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    array: NDArray[np.uint8],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    content = idx_bytes(array)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_idx(path), array)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataError, match=str(path)):
        read_idx(path)


def test_the_idx_header_is_the_published_one() -> None:
    """Magic 0x00000803 for images; counts are big-endian."""
    assert idx_bytes(np.zeros((1, 2, 1), np.uint8)) == bytes.fromhex(
        "00000803 00000001 00000002 00000001 0000"
    )


def test_a_folder_of_the_wrong_kind_of_idx_is_refused(tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="images of shape"):
        load_idx_folder(tmp_path)


def test_digits_are_all_there_and_split_by_class() -> None:
    train, evaluation = load_digits()
    assert len(train) + len(evaluation) == 1797
    assert train.inputs.shape[1:] == (1, 8, 8)
    assert train.inputs.dtype == np.uint8
    assert train.targets.dtype == np.int64
    assert int(train.inputs.max()) == 16
    assert np.bincount(evaluation.targets.astype(int)).tolist() == [
        *(36, 37, 36, 37, 37, 37, 37, 36, 35, 36)
    ]


def test_digits_equal_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    train, evaluation = load_digits()
    ours = np.concatenate([train.inputs, evaluation.inputs]).reshape(-1, 64)
    theirs = sklearn.load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_an_unknown_data_set_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'cifar'") as caught:
        load_dataset("cifar", tmp_path)
    assert "digits, fashion, mnist" in caught.value.help


def test_neither_fetching_nor_partitioning_imports_torch_or_scikit_learn() -> None:
    code = (
        "import sys\n"
        "import edge_sdk.datasets.prepare\n"
        "from edge_sdk.datasets.shipped import load_digits\n"
        "load_digits()\n"
        "assert not {'torch', 'sklearn', 'torchvision'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=patience(60))


def test_digits_without_scikit_learn_say_what_to_install() -> None:
    code = (
        "import sys\n"
        "from edge_sdk.errors import DependencyError\n"
        "from edge_sdk.datasets.shipped import load_digits\n"
        "sys.path[:] = []\n"
        "sys.path_importer_cache.clear()\n"
        "try:\n"
        "    load_digits()\n"
        "except DependencyError as error:\n"
        "    print(error.help)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=patience(60),
        capture_output=True,
    )
    assert b"pip install 'flash-edge[digits]'" in done.stdout
