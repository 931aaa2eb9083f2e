"""The shipped data sets as arrays: which examples train and which evaluate."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.fetch import DATA, fetch
from edge_sdk.datasets.readers import read_cifar10
from edge_sdk.errors import DataError, DependencyError
from edge_sdk.tasks.task import Examples

__all__ = [
    "DATASETS",
    "load_dataset",
    "load_digits",
    "load_idx_folder",
    "read_idx",
]

Split: TypeAlias = tuple[Examples, Examples]

DATASETS = ("cifar10", "digits", "fashion", "mnist")

_DIGITS_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"


def load_dataset(
    name: str,
    cache: Path,
    *,
    progress: Callable[[str], None] | None = None,
) -> Split:
    """Training and evaluation examples of a shipped data set, fetched if need be.

    Args:
        name: One of `DATASETS`.
        cache: Where fetched data sets stay.
        progress: Told in words what is tried.

    Raises:
        DataError: If there is no such data set, or it cannot be had.
        DependencyError: If ``digits`` is asked for without scikit-learn.
    """
    if name == "digits":
        return load_digits()
    if name in DATA:
        read = read_cifar10 if name == "cifar10" else load_idx_folder
        return read(fetch(name, cache, progress=progress))
    raise DataError(
        f"there is no shipped data set {name!r}",
        remedy=f"Choose one of {', '.join(DATASETS)}.",
    )


def load_idx_folder(folder: Path) -> Split:
    """MNIST-like data: uint8 (n, 1, height, width) images and int64 classes.

    Raises:
        DataError: If one of the four files is missing or damaged.
    """
    return _idx_pair(folder, "train"), _idx_pair(folder, "t10k")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes.

    Raises:
        DataError: If it is missing, of another type, or not as long as it says.
    """
    try:
        content = path.read_bytes()
        zero, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
    except (OSError, struct.error) as error:
        raise DataError(f"{path} is not a readable idx file: {error}") from error
    body = content[4 + 4 * axes :]
    if zero != 0 or kind != 0x08 or not axes or math.prod(shape) != len(body):
        raise DataError(
            f"{path} is damaged: type {kind}, shape {shape}, {len(body)} bytes"
        )
    # A copy, because torch warns about arrays that it could not write to.
    array: NDArray[np.uint8] = np.frombuffer(body, np.uint8).copy()
    return array.reshape(shape)


def load_digits() -> Split:
    """The 1,797 8x8 digits of scikit-learn: uint8 0..16 (n, 1, 8, 8), int64 classes.

    Of each class, every fifth example evaluates (364 in all), the others train (1,433).
    scikit-learn itself is not imported: its data file is read where it lies, in
    milliseconds.

    Raises:
        DependencyError: If scikit-learn is not installed.
        DataError: If its data file is not the known one.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DependencyError(
            "the digits data set comes with scikit-learn, which is not installed",
            remedy="Run `pip install 'flash-edge[digits]'`.",
        )
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if hashlib.sha256(text).hexdigest() != _DIGITS_SHA256:
        raise DataError(f"{path} is not the digits data set that was checked")
    table = np.loadtxt(text.decode().splitlines(), np.uint8, delimiter=",")
    examples = Examples(table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(int))
    rank = np.zeros(len(examples), np.int64)
    for kind in range(10):
        own = np.flatnonzero(examples.targets == kind)
        rank[own] = np.arange(len(own))
    held_out = rank % 5 == 0
    return (
        examples.take(np.flatnonzero(~held_out)),
        examples.take(np.flatnonzero(held_out)),
    )


def _idx_pair(folder: Path, prefix: str) -> Examples:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(
            f"{folder}: images of shape {images.shape}, labels of shape {labels.shape}"
        )
    return Examples(images[:, None], labels.astype(np.int64))
