"""Examples given as arrays: private partition files in a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.datasets.prepare import EVALUATION_FOLDER
from edge_sdk.datasets.rows import rows_of
from edge_sdk.errors import DataError, StateError, disk_remedy
from edge_sdk.private_files import make_private
from edge_sdk.tasks.task import Examples

__all__ = ["check_examples", "write_examples"]

DATA = "data"
_FORMS = "a pair (inputs, targets) or a torch Dataset of such pairs"


def check_examples(
    devices: Sequence[object], evaluation: object
) -> tuple[list[Examples], Examples]:
    """The devices' examples and those to score on, of any form that `simulate` takes.

    Raises:
        DataError: Names the device whose are none.
    """
    if not devices:
        raise DataError(
            "devices is empty", remedy="Give one edge_sdk.Examples per device."
        )
    scored = _examples(evaluation, "evaluation")
    return [_examples(d, f"devices[{i}]") for i, d in enumerate(devices)], scored


def _examples(given: object, what: str) -> Examples:
    """Examples as they are; a pair, a torch data set or a loader as examples."""
    if isinstance(given, Examples):
        return given
    data = torch.utils.data
    if not isinstance(given, tuple | data.Dataset | data.DataLoader):
        raise DataError(
            f"{what} is a {type(given).__name__}, not edge_sdk.Examples",
            remedy=f"Give Examples(inputs, targets), {_FORMS}.",
        )
    try:
        inputs, targets = rows_of(given, what)
    except DataError as error:
        said = str(error) if what in str(error) else f"{what}: {error}"
        raise DataError(said, remedy=error.help) from error
    if targets is None:
        raise DataError(
            f"{what} has no targets",
            remedy=f"Give Examples(inputs, targets), {_FORMS}.",
        )
    return Examples(inputs, targets)


def write_examples(
    folder: Path, devices: Sequence[Examples], evaluation: Examples
) -> Path:
    """Writes one subfolder per device and ``evaluation``; leaves what is there.

    Args:
        folder: The run's.
        devices: ``device-00000`` and so on, in their order.
        evaluation: What models are scored on.

    Returns:
        The folder of folders.

    Raises:
        StateError: If the run began with other examples.
        DataError: If the folder cannot be written.
    """
    data = folder / DATA
    names = [f"device-{index:05d}" for index in range(len(devices))]
    there = {p.name for p in data.glob("device-*")} if data.is_dir() else set()
    if there - set(names):
        raise _others(folder, f"{len(there)} devices, not {len(names)}")
    try:
        for place in (folder, data, *(data / n for n in (*names, EVALUATION_FOLDER))):
            make_private(place)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error}", remedy=disk_remedy(error)
        ) from error
    for name, examples in zip(names, devices, strict=True):
        _write(folder, data / name, examples, "train")
    _write(folder, data / EVALUATION_FOLDER, evaluation, "eval")
    return data


def _write(
    run: Path, folder: Path, examples: Examples, part: Literal["train", "eval"]
) -> None:
    if not (folder / f"{part}.npz").exists():
        save_partition(folder, examples, part=part)
        return
    before = load_partition(folder, part=part)
    for name in ("inputs", "targets"):
        old, new = getattr(before, name), getattr(examples, name)
        same = old.dtype == new.dtype and old.shape == new.shape
        if not same or old.tobytes() != np.ascontiguousarray(new).tobytes():
            raise _others(run, f"other {name} of {folder.name}")


def _others(run: Path, what: str) -> StateError:
    return StateError(
        f"{run} holds a simulation of other examples: {what}",
        remedy="Choose another folder, or give the examples that it began with.",
    )
