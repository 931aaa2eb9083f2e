"""A folder of npz files, to which a device adds as it records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.growing.mapped import mapped_npz
from edge_sdk.datasets.growing.timed import TimedExamples
from edge_sdk.errors import DataError
from edge_sdk.tasks.arrays import map_of

__all__ = ["folder_examples"]


def _read(path: Path, mapped: NDArray[np.generic]) -> NDArray[np.generic]:
    """The values that were mapped, by reading: a cut file is an error and no signal."""
    there = map_of(mapped)
    if there is None:
        return mapped
    with path.open("rb") as file:
        file.seek(there.offset)
        found = np.fromfile(file, mapped.dtype, mapped.size)
    if found.size < mapped.size:
        raise DataError(
            f"{path} was cut while it was read",
            remedy="Write a file of examples under another name, then rename it.",
        )
    order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
    return found.reshape(mapped.shape, order=order)


def folder_examples(folder: Path, pattern: str = "*.npz") -> TimedExamples:
    """All examples of a folder's files, the newest file last; held once in memory.

    A file's examples have the time at which it was written. Names that begin with a dot
    are left out: write a file under such a name, then rename it.

    Args:
        folder: Of files as `mapped_npz` reads them.
        pattern: Of their names.

    Raises:
        DataError: If there is none, or one of them cannot be read or has another shape.
    """
    paths = [p for p in folder.glob(pattern) if not p.name.startswith(".")]
    found = sorted((p.stat().st_mtime, p.name, p) for p in paths)
    if not found:
        raise DataError(
            f"{folder} holds no file {pattern}",
            remedy="Put files there by numpy.savez(path, inputs=..., targets=...).",
        )
    parts = [mapped_npz(path) for *_, path in found]
    first, total = parts[0], sum(map(len, parts))
    inputs = np.empty((total, *first.inputs.shape[1:]), first.inputs.dtype)
    targets = np.empty((total, *first.targets.shape[1:]), first.targets.dtype)
    times, at = np.empty(total, np.float64), 0
    for part, (time, _, path) in zip(parts, found, strict=True):
        for name, whole, own in (
            ("inputs", inputs, part.inputs),
            ("targets", targets, part.targets),
        ):
            if own.shape[1:] != whole.shape[1:] or own.dtype != whole.dtype:
                raise DataError(
                    f"{path}: {name} are {own.dtype} of shape {own.shape[1:]}, those "
                    f"of {found[0][2]} {whole.dtype} of shape {whole.shape[1:]}",
                    remedy="Write all files of a folder alike.",
                )
            whole[at : at + len(own)] = _read(path, own)
        times[at : at + len(part)] = time
        at += len(part)
    return TimedExamples(inputs, targets, times=times)
