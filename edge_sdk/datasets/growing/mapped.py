"""Arrays of an uncompressed npz as memory maps: a data set larger than memory."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = ["mapped_npz"]

_LOCAL = struct.Struct("<26xHH")  # a zip's local header: lengths of name and extra
_HEADER = 30


def mapped_npz(path: Path) -> Examples:
    """The `inputs` and `targets` of an npz, read from the disk where they are used.

    To change it, write another file and rename it to this name: what is mapped then
    stays whole. Of a file that was written over or cut in place nothing is trained on.

    Args:
        path: As `numpy.savez` writes it, uncompressed.

    Raises:
        DataError: If it is missing, damaged, compressed, or lacks one of the two.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            inputs = _mapped(path, file, archive, "inputs")
            targets = _mapped(path, file, archive, "targets")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, struct.error) as error:
        raise DataError(
            f"{path} cannot be mapped: {error}",
            remedy="Write it by numpy.savez(path, inputs=..., targets=...).",
        ) from error
    return Examples(inputs, targets)


def _mapped(
    path: Path, file: Any, archive: zipfile.ZipFile, name: str
) -> NDArray[np.generic]:
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed, as savez_compressed writes it")
    file.seek(entry.header_offset)
    names = _LOCAL.unpack(file.read(_HEADER))
    file.seek(entry.header_offset + _HEADER + sum(names))
    begin = file.tell()
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, not numbers")
    at, order = file.tell(), "F" if fortran else "C"
    if at - begin + dtype.itemsize * int(np.prod(shape)) != entry.file_size:
        raise ValueError(f"{name} does not have its size")
    return np.memmap(path, dtype, "r", at, shape, order)  # type: ignore[call-overload,no-any-return]
